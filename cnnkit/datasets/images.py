"""Labelled images, and two things done to them: divide them, and move them."""

from typing import Any, NamedTuple

import numpy as np

from cnnkit.arrays import Array


class Images(NamedTuple):
    """Images and what they show.

    Being a pair, it goes wherever ``(x, labels)`` goes, such as `cnnkit.nn.fit`.

    Attributes
    ----------
    x : numpy.ndarray, shape (N, C, H, W)
        The images.
    labels : numpy.ndarray of int64, shape (N,)
        The class of each image, counted from 0.

    Examples
    --------
    >>> from cnnkit import datasets
    >>> x, labels = datasets.digits()
    >>> x.shape, labels.shape
    ((1797, 1, 8, 8), (1797,))
    """

    x: Array
    labels: Array


def split(images: tuple[Array, Array], test_fraction: float = 0.2, *, seed: int = 0) -> tuple[Images, Images]:
    """Divide labelled images at random into a training and a test set.

    The split is stratified: of a class with n images, ``round(n * test_fraction)`` go to the test
    set (but at least one goes to either side, when there are two). Both sets keep the order in
    which the images came.

    Parameters
    ----------
    images : Images or tuple
        The images, shape (N, C, H, W), and their labels, shape (N,).
    test_fraction : float
        Part of each class that is put aside for testing, between 0 and 1.
    seed : int
        The same seed gives the same split.

    Returns
    -------
    train, test : Images
        Copies; together they hold every image exactly once.

    Raises
    ------
    ValueError
        If `test_fraction` is not between 0 and 1, or there are not as many labels as images.

    Examples
    --------
    >>> from cnnkit.datasets import digits, split
    >>> train, test = split(digits(), 0.2)
    >>> train.x.shape, test.x.shape
    ((1438, 1, 8, 8), (359, 1, 8, 8))
    """
    x, labels = images
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction}, but must lie between 0 and 1")
    _check_pair(x, labels)
    rng = np.random.default_rng(seed)
    in_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        in_test[rng.permutation(members)[: _test_size(len(members), test_fraction)]] = True
    return Images(x[~in_test], labels[~in_test]), Images(x[in_test], labels[in_test])


def _test_size(members: int, fraction: float) -> int:
    if members < 2:
        return 0
    return min(max(round(members * fraction), 1), members - 1)


def shift(x: Array, offset: Any) -> Array:
    """Move each image by whole pixels; what comes in at the edges is zero.

    ``shift(x, (a, b))[n, c, i, j] == x[n, c, i - a, j - b]`` wherever that pixel exists, else 0.

    Parameters
    ----------
    x : numpy.ndarray, shape (N, C, *spatial)
        The images; any number of spatial axes, any dtype.
    offset : array_like of int, shape (spatial axes,) or (N, spatial axes)
        How far to move, in pixels along each spatial axis: for 2d images (down, right), negative
        for up and left. One offset for all images, or one for each.

    Returns
    -------
    numpy.ndarray
        The moved images, of the shape and dtype of `x`.

    Raises
    ------
    ValueError
        If `offset` has the wrong shape.
    TypeError
        If `offset` does not hold integers.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit.datasets import shift
    >>> x = np.arange(1, 10).reshape(1, 1, 3, 3)
    >>> shift(x, (1, -1))[0, 0]  # one down, one to the left
    array([[0, 0, 0],
           [2, 3, 0],
           [5, 6, 0]])
    """
    offsets = _per_image(x, offset)
    moved = x
    for axis, size in enumerate(x.shape[2:], start=2):
        source = np.arange(size) - offsets[:, axis - 2, None]  # (N, size): where each pixel is from
        along_axis = [len(x), *(1,) * (x.ndim - 1)]
        along_axis[axis] = size
        source = source.reshape(along_axis)
        inside = (source >= 0) & (source < size)
        pixels = np.take_along_axis(moved, np.where(inside, source, 0), axis)
        moved = np.where(inside, pixels, x.dtype.type(0))
    return moved


def _per_image(x: Array, offset: Any) -> Array:
    """`offset` as an int64 array of shape (N, spatial axes)."""
    offsets = np.asarray(offset)
    images, spatial = len(x), x.ndim - 2
    if not np.issubdtype(offsets.dtype, np.integer):
        raise TypeError(f"offset holds {offsets.dtype}, but must hold integers, in whole pixels")
    if offsets.shape not in {(spatial,), (images, spatial)}:
        raise ValueError(
            f"offset has shape {offsets.shape}, but x of shape {x.shape} needs ({spatial},) or ({images}, {spatial})"
        )
    return np.broadcast_to(offsets.astype(np.int64), (images, spatial))


def _check_pair(x: Array, labels: Array) -> None:
    if labels.shape != (len(x),):
        raise ValueError(f"labels have shape {labels.shape}, but {len(x)} images need shape ({len(x)},)")


def as_training_data(pixels: Array, labels: Array) -> Images:
    """Bytes as files hold them, as what a network takes: float32 in 0..1, labels of int64."""
    x = pixels.astype(np.float32)
    x /= np.float32(255)
    return Images(x, labels.astype(np.int64))
