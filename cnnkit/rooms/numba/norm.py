"""Normalisation: statistics of sets of numbers, then ``(x - centre) * b + d`` with numbers of each channel.

x is seen as (N, G, K, P): N images, G groups of K channels, P pixels. A *set* is what one mean and variance are taken
over: a group of an image or, of S = 1 pairs of statistics for N images, of all images. A call takes one of three ways:

- *planes*: pixels lie closest together. A work item is a set, summed and written while it is in the cache.
- *rows*: channels lie closest together, and each row of a group's K channels is a set. A work item is a band of rows.
- *pixels*: channels lie closest together and a set has several rows. A work item is a band of rows; all are summed
  first, then written.

Planes and rows are summed in blocks, of the deviations from a *centre* near their mean, the mean of the set's first
block; if that turns out to be far from the mean of all (`_far`), they are summed once more, about that. Pixels are
summed about the mean of the block before. Blocks are added up in float64, about a *pivot*: the centre, or of pixels the
set's first number. So an error of the mean is one of the deviations' size, however large the mean is. When x is
written, `centre` is the mean as a number of x's dtype, the rest of it goes into d.

The way back sums g and ``g * (x - pivot)`` in the same pass, then is ``g * a + (x - centre) * b + d``. With H and HX
the means over a set of ``h = g * gamma`` and ``h * (x - mean)``, and ``r = 1 / sqrt(variance + eps)``:

    grad_x = r * (h - H - (x - mean) * r**2 * HX)      a = r * gamma,  b = -r**3 * HX,  d = -r * H + b * (centre - mean)
"""

import math
from typing import Any

import numpy as np

from cnnkit.arrays import Array
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import L2, MASK_REGISTERS, address_of
from cnnkit.rooms.numba.straight import apart, straight
from cnnkit.rooms.numba.vectors import (
    any_lane,
    fetch,
    lane,
    lanes,
    load,
    load_all,
    load_some,
    put,
    select,
    size,
    splat,
    square_root,
    store,
    store_all,
    store_some,
    sum_lanes,
    sums_of,
)

BLOCK = 2048  # numbers that are summed in vectors, in x's dtype, before their sums go to float64
LINE = 64  # bytes of a line of the cache
FIRST = 32  # numbers of a set whose mean is near that of all
PLANES = 32  # smaller ones that are added up before
ROWS = 32  # and rows of a work item, at least
PIXELS = 64  # that are summed about the mean of those before
BANDS = 32  # of rows, at most, whose sums are added up at last
SOME = 4  # rows that the way back measures before it writes: their chains of operations run side by side
NEAR = 8 << 10  # bytes of neighbouring sets that are gone through together, for memory is fetched in pieces
BAND = 512  # rows of a work item: bands do not depend on the number of threads


def norm(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    eps: float,
    measure: bool,
    mean: Array,
    variance: Array,
    out: Array,
) -> None:
    way, x, to, _ = _laid(mean, out, x, None)
    gamma, beta = _filled(gamma, x, 1), _filled(beta, x, 0)
    if way == "rows":
        _rows(x, gamma, beta, eps, mean, variance, to)
    else:
        run = _planes if way == "planes" else _pixels
        run(x, None, gamma, beta, eps, measure, measure, mean, variance, to)
    if to is not out:
        out[...] = to


def norm_backward(
    grad_output: Array,
    x: Array,
    gamma: Array | None,
    eps: float,
    measure: bool,
    mean: Array,
    variance: Array,
    grad_x: Array | None,
    grad_gamma: Array | None,
    grad_beta: Array | None,
) -> None:
    summing = grad_gamma is not None or grad_beta is not None
    way, x, to, grad = _laid(mean, grad_x, x, grad_output)
    gamma = _filled(gamma, x, 1)
    if way == "rows":
        sums = _rows_backward(x, grad, gamma, eps, summing, to)
    else:
        run = _planes if way == "planes" else _pixels
        sums = run(x, grad, gamma, gamma, eps, measure, measure or summing, mean, variance, to)
    if grad_x is not None and to is not grad_x:
        grad_x[...] = to
    if summing:
        sets, _, channels = sums.shape
        place = address_of(sums), sums.strides[0], sums.dtype.type(0)
        _totals(0, 1, x.dtype.type(0), *place, sets, channels, address_of(grad_gamma), address_of(grad_beta))


# ---------------------------------------------------------------- how arrays lie


def _laid(mean: Array, result: Array | None, *given: Array | None) -> tuple[str, Array, Array | None, Array | None]:
    """How the sets of arrays (N, G, K, P) are gone through; x, `result` and g as they must lie for that, some of them
    copies, or new."""
    like: Any = given[0] if result is None else result
    lies = _lies(like, mean)
    way = lies or ("planes" if like.shape[3] > 1 else _lies(np.empty(like.shape, np.bool_), mean))
    laid = like if lies else np.empty(like.shape, like.dtype)
    x, grad = (a if a is None or a.strides == laid.strides else _fitted(a, way, mean) for a in given)
    return way, x, None if result is None else laid, grad


def _lies(array: Array, mean: Array) -> str:
    """The way that an array can be gone through as it lies; "" if there is none."""
    (n, g, k, p), steps = array.shape, array.strides
    if p > 1 and steps[3] == array.itemsize:
        return "planes"
    if (k == 1 or steps[2] == array.itemsize) and (g == 1 or steps[1] == k * array.itemsize):
        return "rows" if p == 1 and len(mean) == n and k > 1 else "pixels"
    return ""


