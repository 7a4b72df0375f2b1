"""The steps of Winograd convolutions, emitted as LLVM vector code from small matrices; `winograd.py` joins them.

Lanes are channels everywhere, so no shape of an image wastes any. Along an axis, m outputs of a filter of r taps take
``n = m + r - 1`` products: F(m, r). They are values of polynomials at n points, 0, pairs ±p and infinity. With them, n
inputs d, r taps g and m outputs y are tied by three matrices (Lavin and Gray 2016, arXiv:1509.09308):

    y = T' [(F g) * (S d)]                S n x n, F n x r, T' m x n, * element by element

Both axes of a patch go the same way, each with its own matrices, those of an axis without taps being the number 1:

    y = T' [(F g F') * (S d S')] T

Each step does both sides of one product: `spectrum` S d S', `filters` F g F', `outputs` T' m T; `product` sums over the
channels between them, for one of the n x n elements. The way back to the filters, of which y is a linear function, is

    gradient of g = F' [(T gy T') * (S d S')] F        gy the gradient of y

with `gradients` T gy T' and `weights` F' m F, and sums over tiles between them.

A step is compiled by itself for each `Form` and called by its address, so that kernels have one form for all of them.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnkit.arrays import Array
from cnnkit.rooms.numba.emit import NUMBER, Emitter, UnitType, called, emitted, function, opaque, unit
from cnnkit.rooms.numba.machine import kernel

FLOAT = np.dtype(np.float32)

# The points besides infinity, by their number with it: sizes that keep rounding errors small, exact in float32
POINTS: dict[int, tuple[float, ...]] = {
    6: (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2),
    8: (0, 1 / 2, -1 / 2, 1, -1, 2, -2),
}


# ---------------------------------------------------------------- what a transform is


class Axis(NamedTuple):
    """F(outputs, taps) along one axis; the one without taps is `ALONE`."""

    taps: int
    outputs: int
    dilated: bool = False  # across only: pixels lie apart, at distances that code does not know

    @property
    def points(self) -> int:
        return self.taps + self.outputs - 1


ALONE = Axis(1, 1)


class Form(NamedTuple):
    """The transforms of a patch's two axes."""

    down: Axis
    across: Axis

    @property
    def elements(self) -> int:
        """Numbers of a spectrum."""
        return self.down.points * self.across.points

    @property
    def thin(self) -> int:
        """2 if one axis has taps, else 1: spectra are short, and tiles can be done together that many times as many."""
        return 2 if ALONE in self else 1

    @property
    def taps(self) -> int:
        return self.down.taps * self.across.taps


class Matrices(NamedTuple):
    """Of an axis: S, F, and T, so that ``y = T' [(F g) * (S d)]``."""

    s: Array
    f: Array
    t: Array


@lru_cache
def matrices(axis: Axis) -> Matrices:
    """S divides every root but one out of the points' polynomial, F is over the distances to the others."""
    if axis.points == 1:
        return Matrices(*(np.ones((1, 1)),) * 3)
    points = np.array(POINTS[axis.points])
    s, f, t = (np.zeros((axis.points, size)) for size in (axis.points, axis.taps, axis.outputs))
    for k, point in enumerate(points):
        others = np.delete(points, k)
        s[k, :-1] = np.poly(others)[::-1]
        f[k] = point ** np.arange(axis.taps) / np.prod(point - others)
        t[k] = point ** np.arange(axis.outputs)
    s[-1] = np.poly(points)[::-1]
    f[-1, -1] = t[-1, -1] = 1
    return Matrices(s, f, t)


