"""``cnnkit compare``: a CNN and a dense network of like size, and what each makes of digits that move."""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from cnnkit.dispatch import BACKENDS

DESCRIPTION = """
Train two convolutional networks and a dense one, all of about the same size, on digits in the centre of the image,
and test them on digits that lie some pixels away from it. Prints a table and writes it, with the learning curves, as
comparison.json, and as a figure, comparison.png.
"""
INTERRUPTED = 130  # the exit code after Ctrl-C


def add_to(commands: Any) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser(
        "compare", help="train a CNN and a dense network and compare what they learned", description=DESCRIPTION
    )
    add = parser.add_argument
    add("--epochs", type=_positive, metavar="N", help="default: 20 for the built-in digits, 5 for --data")
    add("--batch-size", type=_positive, default=32, metavar="N", help="images per step (default: %(default)s)")
    add("--seed", type=_not_negative, default=0, metavar="N", help="of weights, order and split (default: %(default)s)")
    placement = "where the digits lie that are trained on (default: %(default)s)"
    add("--placement", choices=("centre", "random"), default="centre", help=placement)
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
    from cnnkit.cli.compare import experiment, report

    draw = None if options.no_plot else _figure_maker()
    options.epochs = options.epochs or (5 if options.data else 20)
    task = experiment.load(options.data, options.placement, options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    _say(str(task), options)
    with _backend(options):
        results, interrupted = experiment.run(task, options, lambda line: _say(line, options))
    if results:
        print(report.table(results))
        _say(report.write(options.output, task, results, options, draw), options)
    return INTERRUPTED if interrupted else 0


def _figure_maker() -> Any:
    """The function that draws; asked for before training, so that a missing matplotlib costs no time."""
    try:
        from cnnkit.cli.compare.figure import draw
    except ImportError as error:
        raise ImportError(
            f'{error}: the figure needs matplotlib, so run pip install "cnnkit[plot]", or give --no-plot'
        ) from error
    return draw


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
