"""``cnnkit summary``: a saved model as a table."""

import argparse
from pathlib import Path
from typing import Any

DESCRIPTION = """
Show the layers of a saved model with output shapes, parameters, multiply-adds, memory and receptive fields.
"""


def add_to(commands: Any) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser("summary", help="show a saved model as a table", description=DESCRIPTION)
    parser.add_argument("file", type=Path, metavar="FILE", help="a model that was saved with model.save")
    shape = "what the model takes, the batch first: 1,3,32,32"
    parser.add_argument("--input-shape", type=_shape, required=True, metavar="N,C,H,W", help=shape)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read the model, print the table."""
    from cnnkit import nn

    print(nn.load(options.file).summary(options.input_shape))
    return 0


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split(",")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is given, but positive whole numbers such as 1,3,32,32 are needed")
    return tuple(map(int, sizes))
