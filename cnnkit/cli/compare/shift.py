"""Experiment: networks that learned centred digits are tested on digits that lie anywhere on a large canvas."""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnkit import nn
from cnnkit.arrays import Array
from cnnkit.cli import page
from cnnkit.cli.compare import training
from cnnkit.cli.compare.networks import OF_LIKE_SIZE
from cnnkit.cli.compare.report import percent
from cnnkit.cli.compare.training import Result, Task, Trial

EPOCHS, PLACEMENT = 8, "centre"
CANVAS = 20  # 6 pixels are free on each side of a digit
FARTHEST = 6  # pixels
TIMES = 3  # each network, from other random weights
TESTED = 1000  # images at most: each is looked at in 169 places


def load(options: argparse.Namespace) -> Task:
    """The images; those to train on moved about, if asked for."""
    task = training.load(options, CANVAS)
    return training.placed(task._replace(test=training.first(task.test, TESTED)), options, FARTHEST)


def trials(task: Task, options: argparse.Namespace) -> list[Trial]:
    """Each network some times: all networks first, then all once more."""
    seeds = range(options.seed, options.seed + TIMES)
    return [
        Trial(name, f"{name}, seed {seed}", seed, options.epochs, task.train, task.test)
        for seed in seeds
        for name in OF_LIKE_SIZE
    ]


def measure(model: nn.Layer, trial: Trial) -> list[list[float]]:
    """A map: accuracy on images moved by so many pixels down (rows) and to the right (columns), from -FARTHEST."""
    steps = range(-FARTHEST, FARTHEST + 1)
    return [[training.accuracy(model, trial.test, (down, right)) for right in steps] for down in steps]


def curve(accuracies: Array) -> Array:
    """From maps (..., n, n), accuracy against shift: the mean over down, up, right and left."""
    centre = accuracies.shape[-1] // 2
    ways = [training.four_ways(pixels) for pixels in range(centre + 1)]
    return np.stack(
        [np.mean([accuracies[..., centre + i, centre + j] for i, j in way], axis=0) for way in ways], axis=-1
    )


def table(results: Sequence[Result]) -> str:
    """Accuracy against shift, and over all places."""
    networks = training.by_network(results)
    caption = f"Right, in %, of digits that lie so many pixels off ({_times(networks)})"
    header = ("network", "train", *map(str, range(FARTHEST + 1)), "anywhere")
    return page.captioned(f"{caption}\n", page.table(header, *map(_row, networks.values())))


def _times(networks: dict[str, list[Result]]) -> str:
    most = max(map(len, networks.values()))
    return f"mean of {most} trainings" if most > 1 else "one training"


def _row(results: list[Result]) -> tuple[Any, ...]:
    learned = np.mean([result.train_accuracy for result in results])
    seen = training.mean_accuracy(results)
    return results[0].trial.network, *map(percent, (learned, *curve(seen), seen.mean()))


def details(result: Result) -> dict[str, Any]:
    """For the JSON file."""
    return {"test_accuracy": result.test_accuracy.tolist()}


def draw(task: Task, results: Sequence[Result]) -> bytes:
    """Accuracy against shift, and for each network a map: how right it is with the digit there."""
    from cnnkit.cli.compare import figure

    networks = training.by_network(results)
    with figure.new(13, 3.9, str(task)) as shown:
        axes, *maps = shown.subplots(1, 1 + len(OF_LIKE_SIZE), width_ratios=[1.7, 1, 1, 1])
        for name, several in networks.items():
            curves = np.stack([curve(result.test_accuracy) for result in several], axis=-1)
            figure.band(axes, range(FARTHEST + 1), list(curves), name, name)
        figure.guessing(axes, task)
        axes.set(ylim=(0, 103), ylabel="right (%)", xlabel="pixels off, up, down, left or right")
        figure.finish(axes)
        for panel in maps[len(networks) :]:
            panel.set_axis_off()
        for panel, (name, several) in zip(maps, networks.items(), strict=False):
            drawn = _draw_map(panel, name, training.mean_accuracy(several))
        shown.colorbar(drawn, ax=maps, label="right (%)", shrink=0.75)
        return figure.png(shown, dpi=110)


def _draw_map(axes: Any, name: str, accuracies: Array) -> Any:
    reach = FARTHEST + 0.5
    axes.set(title=name, xlabel="pixels to the right", xticks=(-FARTHEST, 0, FARTHEST), yticks=(-FARTHEST, 0, FARTHEST))
    axes.set_ylabel("pixels down")
    extent = (-reach, reach, reach, -reach)
    return axes.imshow(100 * accuracies, vmin=0, vmax=100, cmap="cividis", extent=extent)