class _Arithmetic:
    """Matrices times vectors of vectors; those of points p and -p share their work."""

    def __init__(self, emit: Emitter) -> None:
        self.emit, self.builder = emit, emit.builder

    def number(self, value: float) -> ir.Constant:
        return ir.Constant(self.emit.vector, [float(np.float32(value))] * self.emit.lanes)

    def plus(self, a: Any, factor: float, b: Any) -> Any:
        """a + factor * b."""
        if factor in (1, -1):
            return self.builder.fadd(a, b) if factor == 1 else self.builder.fsub(a, b)
        return self.builder.call(self.emit.fma, [self.number(factor), b, a])

    def sum(self, factors: Any, vectors: list[Any]) -> Any:
        """The sum of factors times vectors; None if all factors are zero."""
        terms = [(factor, vector) for factor, vector in zip(factors, vectors, strict=True) if factor]
        terms.sort(key=lambda term: term[0] != 1)  # the first one that needs no multiplication goes first
        total = None
        for factor, vector in terms:
            if total is not None:
                total = self.plus(total, factor, vector)
            else:
                total = vector if factor == 1 else self.builder.fmul(self.number(factor), vector)
        return total

    def at_points(self, matrix: Array, given: list[Any], part: int | None = None) -> list[Any]:
        """``matrix @ given``, rows being points; all of it or one of `parts`, which are single points or pairs.

        A pair's rows have the same even columns, and odd ones of opposite signs.
        """
        if part is None:
            return [one for part in range(parts(matrix)) for one in self.at_points(matrix, given, part)]
        if part in (0, parts(matrix) - 1):
            return [self.sum(matrix[-1 if part else 0], given)]
        row = matrix[2 * part - 1]
        even = self.sum(row[::2], given[::2])
        if np.count_nonzero(row[1::2]) == 1:
            (k,) = 2 * np.flatnonzero(row[1::2]) + 1
            return [self.plus(even, row[k], given[k]), self.plus(even, -row[k], given[k])]
        odd = self.sum(row[1::2], given[1::2])
        return [self.plus(even, 1, odd), self.plus(even, -1, odd)]

    def from_points(self, matrix: Array, given: list[Any]) -> list[Any]:
        """``matrix.T @ given``, again with points in pairs."""
        if len(given) == 1:
            return given
        pairs = [(self.plus(a, 1, b), self.plus(a, -1, b)) for a, b in zip(given[1:-1:2], given[2:-1:2], strict=True)]
        single, of_pairs = matrix[[0, -1]], matrix[1:-1:2]
        return [
            self.sum([*single[:, j], *of_pairs[:, j]], [given[0], given[-1], *(pair[j % 2] for pair in pairs)])
            for j in range(matrix.shape[1])
        ]


def parts(matrix: Array) -> int:
    """In how many parts points are computed that need no others: 0, every pair, and infinity."""
    return len(matrix) // 2 + 1


def _both_sides(transform: Any, down: Array, across: Array, square: list[list[Any]]) -> list[list[Any]]:
    """A transform along the columns and then along the rows."""
    columns = [transform(down, list(column)) for column in zip(*square, strict=True)]
    return [transform(across, list(row)) for row in zip(*columns, strict=True)]


def _square(vectors: list[Any], wide: int) -> list[list[Any]]:
    return [vectors[first : first + wide] for first in range(0, len(vectors), wide)]


def _rows_of_lanes(emit: Emitter, source: Any, step: Any, count: Any) -> list[Any]:
    """Where each lane's data begin: ``source + lane * step``; lanes from `count` on repeat the last one."""
    builder, last = emit.builder, emit.builder.sub(count, emit.number(1))
    lanes = [emit.number(lane) for lane in range(emit.lanes)]
    lanes = [builder.select(builder.icmp_signed("<", lane, count), lane, last) for lane in lanes]
    return [builder.gep(source, [builder.mul(lane, step)]) for lane in lanes]


# ---------------------------------------------------------------- the steps of a form: kernels call them by address


@intrinsic
def spectrum(typingctx: Any, step: Any, to: Any, plane: Any, source: Any, row: Any, pixel: Any) -> Any:
    """S d S' of the patch ``d[i][j] = source[i * row + j * pixel ...]``: element e at ``to[e * plane ...]``."""
    return called(5)


def _emit_spectrum(emit: Emitter, form: Form, to: Any, plane: Any, source: Any, row: Any, pixel: Any) -> None:
    builder, source, to = emit.builder, emit.pointer(source), emit.pointer(to)
    down, across = matrices(form.down).s, matrices(form.across).s
    rows = [emit.at(source, builder.mul(row, emit.number(i))) for i in range(len(down))]
    places = _places(emit, form.across, pixel, len(across))
    transform, e = _Arithmetic(emit).at_points, 0
    for part in range(parts(down)):  # the patch is read anew for each, as all its vectors would not stay in registers
        columns = [[emit.load_vector(emit.at(one, place)) for one in rows] for place in places]
        for line in zip(*(transform(down, column, part) for column in columns), strict=True):
            for vector in transform(across, list(line)):
                emit.store_vector(vector, emit.at(to, builder.mul(plane, emit.number(e))))
                e += 1


def _places(emit: Emitter, axis: Axis, pixel: Any, count: int) -> list[Any]:
    """Where pixels of a row lie; where that is known, addresses need no registers."""
    return [emit.builder.mul(pixel if axis.dilated else emit.number(emit.lanes), emit.number(j)) for j in range(count)]


