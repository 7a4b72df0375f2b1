"""Topic: invariance comes from pooling, and only nearly."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkit import analysis, nn
from cnnkit.arrays import Array
from cnnkit.cli.page import figure, page, paragraph, table
from cnnkit.datasets import digits

SUBJECT = "pooling forgets where, but only nearly"
SHIFTS = range(1, 9)


def functions() -> dict[str, Callable[[Array], Array]]:
    """A convolution with random filters, and then..."""
    features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, rng=0), nn.ReLU())
    return {
        "no pooling": features,
        "max 2x2": nn.Sequential(*features, nn.MaxPool2d(2)),
        "average 2x2": nn.Sequential(*features, nn.AvgPool2d(2)),
        "max 4x4": nn.Sequential(*features, nn.MaxPool2d(4)),
        "average 4x4": nn.Sequential(*features, nn.AvgPool2d(4)),
        "global max": nn.Sequential(*features, nn.GlobalMaxPool2d()),
    }


def text() -> str:
    """The page."""
    x = digits(canvas=28).x[:100]
    rows = [(name, *(_percent(fn, x, shift) for shift in SHIFTS)) for name, fn in functions().items()]
    edge = digits().x[:100]
    globally = functions()["global max"]
    leaving = analysis.invariance_error(globally, edge, (0, 4))
    return page(
        paragraph("""Equivariance moves the answer with the image. A classifier wants one that stays: invariance. How
            much the answer changes, in per cent, when a digit on a canvas of 28 x 28 moves to the right by 1 to 8
            pixels (100: a change as large as the answer); after a convolution with 8 random filters:"""),
        table(("", *SHIFTS), *rows),
        paragraph("""A small pooling forgives a step of one pixel in part, and no more: windows of 2 x 2 move with
            their stride, and what crosses from one into the next is noticed. Larger windows forgive more. That is why
            nets pool again and again. Only the global pooling does not see the move at all: its window is the whole
            image, and a maximum does not say where."""),
        paragraph(f"""Even that holds only while nothing leaves the image: for digits that fill their 8 x 8 pixels
            and are moved by 4, it changes by {100 * leaving:.0f} %."""),
    )


def _percent(fn: Callable[[Array], Array], x: Array, shift: int) -> str:
    return f"{100 * analysis.invariance_error(fn, x, (0, shift)):.0f}"


def draw() -> Any:
    """The same as lines."""
    shown = figure(8, 5)
    x = digits(canvas=28).x[:100]
    axes = analysis.plot_invariance_error(functions(), x, [0, *SHIFTS], ax=shown.subplots())
    axes.set_ylim(bottom=-0.03 * float(np.max(axes.get_ylim())))
    return shown
