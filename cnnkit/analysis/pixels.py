"""What pixels are like: neighbours agree, and edges are where they do not."""

from typing import Any

import numpy as np

from cnnkit import arrays, geometry
from cnnkit.arrays import Array


def neighbour_correlation(image: Array, distance: int = 1) -> float:
    """Measure how well a pixel tells another one, `distance` pixels to the right of it or below it.

    It is Pearson's correlation coefficient over all such pairs: 1 if the one determines the other, 0 if it says
    nothing about it. That of neighbours is near 1 in natural images and falls with the distance: the reason why a
    small window sees nearly all that there is to see at one place.

    Parameters
    ----------
    image : array, shape (..., H, W)
        One image, or several of one size, whose pairs are taken together.
    distance : int
        In pixels, at least 1 and below both H and W.

    Returns
    -------
    float
        From -1 to 1; NaN if all pixels are the same.

    Raises
    ------
    ValueError
        If `image` is too small for `distance`, or `distance` is below 1.
    TypeError
        If `image` is no array of real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit.analysis import neighbour_correlation
    >>> from cnnkit.datasets import photograph
    >>> noise = np.random.default_rng(0).normal(size=(128, 128))
    >>> round(neighbour_correlation(noise), 2) + 0.0, round(neighbour_correlation(photograph()), 2)
    (0.0, 0.91)
    """
    distance = geometry.integer(distance, "distance")
    xp = arrays.namespace(_check_image(image))
    if min(image.shape[-2:]) <= distance:
        raise ValueError(f"image has shape {image.shape}, too small for pixels that are {distance} apart")
    image = image.astype(np.float64)
    here = xp.concatenate([image[..., :-distance, :].ravel(), image[..., :-distance].ravel()])
    there = xp.concatenate([image[..., distance:, :].ravel(), image[..., distance:].ravel()])
    here, there = here - here.mean(), there - there.mean()
    scale = float(xp.sqrt((here * here).sum() * (there * there).sum()))
    return float((here * there).sum()) / scale if scale else float("nan")


def _check_image(image: Any) -> Array:
    if not arrays.family(image) or image.dtype.kind not in "fiub":
        raise TypeError(f"image is {_kind(image)}, but a numpy or cupy array of real numbers is needed")
    if image.ndim < 2:
        raise ValueError(f"image has shape {image.shape}, but (H, W) is needed, or (..., H, W) of several")
    return image


def _kind(value: Any) -> str:
    return f"an array of {value.dtype}" if arrays.family(value) else f"a {type(value).__name__}"


def sobel(axis: int, *, dtype: Any = "float64") -> Array:
    """Make the 3x3 Sobel kernel: the slope along `axis`, smoothed along the other.

    Nine numbers that find edges anywhere, in images of any size. As a convolution's weight: ``sobel(1)[None, None]``.

    Parameters
    ----------
    axis : {0, 1}
        1: the slope from left to right, which is large at vertical edges; 0: from top to bottom, at horizontal ones.
        (`scipy.ndimage.sobel` has the same axes.)
    dtype : data-type
        A floating-point type.

    Returns
    -------
    numpy.ndarray, shape (3, 3)
        Correlated with an image (as `cnnkit.conv2d` does), it is positive where the image gets brighter.

    Raises
    ------
    ValueError
        If `axis` is neither 0 nor 1 (nor -1 nor -2).
    TypeError
        If `axis` is no int, or `dtype` no floating-point type.

    References
    ----------
    .. [1] I. Sobel, G. Feldman, "A 3x3 isotropic gradient operator for image processing", Stanford, 1968.

    Examples
    --------
    >>> from cnnkit.analysis import sobel
    >>> sobel(1)
    array([[-1.,  0.,  1.],
           [-2.,  0.,  2.],
           [-1.,  0.,  1.]])
    """
    if np.dtype(dtype).kind != "f":
        raise TypeError(f"dtype is {np.dtype(dtype)}, but a floating-point type is needed")
    vertical = np.outer([1, 2, 1], [-1, 0, 1]).astype(dtype)
    return vertical if geometry.axis(axis, 2) == 1 else vertical.T.copy()
