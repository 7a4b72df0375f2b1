"""What moving the image does to the answer: equivariance, invariance, and flattened positions."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkit.arrays import Array
from cnnkit.datasets import shift as shifted
from cnnkit.geometry import per_axis


def equivariance_error(
    fn: Callable[[Array], Array], x: Array, shift: Any, *, stride: Any = 1, border: Any = 0
) -> float:
    """Measure how far ``fn(shift(x))`` is from ``shift(fn(x))``: 0 if it does not matter which comes first.

    A convolution answers to a moved image with the moved answer, exactly, away from the border; a dense layer with
    another answer altogether.

    Parameters
    ----------
    fn : callable
        From images to feature maps (N, C', \\*sizes): a layer, a model, a function.
    x : numpy.ndarray, shape (N, C, \\*sizes)
    shift : int or tuple of int
        By how many pixels to move `x`: along all axes, or along each (for 2d images: down, right). What comes in at
        the edges is zero.
    stride : int or tuple of int
        How many pixels of `x` a step in the answer stands for: the product of the strides in `fn`. The answer should
        then move by ``shift / stride``. Where that is no whole number, the whole numbers on either side are tried, and
        the smallest error is returned.
    border : int or tuple of int
        How many positions to leave out at each edge of the answer; what the shift brought in is left out anyway.

    Returns
    -------
    float
        ``norm(fn(shift(x)) - shift(fn(x))) / norm(shift(fn(x)))`` over what is left: 0 is exact, and 1 an error as
        large as the answer.

    Raises
    ------
    ValueError
        If shapes do not fit, or nothing is left to compare.
    TypeError
        If `x` is no NumPy array, or a number is no int.

    Examples
    --------
    >>> import numpy as np
    >>> import cnnkit
    >>> from cnnkit.analysis import equivariance_error
    >>> rng = np.random.default_rng(0)
    >>> x, weight = rng.normal(size=(1, 1, 20, 20)), rng.normal(size=(4, 1, 3, 3))
    >>> equivariance_error(lambda x: cnnkit.conv2d(x, weight), x, 5)
    0.0
    >>> matrix = rng.normal(size=(400, 400))
    >>> equivariance_error(lambda x: cnnkit.dense(x.reshape(1, 400), matrix).reshape(x.shape), x, 5) > 1
    True
    """
    here, there = equivariant_answers(fn, x, shift, stride, border)
    return distance(here, there)


def equivariant_answers(
    fn: Callable[[Array], Array], x: Array, shift: Any, stride: Any, border: Any
) -> tuple[Array, Array]:
    """``shift(fn(x))`` and ``fn(shift(x))``, the part of them that is compared."""
    _check_function(fn)
    ndim = _check_images(x)
    by = per_axis(shift, ndim, "shift", least=-max(x.shape))
    steps, margin = per_axis(stride, ndim, "stride"), per_axis(border, ndim, "border", least=0)
    still, moved = fn(x), fn(shifted(x, by))
    if still.ndim != x.ndim:
        raise ValueError(f"fn makes {still.shape} of {x.shape}, but an answer that can move needs {x.ndim} axes")
    whole = [sorted({b // s, -(-b // s)}) for b, s in zip(by, steps, strict=True)]
    pairs = [_overlap(still, moved, by, margin) for by in itertools.product(*whole)]
    return min(pairs, key=lambda pair: distance(*pair))


def _overlap(still: Array, moved: Array, by: tuple[int, ...], margin: tuple[int, ...]) -> tuple[Array, Array]:
    """`still`, moved by `by`, and `moved`, where both are known."""
    of: list[slice] = [slice(None), slice(None)]
    to: list[slice] = [slice(None), slice(None)]
    for n, b, m in zip(still.shape[2:], by, margin, strict=True):
        start, stop = max(b, 0) + m, n + min(b, 0) - m
        if start >= stop:
            raise ValueError(f"the answer is {n} long, but with shift {b} and border {m} nothing of it is left")
        to.append(slice(start, stop))
        of.append(slice(start - b, stop - b))
    return still[tuple(of)], moved[tuple(to)]


def invariance_error(fn: Callable[[Array], Array], x: Array, shift: Any) -> float:
    """Measure how much the answer changes when the image moves: 0 if `fn` does not see that it did.

    Parameters
    ----------
    fn : callable
        From images to anything: a layer, a model, a function.
    x : numpy.ndarray, shape (N, C, \\*sizes)
        Leave a margin around what it shows: what is moved out of the image cannot be seen by any `fn`.
    shift : int or tuple of int
        By how many pixels to move it: along all axes, or along each (for 2d images: down, right).

    Returns
    -------
    float
        ``norm(fn(shift(x)) - fn(x)) / norm(fn(x))``: 0 is no change, and 1 a change as large as the answer.

    Raises
    ------
    ValueError
        If shapes do not fit.
    TypeError
        If `x` is no NumPy array, or `shift` is no int.

    Examples
    --------
    >>> import numpy as np
    >>> import cnnkit
    >>> from cnnkit import nn
    >>> from cnnkit.analysis import invariance_error
    >>> x = cnnkit.datasets.digits(canvas=16).x[:10]
    >>> invariance_error(nn.GlobalMaxPool2d(), x, (3, 2))
    0.0
    >>> 0 < invariance_error(nn.MaxPool2d(4), x, (0, 1)) < invariance_error(nn.Flatten(), x, (0, 1)) < 2
    True
    """
    _check_function(fn)
    by = per_axis(shift, _check_images(x), "shift", least=-max(x.shape))
    return distance(fn(x), fn(shifted(x, by)))


def distance(expected: Array, actual: Array) -> float:
    """``norm(actual - expected) / norm(expected)``; 0 for two times nothing, infinity for something in place of it."""
    error = float(np.linalg.norm((actual - expected).ravel()))
    scale = float(np.linalg.norm(expected.ravel()))
    return error / scale if scale else (float("inf") if error else 0.0)


def changed_positions(image: Array, shift: Any) -> int:
    """Count the pixels that are not what they were after the image has moved: what a flattened image looks like then.

    To the eye it is the same figure; as a vector it differs in so many places, and a dense layer sees only vectors.

    Parameters
    ----------
    image : numpy.ndarray, shape (H, W)
        Any number of axes will do.
    shift : int or tuple of int
        By how many pixels to move it: along all axes, or along each (down, right).

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If `shift` does not fit the axes.
    TypeError
        If `image` is no NumPy array, or `shift` is no int.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit.analysis import changed_positions
    >>> cross = np.zeros((5, 5))
    >>> cross[2, :] = cross[:, 2] = 1
    >>> changed_positions(cross, (0, 1))
    9
    """
    ndim = _check_images(image, extra=0)
    by = per_axis(shift, ndim, "shift", least=-max(image.shape))
    return int(np.count_nonzero(shifted(image[None, None], by)[0, 0] != image))


def _check_function(fn: Any) -> None:
    if not callable(fn):
        raise TypeError(f"fn is {fn!r}, but a function or a layer is needed")


def _check_images(x: Any, extra: int = 2) -> int:
    """How many spatial axes `x` has."""
    name = "x" if extra else "image"
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} is a {type(x).__name__}, but a numpy array is needed")
    if x.ndim <= extra:
        raise ValueError(f"{name} has shape {x.shape}, but (N, C, *sizes) is needed")
    return x.ndim - extra
