"""The definitions as plain loops in float64: the tests' own truth, which knows nothing of cnnkit.

Arrays are ``(N, C, *spatial)``, weights ``(C_out, C_in // groups, *kernel)``; the number of spatial
axes is read off the ranks. ``stride``, ``dilation`` and ``kernel`` are an int or one int per
spatial axis, ``pads`` is one ``(before, after)`` pair per axis (see `pairs`).
"""

import math
from fractions import Fraction
from itertools import product

import numpy as np


def each_axis(value, count):
    """``3`` -> ``(3, 3)`` for two axes; a tuple stays as it is."""
    return tuple(value) if isinstance(value, tuple | list) else (value,) * count


def pairs(padding, kernel, stride, dilation, size):
    """Any spelling of padding as one ``(before, after)`` pair per spatial axis."""
    count = len(size)
    if padding == "valid":
        return ((0, 0),) * count
    if isinstance(padding, str):
        return tuple(
            _same_pair(padding, k, s, d, n)
            for k, s, d, n in zip(
                each_axis(kernel, count), each_axis(stride, count), each_axis(dilation, count), size, strict=True
            )
        )
    return tuple(tuple(p) if isinstance(p, tuple | list) else (p, p) for p in each_axis(padding, count))


def _same_pair(padding, kernel, stride, dilation, size):
    """The padding that makes the output ``ceil(size / stride)`` long; the odd one comes last."""
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + dilation * (kernel - 1) + 1 - size)
    small, large = total // 2, total - total // 2
    return {"same": (small, large), "same_lower": (large, small)}[padding]


def out_size(size, kernel, stride, pads, dilation, ceil_mode=False):
    """The number of windows along each axis.

    With ``ceil_mode`` a last window may hang over the end, but only one that begins in the input
    or in the padding before it.
    """
    count = len(size)
    return tuple(
        _out_size(n, k, s, p, d, ceil_mode)
        for n, k, s, p, d in zip(
            size, each_axis(kernel, count), each_axis(stride, count), pads, each_axis(dilation, count), strict=True
        )
    )


def _out_size(size, kernel, stride, pad, dilation, ceil_mode):
    before, after = pad
    steps = (size + before + after - dilation * (kernel - 1) - 1) / stride
    if not ceil_mode:
        return math.floor(steps) + 1
    out = math.ceil(steps) + 1
    return out - 1 if (out - 1) * stride >= size + before else out


def windows(size, kernel, stride, pads, dilation, ceil_mode=False):
    """Yield ``(output position, [(tap, input position), ...])``; none in the padding."""
    count = len(size)
    kernel, stride, dilation = (each_axis(v, count) for v in (kernel, stride, dilation))
    for out in product(*map(range, out_size(size, kernel, stride, pads, dilation, ceil_mode))):
        taps = []
        for tap in product(*map(range, kernel)):
            at = tuple(
                o * s - before + t * d for o, s, (before, _), t, d in zip(out, stride, pads, tap, dilation, strict=True)
            )
            if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                taps.append((tap, at))
        yield out, taps


def _at(position):
    """Index of one spatial position, for all images and channels."""
    return (slice(None), slice(None), *position)


# --- convolution ---------------------------------------------------------------------------------


def _group_slices(channels, groups):
    step = channels // groups
    return [slice(g * step, (g + 1) * step) for g in range(groups)]


def conv(x, weight, bias, stride, pads, dilation, groups):
    """``y[n, o, out] = bias[o] + sum over c, tap of weight[o, c, tap] * x[n, c, at]``."""
    x, weight = np.float64(x), np.float64(weight)
    size, kernel = x.shape[2:], weight.shape[2:]
    out = out_size(size, kernel, stride, pads, dilation)
    y = np.zeros((len(x), len(weight), *out))
    ins, outs = _group_slices(x.shape[1], groups), _group_slices(len(weight), groups)
    for o, taps in windows(size, kernel, stride, pads, dilation):
        for (tap, at), (ci, co) in product(taps, zip(ins, outs, strict=True)):
            y[_at(o)][:, co] += x[_at(at)][:, ci] @ weight[_at(tap)][co].T
    if bias is not None:
        y += np.float64(bias).reshape(-1, *(1 for _ in size))
    return y