def _store_planes(emit: Emitter, square: list[list[Any]], to: Any, plane: Any) -> None:
    to = emit.pointer(to)
    for e, vector in enumerate(vector for row in square for vector in row):
        emit.store_vector(vector, emit.at(to, emit.builder.mul(plane, emit.number(e))))


def _load_planes(emit: Emitter, form: Form, source: Any, plane: Any) -> list[list[Any]]:
    places = [emit.at(source, emit.builder.mul(plane, emit.number(e))) for e in range(form.elements)]
    return _square([emit.load_vector(place) for place in places], form.across.points)


@intrinsic
def filters(
    typingctx: Any, at: Any, to: Any, plane: Any, source: Any, step: Any, channels: Any, low: Any, high: Any,
    flipped: Any,
) -> Any:  # fmt: skip
    """F g F' of filters whose taps lie together, one every `step` elements: element e at ``to[e * plane ...]``.

    Of what lies at a filter's place the numbers ``low <= tap < high`` are taken, the others are zeros and not read.
    `flipped` says that the taps lie in reverse order.
    """
    return called(8)


def _emit_filters(
    emit: Emitter, form: Form, to: Any, plane: Any, source: Any, step: Any, channels: Any, low: Any, high: Any,
    flipped: Any,
) -> None:  # fmt: skip
    builder, last = emit.builder, form.taps - 1
    rows = _rows_of_lanes(emit, emit.pointer(source), step, channels)
    taps: list[Any] = []
    for row in rows:
        emit.fetch(emit.at(row, 48))
    for first in range(0, form.taps, emit.lanes):
        mask = emit.lanes_from_to(builder.sub(low, emit.number(first)), builder.sub(high, emit.number(first)))
        taps += emit.transposed([emit.load_masked(emit.at(row, first), mask) for row in rows])
    backwards = builder.trunc(flipped, ir.IntType(1))
    taps = [builder.select(backwards, taps[last - t], taps[t]) for t in range(form.taps)]
    square = _square(taps, form.across.taps)
    down, across = matrices(form.down).f, matrices(form.across).f
    _store_planes(emit, _both_sides(_Arithmetic(emit).at_points, down, across, square), to, plane)


@intrinsic
def outputs(
    typingctx: Any, step: Any, to: Any, row: Any, pixel: Any, source: Any, plane: Any, bias: Any, relu: Any, doubt: Any
) -> Any:
    """T' m T of the elements ``m[e] = source[e * plane ...]``, plus bias: pixel (i, j) to ``to[i * row + j * pixel]``.

    Bit ``lane`` of the number at `doubt` says that not all of a lane's pixels are finite (before the ReLU).
    """
    return called(8)


def _emit_outputs(
    emit: Emitter, form: Form, to: Any, row: Any, pixel: Any, source: Any, plane: Any, bias: Any, relu: Any, doubt: Any
) -> None:
    builder, to, source = emit.builder, emit.pointer(to), emit.pointer(source)
    down, across = matrices(form.down).t, matrices(form.across).t
    square = _both_sides(_Arithmetic(emit).from_points, down, across, _load_planes(emit, form, source, plane))
    biases = emit.load_vector(emit.pointer(bias))
    square = [[builder.fadd(value, biases) for value in line] for line in square]
    _store_doubt(emit, [value for line in square for value in line], doubt)
    for i, line in enumerate(square):
        there = emit.at(to, builder.mul(row, emit.number(i)))
        for value, place in zip(line, _places(emit, form.across, pixel, len(line)), strict=True):
            emit.store_vector(emit.relu(value, relu), emit.at(there, place))


def _not_finite(emit: Emitter, vectors: list[Any]) -> Any:
    """A mask of the lanes in which not all vectors are finite: 0 * y is 0, or NaN where y is not finite."""
    builder, sums = emit.builder, [emit.zero()] * min(4, len(vectors))
    for n, vector in enumerate(vectors):
        sums[n % 4] = builder.call(emit.fma, [vector, emit.zero(), sums[n % 4]])
    while len(sums) > 1:
        sums = [builder.fadd(sums[0], sums[1]), *sums[2:]]
    return builder.fcmp_unordered("uno", sums[0], sums[0])


def _store_doubt(emit: Emitter, vectors: list[Any], doubt: Any) -> None:
    bits = emit.builder.bitcast(_not_finite(emit, vectors), ir.IntType(emit.lanes))
    emit.builder.store(emit.builder.zext(bits, emit.index), emit.pointer(doubt, emit.index))


