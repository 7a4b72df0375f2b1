"""``cnnkit warmup``: the usual kernels compiled into the cache on disk, ahead of the first program that needs them."""

import argparse
import time
from typing import Any

DESCRIPTION = """
Compile the CPU kernels of the usual layers, forward and backward, and keep them on disk, so that no program has to wait
for them: about half a minute for each dtype. What is there already is only loaded. Run it again after an update of
cnnkit, NumPy or Numba, or on another processor.
"""


def add_to(commands: Any) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser("warmup", help="compile kernels ahead of their first call", description=DESCRIPTION)
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "float64"), default=["float32"], help="default: float32"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compile, with a progress bar, and say how much was compiled and where it is kept."""
    from tqdm.auto import tqdm

    from cnnkit.config import config
    from cnnkit.dispatch import use_backend
    from cnnkit.warming import common, compiled

    started = time.perf_counter()
    with use_backend("numba"):
        steps = [(f"{what}, {dtype}", step) for dtype in options.dtype for what, step in common(dtype).items()]
        with tqdm(steps, desc="compiling", unit="kind") as bar:
            for what, step in bar:
                bar.set_postfix_str(what)
                step()
    print(f"{compiled()} functions compiled in {time.perf_counter() - started:.1f} s, kept in:")
    print(config()["kernels"]["cache"])
    return 0
