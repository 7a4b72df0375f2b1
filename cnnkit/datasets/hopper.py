"""The built-in photograph: what a natural image looks like to a network."""

from importlib import resources
from typing import Any

import numpy as np

from cnnkit.arrays import Array

WHITE = 255  # the greatest value of a pixel


def photograph(*, dtype: Any = "float32") -> Array:
    """Load the built-in photograph, a grey portrait of Grace Hopper (US Navy, 1984, public domain).

    Parameters
    ----------
    dtype : data-type
        A floating-point type for the pixels.

    Returns
    -------
    numpy.ndarray, shape (128, 128)
        Values from 0 (black) to 1.

    Raises
    ------
    TypeError
        If `dtype` is not a floating-point type.

    Examples
    --------
    >>> from cnnkit.datasets import photograph
    >>> photograph().shape
    (128, 128)
    """
    if np.dtype(dtype).kind != "f":
        raise TypeError(f"dtype is {np.dtype(dtype)}, but must be float16, float32 or float64")
    file = resources.files("cnnkit.datasets").joinpath("photograph.npz")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return (stored["image"] / WHITE).astype(dtype)
