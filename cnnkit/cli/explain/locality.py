"""Topic: neighbours agree, and flattening forgets who they were."""

from typing import Any

import numpy as np

from cnnkit import analysis
from cnnkit.arrays import Array
from cnnkit.cli.page import beside, captioned, figure, page, paragraph, table
from cnnkit.datasets import digits, photograph, shift

SUBJECT = "neighbours agree, flattening forgets them"
DISTANCES = (1, 2, 4, 8, 16, 32)


def cross(size: int) -> Array:
    """A cross over the whole of a small image."""
    image = np.zeros((size, size))
    image[size // 2, :] = image[:, size // 2] = 1
    return image


def images() -> dict[str, Array]:
    """What is compared."""
    noise = np.random.default_rng(0).normal(size=(128, 128))
    return {"photograph": photograph(dtype="float64"), "noise": noise}


def text() -> str:
    """The page."""
    rows = [(name, *(_correlation(image, d) for d in DISTANCES)) for name, image in images().items()]
    digit = [_correlation(digits().x, d) if d < 8 else "" for d in DISTANCES]
    still = cross(7)
    moved = shift(still[None, None], (0, 1))[0, 0]
    x = still[None, None]
    weight = np.random.default_rng(0).normal(size=(49, 49))
    changed = analysis.invariance_error(lambda x: x.reshape(1, 49) @ weight, x, (0, 1))
    return page(
        "How well does a pixel tell another one? Correlation, by distance in pixels:",
        table(("", *DISTANCES), *rows, ("digits 8 x 8", *digit)),
        paragraph("""In a photograph neighbours nearly agree, and with the distance they come to know less of each
            other; in noise no pixel knows of any other. (The tiny digits have strokes of one or two pixels: only next
            neighbours agree.) So a small window holds most of what belongs together, and a filter of 3 x 3 wastes
            few weights; a dense layer has one for every pair of pixels, far or near."""),
        "A dense layer sees a list. A cross, and the same a pixel to the right:",
        beside(_marks(still), _marks(moved), gap=8),
        captioned("the first as a list:", _list(still)),
        captioned("the second:", _list(moved)),
        paragraph(f"""{analysis.changed_positions(still, (0, 1))} of 49 entries differ. (For the cross of 5 x 5, 17 of
            25 is often printed. It is {analysis.changed_positions(cross(5), (0, 1))}: count them. The row of the cross
            loses one pixel, and the column changes places with the next one, but for where it meets the row.)"""),
        paragraph(f"""Random dense weights answer to the second with a change of {100 * changed:.0f} % of the answer.
            See "equivariance" for what a convolution answers."""),
    )


def _correlation(image: Array, distance: int) -> str:
    return f"{analysis.neighbour_correlation(image, distance):.2f}".replace("-0.00", "0.00")


def _marks(image: Array) -> str:
    return "\n".join(" ".join("#" if pixel else "." for pixel in row) for row in image)


def _list(image: Array) -> str:
    return "".join("#" if pixel else "." for pixel in image.flat)


def draw() -> Any:
    """The images, and their correlation."""
    shown = figure(12, 4)
    left, middle, right = shown.subplots(1, 3, width_ratios=(1, 1, 1.4))
    for axes, (name, image) in zip((left, middle), images().items(), strict=True):
        axes.imshow(image, cmap="gray")
        axes.set(title=name, xticks=[], yticks=[])
    analysis.plot_neighbour_correlation(images(), DISTANCES, ax=right)
    return shown
