"""The command line: ``cnnkit COMMAND``, one file or folder for each command, and here what they share: how they end.

A command is a module with ``add_to(commands)``, which adds its parser and sets ``run(options) -> exit code``.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cnnkit._version import __version__
from cnnkit.cli import bench, compare, explain, info, summary, warmup

__all__ = ["main"]

COMMANDS = (compare, explain, summary, bench, warmup, info)
WRONG_USE, INTERRUPTED = 2, 130  # exit codes, as shells and argparse have them


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``cnnkit`` command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those that the process was given.

    Returns
    -------
    int
        The exit code: 0, 2 after an error in what was asked (told in one sentence on standard error), 130 after
        Ctrl-C.

    Examples
    --------
    >>> from cnnkit.cli import main
    >>> main(["compare", "--no-plot", "--data", "no-such-folder"])  # tells so on standard error
    2
    """
    options = _parser().parse_args(argv)
    try:
        code = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # who reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        print(f"cnnkit {options.command}: {_sentence(error)}", file=sys.stderr)
        return WRONG_USE
    return code


class _Parser(argparse.ArgumentParser):
    """One whose complaints are one sentence too."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cnnkit", description="What convolutional networks are made of.")
    parser.add_argument("--version", action="version", version=f"cnnkit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
