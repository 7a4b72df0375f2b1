"""The roofline: every case as a dot under what this machine's memory and multipliers allow."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cnnkit.cli.bench.race import OURS, Result
from cnnkit.cli.bench.report import Measured, of_roof
from cnnkit.cli.bench.roofs import Roofs
from cnnkit.plotting import BLUE, ORANGE

STYLES = {"forward": (BLUE, "o"), "backward": (ORANGE, "^")}
NAMED = 6  # cases: those farthest below their roof


def draw(measured: Measured) -> bytes:
    """The figure as the content of a PNG file, one panel for each number of threads."""
    figure = Figure(figsize=(8 * len(measured), 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for axes, (threads, (roofs, results)) in zip(panels, measured.items(), strict=True):
        _draw_roofs(axes, roofs, results)
        _draw_cases(axes, results)
        _name_the_lowest(axes, roofs, results)
        limits = f"copying {roofs.bandwidth / 1e9:.0f} GB/s, multiply-adds {roofs.flops / 1e9:.0f} GFLOP/s"
        axes.set(title=f"{threads} thread{'s' * (threads > 1)}: {limits}", xscale="log", yscale="log")
        axes.set_xlabel("floating-point operations per byte of arguments and results")
        axes.grid(color="0.9", which="both")
        axes.set_axisbelow(True)
    panels[0].set_ylabel("GFLOP/s")
    panels[0].legend(loc="lower right")
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _draw_roofs(axes: Any, roofs: Roofs, results: Sequence[Result]) -> None:
    intensities = [_intensity(result) for result in results]
    x = np.geomspace(min(intensities) / 2, max(intensities) * 2, 200)
    axes.plot(x, np.minimum(x * roofs.bandwidth, roofs.flops) / 1e9, color="0.3", linewidth=2, label="this machine")


def _draw_cases(axes: Any, results: Sequence[Result]) -> None:
    for direction, (colour, marker) in STYLES.items():
        part = [result for result in results if result.direction == direction]
        x, y = [_intensity(result) for result in part], [_speed(result) for result in part]
        axes.plot(x, y, linestyle="", color=colour, marker=marker, markersize=7, alpha=0.8, label=direction)


def _name_the_lowest(axes: Any, roofs: Roofs, results: Sequence[Result]) -> None:
    lowest = sorted(results, key=lambda result: of_roof(result, roofs))[:NAMED]
    for result in {result.case: result for result in reversed(lowest)}.values():  # a case once, where it is lowest
        name = f"{result.case} ({100 * of_roof(result, roofs):.0f} %)"
        place = (_intensity(result), _speed(result))
        axes.annotate(name, place, xytext=(6, -4), textcoords="offset points", fontsize=8)


def _intensity(result: Result) -> float:
    return result.flops / result.moved


def _speed(result: Result) -> float:
    return result.flops / result.seconds[OURS] / 1e9
