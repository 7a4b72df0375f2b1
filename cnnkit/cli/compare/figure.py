"""The comparison as a picture: accuracy against shift, learning curves, and what the first layers learned.

The figure is made without pyplot: it needs no display and leaves the user's matplotlib settings alone.
"""

import itertools
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cnnkit.arrays import Array
from cnnkit.cli.compare.experiment import Result, Task
from cnnkit.cli.compare.networks import NETWORKS
from cnnkit.plotting import BLUE, GREEN, ORANGE

STYLES = dict(zip(NETWORKS, [(BLUE, "o"), (GREEN, "s"), (ORANGE, "^")], strict=True))
SHOWN = 12  # weights of each layer, at most
COLUMNS = 6


def draw(task: Task, results: Sequence[Result]) -> bytes:
    """The figure as the content of a PNG file."""
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(16, 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(str(task), fontsize=12, fontweight="bold")
        parts: Any = figure.subfigures(1, 3, width_ratios=[1, 1, 1.2], wspace=0.03)
        left, middle, right = parts
        _draw_shifts(left.subplots(), task, results)
        _draw_curves(middle.subplots(), results)
        _draw_weights(right, task, results)
        content = BytesIO()
        figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def _draw_shifts(axes: Any, task: Task, results: Sequence[Result]) -> None:
    for result in results:
        colour, marker = STYLES[result.name]
        percent = 100 * np.array(result.shifted_accuracy)
        axes.plot(percent, color=colour, marker=marker, markersize=7, linewidth=2, label=result.name)
    axes.axhline(100 / task.classes, color="0.5", linestyle=":", linewidth=1.5, label="guessing")
    axes.set(title="Shifted test images", ylim=(0, 103), ylabel="accuracy on shifted test images (%)")
    axes.set(xlabel="shift (pixels up, down, left or right)", xticks=range(len(results[0].shifted_accuracy)))
    _finish(axes)


def _draw_curves(axes: Any, results: Sequence[Result]) -> None:
    for result in results:
        style = {"color": STYLES[result.name][0], "marker": ".", "linewidth": 2}
        epochs = range(1, len(result.history.loss) + 1)
        axes.plot(epochs, 100 * np.array(result.history.val_accuracy), label=result.name, **style)
        axes.plot(epochs, 100 * np.array(result.history.accuracy), **style | {"linestyle": ":", "linewidth": 1.2})
    axes.plot([], [], color="0.3", linewidth=1.2, linestyle=":", label="on training images, meanwhile")
    axes.set(title="Learning", xlabel="epoch", ylabel="accuracy on unshifted test images (%)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _finish(axes)


def _finish(axes: Any) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.legend(edgecolor="none", framealpha=0.8)


def _draw_weights(figure: Any, task: Task, results: Sequence[Result]) -> None:
    """The filters of the first network, and of the last, which is the dense one unless it was not reached."""
    colours = "red: positive, blue: negative" if task.shape[0] == 1 else "grey: 0"
    figure.suptitle(f"First layer's weights ({colours})")
    for part, result in zip(figure.subfigures(2, 1), [*results[:1], *results[1:][-1:]], strict=False):
        weights = next(array for name, array in result.model.parameters().items() if name.endswith("weight"))
        images, kind = _as_images(weights, task)
        part.suptitle(f"{result.name}: {len(images)} of {len(weights)} {kind}", fontsize=11)
        limit = np.abs(images).max()
        for axes, image in itertools.zip_longest(part.subplots(SHOWN // COLUMNS, COLUMNS).flat, images):
            axes.set_axis_off()
            if image is not None:
                _draw_image(axes, image, limit)


def _as_images(weights: Array, task: Task) -> tuple[Array, str]:
    """At most SHOWN outputs' weights as images (n, C, H, W), and what they are; of neurons those that say most."""
    if weights.ndim == 4:
        return weights[:SHOWN], f"filters, {weights.shape[2]} x {weights.shape[3]}"
    largest = np.argsort(-np.abs(weights).max(axis=1), kind="stable")[:SHOWN]
    return weights[largest].reshape(-1, *task.shape), f"neurons, {' x '.join(map(str, task.shape))} weights each"


def _draw_image(axes: Any, image: Array, limit: float) -> None:
    """One channel in red (positive), white (0) and blue (negative); three as a colour picture, in which 0 is grey."""
    if len(image) == 3:
        axes.imshow(0.5 + 0.5 * np.moveaxis(image, 0, -1) / limit)
    else:
        axes.imshow(image[0], cmap="RdBu_r", vmin=-limit, vmax=limit)
