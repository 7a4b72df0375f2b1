"""``cnnkit bench``: real layers, raced against what a user would take instead, and against this machine's limits."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """
Race cnnkit against PyTorch, ONNX Runtime and JAX, those that are installed (pip install "cnnkit[bench]"), on the same
arrays, turn by turn in one process for each number of threads, after checking that the answers agree. Prints times,
ratios, and how near cnnkit comes to the machine's own limits, and writes race.json, race.md and roofline.png.
"""
BUSY = 0.5  # load average


def add_to(commands: Any) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser("bench", help="race real layers against other libraries", description=DESCRIPTION)
    add = parser.add_argument
    add("--only", default="", metavar="REGEX", help="cases whose name matches, such as resnet or 3x3")
    add("--threads", type=_positive, nargs="+", metavar="N", help="default: 1, and one for each processor")
    add("--seconds", type=float, default=0.5, metavar="S", help="for each case and direction (default: %(default)s)")
    add("--backend", choices=("numba", "numpy"), help="run cnnkit on exactly this backend")
    add("--output", type=Path, default=Path("bench-results"), metavar="FOLDER", help="default: ./%(default)s")
    add("--no-plot", action="store_true", help="draw no roofline; matplotlib is not needed then")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Race, print the tables, write the files."""
    from cnnkit.cli.bench import peers, race, report

    names, threads = _cases(options.only), _threads(options.threads)
    draw = None if options.no_plot else _figure_maker()
    options.output.mkdir(parents=True, exist_ok=True)
    load = _load()
    for reason in peers.missing():
        print(f"not raced: {reason}", file=sys.stderr)
    measured = {n: race.run(names, n, options.seconds, options.backend) for n in threads}
    print(report.text(measured))
    print(report.write(options.output, measured, load, draw(measured) if draw else None), file=sys.stderr)
    return 0


def _load() -> float | None:
    """The load average, where the system has one, with a word on it if other work is running."""
    if not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the load average is {load:.1f}: other work is running, and will show in the times", file=sys.stderr)
    return load


def _cases(pattern: str) -> list[str]:
    from cnnkit.cli.bench.cases import CASES

    try:
        names = [name for name in CASES if re.search(pattern, name)]
    except re.error as error:
        raise ValueError(f"--only is {pattern!r}, which is no regular expression: {error}") from None
    if not names:
        raise ValueError(f"--only is {pattern!r}, but the cases are {', '.join(CASES)}")
    return names


def _threads(asked: list[int] | None) -> list[int]:
    import cnnkit

    return sorted(set(asked or [1, cnnkit.get_num_threads()]))


def _figure_maker() -> Any:
    """The function that draws; asked for before the race, so that a missing matplotlib costs no time."""
    try:
        from cnnkit.cli.bench.figure import draw
    except ImportError as error:
        raise ImportError(
            f'{error}: the figure needs matplotlib, so run pip install "cnnkit[plot]", or give --no-plot'
        ) from error
    return draw


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is given, but a whole number of at least 1 is needed")
    return int(text)
