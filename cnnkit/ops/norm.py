"""Normalisation over a batch, a layer or groups of channels, forward and backward.

All three are one: statistics of sets of numbers, then ``(x - mean) / sqrt(variance + eps) * gamma + beta``. The rooms
see x as (N, G, K, P), images, groups, channels of a group and pixels. The ways back measure x anew, in the pass over
memory in which they sum the gradients: that costs no pass of its own, and nothing has to be kept for it.
"""

import math
from typing import Any, NamedTuple

from cnnkit import arrays, dispatch, geometry
from cnnkit.arrays import Array
from cnnkit.foreign import any_library
from cnnkit.geometry import Ints
from cnnkit.ops._shared import check_needs

EVERYTHING = ("x", "gamma", "beta")


class NormGrads(NamedTuple):
    """The gradients of a normalisation; what was not asked for is None."""

    x: Array | None
    gamma: Array | None
    beta: Array | None


# ---------------------------------------------------------------- batch norm


@any_library
def batch_norm(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    """Batch normalisation: every channel with its mean and variance over the batch, or with running ones.

    ``y[n, c] = (x[n, c] - mean[c]) / sqrt(variance[c] + eps) * gamma[c] + beta[c]``. When training, mean and variance
    are those of the batch, over all axes but the channels', the variance being divided by their number; otherwise they
    are `running_mean` and `running_var`.

    **Training changes running_mean and running_var in place**, as PyTorch does: they are state, not inputs. They
    become ``(1 - momentum) * running + momentum * measured``, with the unbiased variance (divided by one less than
    their number). All other arrays stay as they are.

    Parameters
    ----------
    x : array, shape (N, C) or (N, C, *spatial)
        float16, bfloat16, float32 or float64, with any strides.
    gamma, beta : array, shape (C,), or None
        Scale and shift; None is 1 and 0.
    running_mean, running_var : array, shape (C,), or None
        None only when training: nothing is kept then.
    training : bool
    momentum : float
        From 0 to 1: how much the running statistics take of this batch.
    eps : float
        Above 0 when training, so that a constant channel becomes `beta`; otherwise at least 0.

    Returns
    -------
    array, shape of `x`

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together, if training has less than two values per channel, or if the
        running statistics cannot be changed.
    TypeError
        If an argument is of the wrong kind, or dtypes or libraries are mixed.

    Notes
    -----
    Ioffe and Szegedy 2015, arXiv:1502.03167. Sums are taken of deviations and added up in float64: a mean that is large
    beside the deviation costs no more digits than it has taken from x.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import batch_norm
    >>> x, mean, variance = np.array([[1.0], [5.0]]), np.zeros(1), np.ones(1)
    >>> batch_norm(x, None, None, mean, variance, training=True, eps=1e-12).round(6)
    array([[-1.],
           [ 1.]])
    >>> mean, variance  # a tenth of 3, and of 8 with nine tenths of 1
    (array([0.3]), array([1.7]))
    """
    running = running_mean, running_var
    x, gamma, beta, *known = _check_batch_norm(x, gamma, beta, *running, training, eps)
    check_momentum(momentum)
    view = geometry.batch_norm(x.shape, training)
    if training:
        inputs = {"x": x, "gamma": gamma, "beta": beta}
        arrays.state(inputs, running_mean=running_mean, running_var=running_var)
    mean, variance = _statistics(x, (1, view[1]), None if training else known)
    y = _forward(x, gamma, beta, eps, view, (mean, variance), training)
    if training:
        count = view[0] * view[3]
        for kept, measured in zip(running, (mean, variance * (count / (count - 1))), strict=True):
            if kept is not None:
                kept[...] = (1 - float(momentum)) * kept + float(momentum) * measured[0]
    return y


@any_library
def batch_norm_backward(
    grad_output: Array,
    x: Array,
    gamma: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    training: bool,
    eps: float = 1e-5,
    needs: tuple[str, ...] = EVERYTHING,
) -> NormGrads:
    """Gradients of :func:`batch_norm` with respect to its input, gamma and beta.

    With ``r = 1 / sqrt(variance + eps)``, ``u = (x - mean) * r`` and means and sums over all axes but the channels':
    ``grad_beta = sum(grad_output)``, ``grad_gamma = sum(grad_output * u)`` and, when training,
    ``grad_x = gamma * r * (grad_output - mean(grad_output) - u * mean(grad_output * u))``, for x also moves the
    statistics; otherwise ``grad_x = gamma * r * grad_output``. The statistics of the batch are measured again, in the
    pass that sums; nothing is changed.

    Parameters
    ----------
    grad_output, x : array, both of one shape, (N, C) or (N, C, *spatial)
        `x` is what the forward was given.
    gamma, running_mean, running_var : array, shape (C,), or None
        The running statistics are not used when training. A gamma of None is 1, and has a gradient all the same.
    training : bool
    eps : float
    needs : tuple of "x", "gamma", "beta"
        The gradients that are wanted.

    Returns
    -------
    NormGrads
        A NamedTuple ``(x, gamma, beta)``; what is not in `needs` is None and costs nothing.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together, or training has less than two values per channel.
    TypeError
        If an argument is of the wrong kind, or dtypes or libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import batch_norm_backward
    >>> x, grad = np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [1.0], [4.0]])
    >>> grads = batch_norm_backward(grad, x, None, None, None, training=True, needs=("x", "beta"))
    >>> grads.beta, float(grads.x.sum().round(9))  # a shift of all x changes nothing
    (array([6.]), 0.0)
    """
    grad_output, x = arrays.check(grad_output=grad_output, x=x)
    x, gamma, _, *known = _check_batch_norm(x, gamma, None, running_mean, running_var, training, eps)
    view = geometry.batch_norm(x.shape, training)
    statistics = _statistics(x, (1, view[1]), None if training else known)
    return _backward(grad_output, x, gamma, eps, view, statistics, x.shape[1:2], needs, training)


def _check_batch_norm(
    x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, training: Any, eps: Any
) -> list[Any]:
    channels = {"gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var}
    checked = arrays.check(x=x, **channels)
    training = geometry.boolean(training, "training")
    geometry.batch_norm(checked[0].shape, training)
    _check_channels(checked[0], checked[0].shape[1:2], dict(zip(channels, checked[1:], strict=True)))
    check_eps(eps, 0 if not training else None)
    for name in ("running_mean", "running_var"):
        if not training and channels[name] is None:
            raise TypeError(f"{name} is None, but an array is needed when training is False")
    return checked


# ---------------------------------------------------------------- layer norm


@any_library
def layer_norm(
    x: Array, normalized_shape: Any, gamma: Array | None = None, beta: Array | None = None, eps: float = 1e-5
) -> Array:
    """Layer normalisation: over the last axes, for each place of the others by itself.

    ``y = (x - mean) / sqrt(variance + eps) * gamma + beta``, mean and variance (divided by the number of values) over
    the axes of `normalized_shape`.

    Parameters
    ----------
    x : array, shape (..., *normalized_shape)
        float16, bfloat16, float32 or float64, with any strides.
    normalized_shape : int or tuple of ints
        The last axes of `x`.
    gamma, beta : array, shape `normalized_shape`, optional
        Scale and shift.
    eps : float
        Above 0.

    Returns
    -------
    array, shape of `x`

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is of the wrong kind, or dtypes or libraries are mixed.

    Notes
    -----
    Ba, Kiros and Hinton 2016, arXiv:1607.06450. Sums are taken as in :func:`batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import layer_norm
    >>> layer_norm(np.array([[1.0, 3.0], [10.0, 10.0]]), 2, eps=1e-12).round(6)
    array([[-1.,  1.],
           [ 0.,  0.]])
    """
    x, gamma, beta = arrays.check(x=x, gamma=gamma, beta=beta)
    view = _layer_view(x, normalized_shape, eps, gamma=gamma, beta=beta)
    return _forward(x, gamma, beta, eps, view, _statistics(x, view[:2]))


@any_library
def layer_norm_backward(
    grad_output: Array,
    x: Array,
    normalized_shape: Any,
    gamma: Array | None = None,
    eps: float = 1e-5,
    *,
    needs: tuple[str, ...] = EVERYTHING,
) -> NormGrads:
    """Gradients of :func:`layer_norm` with respect to its input, gamma and beta.

    With ``r = 1 / sqrt(variance + eps)``, ``u = (x - mean) * r`` and ``h = grad_output * gamma``:
    ``grad_x = r * (h - mean(h) - u * mean(h * u))``, means over `normalized_shape`; ``grad_gamma`` is the sum of
    ``grad_output * u`` and ``grad_beta`` that of `grad_output`, over the other axes.

    Parameters
    ----------
    grad_output, x : array, both of one shape (..., *normalized_shape)
        `x` is what the forward was given.
    normalized_shape : int or tuple of ints
    gamma : array, shape `normalized_shape`, optional
        None is 1, and has a gradient all the same.
    eps : float
    needs : tuple of "x", "gamma", "beta"
        The gradients that are wanted.

    Returns
    -------
    NormGrads
        A NamedTuple ``(x, gamma, beta)``; what is not in `needs` is None and costs nothing.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is of the wrong kind, or dtypes or libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import layer_norm_backward
    >>> grads = layer_norm_backward(np.ones((4, 3)), np.eye(4, 3), 3)
    >>> grads.x.round(6) + 0.0, grads.beta  # the mean of what is normalised cannot be moved
    (array([[0., 0., 0.],
           [0., 0., 0.],
           [0., 0., 0.],
           [0., 0., 0.]]), array([4., 4., 4.]))
    """
    grad_output, x, gamma = arrays.check(grad_output=grad_output, x=x, gamma=gamma)
    view = _layer_view(x, normalized_shape, eps, gamma=gamma)
    shape = geometry.sizes(normalized_shape, "normalized_shape")
    return _backward(grad_output, x, gamma, eps, view, _statistics(x, view[:2]), shape, needs)


def _layer_view(x: Array, normalized_shape: Any, eps: Any, **channels: Array | None) -> Ints:
    shape = geometry.sizes(normalized_shape, "normalized_shape")
    view = geometry.layer_norm(x.shape, shape)
    _check_channels(x, shape, channels)
    check_eps(eps)
    return view


# ---------------------------------------------------------------- group norm


@any_library
def group_norm(
    x: Array, num_groups: int, gamma: Array | None = None, beta: Array | None = None, eps: float = 1e-5
) -> Array:
    """Group normalisation: over the pixels of some neighbouring channels, for each image by itself.

    ``y[n, c] = (x[n, c] - mean[n, g]) / sqrt(variance[n, g] + eps) * gamma[c] + beta[c]``, g being the group of c: the
    channels are `num_groups` groups of ``C / num_groups``. **Instance normalisation** is as many groups as channels,
    one group is all of the image.

    Parameters
    ----------
    x : array, shape (N, C) or (N, C, *spatial)
        float16, bfloat16, float32 or float64, with any strides.
    num_groups : int
        A divisor of C.
    gamma, beta : array, shape (C,), optional
        Scale and shift.
    eps : float
        Above 0.

    Returns
    -------
    array, shape of `x`

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is of the wrong kind, or dtypes or libraries are mixed.

    Notes
    -----
    Wu and He 2018, arXiv:1803.08494. Sums are taken as in :func:`batch_norm`. A group of one value becomes `beta`
    (PyTorch refuses it, but only where the batch is a single image).

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import group_norm
    >>> group_norm(np.array([[1.0, 3.0, 10.0, 30.0]]), 2, eps=1e-12).round(6)
    array([[-1.,  1., -1.,  1.]])
    """
    x, gamma, beta = arrays.check(x=x, gamma=gamma, beta=beta)
    view = _group_view(x, num_groups, eps, gamma=gamma, beta=beta)
    return _forward(x, gamma, beta, eps, view, _statistics(x, view[:2]))


@any_library
def group_norm_backward(
    grad_output: Array,
    x: Array,
    num_groups: int,
    gamma: Array | None = None,
    eps: float = 1e-5,
    *,
    needs: tuple[str, ...] = EVERYTHING,
) -> NormGrads:
    """Gradients of :func:`group_norm` with respect to its input, gamma and beta.

    With ``r = 1 / sqrt(variance + eps)``, ``u = (x - mean) * r`` and ``h = grad_output * gamma``:
    ``grad_x = r * (h - mean(h) - u * mean(h * u))``, means over a group of an image; ``grad_gamma`` is the sum of
    ``grad_output * u`` and ``grad_beta`` that of `grad_output`, over all axes but the channels'.

    Parameters
    ----------
    grad_output, x : array, both of one shape, (N, C) or (N, C, *spatial)
        `x` is what the forward was given.
    num_groups : int
    gamma : array, shape (C,), optional
        None is 1, and has a gradient all the same.
    eps : float
    needs : tuple of "x", "gamma", "beta"
        The gradients that are wanted.

    Returns
    -------
    NormGrads
        A NamedTuple ``(x, gamma, beta)``; what is not in `needs` is None and costs nothing.

    Raises
    ------
    ValueError
        If shapes or parameters do not fit together; the sentence has the numbers.
    TypeError
        If an argument is of the wrong kind, or dtypes or libraries are mixed.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import group_norm_backward
    >>> grads = group_norm_backward(np.ones((2, 4, 5)), np.ones((2, 4, 5)), 2, needs=("gamma", "beta"))
    >>> grads.gamma, grads.beta
    (array([0., 0., 0., 0.]), array([10., 10., 10., 10.]))
    """
    grad_output, x, gamma = arrays.check(grad_output=grad_output, x=x, gamma=gamma)
    view = _group_view(x, num_groups, eps, gamma=gamma)
    return _backward(grad_output, x, gamma, eps, view, _statistics(x, view[:2]), x.shape[1:2], needs)


def _group_view(x: Array, num_groups: Any, eps: Any, **channels: Array | None) -> Ints:
    view = geometry.group_norm(x.shape, geometry.integer(num_groups, "num_groups"))
    _check_channels(x, x.shape[1:2], channels)
    check_eps(eps)
    return view


# ---------------------------------------------------------------- what all share


def _check_channels(x: Array, shape: Ints, channels: dict[str, Array | None]) -> None:
    for name, array in channels.items():
        if array is not None:
            geometry.check_shape(name, array.shape, shape, "x of shape {}", x.shape)


def check_eps(eps: Any, least: int | None = None) -> None:
    """`eps` is finite, and at least `least` or, if that is None, above 0."""
    if not math.isfinite(geometry.number(eps, "eps")) or eps < 0 or (least is None and eps == 0):
        raise ValueError(f"eps is {eps!r}, but must be {'above' if least is None else 'at least'} 0 and finite")


def check_momentum(momentum: Any) -> None:
    if not 0 <= geometry.number(momentum, "momentum") <= 1:
        raise ValueError(f"momentum is {momentum!r}, but must be from 0 to 1")


def _statistics(x: Array, shape: Ints, known: list[Array] | None = None) -> tuple[Array, Array]:
    """Mean and variance in float64: the known ones, or room for those that are to be measured."""
    xp = arrays.namespace(x)
    if known is None:
        return xp.empty(shape), xp.empty(shape)
    return known[0].astype(xp.float64).reshape(shape), known[1].astype(xp.float64).reshape(shape)


def _forward(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    eps: float,
    view: Ints,
    statistics: tuple[Array, Array],
    measure: bool = True,
) -> Array:
    run = dispatch.implementation("norm", x)
    y = arrays.empty(x.shape, x)
    if x.size:
        out = y.reshape(view)
        run(x.reshape(view), _seen(gamma, view), _seen(beta, view), float(eps), measure, *statistics, out)
        _bring_back(out, y)
    return y


def _backward(
    grad_output: Array,
    x: Array,
    gamma: Array | None,
    eps: float,
    view: Ints,
    statistics: tuple[Array, Array],
    shape: Ints,
    needs: Any,
    measure: bool = True,
) -> NormGrads:
    """`shape` is that of gamma and beta."""
    geometry.check_shape("grad_output", grad_output.shape, x.shape, "x")
    check_needs(needs, EVERYTHING)
    run = dispatch.implementation("norm_backward", x)
    zeros = arrays.namespace(x).zeros
    grads = NormGrads(
        arrays.empty(x.shape, x) if "x" in needs else None,
        zeros(shape, x.dtype) if "gamma" in needs else None,
        zeros(shape, x.dtype) if "beta" in needs else None,
    )
    if x.size and needs:
        out = None if grads.x is None else grads.x.reshape(view)
        given = grad_output.reshape(view), x.reshape(view), _seen(gamma, view), float(eps), measure, *statistics
        run(*given, out, _seen(grads.gamma, view), _seen(grads.beta, view))
        _bring_back(out, grads.x)
    return grads


def _seen(numbers: Array | None, view: Ints) -> Array | None:
    """One number for each channel as (G, K)."""
    return None if numbers is None else numbers.reshape(view[1:3])


def _bring_back(out: Array | None, result: Array) -> None:
    """Copy what was computed to the result, if its memory order let no view be made."""
    if out is not None and not arrays.namespace(out).may_share_memory(out, result):
        result[...] = out.reshape(result.shape)