def conv_backward(grad, x, weight, stride, pads, dilation, groups):
    """``(gx, gw, gb)``: every product of `conv` hands the output's gradient to its two factors."""
    grad, x, weight = np.float64(grad), np.float64(x), np.float64(weight)
    gx, gw = np.zeros_like(x), np.zeros_like(weight)
    ins, outs = _group_slices(x.shape[1], groups), _group_slices(len(weight), groups)
    for o, taps in windows(x.shape[2:], weight.shape[2:], stride, pads, dilation):
        for (tap, at), (ci, co) in product(taps, zip(ins, outs, strict=True)):
            g = grad[_at(o)][:, co]
            gx[_at(at)][:, ci] += g @ weight[_at(tap)][co]
            gw[_at(tap)][co] += g.T @ x[_at(at)][:, ci]
    return gx, gw, grad.sum(axis=(0, *range(2, grad.ndim)))


# --- transposed convolution ----------------------------------------------------------------------


def transposed_size(size, kernel, stride, pads, output_padding, dilation):
    """How long the result is along each axis: what the kernels cover, less the padding, and some more."""
    count = len(size)
    numbers = (each_axis(v, count) for v in (kernel, stride, output_padding, dilation))
    return tuple(
        (n - 1) * s + d * (k - 1) + 1 - before - after + more
        for n, k, s, more, d, (before, after) in zip(size, *numbers, pads, strict=True)
    )


def spread(size, kernel, stride, pads, dilation, out):
    """Yield ``(input position, tap, output position)`` of all that is put into the result, not beside it."""
    count = len(size)
    kernel, stride, dilation = (each_axis(v, count) for v in (kernel, stride, dilation))
    for at, tap in product(product(*map(range, size)), product(*map(range, kernel))):
        to = tuple(
            a * s - before + t * d for a, s, (before, _), t, d in zip(at, stride, pads, tap, dilation, strict=True)
        )
        if all(0 <= i < n for i, n in zip(to, out, strict=True)):
            yield at, tap, to


def conv_transpose(x, weight, bias, stride, pads, output_padding, groups, dilation):
    """``y[n, o, to] = bias[o] + sum of x[n, c, at] * weight[c, o, tap]`` over all that meet there."""
    x, weight = np.float64(x), np.float64(weight)
    size, kernel, channels = x.shape[2:], weight.shape[2:], weight.shape[1] * groups
    out = transposed_size(size, kernel, stride, pads, output_padding, dilation)
    y = np.zeros((len(x), channels, *out))
    ins, outs = _group_slices(x.shape[1], groups), _group_slices(channels, groups)
    for (at, tap, to), (ci, co) in product(
        spread(size, kernel, stride, pads, dilation, out), zip(ins, outs, strict=True)
    ):
        y[_at(to)][:, co] += x[_at(at)][:, ci] @ weight[_at(tap)][ci]
    if bias is not None:
        y += np.float64(bias).reshape(-1, *(1 for _ in size))
    return y


def conv_transpose_backward(grad, x, weight, stride, pads, output_padding, groups, dilation):
    """``(gx, gw, gb)``: every product of `conv_transpose` hands the output's gradient to its two factors."""
    grad, x, weight = np.float64(grad), np.float64(x), np.float64(weight)
    gx, gw = np.zeros_like(x), np.zeros_like(weight)
    ins, outs = _group_slices(x.shape[1], groups), _group_slices(grad.shape[1], groups)
    for (at, tap, to), (ci, co) in product(
        spread(x.shape[2:], weight.shape[2:], stride, pads, dilation, grad.shape[2:]), zip(ins, outs, strict=True)
    ):
        g = grad[_at(to)][:, co]
        gx[_at(at)][:, ci] += g @ weight[_at(tap)][ci].T
        gw[_at(tap)][ci] += x[_at(at)][:, ci].T @ g
    return gx, gw, grad.sum(axis=(0, *range(2, grad.ndim)))


