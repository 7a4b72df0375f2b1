"""Experiment: networks learn from few images and from many, and are tested on those and on others."""

import argparse
import math
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
from cnnkit.datasets import Images

EPOCHS, PLACEMENT = 10, "random"
CANVAS = 12
FARTHEST = 2  # pixels
SIZES = (50, 100, 200, 400, 800, 1600)  # the largest is all of the built-in digits, which are fewer
TIMES = 3  # each, from other weights and other images


def load(options: argparse.Namespace) -> Task:
    """The images; all moved about, unless told not to."""
    task = training.load(options, CANVAS)
    return training.placed(task._replace(train=training.first(task.train, SIZES[-1])), options, FARTHEST, test=True)


def trials(task: Task, options: argparse.Namespace) -> list[Trial]:
    """Each network with each number of images, some times; with few images as many steps as with all."""
    every = len(task.train.x)
    steps = options.epochs * math.ceil(every / options.batch_size)
    made = []
    for seed in range(options.seed, options.seed + TIMES):
        order = np.random.default_rng(seed).permutation(every)
        for size in (*(size for size in SIZES if size < every), every):
            epochs = round(steps / math.ceil(size / options.batch_size))
            part = Images(task.train.x[order[:size]], task.train.labels[order[:size]])
            for name in OF_LIKE_SIZE:
                made.append(Trial(name, f"{name}, {size} images, seed {seed}", seed, epochs, part, task.test))
    return made


def measure(model: nn.Layer, trial: Trial) -> float:
    """Accuracy on images that it has not seen."""
    return training.accuracy(model, trial.test)


def by_size(results: Sequence[Result]) -> dict[int, Array]:
    """Of one network, for each number of images: accuracies (times, 2) on those images and on others."""
    found: dict[int, list[tuple[float, float]]] = {}
    for result in results:
        found.setdefault(len(result.trial.train.x), []).append((result.train_accuracy, float(result.test_accuracy)))
    return {size: np.array(pairs) for size, pairs in sorted(found.items())}


def table(results: Sequence[Result]) -> str:
    """Accuracy on known images and on others, and how far apart they are, against the number of images."""
    networks = {name: by_size(several) for name, several in training.by_network(results).items()}
    sizes = sorted(set().union(*networks.values()))
    rows: list[Any] = [("images to learn from", *(f"{size:,}" for size in sizes))]
    for name, found in networks.items():
        means = [found[size].mean(axis=0) if size in found else None for size in sizes]
        for what, pick in (("known", (1, 0)), ("others", (0, 1)), ("gap", (1, -1))):
            cells = ("" if pair is None else percent(np.dot(pick, pair)) for pair in means)
            rows.append((f"{name}: {what}", *cells))
    times = max(len(pairs) for found in networks.values() for pairs in found.values())
    caption = f"Right, in %, of the images learned from and of others (mean of up to {times})"
    return page.captioned(f"{caption}\n", page.table(*rows))


def details(result: Result) -> dict[str, Any]:
    """For the JSON file."""
    return {"test_accuracy": float(result.test_accuracy)}


def draw(task: Task, results: Sequence[Result]) -> bytes:
    """Accuracy on known images and on others against their number, and the gap between the two."""
    from cnnkit.cli.compare import figure

    with figure.new(13, 4.6, str(task)) as shown:
        left, right = shown.subplots(1, 2)
        for name, several in training.by_network(results).items():
            found = by_size(several)
            known, others = ([pairs[:, k] for pairs in found.values()] for k in (0, 1))
            figure.band(left, list(found), others, name, name)
            figure.band(left, list(found), known, name, "", linestyle=":", linewidth=1.2)
            figure.band(right, list(found), [one - other for one, other in zip(known, others, strict=True)], name, name)
        left.plot([], [], color="0.3", linewidth=1.2, linestyle=":", label="of the images learned from")
        left.set(title="Right of other images", ylabel="right (%)", ylim=(0, 103))
        right.set(title="Gap: known less others", ylabel="percentage points", ylim=(0, None))
        sizes = sorted({len(result.trial.train.x) for result in results})
        for axes in (left, right):
            axes.set(
                xscale="log", xlabel="images to learn from", xticks=sizes, xticklabels=[f"{size:,}" for size in sizes]
            )
            axes.minorticks_off()
            figure.finish(axes)
        return figure.png(shown, dpi=110)
