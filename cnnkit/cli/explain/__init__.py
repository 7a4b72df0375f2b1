"""``cnnkit explain``: what makes convolutional networks work, a topic at a time, each number computed as it is shown.

A topic is a module with ``SUBJECT`` (a line), ``text() -> str`` (at most 80 columns) and ``draw() -> Figure``.
"""

import argparse
import importlib
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

TOPICS = (
    *("parameters", "locality", "sharing", "receptive-field", "equivariance"),
    *("pooling", "matrix", "sobel", "slide", "when-not"),
)
FORMATS = (".png", ".svg")
DESCRIPTION = """
Explain why a convolution beats a dense layer on images, and when it does not: tables and small drawings, every number
of which is computed as it is printed. Without a topic, list them.
"""


def add_to(commands: Any) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser("explain", help="show why convolutional networks work", description=DESCRIPTION)
    parser.add_argument("topic", nargs="?", choices=TOPICS, metavar="TOPIC", help=", ".join(TOPICS))
    parser.add_argument("--save", type=Path, metavar="FIGURE", help="write the topic's figure, a .png or .svg file")
    parser.add_argument("--gif", type=Path, metavar="FILE", help="of slide: write the animation")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the topic, write its figure."""
    from cnnkit import dispatch

    _check(options)
    if options.topic is None:
        print("\n".join(f"cnnkit explain {name:<17}{_topic(name).SUBJECT}" for name in TOPICS))
        return 0
    topic = _topic(options.topic)
    with dispatch.use_backend("numpy"):  # everything here is small: nothing need be compiled
        print(topic.text())
        if options.save:
            _write(options.save, _picture(topic.draw(), options.save.suffix))
        if options.gif:
            _write(options.gif, topic.animation())
    return 0


def _check(options: argparse.Namespace) -> None:
    """Complain before anything is computed or printed."""
    if options.save and (options.topic is None or options.save.suffix.lower() not in FORMATS):
        raise ValueError(f"--save is {options.save}, but a topic and a file name that ends in .png or .svg are needed")
    if options.gif and (options.topic != "slide" or options.gif.suffix.lower() != ".gif"):
        raise ValueError(f"--gif is {options.gif}, but only slide moves, and a file name that ends in .gif is needed")
    for path in filter(None, (options.save, options.gif)):
        if not path.resolve().parent.is_dir():
            raise ValueError(f"{path} cannot be written: there is no folder {path.resolve().parent}")
    if options.save or options.gif:
        _need_matplotlib()


def _need_matplotlib() -> None:
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise ImportError(f'{error}: figures need matplotlib, so run pip install "cnnkit[plot]"') from error


def _topic(name: str) -> ModuleType:
    return importlib.import_module(f"cnnkit.cli.explain.{name.replace('-', '_')}")


def _picture(figure: Any, suffix: str) -> bytes:
    content = BytesIO()
    metadata = {"Date": None} if suffix.lower() == ".svg" else {}  # the same picture is the same file
    figure.savefig(content, format=suffix[1:].lower(), dpi=120, metadata=metadata)
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    from cnnkit.files import write_atomically

    write_atomically(path, content)
    print(f"\nwrote {path}")
