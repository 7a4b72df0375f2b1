"""Losses, forward and backward."""

from numbers import Real
from typing import Any

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import INTEGERS, Array
from cnnkit.foreign import any_library

REDUCTIONS = ("mean", "sum", "none")


@any_library
def cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0, reduction: str = "mean") -> Array:
    """Cross entropy between the softmax of `logits` and the true classes.

    ::

        loss[n] = -(1 - s) * log_p[n, labels[n]] - s / K * sum over k of log_p[n, k]

    with ``log_p = log_softmax(logits, axis=1)``, ``s`` the label smoothing and ``K`` the number of classes.

    Parameters
    ----------
    logits : array, shape (N, K) or (N, K, *spatial)
        float16, bfloat16, float32 or float64.
    labels : array of an integer dtype, shape (N,) or (N, *spatial)
        Each from 0 to K - 1.
    label_smoothing : float
        From 0 to 1: the share of each label that is spread evenly over all classes.
    reduction : {"mean", "sum", "none"}
        What to do with the losses of the examples.

    Returns
    -------
    scalar, or array of the shape of `labels` with ``reduction="none"``

    Raises
    ------
    ValueError
        If shapes do not fit, a label is out of range, or there is nothing to take the mean of.
    TypeError
        If an argument is no array, or of a dtype that is not taken.

    Notes
    -----
    Labels on a GPU are not looked at beforehand, because the host would have to wait for them: there, the loss of one
    that is out of range is NaN, and its gradient that of no label.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import cross_entropy
    >>> float(cross_entropy(np.zeros((1, 4)), np.array([2])))  # log(4)
    1.3862943611198906
    """
    logits, labels = _check(logits, labels, label_smoothing, reduction)
    run = dispatch.implementation("cross_entropy", logits)
    dtype = logits.dtype if reduction == "none" else arrays.accumulator(logits.dtype)
    losses = arrays.empty(labels.shape, logits, dtype)
    if labels.size:
        run(logits, labels, float(label_smoothing), losses)
    return losses if reduction == "none" else _reduced(losses, reduction, logits.dtype)


