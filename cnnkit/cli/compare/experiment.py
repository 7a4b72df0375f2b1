"""What `cnnkit compare` does: load the images, train each network on them, test it on moved ones."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnkit import nn, optim
from cnnkit.arrays import beside
from cnnkit.cli.compare.networks import NETWORKS, multiply_adds, parameters
from cnnkit.datasets import Images, digits, load_folder, shift, split
from cnnkit.dispatch import BACKENDS, DEVICES, current_backend

CANVAS = 16  # the built-in digits have 8 pixels, so that 4 are free on each side
FARTHEST = 4  # pixels
LEARNING_RATE = 0.005


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


class Result(NamedTuple):
    """What became of one network; accuracies are fractions."""

    name: str
    model: nn.Sequential
    parameters: int
    multiply_adds: int
    train_accuracy: float
    shifted_accuracy: tuple[float, ...]  # on test images moved by 0, 1, ... FARTHEST pixels
    history: nn.History
    backend: str


def load(folder: Path | None, placement: str, seed: int) -> Task:
    """The built-in digits, divided, or a folder's images; those to train on moved about, if asked for."""
    if folder is None:
        train, test = split(digits(CANVAS), 0.2, seed=seed)
    else:
        train, test = load_folder(folder)
    if placement == "random":
        offsets = np.random.default_rng(seed).integers(-FARTHEST, FARTHEST + 1, (len(train.x), 2))
        train = Images(shift(train.x, offsets), train.labels)
    return Task("built-in digits" if folder is None else folder.resolve().name, placement, train, test)


def run(task: Task, options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Result], bool]:
    """Train and test each network. After Ctrl-C: what there is by then, and True."""
    results: list[Result] = []
    try:
        for name in NETWORKS:
            say(f"\n{name}")
            model, history = _train(name, task, options)
            if history.interrupted:
                say("interrupted: testing what has been learned so far (Ctrl-C again leaves this network out)")
            if history.loss:
                results.append(_measure(name, model, history, task))
            if history.interrupted:
                return results, True
    except KeyboardInterrupt:
        return results, True
    return results, False


def _train(name: str, task: Task, options: argparse.Namespace) -> tuple[nn.Sequential, nn.History]:
    model = NETWORKS[name](task.shape, task.classes, np.random.default_rng(options.seed)).to(_device())
    history = nn.fit(
        model,
        _beside(model, task.train),
        epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer=optim.Adam(optim.cosine(LEARNING_RATE)),
        validation=_beside(model, task.test),
        progress=not options.quiet,
        seed=options.seed,
    )
    return model, history


def _measure(name: str, model: nn.Sequential, history: nn.History, task: Task) -> Result:
    return Result(
        name,
        model.to("cpu"),
        parameters(model),
        multiply_adds(model.to("cpu"), task.test.x[:1]),
        _accuracy(model, task.train),
        tuple(shifted_accuracy(model, task.test, pixels) for pixels in range(FARTHEST + 1)),
        history,
        current_backend(),
    )


def shifted_accuracy(model: nn.Sequential, images: Images, pixels: int) -> float:
    """Accuracy on images moved by so many pixels: the mean over down, up, right and left."""
    if pixels == 0:
        return _accuracy(model, images)
    offsets = [(pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)]
    moved = [Images(shift(images.x, offset), images.labels) for offset in offsets]
    return sum(_accuracy(model, each) for each in moved) / len(moved)


def _accuracy(model: nn.Sequential, images: Images) -> float:
    _, accuracy = nn.evaluate(model, _beside(model, images))
    return float(accuracy)


def _beside(model: nn.Sequential, images: Images) -> Images:
    """The images where the model is."""
    where = next(iter(model.parameters().values()), images.x)
    return Images(*(beside(array, where) for array in images))


def _device() -> str:
    """Where the backend's arrays are."""
    return next(name for name, family in DEVICES.items() if family == BACKENDS[current_backend()].family)