def _fitted(array: Array, way: str, mean: Array) -> Array:
    """The array, or a copy that lies as it must."""
    if _lies(array, mean) == way:
        return array
    if way == "pixels":
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(array)


def _filled(array: Array | None, like: Array, value: int) -> Array:
    """A number for each channel, one behind the other."""
    return np.full(like.shape[1:3], value, like.dtype) if array is None else np.ascontiguousarray(array)


def _place(array: Array | None) -> tuple[int, tuple[int, ...]]:
    """Address and steps in bytes; no address if there is no array."""
    return (0, (0, 0, 0, 0)) if array is None else (address_of(array), array.strides)


# ---------------------------------------------------------------- the three ways


def _planes(
    x: Array, grad: Array | None, gamma: Array, beta: Array, eps: float, measure: bool, summing: bool, mean: Array,
    variance: Array, out: Array | None,
) -> Array:  # fmt: skip
    n, groups, per_group, pixels = x.shape
    sums, numbers = _tables(len(mean), x)
    given = _place(x), None if grad is None else _place(grad), _place(out)
    size, images = per_group * pixels * x.itemsize, n // len(mean)
    together = max(1, min(NEAR // size, L2 // (2 * size * images), groups // 8))
    sizes = images, groups, per_group, pixels, together
    scale = gamma, beta, mean, variance, sums, numbers
    work = x.size * (0.2 if grad is None else 0.4)
    if not summing and grad is None:
        _set_numbers(0, groups, False, eps, False, 1, groups, per_group, np.zeros((1, x.shape[1] * per_group)), *scale)
        threads.run(_write_planes, n, work, x.dtype.type(0), sizes, _place(x), _place(out), numbers)
        return sums[:, 2:]
    threads.run(
        _plane_sets,
        len(mean) * -(-groups // together),
        work,
        x.dtype.type(0),
        eps,
        measure,
        summing,
        sizes,
        *given,
        *scale,
    )
    return sums[:, 2:]


def _pixels(
    x: Array, grad: Array | None, gamma: Array, beta: Array, eps: float, measure: bool, summing: bool, mean: Array,
    variance: Array, out: Array | None,
) -> Array:  # fmt: skip
    x, grad, out = _end_to_end(mean, x, grad, out)
    n, groups, per_group, pixels = x.shape
    sums, numbers = _tables(len(mean), x)
    zero, channels, work = x.dtype.type(0), groups * per_group, x.size * (0.2 if grad is None else 0.4)
    bands = -(-pixels // BAND)
    sizes, given = (bands, channels, pixels), (_place(x), None if grad is None else _place(grad))
    pivots = np.repeat(x[: len(mean), :, 0, 0].astype(np.float64), per_group, 1)
    if summing:
        by_band = np.zeros((n * bands, 4, channels))
        threads.run(_pixel_sums, n * bands, work, zero, sizes, *given, pivots, by_band)
        sums[...] = by_band.reshape(len(mean), -1, 4, channels).sum(1)
    scale = gamma, beta, mean, variance, sums, numbers
    count = x.size // mean.size
    _set_numbers(0, mean.size, grad is not None, eps, measure, count, groups, per_group, pivots, *scale)
    if out is not None:
        threads.run(_write_pixels, n * bands, work, zero, measure, sizes, *given, _place(out), numbers)
    return sums[:, 2:]


def _end_to_end(mean: Array, *given: Any) -> list[Any]:
    """The images of a batch as one, if they are one set and lie one behind the other."""
    n, g, k, p = given[0].shape
    if len(mean) == n or not all(a is None or p == 1 or a.strides[0] == p * a.strides[3] for a in given):
        return list(given)
    return [a if a is None else a.transpose(1, 2, 0, 3).reshape(1, g, k, n * p) for a in given]


def _tables(sets: int, x: Array) -> tuple[Array, Array]:
    """Of each set and channel: sums of deviations from the pivot, of their squares, of g and of g times deviations; and
    the numbers to write with: centre, a, b, d."""
    channels = x.shape[1] * x.shape[2]
    return np.zeros((sets, 4, channels)), np.empty((sets, 4, channels), x.dtype)


def _rows(x: Array, gamma: Array, beta: Array, eps: float, mean: Array, variance: Array, out: Array) -> None:
    _, groups, per_group, _ = x.shape
    given = x.dtype.type(0), eps, groups, per_group, _place(x), _place(out)
    threads.run(_row_sets, mean.size, x.size * 0.2, *given, gamma, beta, mean, variance)


def _rows_backward(x: Array, grad: Array, gamma: Array, eps: float, summing: bool, out: Array | None) -> Array:
    n, groups, per_group, _ = x.shape
    rows = max(ROWS, -(-n // BANDS))
    bands = -(-n // rows)
    sums = np.empty((bands, 2, groups, per_group), x.dtype)
    given = x.dtype.type(0), eps, summing, (n, groups, per_group, rows), _place(x), _place(grad), _place(out)
    threads.run(_row_bands, bands * groups, x.size * 0.4, *given, gamma, sums)
    return sums.reshape(bands, 2, -1)


# ---------------------------------------------------------------- sums


def _centre(x, count, zero):
    """A number near the mean of `count` numbers: the mean of the first few.

    Whether it is near enough `_far` finds out. Shares are added up, for their sum cannot overflow.
    """
    width, count = lanes(zero), min(count, FIRST)
    share, whole, total = 1.0 / count, count - count % lanes(zero), splat(zero, zero)
    for v in range(0, whole, width):
        total = total + load_all(x + v * size(zero), zero) * share
    if whole < count:
        total = total + load(x + whole * size(zero), count - whole, zero) * share
    return sum_lanes(total)


def _sums(x, g, weights, count, centre, zero):
    """Of `count` numbers x from an address on: the sums of ``x - centre``, its square, g and ``g * (x - centre)``, as
    vectors whose lanes are to be added up. `g` and `weights`, which g is multiplied by, are addresses too, or None.
    """
    width, step = lanes(zero), lanes(zero) * size(zero)
    none = splat(zero, zero)
    one = two = none, none, none, none
    v, pairs = 0, count - count % (2 * width)
    if g is None:  # half as many sums: twice as many vectors, so that none waits for the one before
        three = four = none, none, none, none
        while v + 4 * width <= count:
            p, q = x + v * size(zero), x + (v + 2 * width) * size(zero)
            one = _plus(one, p, None, None, None, centre, zero)
            two = _plus(two, p + step, None, None, None, centre, zero)
            three = _plus(three, q, None, None, None, centre, zero)
            four = _plus(four, q + step, None, None, None, centre, zero)
            v += 4 * width
        one, two = _both(one, three), _both(two, four)
    while v < pairs:
        p = v * size(zero)
        q = p + step
        one = _plus(one, x + p, _after(g, p), _after(weights, p), None, centre, zero)
        two = _plus(two, x + q, _after(g, q), _after(weights, q), None, centre, zero)
        v += 2 * width
    if v + width <= count:
        p = v * size(zero)
        one = _plus(one, x + p, _after(g, p), _after(weights, p), None, centre, zero)
        v += width
    if v < count:
        p = v * size(zero)
        two = _plus(two, x + p, _after(g, p), _after(weights, p), count - v, centre, zero)
    return _both(one, two)


def _after(address, p):
    return None if address is None else address + p


def _both(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def _plus(sums, x, g, weights, count, centre, zero):
    """The sums with a vector more, or with so many numbers."""
    s, q, t, r = sums
    d = load_some(x, count, splat(zero, centre)) - centre
    s, q = s + d, q + d * d
    if g is not None:
        slope = load_some(g, count, splat(zero, zero))
        if weights is not None:
            slope = slope * load_some(weights, count, splat(zero, zero))
        t, r = t + slope, r + slope * d
    return s, q, t, r


def _far(centre, mean, variance):
    """Whether the squares of deviations from a centre add up to far more than those from the mean."""
    return (mean - centre) * (mean - centre) > 4 * variance


def _statistics(pivot, total, squares, count):
    """Mean and variance from the sums of ``x - pivot`` and its square."""
    share = 1.0 / count
    shift = total * share
    variance = squares * share - shift * shift
    return pivot + shift, 0.0 if variance < 0.0 else variance


def _slopes(rounded, mean, r, grads, products, count):
    """b and d of the way back from the sums over a set of h and of ``h * (x - mean)``; `rounded` is the centre."""
    share = 1.0 / count
    b = -r * r * r * (products * share)
    return b, b * (rounded - mean) - r * (grads * share)


def _solve(back, eps, measure, pivot, count, n, group, per_group, gamma, beta, mean, variance, sums, numbers):
    """A set's statistics from its sums, and its numbers from these; the way back leaves the gradients in the sums."""
    first, last = group * per_group, (group + 1) * per_group
    if measure:
        total = squares = 0.0
        for c in range(first, last):
            total += sums[n, 0, c]
            squares += sums[n, 1, c]
        mean[n, group], variance[n, group] = _statistics(pivot, total, squares, count)
    middle, r = mean[n, group], 1.0 / math.sqrt(variance[n, group] + eps)
    grads = products = 0.0
    for k in range(per_group):
        c = first + k
        numbers[n, 0, c] = middle
        rounded = np.float64(numbers[n, 0, c])
        scale = r * gamma[group, k]
        if back:
            product = sums[n, 3, c] - (middle - pivot) * sums[n, 2, c]
            grads += gamma[group, k] * sums[n, 2, c]
            products += gamma[group, k] * product
            sums[n, 2, c], sums[n, 3, c] = r * product, sums[n, 2, c]
            numbers[n, 1, c] = scale
        else:
            numbers[n, 2, c], numbers[n, 3, c] = scale, beta[group, k] + (rounded - middle) * scale
    if back:
        b, d = _slopes(np.float64(numbers[n, 0, first]), middle, r, grads, products, count)
        for c in range(first, last):
            numbers[n, 2, c], numbers[n, 3, c] = b, d


@straight
def _totals(start, stop, zero, table, step, like, sets, channels, grad_gamma, grad_beta):
    """All at once: the sums over sets of two rows of a table of numbers of the type of `like`."""
    memory = np.full(lanes(like), like)
    for j in range(2):
        result = grad_beta if j else grad_gamma
        for c in range(0, channels if result else 0, lanes(like)):
            place, total, count = (
                table + (j * channels + c) * size(like),
                splat(like, like),
                min(lanes(like), channels - c),
            )
            for n in range(sets):
                total = total + load(place + n * step, count, like)
            store_all(memory.ctypes.data, total)
            for i in range(count):
                put(result, c + i, memory[i], zero)


# ---------------------------------------------------------------- planes


def _write(x, g, out, count, zero, centre, a, b, d):
    """``out = (x - centre) * b + d``, with ``g * a`` added unless g is None."""
    width, step = lanes(zero), lanes(zero) * size(zero)
    whole = count // width
    for v in range(whole):
        p = v * step
        store_all(out + p, _written(x + p, _after(g, p), None, zero, centre, a, b, d))
    p, left = whole * step, count - whole * width
    if left:
        if whole and not MASK_REGISTERS:  # some once more: that is faster than a part of a vector
            p = (count - width) * size(zero)
            store_all(out + p, _written(x + p, _after(g, p), None, zero, centre, a, b, d))
        else:
            store(out + p, _written(x + p, _after(g, p), left, zero, centre, a, b, d), left)


def _written(x, g, count, zero, centre, a, b, d):
    value = (load_some(x, count, splat(zero, zero)) - centre) * b + d
    return value if g is None else value + load_some(g, count, splat(zero, zero)) * a


@straight
def _plane_sets(
    start, stop, zero, eps, measure, summing, sizes, x, g, out, gamma, beta, mean, variance, sums, numbers
):  # fmt: skip
    """A work item is some neighbouring sets of planes, in the order of memory: x (and g) read twice, the second time
    from the cache if they fit, and out written."""
    images, groups, per_group, pixels, together = sizes
    items, count, back = -(-groups // together), images * per_group * pixels, g is not None
    centres = np.empty(together, zero)
    lines = np.zeros((together * per_group if images > 1 else 0, 4, lanes(zero)), zero)
    for item in range(start, stop):
        n, block = divmod(item, items)
        first, last = block * together, min((block + 1) * together, groups)
        for group in range(first, last):
            if measure:
                here = x[0] + n * x[1][0] + group * x[1][1]
                centres[group - first] = _centre(here, pixels, zero)
            else:
                centres[group - first] = mean[n, group]
        if summing:
            _sum_sets(n, first, last, zero, sizes, x, g, centres, lines, sums)
        if measure and _moved(n, first, last, per_group, count, centres, sums):
            _sum_sets(n, first, last, zero, sizes, x, g, centres, lines, sums)
        for group in range(first, last):
            pivot = np.float64(centres[group - first])
            _solve(back, eps, measure, pivot, count, n, group, per_group, gamma, beta, mean, variance, sums, numbers)
        if out[0]:
            for i in range(n, n + images):
                _write_sets(i, n, first, last, zero, measure, per_group, pixels, x, g, out, numbers)


@apart
def _sum_sets(n, first, last, zero, sizes, x, g, centres, lines, sums):
    """The sums of some sets, about their centres; `lines` has a line of vectors for each channel, of zeros.

    Small planes of several images are added up as vectors first, whose lanes are added up once for `PLANES` of them.
    """
    images, _, per_group, pixels, _ = sizes
    runs, length = per_group, pixels
    if g is None and x[1][2] == pixels * size(zero):  # a group's planes are one, for sums are of the group
        runs, length = 1, per_group * pixels
    step, place, together = lanes(zero) * size(zero), lines.ctypes.data, images > 1 and length <= BLOCK
    for c in range(first * per_group, last * per_group):
        sums[n, 0, c] = sums[n, 1, c] = sums[n, 2, c] = sums[n, 3, c] = 0
    if images == 1 and g is not None and pixels <= BLOCK:
        for group in range(first, last):
            _sum_small_planes(n, group, zero, sizes, x, g, centres[group - first], sums)
        return
    for start in range(n, n + images, PLANES):  # all images if they are one set, for n is 0 then
        for i in range(start, min(start + PLANES, n + images)):
            for group in range(first, last):
                centre = centres[group - first]
                for k in range(runs):
                    here, c = x[0] + i * x[1][0] + group * x[1][1] + k * x[1][2], group * per_group + k
                    slopes = None if g is None else g[0] + i * g[1][0] + group * g[1][1] + k * g[1][2]
                    for v in range(0, length, BLOCK):
                        p = v * size(zero)
                        there, some = None if g is None else slopes + p, min(BLOCK, length - v)
                        one = _sums(here + p, there, None, some, centre, zero)
                        if together:
                            line = place + (c - first * per_group) * 4 * step
                            _add_to(line, one[0], zero)
                            _add_to(line + step, one[1], zero)
                            _add_to(line + 2 * step, one[2], zero)
                            _add_to(line + 3 * step, one[3], zero)
                        else:
                            _add_sums(n, c, one, sums)
        if together:
            for c in range(first * per_group, last * per_group):
                line = place + (c - first * per_group) * 4 * step
                halves = load_all(line, zero), load_all(line + step, zero)
                _add_sums(n, c, (*halves, load_all(line + 2 * step, zero), load_all(line + 3 * step, zero)), sums)
                for j in range(4):
                    store_all(line + j * step, splat(zero, zero))


def _sum_small_planes(n, group, zero, sizes, x, g, centre, sums):
    """A group's sums, of one image: the deviations' and squares' lanes are added up once for all planes, which leaves
    them to the first, those of g and of products once for two."""
    per_group, pixels = sizes[2], sizes[3]
    first, none, seen = group * per_group, splat(zero, zero), 0
    deviations = squares = slopes = products = none
    for k in range(per_group):
        here = x[0] + n * x[1][0] + group * x[1][1] + k * x[1][2]
        there = g[0] + n * g[1][0] + group * g[1][1] + k * g[1][2]
        s, q, t, r = _sums(here, there, None, pixels, centre, zero)
        if seen + pixels > BLOCK:
            _add_sums(n, first, (deviations, squares, none, none), sums)
            deviations, squares, seen = none, none, 0
        deviations, squares, seen = deviations + s, squares + q, seen + pixels
        if k % 2:
            four = sums_of(slopes, products, t, r)
            sums[n, 2, first + k - 1], sums[n, 3, first + k - 1] = lane(four, 0), lane(four, 1)
            sums[n, 2, first + k], sums[n, 3, first + k] = lane(four, 2), lane(four, 3)
        slopes, products = t, r
    _add_sums(n, first, (deviations, squares, none, none), sums)
    if per_group % 2:
        four = sums_of(slopes, products, none, none)
        sums[n, 2, first + per_group - 1], sums[n, 3, first + per_group - 1] = lane(four, 0), lane(four, 1)


def _add_sums(n, c, vectors, sums):
    four = sums_of(*vectors)
    sums[n, 0, c] += lane(four, 0)
    sums[n, 1, c] += lane(four, 1)
    sums[n, 2, c] += lane(four, 2)
    sums[n, 3, c] += lane(four, 3)


def _moved(n, first, last, per_group, count, centres, sums):
    """Whether a set's centre was far from its mean; it is the mean then."""
    moved = False
    for group in range(first, last):
        total = squares = 0.0
        for c in range(group * per_group, (group + 1) * per_group):
            total, squares = total + sums[n, 0, c], squares + sums[n, 1, c]
        centre = np.float64(centres[group - first])
        middle, spread = _statistics(centre, total, squares, count)
        if _far(centre, middle, spread):
            centres[group - first], moved = middle, True
    return moved


@straight
def _write_planes(start, stop, zero, sizes, x, out, numbers):
    """A work item is an image, normalised with known statistics: x read and out written once."""
    _, groups, per_group, pixels, _ = sizes
    for i in range(start, stop):
        _write_sets(i, 0, 0, groups, zero, True, per_group, pixels, x, None, out, numbers)


def _write_sets(i, n, first, last, zero, measure, per_group, pixels, x, g, out, numbers):
    """An image's planes of some groups, with the numbers of set n."""
    for group in range(first, last):
        for k in range(per_group):
            centre, a, b, d = numbers[n, :, group * per_group + k]
            here = x[0] + i * x[1][0] + group * x[1][1] + k * x[1][2]
            to = out[0] + i * out[1][0] + group * out[1][1] + k * out[1][2]
            if g is None:
                _write(here, None, to, pixels, zero, centre, a, b, d)
            else:
                slopes = g[0] + i * g[1][0] + group * g[1][1] + k * g[1][2]
                if measure:
                    _write(here, slopes, to, pixels, zero, centre, a, b, d)
                else:  # whatever x is
                    _write(slopes, None, to, pixels, zero, zero, zero, a, zero)


# ---------------------------------------------------------------- pixels


@straight
def _pixel_sums(start, stop, zero, sizes, x, g, pivots, by_band):
    """A work item is a band of an image's pixels: x (and g) read once.

    Sums are about the mean of the rows before; of the first rows, about their own. Blocks' means differ by no more than
    the deviation allows: squares so taken add up to at most five times those about the mean of all.
    """
    bands, channels, pixels = sizes
    part_sums = np.full((5, -(-channels // lanes(zero)) * lanes(zero)), zero)
    pitch = part_sums.shape[1] * size(zero)
    place = part_sums.ctypes.data
    for item in range(start, stop):
        image, band = divmod(item, bands)
        n = image if len(pivots) > 1 else 0
        end = min(pixels, (band + 1) * BAND)
        for first in range(band * BAND, end, PIXELS):
            count = min(PIXELS, end - first)
            here = x[0] + image * x[1][0] + first * x[1][3]
            if first == band * BAND:
                _column_means(here, x[1][3], count, channels, place, zero)
            if g is None:
                _rows_of_sums(here, x[1][3], None, 0, count, channels, place, pitch, zero)
            else:
                slopes = g[0] + image * g[1][0] + first * g[1][3]
                _rows_of_sums(here, x[1][3], slopes, g[1][3], count, channels, place, pitch, zero)
            _add_up(g is not None, part_sums, count, pivots[n], by_band[item])


def _rows_of_sums(x, x_step, g, g_step, rows, channels, to, pitch, zero):
    """As `_sums`, of columns, about the centres that come first; sums stay apart: of g, of
    deviations, of their squares and of g times deviations. In the order of memory, for that is how it is fetched best.
    """
    for c in range(0, 4 * pitch, lanes(zero) * size(zero)):
        store_all(to + pitch + c, splat(zero, zero))
    for i in range(0, rows, 4):
        whole = channels - channels % lanes(zero) if rows - i >= 4 else 0
        here, slopes = x + i * x_step, None if g is None else g + i * g_step
        for c in range(0, whole, lanes(zero)):
            _four_rows(here, x_step, slopes, g_step, c * size(zero), None, None, None, None, to, pitch, zero)
        for c in range(whole, channels, lanes(zero)):
            four = _in_4(rows - i, channels - c)
            _four_rows(here, x_step, slopes, g_step, c * size(zero), *four, to, pitch, zero)


def _four_rows(x, x_step, g, g_step, p, first, second, third, fourth, to, pitch, zero):
    """The same for 4 rows of a vector of columns, of which there are so many in the first, second ... or all (None)."""
    q, m, to = x + p, load_all(to + p, zero), to + p
    for line in range(0, 4 * lanes(zero) * size(zero), LINE):  # of the next rows, in the order of memory
        fetch(x + 4 * x_step + 4 * p + line)
        if g is not None:
            fetch(g + 4 * g_step + 4 * p + line)
    d0, d1 = load_some(q, first, m) - m, load_some(q + x_step, second, m) - m
    d2, d3 = load_some(q + 2 * x_step, third, m) - m, load_some(q + 3 * x_step, fourth, m) - m
    _add_to(to + 2 * pitch, (d0 + d1) + (d2 + d3), zero)
    _add_to(to + 3 * pitch, (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3), zero)
    if g is not None:
        q = g + p
        g0, g1 = load_some(q, first, splat(zero, zero)), load_some(q + g_step, second, splat(zero, zero))
        g2, g3 = (
            load_some(q + 2 * g_step, third, splat(zero, zero)),
            load_some(q + 3 * g_step, fourth, splat(zero, zero)),
        )
        _add_to(to + pitch, (g0 + g1) + (g2 + g3), zero)
        _add_to(to + 4 * pitch, (g0 * d0 + g1 * d1) + (g2 * d2 + g3 * d3), zero)


def _column_means(x, step, rows, channels, to, zero):
    share = 1.0 / rows
    for c in range(0, channels, lanes(zero)):
        p, here, mean = c * size(zero), channels - c, splat(zero, zero)
        for i in range(rows):
            mean = mean + load(x + i * step + p, here, zero) * share
        store_all(to + p, mean)


def _in_4(rows, here):
    """How many numbers each of 4 rows has, of which there may be fewer."""
    return here, here if rows > 1 else 0, here if rows > 2 else 0, here if rows > 3 else 0


def _add_to(place, value, like):
    store_all(place, load_all(place, like) + value)


def _add_up(back, part_sums, count, pivots, totals):
    """The sums of some rows, about the centres, to those about the pivots; the centres become these rows' means."""
    for c in range(len(pivots)):
        shift = np.float64(part_sums[0, c]) - pivots[c]
        total = np.float64(part_sums[2, c])
        about = total + count * shift
        totals[0, c] += about
        totals[1, c] += np.float64(part_sums[3, c]) + shift * (total + about)
    if back:
        for c in range(len(pivots)):
            shift = np.float64(part_sums[0, c]) - pivots[c]
            totals[2, c] += np.float64(part_sums[1, c])
            totals[3, c] += np.float64(part_sums[4, c]) + shift * np.float64(part_sums[1, c])
    for c in range(len(pivots)):
        part_sums[0, c] += part_sums[2, c] / count


@straight
def _set_numbers(
    start, stop, back, eps, measure, count, groups, per_group, pivots, gamma, beta, mean, variance, sums, numbers
):  # fmt: skip
    """A work item is a set."""
    for s in range(start, stop):
        n, group = divmod(s, groups)
        pivot = pivots[n, group * per_group]
        _solve(back, eps, measure, pivot, count, n, group, per_group, gamma, beta, mean, variance, sums, numbers)


@straight
def _write_pixels(start, stop, zero, measure, sizes, x, g, out, numbers):
    """A work item is a band of an image's pixels: x (and g) read and out written once."""
    bands, channels, pixels = sizes
    pitch, address, whole = channels * size(zero), numbers.ctypes.data, channels - channels % lanes(zero)
    for item in range(start, stop):
        image, band = divmod(item, bands)
        n = image if len(numbers) > 1 else 0
        centre = address + n * 4 * pitch
        for i in range(band * BAND, min(pixels, (band + 1) * BAND)):
            here, to = x[0] + image * x[1][0] + i * x[1][3], out[0] + image * out[1][0] + i * out[1][3]
            slopes = None if g is None else g[0] + image * g[1][0] + i * g[1][3]
            for c in range(0, whole, lanes(zero)):
                _write_pixel(here, slopes, to, c * size(zero), None, centre, pitch, measure, zero)
            if whole < channels:
                _write_pixel(here, slopes, to, whole * size(zero), channels - whole, centre, pitch, measure, zero)


def _write_pixel(x, g, out, p, count, centre, pitch, measure, zero):
    """A vector of a pixel's channels, or so many of them."""
    fill = splat(zero, zero)
    if g is not None:
        value = load_some(g + p, count, fill) * load_some(centre + pitch + p, count, fill)
        if measure:
            apart = load_some(x + p, count, fill) - load_some(centre + p, count, fill)
            value = value + (
                apart * load_some(centre + 2 * pitch + p, count, fill) + load_some(centre + 3 * pitch + p, count, fill)
            )
    else:
        apart = load_some(x + p, count, fill) - load_some(centre + p, count, fill)
        value = apart * load_some(centre + 2 * pitch + p, count, fill) + load_some(centre + 3 * pitch + p, count, fill)
    store_some(out + p, value, count)


# ---------------------------------------------------------------- rows


def _standard(mean, r, numbers):
    """Fill in a row's numbers: the row normalised is ``(x - numbers[0]) * numbers[1] + numbers[2]``."""
    numbers[0], numbers[1] = mean, r
    numbers[2] = (np.float64(numbers[0]) - mean) * r


def _measured(x, g, weights, count, zero, memory):
    """Means and variances of four rows, and the sums over each of h and ``h * (x - mean)``, side by side.

    x and g (or None) are arrays of the rows' addresses; `memory` is room for the rows' centres, in x's dtype and in
    float64, and for the vectors whose lanes are added up. No row's bits depend on its neighbours.
    """
    centres, pivots, lines = memory
    zeros = sums_of(splat(zero, zero), splat(zero, zero), splat(zero, zero), splat(zero, zero))
    for i in range(SOME):
        centres[i] = _centre(x[i], count, zero)
        pivots[i] = centres[i]
    mean = variance = grads = products = zeros
    for _ in range(2):
        total = squares = grads = products = zeros
        for v in range(0, count, BLOCK):
            p = v * size(zero)
            for i in range(SOME):
                slopes = None if g is None else g[i] + p
                factors = None if weights is None else weights + p
                one = _sums(x[i] + p, slopes, factors, min(BLOCK, count - v), centres[i], zero)
                for_row = lines.ctypes.data + i * lanes(zero) * size(zero)
                store_all(for_row, one[0])
                store_all(for_row + SOME * lanes(zero) * size(zero), one[1])
                if g is not None:
                    store_all(for_row + 2 * SOME * lanes(zero) * size(zero), one[2])
                    store_all(for_row + 3 * SOME * lanes(zero) * size(zero), one[3])
            total, squares = total + _sum_rows(lines, 0, zero), squares + _sum_rows(lines, 1, zero)
            if g is not None:
                grads, products = grads + _sum_rows(lines, 2, zero), products + _sum_rows(lines, 3, zero)
        pivot, shift = load_all(pivots.ctypes.data, zeros), total * (1.0 / count)
        mean, variance = pivot + shift, squares * (1.0 / count) - shift * shift
        variance = select(variance < 0.0, 0.0, variance)
        products = products - (mean - pivot) * grads
        far = shift * shift > variance * 4.0
        if not any_lane(far):
            break
        store_all(pivots.ctypes.data, select(far, mean, pivot))
        for i in range(SOME):
            centres[i] = pivots[i]
            pivots[i] = centres[i]
    return mean, variance, grads, products


def _sum_rows(lines, which, zero):
    """The sums of the lanes of four vectors in memory."""
    step = lanes(zero) * size(zero)
    p = lines.ctypes.data + which * SOME * step
    q = p + 2 * step
    return sums_of(load_all(p, zero), load_all(p + step, zero), load_all(q, zero), load_all(q + step, zero))


@straight
def _row_sets(start, stop, zero, eps, groups, per_group, x, out, gamma, beta, mean, variance):
    """A work item is a row: x read twice, the second time from the cache, and out written. Four are done together, the
    last ones maybe with some twice."""
    gammas, betas = gamma.ctypes.data, beta.ctypes.data
    memory = np.full(SOME, zero), np.empty(SOME, np.float64), np.full((4, SOME, lanes(zero)), zero)
    places, stats = np.empty(SOME, np.int64), np.empty((3, SOME), np.float64)
    whole, numbers = per_group - per_group % lanes(zero), np.full(3, zero)
    for first in range(start, stop, SOME):
        for i in range(SOME):
            n, group = divmod(min(first + i, stop - 1), groups)
            places[i] = x[0] + n * x[1][0] + group * x[1][1]
        middle, spread, _, _ = _measured(places, None, None, per_group, zero, memory)
        store_all(stats[0].ctypes.data, middle)
        store_all(stats[1].ctypes.data, spread)
        store_all(stats[2].ctypes.data, 1.0 / square_root(spread + eps))
        for i in range(min(SOME, stop - first)):
            n, group = divmod(first + i, groups)
            mean[n, group], variance[n, group] = stats[0, i], stats[1, i]
            _standard(stats[0, i], stats[2, i], numbers)
            centre, r, rest = numbers
            to, skip = out[0] + n * out[1][0] + group * out[1][1], group * per_group * size(zero)
            for c in range(0, whole, lanes(zero)):
                _write_set(places[i], gammas + skip, betas + skip, to, c * size(zero), None, zero, centre, r, rest)
            if whole < per_group:
                if whole and not MASK_REGISTERS:  # as `_write` does
                    p = (per_group - lanes(zero)) * size(zero)
                    _write_set(places[i], gammas + skip, betas + skip, to, p, None, zero, centre, r, rest)
                else:
                    p, left = whole * size(zero), per_group - whole
                    _write_set(places[i], gammas + skip, betas + skip, to, p, left, zero, centre, r, rest)


def _write_set(x, gammas, betas, out, p, count, zero, centre, r, rest):
    fill = splat(zero, zero)
    value = (load_some(x + p, count, fill) - centre) * r + rest
    store_some(out + p, value * load_some(gammas + p, count, fill) + load_some(betas + p, count, fill), count)


@straight
def _row_bands(start, stop, zero, eps, summing, sizes, x, g, out, gamma, sums):
    """A work item is a band of rows of a group: x and g are read twice, the second time from the cache, for `out` and
    for the columns' sums of the band. What is not wanted of these is written to a row that nobody reads.
    """
    images, groups, per_group, most = sizes
    gammas, numbers, spare = gamma.ctypes.data, np.full((SOME, 5), zero), np.zeros((3, per_group), zero)
    memory = np.full(SOME, zero), np.empty(SOME, np.float64), np.full((4, SOME, lanes(zero)), zero)
    rows_at, stats = np.empty((2, SOME), np.int64), np.empty((4, SOME), np.float64)
    row_bytes, sums_at, nobody = per_group * size(zero), sums.ctypes.data, spare.ctypes.data
    steps = x[1][0], g[1][0], out[1][0] if out[0] else 0
    for item in range(start, stop):
        band, group = divmod(item, groups)
        first = band * most
        rows, weights = min(most, images - first), gammas + group * row_bytes
        here, slopes = x[0] + first * steps[0] + group * x[1][1], g[0] + first * steps[1] + group * g[1][1]
        to = out[0] + first * steps[2] + group * out[1][1] if out[0] else nobody + 2 * row_bytes
        pitch = groups * row_bytes if summing else row_bytes
        columns = sums_at + band * 2 * pitch + group * row_bytes if summing else nobody
        if summing:
            sums[band, :, group] = 0
        for j in range(0, rows, SOME):
            some = min(SOME, rows - j)
            for i in range(SOME):
                row = min(i, some - 1)
                rows_at[0, i], rows_at[1, i] = here + row * steps[0], slopes + row * steps[1]
            middle, spread, grads, products = _measured(rows_at[0], rows_at[1], weights, per_group, zero, memory)
            store_all(stats[0].ctypes.data, middle)
            store_all(stats[1].ctypes.data, 1.0 / square_root(spread + eps))
            store_all(stats[2].ctypes.data, grads)
            store_all(stats[3].ctypes.data, products)
            for i in range(SOME):
                mean, r = stats[0, i], stats[1, i]
                _standard(mean, r, numbers[i])
                rounded = np.float64(numbers[i, 0])
                numbers[i, 3], numbers[i, 4] = _slopes(rounded, mean, r, stats[2, i], stats[3, i], per_group)
            if some == SOME:
                _rows_back(True, here, slopes, to, steps, weights, per_group, columns, pitch, numbers, zero)
            else:
                for i in range(some):
                    places = here + i * steps[0], slopes + i * steps[1], to + i * steps[2]
                    _rows_back(None, *places, steps, weights, per_group, columns, pitch, numbers[i:], zero)
            here, slopes, to = here + SOME * steps[0], slopes + SOME * steps[1], to + SOME * steps[2]


def _rows_back(four, x, g, out, steps, weights, count, columns, pitch, numbers, zero):
    """Of four neighbouring rows, or of one if that is None, the gradient of x, and what they add to the columns' sums
    of g times x normalised and of g.
    """
    one, two = _numbers(numbers, 0), None if four is None else _numbers(numbers, 1)
    all_of = one, two, None if four is None else _numbers(numbers, 2), None if four is None else _numbers(numbers, 3)
    whole = count - count % lanes(zero)
    for c in range(0, whole, lanes(zero)):
        _back(four, x, g, out, steps, weights, c * size(zero), None, columns, pitch, all_of, zero)
    if whole < count:
        _back(four, x, g, out, steps, weights, whole * size(zero), count - whole, columns, pitch, all_of, zero)


def _numbers(numbers, i):
    return numbers[i, 0], numbers[i, 1], numbers[i, 2], numbers[i, 3], numbers[i, 4]


def _back(four, x, g, out, steps, weights, p, count, columns, pitch, numbers, zero):
    """A vector of that, or so many numbers."""
    fill, (x_step, g_step, step) = splat(zero, zero), steps
    w = load_some(weights + p, count, fill)
    sgx, sg = _row_back(x + p, g + p, out + p, w, count, numbers[0], fill)
    if four is not None:
        x, g, out = x + x_step, g + g_step, out + step
        b = _row_back(x + p, g + p, out + p, w, count, numbers[1], fill)
        x, g, out = x + x_step, g + g_step, out + step
        c = _row_back(x + p, g + p, out + p, w, count, numbers[2], fill)
        x, g, out = x + x_step, g + g_step, out + step
        d = _row_back(x + p, g + p, out + p, w, count, numbers[3], fill)
        sgx, sg = (sgx + b[0]) + (c[0] + d[0]), (sg + b[1]) + (c[1] + d[1])
    store_some(columns + p, load_some(columns + p, count, fill) + sgx, count)
    store_some(columns + pitch + p, load_some(columns + pitch + p, count, fill) + sg, count)


def _row_back(x, g, out, w, count, numbers, fill):
    """``out = g * w * r + (x - centre) * b + d``; what is added to the columns' sums."""
    centre, r, rest, b, d = numbers
    apart, slope = load_some(x, count, fill) - centre, load_some(g, count, fill)
    store_some(out, (apart * b + d) + slope * (w * r), count)
    return slope * (apart * r + rest), slope