# --- pooling -------------------------------------------------------------------------------------


def max_pool(x, kernel, stride, pads, dilation=1, ceil_mode=False):
    """``(y, indices)``; the dtype is kept, since a maximum computes nothing.

    The first of equal values wins. A NaN beats everything, a NaN found before included: PyTorch
    replaces the best so far ``if value > best or isnan(value)``, so of several NaNs the last wins.
    """
    size = x.shape[2:]
    out = out_size(size, kernel, stride, pads, dilation, ceil_mode)
    y = np.zeros(x.shape[:2] + out, x.dtype)
    indices = np.zeros(y.shape, np.int64)
    for o, taps in windows(size, kernel, stride, pads, dilation, ceil_mode):
        for n, c in product(range(x.shape[0]), range(x.shape[1])):
            best = None
            for _, at in taps:
                value = x[(n, c, *at)]
                if best is None or value > best or value != value:
                    best = value
                    indices[(n, c, *o)] = np.ravel_multi_index(at, size)
            y[(n, c, *o)] = best
    return y, indices


def max_pool_backward(grad, indices, input_shape):
    """Each output's gradient goes to the one input that won; an input may win several windows."""
    gx = np.zeros((*input_shape[:2], math.prod(input_shape[2:])))
    for place in np.ndindex(*grad.shape):
        gx[place[0], place[1], indices[place]] += grad[place]
    return gx.reshape(input_shape)


def _divisor(o, taps, size, kernel, stride, pads, count_include_pad, override):
    """What a window's sum is divided by; the padding counts, what hangs over its end does not."""
    if override is not None:
        return override
    if not count_include_pad:
        return len(taps)
    return math.prod(
        min(i * s - before + k, n + after) - (i * s - before)
        for i, s, (before, after), k, n in zip(o, stride, pads, kernel, size, strict=True)
    )


def _averages(size, kernel, stride, pads, ceil_mode, count_include_pad, override):
    """Yield ``(output position, input positions, divisor)`` for each window of an average pool."""
    kernel, stride = each_axis(kernel, len(size)), each_axis(stride, len(size))
    for o, taps in windows(size, kernel, stride, pads, 1, ceil_mode):
        divisor = _divisor(o, taps, size, kernel, stride, pads, count_include_pad, override)
        yield o, [at for _, at in taps], divisor


