"""Experiment: what three networks of like size cost, how right they are, and on digits that moved."""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnkit import nn
from cnnkit.cli import page
from cnnkit.cli.compare import training
from cnnkit.cli.compare.networks import OF_LIKE_SIZE
from cnnkit.cli.compare.report import cost, history, percent
from cnnkit.cli.compare.training import Result, Task, Trial
from cnnkit.datasets import Images

EPOCHS, PLACEMENT = 20, "centre"
CANVAS = 16  # the built-in digits have 8 pixels, so that 4 are free on each side
FARTHEST = 4  # pixels


def load(options: argparse.Namespace) -> Task:
    """The images; those to train on moved about, if asked for."""
    return training.placed(training.load(options, CANVAS), options, FARTHEST)


def trials(task: Task, options: argparse.Namespace) -> list[Trial]:
    """Each network once."""
    return [Trial(name, name, options.seed, options.epochs, *task[2:], watched=True) for name in OF_LIKE_SIZE]


def measure(model: nn.Layer, trial: Trial) -> list[float]:
    """Accuracy on images moved by 0, 1, ... pixels."""
    return [shifted_accuracy(model, trial.test, pixels) for pixels in range(FARTHEST + 1)]


def shifted_accuracy(model: nn.Layer, images: Images, pixels: int) -> float:
    """Accuracy on images moved by so many pixels: the mean over down, up, right and left."""
    ways = training.four_ways(pixels)
    return sum(training.accuracy(model, images, offset) for offset in ways) / len(ways)


def table(results: Sequence[Result]) -> str:
    """What each network costs, and how right it is."""
    moved = [f"{pixels} px off" for pixels in range(1, FARTHEST + 1)]
    return page.page(
        page.table(
            ("network", "parameters", "multiply-adds", "seconds an epoch", "backend"),
            *((result.trial.network, *cost(result), _seconds(result), result.backend) for result in results),
        ),
        page.table(("right, in %", "train", "centred", *moved), *map(_row, results)),
    )


def _seconds(result: Result) -> str:
    return f"{statistics.median(result.history.seconds):.2f}"


def _row(result: Result) -> tuple[str, ...]:
    return result.trial.network, percent(result.train_accuracy), *map(percent, result.test_accuracy)


def details(result: Result) -> dict[str, Any]:
    """For the JSON file."""
    return {
        "test_accuracy": float(result.test_accuracy[0]),
        "shifted_accuracy": dict(enumerate(result.test_accuracy.tolist())),
        "history": history(result),
    }


def draw(task: Task, results: Sequence[Result]) -> bytes:
    """Accuracy against shift, learning curves, and what the first layers learned."""
    from cnnkit.cli.compare import figure

    with figure.new(16, 5.2, str(task)) as shown:
        left, middle, right = shown.subfigures(1, 3, width_ratios=[1, 1, 1.2], wspace=0.03)
        _draw_shifts(left.subplots(), task, results)
        _draw_curves(middle.subplots(), results)
        figure.draw_weights(right, task, results)
        return figure.png(shown)


def _draw_shifts(axes: Any, task: Task, results: Sequence[Result]) -> None:
    from cnnkit.cli.compare import figure

    for result in results:
        style = figure.style(result.trial.network)
        axes.plot(100 * result.test_accuracy, markersize=7, linewidth=2, label=result.trial.network, **style)
    figure.guessing(axes, task)
    axes.set(title="Shifted test images", ylim=(0, 103), ylabel="accuracy on shifted test images (%)")
    axes.set(xlabel="shift (pixels up, down, left or right)", xticks=range(FARTHEST + 1))
    figure.finish(axes)


def _draw_curves(axes: Any, results: Sequence[Result]) -> None:
    from cnnkit.cli.compare import figure

    for result in results:
        style = {**figure.style(result.trial.network), "marker": ".", "linewidth": 2}
        epochs = range(1, len(result.history.loss) + 1)
        axes.plot(epochs, 100 * np.array(result.history.val_accuracy), label=result.trial.network, **style)
        axes.plot(epochs, 100 * np.array(result.history.accuracy), **style | {"linestyle": ":", "linewidth": 1.2})
    axes.plot([], [], color="0.3", linewidth=1.2, linestyle=":", label="on training images, meanwhile")
    axes.set(title="Learning", xlabel="epoch", ylabel="accuracy on unshifted test images (%)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.finish(axes)
