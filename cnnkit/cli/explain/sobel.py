"""Topic: nine numbers find edges."""

from typing import Any

import numpy as np

import cnnkit
from cnnkit import analysis
from cnnkit.arrays import Array
from cnnkit.cli.page import beside, captioned, figure, grid, page, paragraph, picture
from cnnkit.datasets import photograph

SUBJECT = "nine numbers find edges"


def checkerboard() -> Array:
    """Fields of one pixel."""
    return np.indices((8, 8)).sum(0) % 2.0


def edges(image: Array, axis: int) -> Array:
    """Where the image gets brighter along an axis."""
    return cnnkit.conv2d(image[None], analysis.sobel(axis)[None, None])[0]


def text() -> str:
    """The page."""
    photo = photograph(dtype="float64")
    strength = np.hypot(edges(photo, 0), edges(photo, 1))
    board, large = checkerboard(), np.kron(checkerboard()[:4, :4], np.ones((2, 2)))
    return page(
        "The Sobel kernels: the slope in one direction, smoothed in the other.",
        beside(
            captioned("axis 1: vertical edges", grid(analysis.sobel(1))),
            captioned("axis 0: horizontal edges", grid(analysis.sobel(0))),
        ),
        "A photograph, and the length of the two slopes together:",
        beside(_small(photo), _small(strength)),
        paragraph(f"""{analysis.sobel(0).size} numbers each, for images of any size; nobody trained them, and the
            first layer of a trained network learns filters like them."""),
        "On a checkerboard they find nothing at all; on one with larger fields they do:",
        beside(
            captioned("fields of 1 x 1", grid(board)),
            captioned("axis 1", grid(edges(board, 1))),
            captioned("fields of 2 x 2", grid(large)),
            captioned("axis 1", grid(edges(large, 1))),
            gap=3,
        ),
        paragraph("""That is no error. Sobel compares the pixel to the left with that to the right, and where fields
            are one pixel wide, these are always equal: the pattern is too fine for it. On the larger fields the
            answers of the row above and the row below take part, and cancel where these are of the other colour."""),
    )


def _small(image: Array) -> str:
    """As many pixels as there is room for, about twice as wide as high as characters are."""
    return picture(cnnkit.avg_pool2d(np.ascontiguousarray(image[None, :126, :126]), (6, 4), (6, 3))[0][:, :38])


def draw() -> Any:
    """The photograph, and both directions."""
    shown = figure(12, 4.6)
    left, middle, right = shown.subplots(1, 3)
    photo = photograph()
    left.imshow(photo, cmap="gray")
    left.set(title="photograph", xticks=[], yticks=[])
    for axes, axis in ((middle, 1), (right, 0)):
        analysis.plot_sobel(photo, axis, ax=axes)
    return shown