def avg_pool(x, kernel, stride, pads, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """The sum of each window over its divisor; a window of nothing but padding gives 0."""
    x, size = np.float64(x), x.shape[2:]
    y = np.zeros(x.shape[:2] + out_size(size, kernel, stride, pads, 1, ceil_mode))
    rule = (ceil_mode, count_include_pad, divisor_override)
    for o, positions, divisor in _averages(size, kernel, stride, pads, *rule):
        for at in positions:
            y[_at(o)] += x[_at(at)]
        if positions:
            y[_at(o)] /= divisor
    return y


def avg_pool_backward(
    grad, input_shape, kernel, stride, pads, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """Each output's gradient, over its divisor, goes to every input of its window."""
    gx = np.zeros(input_shape)
    rule = (ceil_mode, count_include_pad, divisor_override)
    for o, positions, divisor in _averages(input_shape[2:], kernel, stride, pads, *rule):
        for at in positions:
            gx[_at(at)] += grad[_at(o)] / divisor
    return gx


def adaptive_windows(size, out):
    """Yield ``(output position, input positions)``: from ``o * n / m`` to ``(o + 1) * n / m``, rounded outwards."""
    for o in product(*map(range, out)):
        bounds = zip(o, size, out, strict=True)
        yield o, list(product(*(range(i * n // m, math.ceil(Fraction((i + 1) * n, m))) for i, n, m in bounds)))


def adaptive_max_pool(x, out):
    """``(y, indices)``, with ties and NaN as in `max_pool`."""
    y, indices = np.zeros(x.shape[:2] + out, x.dtype), np.zeros(x.shape[:2] + out, np.int64)
    for o, positions in adaptive_windows(x.shape[2:], out):
        for n, c in product(range(x.shape[0]), range(x.shape[1])):
            best = positions[0]
            for at in positions:
                value = x[(n, c, *at)]
                if value > x[(n, c, *best)] or value != value:
                    best = at
            y[(n, c, *o)] = x[(n, c, *best)]
            indices[(n, c, *o)] = np.ravel_multi_index(best, x.shape[2:])
    return y, indices


def adaptive_avg_pool(x, out):
    """The mean of each window."""
    x, y = np.float64(x), np.zeros(x.shape[:2] + out)
    for o, positions in adaptive_windows(x.shape[2:], out):
        y[_at(o)] = sum(x[_at(at)] for at in positions) / len(positions)
    return y


def adaptive_avg_pool_backward(grad, input_shape):
    """Each output's gradient, over the size of its window, goes to every input of its window."""
    gx = np.zeros(input_shape)
    for o, positions in adaptive_windows(input_shape[2:], grad.shape[2:]):
        for at in positions:
            gx[_at(at)] += np.float64(grad[_at(o)]) / len(positions)
    return gx


def max_unpool(x, indices, shape):
    """Each value put where its index says; the last of those that share a place."""
    y = np.zeros((*shape[:2], math.prod(shape[2:])), x.dtype)
    for place in np.ndindex(*x.shape):
        y[place[0], place[1], indices[place]] = x[place]
    return y.reshape(shape)


def max_unpool_backward(grad, indices):
    """What lies where each index says."""
    planes, gx = grad.reshape(*grad.shape[:2], math.prod(grad.shape[2:])), np.zeros(indices.shape)
    for place in np.ndindex(*indices.shape):
        gx[place] = planes[place[0], place[1], indices[place]]
    return gx


def _powers(x, p, kernel, stride, pads, dilation, ceil_mode):
    """Yield ``(output position, input positions, scale, total)``: the scaled sum of the powers of each window.

    PyTorch takes the mean (padding counts, what hangs over its end does not) times the taps of a whole window.
    """
    size = x.shape[2:]
    kernel, stride, dilation = (each_axis(v, len(size)) for v in (kernel, stride, dilation))
    for o, taps in windows(size, kernel, stride, pads, dilation, ceil_mode):
        counted = 1
        for i, s, (before, after), k, d, n in zip(o, stride, pads, kernel, dilation, size, strict=True):
            counted *= sum(i * s - before + t * d < n + after for t in range(k))
        scale = math.prod(kernel) / counted
        yield o, [at for _, at in taps], scale, scale * sum(x[_at(at)] ** p for _, at in taps)


def lp_pool(x, p, kernel, stride, pads, dilation=1, ceil_mode=False):
    """The root of the sum of powers, which keep their sign."""
    x = np.float64(x)
    y = np.zeros(x.shape[:2] + out_size(x.shape[2:], kernel, stride, pads, dilation, ceil_mode))
    for o, _, _, total in _powers(x, p, kernel, stride, pads, dilation, ceil_mode):
        y[_at(o)] = total ** (1 / p)
    return y


def lp_pool_backward(grad, x, p, kernel, stride, pads, dilation=1, ceil_mode=False):
    """The chain rule through root, sum and powers; nothing where the sum is 0, as in PyTorch."""
    x = np.float64(x)
    gx = np.zeros(x.shape)
    for o, positions, scale, total in _powers(x, p, kernel, stride, pads, dilation, ceil_mode):
        nothing = total == 0
        share = np.where(nothing, 0, grad[_at(o)] * np.where(nothing, 1, total) ** (1 / p - 1) * scale)
        for at in positions:
            gx[_at(at)] += share * x[_at(at)] ** (p - 1)
    return gx


# --- dense ---------------------------------------------------------------------------------------


def dense(x, weight, bias=None):
    """``y[..., o] = bias[o] + sum over i of weight[o, i] * x[..., i]``."""
    y = np.zeros((*x.shape[:-1], len(weight)))
    for place in np.ndindex(*y.shape):
        row = np.float64(x[place[:-1]]) * np.float64(weight[place[-1]])
        y[place] = row.sum() + (0.0 if bias is None else bias[place[-1]])
    return y


def dense_backward(grad, x, weight):
    """``(gx, gw, gb)`` of `dense`."""
    gx, gw, gb = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(len(weight))
    for place in np.ndindex(*grad.shape):
        row, o = place[:-1], place[-1]
        g = np.float64(grad[place])
        gx[row] += g * weight[o]
        gw[o] += g * x[row]
        gb[o] += g
    return gx, gw, gb


# --- normalisation -------------------------------------------------------------------------------


def _sets(shape, axes):
    """Index of each set of numbers that lie along ``axes``."""
    for place in np.ndindex(*(1 if axis in axes else n for axis, n in enumerate(shape))):
        yield tuple(slice(None) if axis in axes else i for axis, i in enumerate(place))


def moments(x, axes):
    """``(mean, variance)`` along ``axes``, which stay as axes of 1."""
    mean = np.zeros([1 if axis in axes else n for axis, n in enumerate(x.shape)])
    variance = np.zeros(mean.shape)
    for one in _sets(x.shape, axes):
        numbers, at = np.float64(x[one]).ravel(), tuple(0 if isinstance(i, slice) else i for i in one)
        mean[at] = numbers[0] + math.fsum(numbers - numbers[0]) / numbers.size
        variance[at] = math.fsum((numbers - mean[at]) ** 2) / numbers.size
    return mean, variance


def normalise(x, gamma, beta, mean, variance, eps):
    """``(x - mean) / sqrt(variance + eps) * gamma + beta``; all but ``eps`` broadcast."""
    return (np.float64(x) - mean) / np.sqrt(variance + eps) * gamma + beta


def normalise_backward(grad, x, gamma, axes, eps):
    """The gradient of x through each set's statistics: ``du[j] / dx[i] = r * ((i == j) - 1 / n - u[i] * u[j] / n)``."""
    mean, variance = moments(x, axes)
    r = 1 / np.sqrt(variance + eps)
    slope, u, gx = np.float64(grad) * gamma, (np.float64(x) - mean) * r, np.zeros(x.shape)
    for one in _sets(x.shape, axes):
        h, v, n = slope[one], u[one], u[one].size
        gx[one] = h - math.fsum(h.ravel()) / n - v * math.fsum((h * v).ravel()) / n
    return gx * r


# --- elementwise and losses ----------------------------------------------------------------------


def relu(x):
    """``max(x, 0)``, elementwise; NaN stays NaN, as in PyTorch."""
    return np.where(x <= 0, np.zeros_like(x), x)


def relu_backward(grad, x):
    """The gradient where ``x > 0``, and at NaN too: PyTorch stops it where ``x <= 0`` is true."""
    return np.where(x <= 0, np.zeros_like(grad), grad)


def _normal(v):
    """The normal distribution's probability of less than v, and its density."""
    return math.erfc(-v / math.sqrt(2)) / 2, math.exp(-v * v / 2) / math.sqrt(2 * math.pi)


def _logistic(v):
    return 1 / (1 + math.exp(-v)) if v > -700 else math.exp(v)


def _hill(v):
    """The slope of the logistic function."""
    return _logistic(v) * _logistic(-v)


def _bend(v):
    """What GELU's approximation gives to tanh, and its slope."""
    return math.sqrt(2 / math.pi) * (v + 0.044715 * v**3), math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * v**2)


ACTIVATIONS = {  # of a number and a parameter: the function and its slope
    "leaky_relu": (lambda v, a: v if v > 0 else a * v, lambda v, a: 1 if v > 0 else a),
    "elu": (lambda v, a: v if v > 0 else a * math.expm1(v), lambda v, a: 1 if v > 0 else a * math.exp(v)),
    "gelu": (lambda v: v * _normal(v)[0], lambda v: _normal(v)[0] + v * _normal(v)[1]),
    "gelu_tanh": (
        lambda v: v * _logistic(2 * _bend(v)[0]),
        lambda v: _logistic(2 * _bend(v)[0]) + 2 * v * _bend(v)[1] * _hill(2 * _bend(v)[0]),
    ),
    "silu": (lambda v: v * _logistic(v), lambda v: _logistic(v) + v * _hill(v)),
    "sigmoid": (_logistic, _hill),
    "tanh": (math.tanh, lambda v: 4 * _hill(2 * v)),
}


def activate(name, x, *parameters):
    """The function of every number."""
    return np.array([ACTIVATIONS[name][0](float(v), *parameters) for v in x.flat]).reshape(x.shape)


def activate_backward(name, grad, x, *parameters):
    """The gradient times the slope at every number."""
    return grad * np.array([ACTIVATIONS[name][1](float(v), *parameters) for v in x.flat]).reshape(x.shape)


def mse_loss(y, target, reduction="mean"):
    """``(y - target) ** 2``."""
    losses = (np.float64(y) - np.float64(target)) ** 2
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / max(losses.size, 1)}[reduction]


def mse_loss_backward(grad, y, target, reduction="mean"):
    """``2 * (y - target)``, weighted by what each loss contributes to the result."""
    share = {"none": 1.0, "sum": 1.0, "mean": 1.0 / max(y.size, 1)}[reduction]
    return np.asarray(grad, np.float64) * share * 2 * (np.float64(y) - np.float64(target))


def _lines(x, axis):
    """Index of each 1-d line of ``x`` along ``axis``."""
    axis %= x.ndim
    for place in np.ndindex(*x.shape[:axis], *x.shape[axis + 1 :]):
        yield (*place[:axis], slice(None), *place[axis:])


def log_softmax(x, axis):
    """``x - log(sum(exp(x)))`` along ``axis``, with the largest entry taken out first."""
    y = np.zeros(x.shape)
    for line in _lines(x, axis):
        shifted = np.float64(x[line]) - np.float64(x[line]).max()
        y[line] = shifted - math.log(math.fsum(np.exp(shifted)))
    return y


def softmax(x, axis):
    """``exp(x) / sum(exp(x))`` along ``axis``."""
    return np.exp(log_softmax(x, axis))


def softmax_backward(grad, x, axis):
    """``y * (grad - sum(grad * y))`` along ``axis``."""
    y, gx = softmax(x, axis), np.zeros(x.shape)
    for line in _lines(x, axis):
        gx[line] = y[line] * (grad[line] - math.fsum(grad[line] * y[line]))
    return gx


def log_softmax_backward(grad, x, axis):
    """``grad - softmax(x) * sum(grad)`` along ``axis``."""
    y, gx = softmax(x, axis), np.zeros(x.shape)
    for line in _lines(x, axis):
        gx[line] = grad[line] - y[line] * math.fsum(grad[line])
    return gx


def _targets(logits, labels, label_smoothing):
    """The smoothed one-hot targets: ``1 - s`` on the label, and ``s`` spread over all classes."""
    classes = logits.shape[1]
    targets = np.full(logits.shape, label_smoothing / classes)
    for place in np.ndindex(*labels.shape):
        targets[(place[0], labels[place], *place[1:])] += 1.0 - label_smoothing
    return targets


def cross_entropy(logits, labels, label_smoothing=0.0, reduction="mean"):
    """``-sum over classes of target * log_softmax(logits)``, the classes on axis 1."""
    losses = -(_targets(logits, labels, label_smoothing) * log_softmax(logits, 1)).sum(axis=1)
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / max(labels.size, 1)}[reduction]


def cross_entropy_backward(grad, logits, labels, label_smoothing=0.0, reduction="mean"):
    """``(softmax(logits) - target)``, weighted by what each loss contributes to the result."""
    share = {"none": 1.0, "sum": 1.0, "mean": 1.0 / max(labels.size, 1)}[reduction]
    weight = np.broadcast_to(np.asarray(grad, np.float64), labels.shape)[:, None] * share
    return weight * (softmax(logits, 1) - _targets(logits, labels, label_smoothing))
