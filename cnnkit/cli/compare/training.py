"""What the experiments of `cnnkit compare` share: images, trainings one after the other, accuracies."""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cnnkit import nn, optim
from cnnkit.arrays import Array, beside
from cnnkit.cli.compare.networks import NETWORKS
from cnnkit.datasets import Images, digits, load_folder, shift, split
from cnnkit.dispatch import BACKENDS, DEVICES, current_backend
from cnnkit.nn.interrupt import catch_interrupt

LEARNING_RATE = 0.005
FEW = 3  # so many trainings have a progress bar each, more have one together


class Task(NamedTuple):
    """What is to be learned."""

    name: str
    placement: str  # of the images to train on: "centre" or "random"
    train: Images
    test: Images

    def __str__(self) -> str:
        kind = "centred" if self.placement == "centre" else "randomly shifted"
        size = " x ".join(map(str, self.shape))
        return f"{self.name} ({size}): trained on {len(self.train.x):,} {kind} images, tested on {len(self.test.x):,}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.train.x.shape[1:]

    @property
    def classes(self) -> int:
        return int(self.train.labels.max()) + 1


class Trial(NamedTuple):
    """One network, and what it learns from."""

    network: str
    label: str  # what tells it from the others
    seed: int
    epochs: int
    train: Images
    test: Images
    watched: bool = False  # whether it is tested after each epoch


class Result(NamedTuple):
    """What became of a trial; accuracies are fractions."""

    trial: Trial
    model: nn.Sequential
    history: nn.History
    train_accuracy: float
    test_accuracy: Array  # where the experiment looks: at one place (), at several (n,), all around (n, n)
    backend: str


def load(options: argparse.Namespace, canvas: int) -> Task:
    """The built-in digits on a canvas, divided, or a folder's images; centred."""
    if options.data is None:
        return Task("built-in digits", "centre", *split(digits(canvas), 0.2, seed=options.seed))
    folder: Path = options.data
    return Task(folder.resolve().name, "centre", *load_folder(folder))


def placed(task: Task, options: argparse.Namespace, farthest: int, *, test: bool = False) -> Task:
    """If asked for, the images to train on, and with `test` the others too, moved by up to so many pixels each way."""
    if options.placement == "centre":
        return task
    moved = task._replace(placement="random", train=_scattered(task.train, farthest, options.seed))
    return moved._replace(test=_scattered(task.test, farthest, options.seed + 1)) if test else moved


def first(images: Images, most: int) -> Images:
    """So many of the images at most."""
    return Images(images.x[:most], images.labels[:most])


def _scattered(images: Images, farthest: int, seed: int) -> Images:
    offsets = np.random.default_rng(seed).integers(-farthest, farthest + 1, (len(images.x), 2))
    return Images(shift(images.x, offsets), images.labels)


def run(
    experiment: ModuleType, task: Task, options: argparse.Namespace, say: Callable[[str], None]
) -> tuple[list[Result], bool]:
    """Train and test, trial by trial. After Ctrl-C: what there is by then, and True."""
    results: list[Result] = []
    trials: Sequence[Trial] = experiment.trials(task, options)
    try:
        with _progress_bar(trials, options) as bar:
            for trial in trials:
                if len(trials) <= FEW:
                    say(f"\n{trial.label}")
                model, history = _train(trial, task, options, bar)
                if history.interrupted:
                    say("\ninterrupted: testing what has been learned so far (Ctrl-C again leaves this network out)")
                with catch_interrupt() as interrupt:  # the first Ctrl-C waits until this is tested
                    interrupt.seen = history.interrupted
                    if history.loss:
                        results.append(_measured(experiment, trial, model, history))
                if interrupt.seen:
                    return results, True
    except KeyboardInterrupt:
        return results, True
    return results, False


@contextmanager
def _progress_bar(trials: Sequence[Trial], options: argparse.Namespace) -> Iterator[Any]:
    """One bar over the steps of many trainings; few have their own, and None comes of it."""
    from tqdm.auto import tqdm

    if len(trials) <= FEW:
        yield None
        return
    steps = sum(trial.epochs * _steps(trial, options) for trial in trials)
    with tqdm(total=steps, disable=options.quiet, unit="step") as bar:
        yield bar


def _steps(trial: Trial, options: argparse.Namespace) -> int:
    """Of an epoch."""
    return math.ceil(len(trial.train.x) / options.batch_size)


def _train(trial: Trial, task: Task, options: argparse.Namespace, bar: Any) -> tuple[nn.Sequential, nn.History]:
    def show(state: nn.TrainingState) -> None:
        bar.set_description(trial.label, refresh=False)
        bar.set_postfix(epoch=state.epoch, accuracy=state.history.accuracy[-1], refresh=False)
        bar.update(_steps(trial, options))

    model = NETWORKS[trial.network](task.shape, task.classes, np.random.default_rng(trial.seed)).to(_device())
    history = nn.fit(
        model,
        _beside(model, trial.train),
        epochs=trial.epochs,
        batch_size=options.batch_size,
        optimizer=optim.Adam(optim.cosine(LEARNING_RATE)),
        validation=_beside(model, trial.test) if trial.watched else None,
        callbacks=[show] if bar is not None else [],
        progress=bar is None and not options.quiet,
        seed=trial.seed,
    )
    return model, history


def _measured(experiment: ModuleType, trial: Trial, model: nn.Sequential, history: nn.History) -> Result:
    learned = accuracy(model, trial.train)
    seen = np.array(experiment.measure(model, trial))
    return Result(trial, model.to("cpu"), history, learned, seen, current_backend())


def accuracy(model: nn.Layer, images: Images, offset: tuple[int, int] = (0, 0)) -> float:
    """The fraction that is right of the images, moved so many pixels down and to the right."""
    moved = images if offset == (0, 0) else Images(shift(images.x, offset), images.labels)
    return float(nn.evaluate(model, _beside(model, moved))[1])


def _beside(model: nn.Layer, images: Images) -> Images:
    """The images where the model is."""
    where = next(iter(model.parameters().values()), images.x)
    return Images(*(beside(array, where) for array in images))


def _device() -> str:
    """Where the backend's arrays are."""
    return next(name for name, family in DEVICES.items() if family == BACKENDS[current_backend()].family)


def four_ways(pixels: int) -> list[tuple[int, int]]:
    """So many pixels down, up, right and left."""
    return [(pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)] if pixels else [(0, 0)]


def by_network(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each network, in the order in which they were trained."""
    names = dict.fromkeys(result.trial.network for result in results)
    return {name: [result for result in results if result.trial.network == name] for name in names}


def mean_accuracy(results: Sequence[Result]) -> Array:
    """Of the same network's results, wherever the experiment looked."""
    return np.mean([result.test_accuracy for result in results], axis=0)
