"""The comparison as text: a table to read, and JSON with everything behind it."""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnnkit._version import __version__
from cnnkit.cli.compare.experiment import Result, Task
from cnnkit.files import write_atomically

OPTIONS = ("epochs", "batch_size", "seed", "placement", "data", "backend", "threads")


def table(results: Sequence[Result]) -> str:
    """One row for each network."""
    farthest = len(results[0].shifted_accuracy)
    above = ["", "", "multiply-adds", "train", *["test"] * farthest, "seconds", ""]
    header = ["network", "parameters", "per image", "", *_shift_names(farthest), "per epoch", "backend"]
    rows = [above, header, *(_row(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    lines.insert(2, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _shift_names(farthest: int) -> list[str]:
    return ["centred", *(f"{pixels} px off" for pixels in range(1, farthest))]


def _row(result: Result) -> list[str]:
    accuracies = [f"{100 * value:.1f} %" for value in (result.train_accuracy, *result.shifted_accuracy)]
    seconds = statistics.median(result.history.seconds)
    counts = [f"{result.parameters:,}", f"{result.multiply_adds:,}"]
    return [result.name, *counts, *accuracies, f"{seconds:.2f}", result.backend]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The name to the left, and the backend; numbers to the right."""
    last = len(row) - 1
    return [
        cell.ljust(width) if index in (0, last) else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def write(
    folder: Path,
    task: Task,
    results: Sequence[Result],
    options: argparse.Namespace,
    draw: Callable[[Task, Sequence[Result]], bytes] | None,
) -> str:
    """Write comparison.json and, with `draw`, comparison.png, each whole or not at all; say which."""
    text = json.dumps(_finite(as_dict(task, results, options)), indent=1, allow_nan=False)
    data, picture = folder / "comparison.json", folder / "comparison.png"
    write_atomically(data, f"{text}\n".encode())
    if not draw:
        return f"\nwrote {data}"
    write_atomically(picture, draw(task, results))
    return f"\nwrote {data} and {picture}"


def as_dict(task: Task, results: Sequence[Result], options: argparse.Namespace) -> dict[str, Any]:
    """Everything in the table and behind it; all that differs between equal runs is under "seconds"."""
    return {
        "data": {"name": task.name, "shape": task.shape, "train": len(task.train.x), "test": len(task.test.x)},
        "options": {name: getattr(options, name) for name in OPTIONS},
        "versions": {"cnnkit": __version__, "python": platform.python_version(), **_installed("numpy", "numba")},
        "networks": [_network(result) for result in results],
        "seconds": {result.name: list(result.history.seconds) for result in results},
    }


def _network(result: Result) -> dict[str, Any]:
    history = {key: value for key, value in result.history.to_dict().items() if key != "seconds"}
    return {
        "name": result.name,
        "layers": [repr(layer) for layer in result.model],
        "parameters": result.parameters,
        "multiply_adds": result.multiply_adds,
        "train_accuracy": result.train_accuracy,
        "test_accuracy": result.shifted_accuracy[0],
        "shifted_accuracy": dict(enumerate(result.shifted_accuracy)),
        "backend": result.backend,
        "history": history,
    }


def _installed(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def _finite(value: Any) -> Any:
    """`value` as JSON can say it: a number that is infinite or none at all becomes null, a path its text."""
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return os.fspath(value) if isinstance(value, os.PathLike) else value
