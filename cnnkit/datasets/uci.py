"""The built-in data: 1,797 small handwritten digits."""

from importlib import resources
from typing import Any, Literal

import numpy as np

from cnnkit.datasets.images import Images, shift

SIZE = 8  # pixels along each side of a digit
WHITE = 16  # the greatest value of a pixel


def digits(
    canvas: int = SIZE,
    placement: Literal["centre", "random"] = "centre",
    *,
    seed: int = 0,
    dtype: Any = "float32",
) -> Images:
    """Load the built-in handwritten digits: 1,797 grey images of 8 x 8 pixels, ten classes.

    They are the test part of the "Optical Recognition of Handwritten Digits" data [1]_, written
    by 13 people, and come with cnnkit under the CC BY 4.0 licence. To place the digits a known
    number of pixels away from the centre of a canvas, use `shift`.

    Parameters
    ----------
    canvas : int
        Side of the square, black image that each digit is put on, 8 or more pixels.
    placement : {"centre", "random"}
        Where on the canvas: in its centre (where the margin is odd, it is one pixel less above
        and to the left than below and to the right), or for each digit anywhere it fits.
    seed : int
        The same seed gives the same random places.
    dtype : data-type
        A floating-point type for the images.

    Returns
    -------
    Images
        ``x`` of shape (1797, 1, canvas, canvas), values 0 (black) to 1 in steps of 1/16, and
        ``labels``, int64 of shape (1797,), the digits 0 to 9.

    Raises
    ------
    ValueError
        If `canvas` is smaller than 8 or `placement` is neither "centre" nor "random".
    TypeError
        If `dtype` is not a floating-point type.

    References
    ----------
    .. [1] E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
       Learning Repository, 1998, https://doi.org/10.24432/C50P49.

    Examples
    --------
    >>> from cnnkit.datasets import digits, shift
    >>> x, labels = digits(canvas=16)
    >>> x.shape, labels[:5]
    ((1797, 1, 16, 16), array([0, 1, 2, 3, 4]))
    >>> at_the_top_edge = shift(x, (-4, 0))
    """
    if canvas < SIZE:
        raise ValueError(f"canvas is {canvas} pixels, but a digit needs {SIZE}")
    if placement not in ("centre", "random"):
        raise ValueError(f"placement is {placement!r}, but must be 'centre' or 'random'")
    if np.dtype(dtype).kind != "f":
        raise TypeError(f"dtype is {np.dtype(dtype)}, but must be float16, float32 or float64")
    images, labels = _read()
    margin = canvas - SIZE
    x = np.zeros((len(images), 1, canvas, canvas), dtype)
    x[:, 0, :SIZE, :SIZE] = images
    x /= WHITE
    if placement == "random":
        corners = np.random.default_rng(seed).integers(0, margin + 1, (len(x), 2))
    else:
        corners = np.full((len(x), 2), margin // 2)
    return Images(shift(x, corners), labels.astype(np.int64))


def _read() -> tuple[np.ndarray, np.ndarray]:
    """The stored bytes: images (1797, 8, 8) with values 0..16, and labels (1797,)."""
    file = resources.files("cnnkit.datasets").joinpath("digits.npz")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return stored["images"], stored["labels"]
