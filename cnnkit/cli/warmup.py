"""``cnnkit warmup``: kernels compiled ahead of the first program that needs them, for this processor or for a GPU."""

import argparse
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

DESCRIPTION = """
Compile the CPU kernels of the usual layers, forward and backward, and keep them on disk, so that no program has to wait
for them: about half a minute for each dtype. What is there already is only loaded. Run it again after an update of
cnnkit, NumPy or Numba, or on another processor.

With --backend cuda: build all CUDA kernels for GPUs of the given compute capabilities, which takes numba-cuda and
nvJitLink, but no GPU. A program that runs with the folder's name in the environment variable CNNKIT_CUBINS takes them
from there, whatever its versions of Numba, NumPy and numba-cuda; it must be of the same version of cnnkit.
"""


def add_to(commands: Any) -> None:
    """Add the command and its options to the parser."""
    parser = commands.add_parser("warmup", help="compile kernels ahead of their first call", description=DESCRIPTION)
    add = parser.add_argument
    add("--backend", choices=("numba", "cuda"), default="numba", help="whose kernels (default: %(default)s)")
    add(
        "--dtype",
        nargs="+",
        choices=("float32", "float64"),
        default=["float32"],
        help="of CPU kernels; default: float32",
    )
    capability = "of the GPUs to build CUDA kernels for (default: 9.0)"
    add("--compute-capability", nargs="+", type=_capability, default=[(9, 0)], metavar="X.Y", help=capability)
    folder = "where CUDA kernels go (default: ./%(default)s)"
    add("--output", type=Path, default=Path("cnnkit-cubins"), metavar="FOLDER", help=folder)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compile, with a progress bar, and say how much was compiled and where it is kept."""
    return _cuda(options) if options.backend == "cuda" else _numba(options)


def _numba(options: argparse.Namespace) -> int:
    from cnnkit.config import config
    from cnnkit.dispatch import use_backend
    from cnnkit.warming import common, compiled

    started = time.perf_counter()
    with use_backend("numba"):
        _take({f"{what}, {dtype}": step for dtype in options.dtype for what, step in common(dtype).items()})
    print(f"{compiled()} functions compiled in {time.perf_counter() - started:.1f} s, kept in:")
    print(config()["kernels"]["cache"])
    return 0


def _cuda(options: argparse.Namespace) -> int:
    from cnnkit.dispatch import BACKENDS
    from cnnkit.rooms.cuda import compiler

    started = time.perf_counter()
    kernels = [
        (name, dtype, capability)
        for name, kernel in compiler.KERNELS.items()
        for dtype in kernel.dtypes
        for capability in options.compute_capability
    ]
    sizes: list[int] = []

    def build(name: str, dtype: str, capability: tuple[int, int]) -> None:
        try:
            sizes.append(compiler.build(name, dtype, capability, options.output))
        except ImportError as error:
            raise ImportError(f"{error}: {BACKENDS['cuda'].remedy}") from error

    _take({", ".join(map(str, kernel)): partial(build, *kernel) for kernel in kernels})
    took = time.perf_counter() - started
    print(f"{len(sizes)} kernels built in {took:.1f} s, {sum(sizes) / 1024:.0f} KiB. Run programs with:")
    print(f"CNNKIT_CUBINS={options.output.resolve()}")
    return 0


def _take(steps: dict[str, Any]) -> None:
    """Take the steps, and show which."""
    from tqdm.auto import tqdm

    with tqdm(steps.items(), desc="compiling", unit="kind") as bar:
        for what, step in bar:
            bar.set_postfix_str(what)
            step()


def _capability(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.(\d)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is given, but a compute capability is needed, such as 9.0")
    return int(found[1]), int(found[2])
