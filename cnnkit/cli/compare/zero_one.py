"""Experiment: two convolutions from scratch tell 0 from 1; so do dense networks."""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnkit import nn
from cnnkit.arrays import Array
from cnnkit.cli import page
from cnnkit.cli.compare import training
from cnnkit.cli.compare.networks import FROM_SCRATCH
from cnnkit.cli.compare.report import cost, history, percent
from cnnkit.cli.compare.training import Result, Task, Trial
from cnnkit.datasets import Images, split

EPOCHS, PLACEMENT = 10, "centre"
CANVAS = 14
FARTHEST = 3  # pixels
SPLITS = 5  # of the images into those to learn from and those to test on: 72 of these alone are few


def load(options: argparse.Namespace) -> Task:
    """The images of the first two classes; all moved about, if asked for."""
    task = training.load(options, CANVAS)
    parts = [Images(images.x[images.labels < 2], images.labels[images.labels < 2]) for images in task[2:]]
    for images in parts:
        if (found := np.unique(images.labels).tolist()) != [0, 1]:
            raise ValueError(f"{task.name} has classes {found} of 0 and 1, but both are needed")
    task = Task(f"{task.name}, classes 0 and 1", "centre", *parts)
    return training.placed(task, options, FARTHEST, test=True)


def trials(task: Task, options: argparse.Namespace) -> list[Trial]:
    """Each network on each of some splits."""
    every = Images(*(np.concatenate(pair) for pair in zip(task.train, task.test, strict=True)))
    made = []
    for seed in range(options.seed, options.seed + SPLITS):
        train, test = split(every, seed=seed)
        for name in FROM_SCRATCH:
            made.append(Trial(name, f"{name}, split {seed}", seed, options.epochs, train, test, watched=True))
    return made


def measure(model: nn.Layer, trial: Trial) -> float:
    """Accuracy on images that it has not seen."""
    return training.accuracy(model, trial.test)


def table(results: Sequence[Result]) -> str:
    """What each network costs, and how right it is over all splits."""
    header = ("network", "parameters", "train", "test", "worst split", "wrong")
    networks = training.by_network(results)
    splits = max(map(len, networks.values()))
    caption = f"Right, in %, of 0 and 1 ({splits} split{'s' * (splits > 1)} into images to learn from and others)"
    return page.captioned(f"{caption}\n", page.table(header, *map(_row, networks.values())))


def _row(results: list[Result]) -> tuple[Any, ...]:
    learned = np.mean([result.train_accuracy for result in results])
    seen = training.mean_accuracy(results)
    worst = min(float(result.test_accuracy) for result in results)
    sizes = [len(result.trial.test.x) for result in results]
    wrong = sum(round((1 - float(result.test_accuracy)) * size) for result, size in zip(results, sizes, strict=True))
    name = results[0].trial.network
    return name, cost(results[0])[0], *map(percent, (learned, seen, worst)), f"{wrong} of {sum(sizes):,}"


def details(result: Result) -> dict[str, Any]:
    """For the JSON file."""
    return {"test_accuracy": float(result.test_accuracy), "history": history(result)}


def draw(task: Task, results: Sequence[Result]) -> bytes:
    """Learning curves, and what the first layers learned."""
    from cnnkit.cli.compare import figure

    with figure.new(13, 4.6, str(task)) as shown:
        left, right = shown.subfigures(1, 2, width_ratios=[1, 1.1], wspace=0.03)
        axes = left.subplots()
        networks = training.by_network(results)
        for name, several in networks.items():
            figure.band(axes, range(1, _epochs(several) + 1), _curves(several), name, name)
        axes.set(title="Learning", xlabel="epoch", ylabel="right of other images (%)", ylim=(None, 100.5))
        axes.xaxis.get_major_locator().set_params(integer=True)
        figure.finish(axes)
        figure.draw_weights(right, task, [several[0] for several in networks.values()])
        return figure.png(shown, dpi=110)


def _epochs(results: Sequence[Result]) -> int:
    return max(len(result.history.val_accuracy) for result in results)


def _curves(results: Sequence[Result]) -> list[Array]:
    """For each epoch, the accuracies of those that reached it."""
    histories = [result.history.val_accuracy for result in results]
    return [np.array([one[epoch] for one in histories if len(one) > epoch]) for epoch in range(_epochs(results))]
