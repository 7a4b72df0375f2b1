"""``cnnkit compare``: a CNN and a dense network of like size, and what each makes of digits that move.

An experiment is a module with ``EPOCHS`` and ``PLACEMENT``, its defaults, ``load(options)``, ``trials(task, options)``,
``measure(model, trial)``, ``table(results)`` (at most 80 columns), ``details(result)`` and ``draw(task, results)``.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from cnnkit.dispatch import BACKENDS

EXPERIMENTS = ("comparison", "shift", "data-size", "zero-one")
DESCRIPTION = """
Train convolutional networks and a dense one, all of about the same size, and test what they learned. Prints a table and
writes it, with everything behind it, as EXPERIMENT.json, and as a figure, EXPERIMENT.png.
"""
INTERRUPTED = 130  # the exit code after Ctrl-C


def add_to(commands: Any) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser(
        "compare", help="train a CNN and a dense network and compare what they learned", description=DESCRIPTION
    )
    add = parser.add_argument
    which = """comparison (the default): cost, accuracy, learning curves, digits that move; shift: how right each is
        wherever the digit lies; data-size: known and other images, after learning from few and from many;
        zero-one: two convolutions from scratch tell 0 from 1"""
    add("--experiment", choices=EXPERIMENTS, default="comparison", metavar="EXPERIMENT", help=which)
    add("--epochs", type=_positive, metavar="N", help="default: the experiment's, or 5 for --data")
    add("--batch-size", type=_positive, default=32, metavar="N", help="images per step (default: %(default)s)")
    add("--seed", type=_not_negative, default=0, metavar="N", help="of weights, order and split (default: %(default)s)")
    placement = "where the digits lie that are trained on (default: random for data-size, centre for the others)"
    add("--placement", choices=("centre", "random"), help=placement)
    data = "take MNIST's IDX files or CIFAR-10's binary files in this folder, not the built-in digits"
    add("--data", type=Path, metavar="FOLDER", help=data)
    add("--backend", choices=tuple(BACKENDS), help="run on exactly this backend")
    add("--threads", type=_positive, metavar="N", help="default: one for each processor")
    add("--output", type=Path, default=Path("compare-results"), metavar="FOLDER", help="default: ./%(default)s")
    add("--no-plot", action="store_true", help="write no figure; matplotlib is not needed then")
    add("--quiet", action="store_true", help="print the table only, no progress")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, measure, print the table, write the files."""
    from cnnkit.cli.compare import report, training

    experiment = _experiment(options.experiment)
    draw = None if options.no_plot else _figure_maker(experiment)
    options.epochs = options.epochs or (5 if options.data else experiment.EPOCHS)
    options.placement = options.placement or experiment.PLACEMENT
    task = experiment.load(options)
    options.output.mkdir(parents=True, exist_ok=True)
    _say(str(task), options)
    if options.backend != "numpy":
        _say("(the first time, kernels are compiled: some seconds before anything moves)", options)
    with _backend(options):
        results, interrupted = training.run(experiment, task, options, lambda line: _say(line, options))
    if results:
        print(report.table(experiment, results))
        _say(report.write(experiment, task, results, options, draw), options)
    return INTERRUPTED if interrupted else 0


def _experiment(name: str) -> ModuleType:
    return importlib.import_module(f"cnnkit.cli.compare.{name.replace('-', '_')}")


def _figure_maker(experiment: ModuleType) -> Callable[..., bytes]:
    """The function that draws; matplotlib is asked for before training, so that a missing one costs no time."""
    try:
        importlib.import_module("cnnkit.cli.compare.figure")
    except ImportError as error:
        raise ImportError(
            f'{error}: the figure needs matplotlib, so run pip install "cnnkit[plot]", or give --no-plot'
        ) from error
    return experiment.draw


def _backend(options: argparse.Namespace) -> AbstractContextManager[None]:
    import cnnkit

    if options.threads:
        cnnkit.set_num_threads(options.threads)
    return cnnkit.use_backend(options.backend) if options.backend else nullcontext()


def _say(line: str, options: argparse.Namespace) -> None:
    if not options.quiet:
        print(line, file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    return _at_least(1, text)


def _not_negative(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is given, but a whole number of at least {least} is needed")
    return int(text)
