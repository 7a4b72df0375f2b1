"""Normalisation in float64, rounded once; the variance is taken in a second pass, about the mean."""

from cnnkit.arrays import Array, namespace


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
    axes = _axes(x, mean)
    centred = _centred(x, axes, measure, mean, variance)
    y = centred / _deviation(x, variance, eps)
    if gamma is not None:
        y *= gamma[:, :, None]
    if beta is not None:
        y += beta[:, :, None]
    out[...] = y


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
    axes = _axes(x, mean)
    centred = _centred(x, axes, measure, mean, variance)
    deviation = _deviation(x, variance, eps)
    unit, grad = centred / deviation, grad_output.astype(namespace(x).float64)
    if grad_gamma is not None:
        grad_gamma[...] = (grad * unit).sum((0, 3))
    if grad_beta is not None:
        grad_beta[...] = grad.sum((0, 3))
    if grad_x is not None:
        slope = grad if gamma is None else grad * gamma[:, :, None]
        if measure:  # what all of x do to the statistics
            along = (slope * unit).mean(axes, keepdims=True)
            slope = slope - slope.mean(axes, keepdims=True) - unit * along
        grad_x[...] = slope / deviation


def _axes(x: Array, mean: Array) -> tuple[int, ...]:
    """The axes of x (N, G, K, P) that one pair of statistics is taken over."""
    return (2, 3) if len(mean) == len(x) else (0, 2, 3)


def _centred(x: Array, axes: tuple[int, ...], measure: bool, mean: Array, variance: Array) -> Array:
    """x less its mean, in float64; fills the statistics if they are to be measured, about the first number of a set."""
    pivot = x[: len(mean), :, :1, :1] if measure else mean[:, :, None, None]
    centred = namespace(x).subtract(x, pivot, dtype=namespace(x).float64)
    if measure:
        shift = centred.mean(axes, keepdims=True)
        mean[...] = (pivot + shift)[:, :, 0, 0]
        centred -= shift
        variance[...] = (centred * centred).mean(axes)
    return centred


def _deviation(x: Array, variance: Array, eps: float) -> Array:
    return namespace(x).sqrt(variance + eps)[:, :, None, None]
