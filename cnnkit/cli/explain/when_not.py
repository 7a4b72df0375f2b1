"""Topic: where a convolution is the wrong tool; small networks are trained to show it."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from cnnkit import analysis, nn, optim
from cnnkit.arrays import Array
from cnnkit.cli.page import figure, page, paragraph, table
from cnnkit.datasets import Images, digits, split
from cnnkit.plotting import BLUE, ORANGE

SUBJECT = "where dense layers win (trains a moment)"
TRAIN, TEST = 1000, 500


class Race(NamedTuple):
    """One task, both networks; accuracies on images that neither has seen."""

    task: str
    cnn: float
    dense: float
    cnn_parameters: int
    dense_parameters: int
    guessing: float


def text() -> str:
    """The page."""
    results = races()
    small = analysis.dense_parameters(64, 10)
    return page(
        paragraph("""A convolution assumes that neighbours belong together and that a pattern means the same
            everywhere. Where that is not so, it is the wrong tool. Three tasks; a CNN (two convolutions of 3 x 3,
            global maximum, dense) and a dense network (one hidden layer) of about its size:"""),
        table(
            ("", "CNN", "dense", "guessing", "parameters"),
            *((race.task, *map(_percent, race[1:3]), _percent(race.guessing), _sizes(race)) for race in results),
        ),
        paragraph("""Position: is the bright pixel in the left half or in the right one? The CNN answers a moved image
            with the same number, by construction: it can but guess. (With a dense layer on its feature maps, or
            coordinates as a second channel, it could tell.)"""),
        paragraph("""Distance: are the first and the last corner of the image alike? No window holds both, and a
            maximum over the image does not know which was where."""),
        paragraph("""Order: digits whose pixels were shuffled, all in the same way, as the columns of a table come in
            any order. To the dense network they are the same as before; the CNN looks for patterns among neighbours
            that are none."""),
        paragraph(f"""And small images are fine with dense layers: 8 x 8 digits need {small:,} parameters for ten
            linear classes. Fewer parameters are no aim in themselves, and nearly every CNN ends in a dense layer."""),
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _sizes(race: Race) -> str:
    return f"{race.cnn_parameters:,} / {race.dense_parameters:,}"


@cache
def races() -> tuple[Race, ...]:
    """Train and test both networks on all tasks."""
    rng = np.random.default_rng(0)
    train, test = split(digits())
    order = rng.permutation(64)
    return (
        _race("position", _halves(rng, TRAIN), _halves(rng, TEST), 5),
        _race("distance", _corners(rng, TRAIN), _corners(rng, TEST), 20),
        _race("order: digits as they are", train, test, 20),
        _race("order: their pixels shuffled", _shuffled(train, order), _shuffled(test, order), 20),
    )


def _halves(rng: np.random.Generator, count: int) -> Images:
    """One bright pixel, so far from the border that every window meets all of its surroundings."""
    x = np.zeros((count, 1, 16, 16), np.float32)
    rows, columns = rng.integers(4, 12, (2, count))
    x[np.arange(count), 0, rows, columns] = 1
    return Images(x, (columns >= 8).astype(np.int64))


def _corners(rng: np.random.Generator, count: int) -> Images:
    x = rng.normal(0, 0.3, (count, 1, 8, 8)).astype(np.float32)
    first, last = rng.choice([-1, 1], (2, count))
    x[:, 0, 0, 0], x[:, 0, -1, -1] = first, last
    return Images(x, (first == last).astype(np.int64))


def _shuffled(images: Images, order: Array) -> Images:
    return Images(np.ascontiguousarray(images.x.reshape(-1, 64)[:, order].reshape(images.x.shape)), images.labels)


def _race(task: str, train: Images, test: Images, hidden: int) -> Race:
    classes, pixels = int(train.labels.max()) + 1, train.x[0].size
    rng = np.random.default_rng(0)
    cnn = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, rng=rng), nn.ReLU(), nn.Conv2d(8, 16, 3, rng=rng), nn.ReLU()),
        *(nn.GlobalMaxPool2d(), nn.Flatten(), nn.Dense(16, classes, rng=rng)),
    )
    dense = nn.Sequential(
        nn.Flatten(), nn.Dense(pixels, hidden, rng=rng), nn.ReLU(), nn.Dense(hidden, classes, rng=rng)
    )
    sizes = [sum(array.size for array in model.parameters().values()) for model in (cnn, dense)]
    return Race(task, _learnt(cnn, train, test), _learnt(dense, train, test), sizes[0], sizes[1], 1 / classes)


def _learnt(model: nn.Layer, train: Images, test: Images) -> float:
    optimizer = optim.Adam(optim.cosine(0.005))
    nn.fit(model, train, epochs=12, batch_size=32, optimizer=optimizer, progress=False)
    return nn.evaluate(model, test)[1]


def draw() -> Any:
    """Both accuracies for each task."""
    shown = figure(8, 4)
    axes = shown.subplots()
    results = races()
    places = np.arange(len(results), 0, -1.0)
    for offset, colour, name in ((0.2, BLUE, "cnn"), (-0.2, ORANGE, "dense")):
        values = [100 * getattr(race, name) for race in results]
        axes.barh(places + offset, values, 0.38, color=colour, label="CNN" if name == "cnn" else "dense network")
        for place, value in zip(places + offset, values, strict=True):
            axes.annotate(f"{value:.0f} %", (value, place), xytext=(4, 0), textcoords="offset points", va="center")
    for place, race in zip(places, results, strict=True):
        axes.plot([100 * race.guessing] * 2, [place - 0.42, place + 0.42], color="black", linestyle=":")
    axes.plot([], [], color="black", linestyle=":", label="guessing")
    axes.set(yticks=places, yticklabels=[race.task for race in results], xlim=(0, 110), xlabel="accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return shown