@intrinsic
def gradients(typingctx: Any, step: Any, to: Any, plane: Any, source: Any, row: Any, pixel: Any) -> Any:
    """T gy T' of ``gy[i][j] = source[i * row + j * pixel ...]``: element e at ``to[e * plane ...]``."""
    return called(5)


def _emit_gradients(emit: Emitter, form: Form, to: Any, plane: Any, source: Any, row: Any, pixel: Any) -> None:
    down, across = matrices(form.down).t, matrices(form.across).t
    rows = [emit.at(emit.pointer(source), emit.builder.mul(row, emit.number(i))) for i in range(form.down.outputs)]
    places = _places(emit, form.across, pixel, form.across.outputs)
    square = [[emit.load_vector(emit.at(one, place)) for place in places] for one in rows]
    _store_planes(emit, _both_sides(_Arithmetic(emit).at_points, down, across, square), to, plane)


@intrinsic
def weights(
    typingctx: Any, at: Any, to: Any, step: Any, count: Any, source: Any, plane: Any, high: Any, doubt: Any
) -> Any:
    """F' m F of the elements ``m[e] = source[e * plane ...]``: taps, those of lane i to ``to[i * step ...]``.

    For i < `count`, and of the taps the first `high`. The number at `doubt` becomes 1 if not all of them are finite.
    """
    return called(7)


def _emit_weights(
    emit: Emitter, form: Form, to: Any, step: Any, count: Any, source: Any, plane: Any, high: Any, doubt: Any
) -> None:
    builder, to, source = emit.builder, emit.pointer(to), emit.pointer(source)
    down, across = matrices(form.down).f, matrices(form.across).f
    square = _both_sides(_Arithmetic(emit).from_points, down, across, _load_planes(emit, form, source, plane))
    taps = [tap for line in square for tap in line]
    ill = builder.and_(_not_finite(emit, taps), emit.lanes_below(count))
    bits = builder.bitcast(ill, ir.IntType(emit.lanes))
    doubt = emit.pointer(doubt, emit.index)
    found = builder.zext(builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)), emit.index)
    builder.store(builder.or_(builder.load(doubt), found), doubt)
    places = _rows_of_lanes(emit, to, step, count)  # those from `count` on are the last one's, which is stored last
    for first in range(0, form.taps, emit.lanes):
        some = taps[first : first + emit.lanes]
        mask = emit.lanes_below(builder.sub(high, emit.number(first)))
        lines = emit.transposed([*some, *[emit.zero()] * (emit.lanes - len(some))])
        for lane in reversed(range(emit.lanes)):
            emit.store_masked(lines[lane], emit.at(places[lane], first), mask)


STEPS: dict[str, tuple[int, Any]] = {
    "spectrum": (5, _emit_spectrum),
    "filters": (8, _emit_filters),
    "outputs": (8, _emit_outputs),
    "gradients": (5, _emit_gradients),
    "weights": (7, _emit_weights),
}


class StepType(types.Type):
    """The Numba type of a step; its key holds everything that the emitted code depends on."""

    def __init__(self, kind: str, form: Form, unit: UnitType) -> None:
        self.kind, self.form, self.unit = kind, form, unit
        super().__init__(name=f"Step({kind}, {form}, {unit.name})")


class Step:
    """A step of a form."""

    def __init__(self, kind: str, form: Form) -> None:
        self._numba_type_ = StepType(kind, form, unit(FLOAT)._numba_type_)

    def __reduce__(self) -> Any:
        raise TypeError("a step belongs to this process")


opaque(StepType)


@lru_cache
def step(kind: str, form: Form) -> int:
    """The address of a step, compiled (or read from the disk) when it is first asked for."""
    if kind == "spectrum":  # it depends on the points alone
        form = Form(*(axis._replace(taps=axis.points, outputs=1) for axis in form))
    if kind in ("filters", "weights"):  # taps lie together
        form = Form(*(axis._replace(dilated=False) for axis in form))
    return _address(Step(kind, form))


@kernel
def _address(step):
    return _compiled(step)


@intrinsic
def _compiled(typingctx: Any, step: Any) -> Any:
    numbers, body = STEPS[step.kind]
    name = f"{step.kind}.{'.'.join(f'{taps}x{outputs}x{dilated}' for taps, outputs, dilated in step.form)}"

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        made = function(builder.module, name, step.unit, numbers, lambda emit, *args: body(emit, step.form, *args))
        return builder.ptrtoint(made, NUMBER)

    return types.intp(step), codegen


