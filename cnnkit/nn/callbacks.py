"""What can be called after each epoch of `fit`: any callable that takes a `TrainingState`."""

import math
from collections.abc import Callable
from typing import NamedTuple

from cnnkit.nn.arguments import integer
from cnnkit.nn.history import History
from cnnkit.nn.layer import Layer
from cnnkit.optim import Optimizer


class TrainingState(NamedTuple):
    """What a callback is given: where training stands.

    Attributes
    ----------
    epoch : int
        How many whole epochs lie behind.
    model : Layer
    optimizer : cnnkit.optim.Optimizer
    history : History

    Examples
    --------
    >>> def good_enough(state):
    ...     return "stop" if state.history.accuracy[-1] > 0.99 else None
    """

    epoch: int
    model: Layer
    optimizer: Optimizer
    history: History


Callback = Callable[[TrainingState], str | None]  # returns "stop" to end the training

MONITORS = ("loss", "accuracy", "val_loss", "val_accuracy")


class EarlyStopping:
    """A callback that ends the training when a figure has not improved for some epochs.

    It looks at the history alone, so that it also counts right when training goes on from a checkpoint. The model
    keeps its last parameters; a `Checkpoint` keeps earlier ones.

    Parameters
    ----------
    patience : int
        After how many epochs without a new best figure to stop.
    monitor : {"val_loss", "val_accuracy", "loss", "accuracy"}
        The figure: of a loss the lowest is the best, of an accuracy the highest.

    Raises
    ------
    ValueError
        If `patience` is below 1, `monitor` is unknown, or, in training, there is no such figure.

    Examples
    --------
    >>> from cnnkit import nn
    >>> stop = nn.EarlyStopping(patience=2, monitor="loss")
    >>> stop(nn.TrainingState(4, None, None, nn.History(loss=[0.5, 0.4, 0.41, 0.42])))
    'stop'
    """

    def __init__(self, patience: int, monitor: str = "val_loss") -> None:
        if monitor not in MONITORS:
            raise ValueError(f"monitor is {monitor!r}, but the figures are {', '.join(map(repr, MONITORS))}")
        self.patience = integer(patience, "patience")
        self.monitor = monitor

    def __call__(self, state: TrainingState) -> str | None:
        figures = getattr(state.history, self.monitor)
        if not figures:
            raise ValueError(f"EarlyStopping monitors {self.monitor}, but fit was given no validation data")
        best = min(range(len(figures)), key=lambda epoch: self._badness(figures[epoch]))
        return "stop" if len(figures) - 1 - best >= self.patience else None

    def _badness(self, figure: float) -> float:
        if math.isnan(figure):
            return math.inf
        return -figure if "accuracy" in self.monitor else figure
