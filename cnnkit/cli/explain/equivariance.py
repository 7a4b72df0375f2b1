"""Topic: a moved image gives the moved answer."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import cnnkit
from cnnkit import analysis
from cnnkit.arrays import Array
from cnnkit.cli.page import figure, page, paragraph, table
from cnnkit.datasets import photograph, shift
from cnnkit.plotting import SIGNED

SUBJECT = "a moved image, the moved answer"
SHIFT = 5


def image() -> Array:
    """The photograph at 32 x 32, which a dense layer can still take."""
    return cnnkit.avg_pool2d(photograph(dtype="float64")[None, None], 4)


def functions() -> dict[str, Callable[[Array], Array]]:
    """What answers; the weights are random: equivariance is built in, not learnt."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 1, 3, 3))
    matrix = rng.normal(size=(1024, 1024)) / 32
    return {
        "conv": lambda x: cnnkit.conv2d(x, weight),
        "conv, padded": lambda x: cnnkit.conv2d(x, weight, padding="same"),
        "conv, stride 2": lambda x: cnnkit.conv2d(x, weight, stride=2),
        "dense": lambda x: cnnkit.dense(x.reshape(1, -1), matrix).reshape(x.shape),
    }


def text() -> str:
    """The page."""
    x, f = image(), functions()
    error = analysis.equivariance_error
    return page(
        paragraph(f"""f is equivariant if f(shift(x)) = shift(f(x)): it does not matter whether one moves the image
            or the answer. A photograph of 32 x 32, moved by {SHIFT} pixels down and to the right; the error is
            |f(shift(x)) - shift(f(x))| as a part of the answer:"""),
        table(
            ("", "shift", "error"),
            ("convolution 3 x 3", SHIFT, _shown(error(f["conv"], x, SHIFT))),
            ("the same with padding, with the border", SHIFT, _shown(error(f["conv, padded"], x, SHIFT))),
            ("the same, without 1 pixel of border", SHIFT, _shown(error(f["conv, padded"], x, SHIFT, border=1))),
            ("convolution with stride 2", SHIFT - 1, _shown(error(f["conv, stride 2"], x, SHIFT - 1, stride=2))),
            ("the same, an odd shift", SHIFT, _shown(error(f["conv, stride 2"], x, SHIFT, stride=2))),
            ("dense layer, 1024 -> 1024", SHIFT, _shown(error(f["dense"], x, SHIFT))),
        ),
        paragraph(f"""The convolution is exact: the same sums of the same numbers, elsewhere. Padding breaks it at the
            border only, where zeros stand for pixels that the moved image had. A stride of 2 keeps it for even shifts
            and breaks it for odd ones: the moved answer would have to lie between two outputs. The dense layer has
            learnt nothing of other places (an answer that has nothing to do with the expected one would be off by
            {math.sqrt(2):.2f})."""),
        paragraph("""So what a convolution learns at one place it knows at all places; a dense layer must be shown
            every digit at every place. "cnnkit compare" trains both and shows it."""),
    )


def _shown(error: float) -> str:
    return "0" if error == 0 else f"{error:.2g}"


def draw() -> Any:
    """The photograph and its answers, before and after; and the errors over the shift."""
    shown = figure(13, 6)
    top, bottom = shown.subfigures(1, 2, width_ratios=(1.25, 1))
    x, f = image(), functions()
    moved = shift(x, (SHIFT, SHIFT))
    panels = top.subplots(2, 3)
    for row, (when, pictures) in zip(panels, {"x": x, "shift(x)": moved}.items(), strict=True):
        row[0].imshow(pictures[0, 0], cmap="gray")
        row[0].set_title(when)
        for axes, name in zip(row[1:], ("conv", "dense"), strict=True):
            answer = f[name](pictures)[0, 0]
            limit = abs(f[name](x)[0, 0]).max()
            axes.imshow(answer, cmap=SIGNED, vmin=-limit, vmax=limit)
            axes.set_title(f"{name}({when})")
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    strides = {"conv": 1, "conv, padded": 1, "conv, stride 2": 2, "dense": 1}
    analysis.plot_equivariance_error(f, x, range(9), stride=strides, ax=bottom.subplots())
    return shown