# ---------------------------------------------------------------- pixels whose channels lie side by side


@intrinsic
def turn(typingctx: Any, unit: Any, to: Any, source: Any, step: Any, channels: Any, count: Any) -> Any:
    """``to[p * lanes + c] = source[c * step + p]`` for p < count: the channels of a pixel come to lie side by side.

    Addresses, but for `step` (elements), `channels` (how many there are; what lies in the lanes behind them is of no
    meaning) and `count`. Up to `lanes` - 1 pixels more are written.
    """
    return types.void(unit, *(types.intp,) * 5), emitted("turn", 5, _emit_turn)


def _emit_turn(emit: Emitter, to: Any, source: Any, step: Any, channels: Any, count: Any) -> None:
    builder = emit.builder
    to = emit.pointer(to)
    rows = _rows_of_lanes(emit, emit.pointer(source), step, channels)

    def block(t: Any) -> None:
        p = builder.mul(t, emit.number(emit.lanes))
        mask = emit.lanes_below(builder.sub(count, p))
        pixels = emit.transposed([emit.load_masked(emit.at(row, p), mask) for row in rows])
        there = emit.at(to, builder.mul(p, emit.number(emit.lanes)))
        for i, pixel in enumerate(pixels):
            emit.store_vector(pixel, emit.at(there, i * emit.lanes))

    emit.loop(_vectors(emit, count), block)


def _vectors(emit: Emitter, count: Any) -> Any:
    return emit.builder.udiv(emit.builder.add(count, emit.number(emit.lanes - 1)), emit.number(emit.lanes))


@intrinsic
def turn_back(
    typingctx: Any, unit: Any, to: Any, step: Any, row: Any, source: Any, source_row: Any, channels: Any, high: Any,
    count: Any,
) -> Any:  # fmt: skip
    """``to[c * step + i * row + p] = source[i * source_row + p * lanes + c]``; the way back of `turn`, for some rows.

    For c < `channels`, i < `high`, p < `count`. Of the source whole vectors of pixels are read.
    """
    return types.void(unit, *(types.intp,) * 8), emitted("turn_back", 8, _emit_turn_back)


def _emit_turn_back(
    emit: Emitter, to: Any, step: Any, row: Any, source: Any, source_row: Any, channels: Any, high: Any, count: Any
) -> None:
    builder, source = emit.builder, emit.pointer(source)
    lines = _rows_of_lanes(emit, emit.pointer(to), step, channels)  # the last one comes last, after those behind it

    def block(t: Any) -> None:
        p = builder.mul(t, emit.number(emit.lanes))
        mask = emit.lanes_below(builder.sub(count, p))
        pixels = emit.at(source, builder.mul(p, emit.number(emit.lanes)))

        def line(i: Any) -> None:
            here = emit.at(pixels, builder.mul(i, source_row))
            there = builder.add(p, builder.mul(i, row))
            turned = emit.transposed([emit.load_vector(emit.at(here, k * emit.lanes)) for k in range(emit.lanes)])
            for lane in reversed(range(emit.lanes)):
                emit.store_masked(turned[lane], emit.at(lines[lane], there), mask)

        emit.loop(high, line)

    emit.loop(_vectors(emit, count), block)


@intrinsic
def move(
    typingctx: Any, unit: Any, to: Any, step: Any, source: Any, source_step: Any, channels: Any, count: Any
) -> Any:
    """``to[p * step + c] = source[p * source_step + c]`` for p < `count` and c < `channels`, at most `lanes`."""
    return types.void(unit, *(types.intp,) * 6), emitted("move", 6, _emit_move)


def _emit_move(emit: Emitter, to: Any, step: Any, source: Any, source_step: Any, channels: Any, count: Any) -> None:
    builder, to, source = emit.builder, emit.pointer(to), emit.pointer(source)
    mask = emit.lanes_below(channels)

    def pixel(p: Any) -> None:
        value = emit.load_masked(emit.at(source, builder.mul(p, source_step)), mask)
        emit.store_masked(value, emit.at(to, builder.mul(p, step)), mask)

    emit.loop(count, pixel)


# ---------------------------------------------------------------- single numbers, by their address


@intrinsic
def peek(typingctx: Any, address: Any) -> Any:
    """The float32 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.FloatType().as_pointer()))

    return types.float32(types.intp), codegen


@intrinsic
def poke(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a float32 to an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.FloatType().as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp, types.float32), codegen
