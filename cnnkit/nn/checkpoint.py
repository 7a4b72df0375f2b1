"""Checkpoints: all that training needs to go on, in one safetensors file."""

import json
import os
from typing import Any

from cnnkit.arrays import Array, beside
from cnnkit.files import Path, read_tensors, write_tensors
from cnnkit.nn.architecture import to_json
from cnnkit.nn.arguments import integer
from cnnkit.nn.callbacks import MONITORS, TrainingState
from cnnkit.nn.history import History
from cnnkit.nn.layer import Layer, check_state
from cnnkit.optim import Optimizer

CHECKPOINT = "a cnnkit checkpoint"


class Checkpoint:
    """A callback that writes model, optimizer state and history, for ``fit(..., resume=path)`` to go on from.

    The file is replaced as a whole: whenever the program ends, `path` holds a whole checkpoint.

    Parameters
    ----------
    path : str or path-like
    every : int
        Write after every so many epochs.

    Raises
    ------
    ValueError
        If `every` is below 1.

    Examples
    --------
    >>> from cnnkit import nn
    >>> save = nn.Checkpoint("digits.safetensors", every=5)
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path = os.fspath(path)
        self.every = integer(every, "every")

    def __call__(self, state: TrainingState) -> None:
        if state.epoch % self.every == 0:
            save_checkpoint(self.path, state)


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Write where training stands."""
    model = {f"model.{name}": array for name, array in state.model.state_dict().items()}
    optimizer = {f"optimizer.{name}": array for name, array in state.optimizer.state_dict().items()}
    metadata = {
        "architecture": to_json(state.model),
        "optimizer": type(state.optimizer).__name__,
        "history": json.dumps(state.history.to_dict()),
    }
    write_tensors(path, CHECKPOINT, model | optimizer, metadata)


def resume_from(path: Path, model: Layer, optimizer: Optimizer) -> History:
    """Put `model` and `optimizer` where the checkpoint stands; they change only if all of it fits."""
    tensors, metadata = read_tensors(path, CHECKPOINT)
    try:
        _check_same("model", metadata.get("architecture"), to_json(model))
        _check_same("optimizer", metadata.get("optimizer"), type(optimizer).__name__)
        history = _read_history(metadata.get("history", ""))
        state = _part(tensors, "model.")
        check_state(model.state_dict(), state)
        optimizer.load_state_dict(_beside(model, _part(tensors, "optimizer.")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} does not fit: {error}") from error
    model.load_state_dict(state)
    return history


def _check_same(what: str, saved: str | None, given: str) -> None:
    if saved != given:
        raise ValueError(f"its {what} is {saved}, but fit was given {given}")


def _read_history(text: str) -> History:
    saved: Any = json.loads(text)
    if not isinstance(saved, dict) or not all(isinstance(saved.get(name), list) for name in MONITORS):
        raise ValueError(f"its history is {text[:60]}, but lists of {', '.join(MONITORS)} are needed")
    return History(**saved)


def _beside(model: Layer, tensors: dict[str, Array]) -> dict[str, Array]:
    """Tensors of a file in the memory where the model is."""
    where = next(iter(model.parameters().values()), None)
    return tensors if where is None else {name: beside(array, where) for name, array in tensors.items()}


def _part(tensors: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
