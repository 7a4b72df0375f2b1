"""``cnnkit info``: what a bug report needs."""

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    text = "show versions, processor features, backends, threads and the cache folder"
    parser = commands.add_parser("info", help=text, description=text.capitalize() + ".")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the configuration."""
    import cnnkit

    cnnkit.show_config()
    return 0
