"""An experiment as text: a table to read, and JSON with everything behind it."""

import argparse
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from cnnkit._version import __version__
from cnnkit.cli.compare.networks import multiply_adds, parameters
from cnnkit.cli.compare.training import Result, Task
from cnnkit.files import write_atomically

OPTIONS = ("experiment", "epochs", "batch_size", "seed", "placement", "data", "backend", "threads")


def table(experiment: ModuleType, results: Sequence[Result]) -> str:
    """The experiment's table, and a word on a training that was interrupted, which may have learned little."""
    last = results[-1]
    if not last.history.interrupted:
        return str(experiment.table(results))
    done = f"{last.trial.label}: interrupted after {len(last.history.loss)} of {last.trial.epochs} epochs"
    return f"{experiment.table(results)}\n\n{done}"


def percent(fraction: float) -> str:
    """As a cell of a table whose caption says that it is in per cent."""
    return f"{100 * fraction:.1f}"


def cost(result: Result) -> tuple[int, int]:
    """How many numbers are learned, and multiplied for an image."""
    return parameters(result.model), multiply_adds(result.model, result.trial.test.x[:1])


def write(
    experiment: ModuleType,
    task: Task,
    results: Sequence[Result],
    options: argparse.Namespace,
    draw: Callable[[Task, Sequence[Result]], bytes] | None,
) -> str:
    """Write the JSON and, with `draw`, the figure, each whole or not at all; say which."""
    text = json.dumps(_finite(as_dict(experiment, task, results, options)), indent=1, allow_nan=False)
    data = options.output / f"{options.experiment}.json"
    write_atomically(data, f"{text}\n".encode())
    if not draw:
        return f"\nwrote {data}"
    picture = data.with_suffix(".png")
    write_atomically(picture, draw(task, results))
    return f"\nwrote {data} and {picture}"


def as_dict(
    experiment: ModuleType, task: Task, results: Sequence[Result], options: argparse.Namespace
) -> dict[str, Any]:
    """Everything in the table and behind it; all that differs between equal runs is under "seconds"."""
    return {
        "data": {"name": task.name, "shape": task.shape, "train": len(task.train.x), "test": len(task.test.x)},
        "options": {name: getattr(options, name) for name in OPTIONS},
        "versions": {"cnnkit": __version__, "python": platform.python_version(), **_installed("numpy", "numba")},
        "networks": [_network(experiment, result) for result in results],
        "seconds": {result.trial.label: sum(result.history.seconds) for result in results},
    }


def _network(experiment: ModuleType, result: Result) -> dict[str, Any]:
    counted, multiplied = cost(result)
    return {
        "name": result.trial.network,
        "layers": [repr(layer) for layer in result.model],
        "parameters": counted,
        "multiply_adds": multiplied,
        "images": len(result.trial.train.x),
        "epochs": len(result.history.loss),
        "interrupted": result.history.interrupted,
        "seed": result.trial.seed,
        "train_accuracy": result.train_accuracy,
        "backend": result.backend,
        **experiment.details(result),
    }


def history(result: Result) -> dict[str, Any]:
    """What training did epoch by epoch, without the time that it took."""
    return {key: value for key, value in result.history.to_dict().items() if key != "seconds"}


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