@any_library
def cross_entropy_backward(
    grad_output: Any, logits: Array, labels: Array, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Array:
    """Gradient of :func:`cross_entropy` with respect to the logits: softmax minus the (smoothed) one-hot labels.

    Parameters
    ----------
    grad_output : float, or array of the shape of the loss
        The gradient with respect to the loss; 1.0 where the loss is the end of the line.
    logits, labels, label_smoothing, reduction
        What :func:`cross_entropy` was given.

    Returns
    -------
    array, shape of `logits`

    Raises
    ------
    ValueError
        If shapes do not fit, or a label is out of range.
    TypeError
        If an argument is no array, or of a dtype that is not taken.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import cross_entropy_backward
    >>> cross_entropy_backward(1.0, np.zeros((1, 4)), np.array([2]))
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """
    logits, labels = _check(logits, labels, label_smoothing, reduction)
    run = dispatch.implementation("cross_entropy_backward", logits)
    scale = _scale(grad_output, logits, labels, reduction)
    grad_logits = arrays.empty(logits.shape, logits)
    if labels.size:
        run(scale, logits, labels, float(label_smoothing), grad_logits)
    return grad_logits


@any_library
def mse_loss(y: Array, target: Array, *, reduction: str = "mean") -> Array:
    """Squared error, ``(y - target) ** 2``, of every number; the mean of it unless told otherwise.

    Parameters
    ----------
    y, target : array, both of one shape
        float16, bfloat16, float32 or float64.
    reduction : {"mean", "sum", "none"}
        What to do with the squared errors: the mean is over all numbers.

    Returns
    -------
    scalar, or array of the shape of `y` with ``reduction="none"``

    Raises
    ------
    ValueError
        If the shapes differ, or there is nothing to take the mean of.
    TypeError
        If an argument is no array, or dtypes or libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import mse_loss
    >>> float(mse_loss(np.array([1.0, 2.0]), np.array([1.0, 5.0])))
    4.5
    """
    y, target = _check_alike(y, target, reduction)
    run = dispatch.implementation("mse_loss", y)
    losses = arrays.empty(y.shape, y, y.dtype if reduction == "none" else arrays.accumulator(y.dtype))
    run(y, target, losses)
    return losses if reduction == "none" else _reduced(losses, reduction, y.dtype)


@any_library
def mse_loss_backward(grad_output: Any, y: Array, target: Array, *, reduction: str = "mean") -> Array:
    """Gradient of :func:`mse_loss` with respect to `y`; that with respect to `target` is its negative.

    ``2 * grad_output * (y - target)``, and divided by the number of numbers with ``reduction="mean"``.

    Parameters
    ----------
    grad_output : float, or array of the shape of the loss
        The gradient with respect to the loss; 1.0 where the loss is the end of the line.
    y, target, reduction
        What :func:`mse_loss` was given.

    Returns
    -------
    array, shape of `y`

    Raises
    ------
    ValueError
        If shapes do not fit, or there is nothing to take the mean of.
    TypeError
        If an argument is no array, or dtypes or libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import mse_loss_backward
    >>> mse_loss_backward(1.0, np.array([1.0, 2.0]), np.array([1.0, 5.0]))
    array([ 0., -3.])
    """
    y, target = _check_alike(y, target, reduction)
    grad_output = _check_grad(grad_output, y.shape, reduction, y=y)
    run = dispatch.implementation("mse_loss_backward", y)
    grad_y = arrays.empty(y.shape, y)
    share = 1 / y.size if reduction == "mean" else 1.0
    if reduction == "none":
        run(share, y, target, grad_y)
        grad_y *= grad_output
    else:
        run(grad_output * share, y, target, grad_y)
    return grad_y


def _reduced(losses: Array, reduction: str, dtype: Any) -> Any:
    """The sum of losses or their mean, which NumPy's `mean` takes three times as long to find of a few."""
    total = losses.sum()
    return arrays.rounded(total if reduction == "sum" else total / losses.size, dtype)


def _check_alike(y: Any, target: Any, reduction: Any) -> tuple[Array, Array]:
    y, target = arrays.check(y=y, target=target)
    geometry.check_shape("target", target.shape, y.shape, "y")
    _check_reduction(reduction, "y", y.shape, y.size)
    return y, target


def _check(logits: Any, labels: Any, label_smoothing: Any, reduction: Any) -> tuple[Array, Array]:
    (logits,) = arrays.check(logits=logits)
    (labels,) = arrays.check(INTEGERS, labels=labels)
    if type(logits) is not type(labels):
        arrays.one_library(logits=logits, labels=labels)
    geometry.labels(logits.shape, labels.shape)
    if not 0 <= geometry.number(label_smoothing, "label_smoothing") <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing!r}, but must be from 0 to 1")
    _check_reduction(reduction, "labels", labels.shape, labels.size)
    if not arrays.within(labels, logits.shape[1]):
        reach = f"from {int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels reach {reach}, but logits of shape {logits.shape} need 0 to {logits.shape[1] - 1}")
    return logits, labels


def _check_reduction(reduction: Any, name: str, shape: tuple[int, ...], losses: int) -> None:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, but must be one of {', '.join(map(repr, REDUCTIONS))}")
    if reduction == "mean" and not losses:
        have = "have" if name == "labels" else "has"
        raise ValueError(f"{name} {have} shape {shape}, but the mean of no losses does not exist: use reduction='sum'")


def _check_grad(grad_output: Any, losses: tuple[int, ...], reduction: str, **like: Array) -> Any:
    """`grad_output`, a number or an array of the library and dtype of another, after a check of its shape."""
    is_number = isinstance(grad_output, Real) and not isinstance(grad_output, bool)
    if not is_number and not hasattr(grad_output, "dtype"):
        raise TypeError(f"grad_output is {grad_output!r}, but a number or an array is needed")
    if not is_number:
        _, grad_output = arrays.check(**like, grad_output=grad_output)
    needed = losses if reduction == "none" else ()
    shape = () if is_number else grad_output.shape
    geometry.check_shape("grad_output", shape, needed, "reduction={!r}", reduction)
    return grad_output


def _scale(grad_output: Any, logits: Array, labels: Array, reduction: str) -> Array:
    """What each example's gradient is multiplied by, as an array of the shape of `labels`."""
    scale = arrays.empty(labels.shape, logits, arrays.accumulator(logits.dtype))
    scale[...] = _check_grad(grad_output, labels.shape, reduction, logits=logits)
    return scale / labels.size if reduction == "mean" else scale
