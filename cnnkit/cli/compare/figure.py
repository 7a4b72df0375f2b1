"""What the figures of all experiments share.

They are made without pyplot: they need no display and leave the user's matplotlib settings alone.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cnnkit.arrays import Array
from cnnkit.cli.compare.networks import FROM_SCRATCH, OF_LIKE_SIZE
from cnnkit.cli.compare.training import Result, Task
from cnnkit.plotting import BLUE, GREEN, ORANGE

STYLES = {
    name: {"color": colour, "marker": marker}
    for networks, colours in ((OF_LIKE_SIZE, (BLUE, GREEN, ORANGE)), (FROM_SCRATCH, (BLUE, ORANGE, GREEN)))
    for name, colour, marker in zip(networks, colours, "os^", strict=True)
}
SHOWN = 12  # weights of each layer, at most
COLUMNS = 6


@contextmanager
def new(width: float, height: float, title: str) -> Iterator[Any]:
    """A figure, and matplotlib's settings for as long as it is drawn."""
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=12, fontweight="bold")
        yield figure


def png(figure: Any, dpi: int = 150) -> bytes:
    """The figure as the content of a PNG file."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def style(network: str) -> dict[str, Any]:
    """Colour and marker of a network: the same in all figures."""
    return dict(STYLES[network])


def band(axes: Any, x: Any, samples: Sequence[Array], network: str, label: str, **line: Any) -> None:
    """A line through the means of each place's samples, a band from least to greatest; of fractions, in per cent."""
    drawn = style(network) | {"linewidth": 2} | line
    axes.plot(x, [100 * each.mean() for each in samples], label=label, **drawn)
    least, greatest = ([100 * pick(each) for each in samples] for pick in (np.min, np.max))
    axes.fill_between(x, least, greatest, color=drawn["color"], alpha=0.15, linewidth=0)


def guessing(axes: Any, task: Task) -> None:
    """How right one would be by chance."""
    axes.axhline(100 / task.classes, color="0.5", linestyle=":", linewidth=1.5, label="guessing")


def finish(axes: Any) -> None:
    """Grid and legend."""
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.legend(edgecolor="none", framealpha=0.8)


def draw_weights(figure: Any, task: Task, results: Sequence[Result]) -> None:
    """The filters of the first network, and of the last, which is a dense one unless it was not reached."""
    colours = "red: positive, blue: negative" if task.shape[0] == 1 else "grey: 0"
    figure.suptitle(f"First layer's weights ({colours})")
    for part, result in zip(figure.subfigures(2, 1), [*results[:1], *results[1:][-1:]], strict=False):
        weights = next(array for name, array in result.model.parameters().items() if name.endswith("weight"))
        images, kind = _as_images(weights, task)
        part.suptitle(f"{result.trial.network}: {len(images)} of {len(weights)} {kind}", fontsize=11)
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
