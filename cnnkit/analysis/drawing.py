"""How the plots of this package draw: images, grids of numbers, bars. Only the plots import this."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnnkit import plotting
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan
from cnnkit.plotting import BLUE, ORANGE

WINDOW, DONE = "#D6EAF8", "#FBE3D6"  # light blue and light orange


def show_signed(ax: Any, image: Array, label: str = "") -> Any:
    """An image whose numbers have a sign: white is 0, orange positive, purple negative."""
    limit = float(np.abs(image).max()) or 1.0
    shown = ax.imshow(image, cmap=plotting.SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
    if label:
        ax.figure.colorbar(shown, cax=ax.inset_axes((1.03, 0, 0.04, 1)), label=label)  # as high as the image
    return ax


def no_ticks(ax: Any) -> Any:
    ax.set(xticks=[], yticks=[])
    return ax


def lines(ax: Any, curves: Mapping[str, Sequence[float]], x: Sequence[float], **labels: str) -> Any:
    """One line for each name, told apart by colour and marker."""
    for i, (name, values) in enumerate(curves.items()):
        style = {"color": plotting.COLOURS[i % len(plotting.COLOURS)], "marker": plotting.MARKERS[i % 6]}
        ax.plot(x, values, label=name, linewidth=2, markersize=6, **style)
    ax.set(**labels)
    return _finish(ax)


def _finish(ax: Any) -> Any:
    ax.grid(color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2 if len(ax.lines) == 4 else 3)
    return ax


def bars(ax: Any, counts: Mapping[str, int], coloured: Sequence[str], label: str) -> Any:
    """Horizontal bars on a logarithmic scale, the first on top, each with its number; `coloured` ones in orange."""
    names, values = list(counts), list(counts.values())
    places = range(len(names), 0, -1)
    colours = [ORANGE if name in coloured else BLUE for name in names]
    ax.barh(places, values, color=colours, height=0.7)
    for place, value in zip(places, values, strict=True):
        ax.annotate(f"{value:,}", (value, place), xytext=(4, 0), textcoords="offset points", va="center")
    low, high = min(values), max(values)
    ax.set(yticks=places, yticklabels=names, xscale="log", xlabel=label)
    ax.set_xlim(low / 3, high * (high / low) ** 0.35 * 3)  # room for the number of the longest bar
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def draw_slide(image: Array, kernel: Array, steps: Sequence[Any], plan: ConvPlan, at: int, ax: Any) -> Any:
    """The image with its padding, the kernel, the outputs up to step `at`, and below them the sum."""
    ax = plotting.axes(ax, "plot_slide")
    padded = np.pad(image, list(zip(plan.before, plan.after, strict=True)))
    step = steps[at]
    top, left = (p * s for p, s in zip(step.position, plan.stride, strict=True))
    inside = {(top + i, left + j) for i, j in np.ndindex(kernel.shape)}
    output = np.full(plan.output_size, np.nan)
    for each in steps[: at + 1]:
        output[each.position] = each.total
    right = padded.shape[1] + 1.2
    end = right + kernel.shape[1] + 1.2
    border = {place for place in np.ndindex(padded.shape) if not _within(place, plan)}
    _grid(ax, padded, 0, dict.fromkeys(inside, WINDOW), "input", border)
    _grid(ax, kernel, right, {}, "kernel")
    _grid(ax, output, end, {step.position: DONE}, "output")
    frame = {"fill": False, "linewidth": 2.5}
    ax.add_patch(_rectangle((left, top), kernel.shape[1], kernel.shape[0], edgecolor=BLUE, **frame))
    ax.add_patch(_rectangle((end + step.position[1], step.position[0]), 1, 1, edgecolor=ORANGE, **frame))
    height = max(padded.shape[0], kernel.shape[0], output.shape[0])
    terms, total = step.text.split(" = ")
    parts = terms.split(" + ")
    rows = [" + ".join(parts[i : i + kernel.shape[1]]) for i in range(0, len(parts), kernel.shape[1])]
    text = "\n+ ".join(rows) + f"\n= {total}"
    ax.text(0, height + 0.5, text.replace(" x ", " × "), family="monospace", fontsize=11, va="top")
    ax.set(xlim=(-0.2, end + output.shape[1] + 0.2), ylim=(height + 1.2 + 0.62 * len(rows), -1.1), aspect="equal")
    ax.set_axis_off()
    return ax


def _within(place: tuple[int, ...], plan: ConvPlan) -> bool:
    """Whether a place of the padded image is one of the image."""
    axes = zip(place, plan.before, plan.input_size, strict=True)
    return all(0 <= at - before < size for at, before, size in axes)


def _grid(ax: Any, values: Array, left: float, fills: Mapping[Any, str], title: str, pale: Any = ()) -> None:
    """A table of numbers as squares of side 1; NaN is left empty, numbers at `pale` places are grey."""
    for (i, j), value in np.ndenumerate(values):
        ax.add_patch(_rectangle((left + j, i), 1, 1, facecolor=fills.get((i, j), "white"), edgecolor="0.6"))
        style = {"fontsize": 12, "color": "0.6" if (i, j) in pale else "black"}
        if np.isfinite(value):
            ax.text(left + j + 0.5, i + 0.5, f"{value:g}", ha="center", va="center", **style)
    ax.text(left + values.shape[1] / 2, -0.35, title, ha="center", va="center", fontsize=12, fontweight="bold")


def _rectangle(corner: tuple[float, float], width: float, height: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, **style)


def animation(draw: Callable[[int, Any], Any], steps: int, seconds: float) -> Any:
    """A figure that shows one step after the other, each for so many seconds."""
    try:
        from matplotlib.animation import FuncAnimation
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('animate_slide needs matplotlib: pip install "cnnkit[plot]"') from None
    figure = Figure(figsize=(7.5, 4.6), dpi=100)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.02, 0.02, 0.96, 0.94))

    def update(step: int) -> list[Any]:
        ax.clear()
        return [draw(step, ax)]

    return FuncAnimation(figure, update, frames=steps, interval=1000 * seconds, init_func=lambda: [])
