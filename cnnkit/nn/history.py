"""What training did, epoch by epoch."""

from dataclasses import asdict, dataclass, field
from typing import Any

from cnnkit import plotting

__all__ = ["History"]


@dataclass
class History:
    """The figures of each whole epoch, as `fit` returns them.

    Attributes
    ----------
    loss, accuracy : list of float
        Means over the training examples, each taken before the step that learnt from it (with dropout on).
    val_loss, val_accuracy : list of float
        Means over the validation data after each epoch; empty without validation data.
    seconds : list of float
        How long each epoch took, validation included.
    interrupted : bool
        Whether Ctrl-C ended the training.

    Examples
    --------
    >>> from cnnkit import nn
    >>> nn.History(loss=[0.9, 0.5], accuracy=[0.6, 0.85], seconds=[1.0, 1.0])
    History(2 epochs, loss=0.5000, accuracy=0.8500)
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    interrupted: bool = False

    def __repr__(self) -> str:
        figures = ("loss", "accuracy", "val_loss", "val_accuracy")
        last = [f"{name}={getattr(self, name)[-1]:.4f}" for name in figures if getattr(self, name)]
        stopped = ["interrupted"] if self.interrupted else []
        return f"History({', '.join([f'{len(self.loss)} epochs', *last, *stopped])})"

    def record(self, **figures: float) -> None:
        """Append an epoch's figures.

        Parameters
        ----------
        **figures : float
            By the names of the lists.

        Examples
        --------
        >>> from cnnkit import nn
        >>> history = nn.History()
        >>> history.record(loss=0.5, accuracy=0.75)
        >>> history.loss
        [0.5]
        """
        for name, figure in figures.items():
            getattr(self, name).append(figure)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain lists and a bool, fit for JSON; ``History(**d)`` makes it again.

        Returns
        -------
        dict

        Examples
        --------
        >>> from cnnkit import nn
        >>> nn.History(loss=[0.5]).to_dict()["loss"]
        [0.5]
        """
        return asdict(self)

    def plot(self, ax: Any = None) -> Any:
        """Draw losses (left axis) and accuracies (right axis, dashed) over the epochs.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure unless given.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from cnnkit import nn
        >>> from matplotlib.figure import Figure
        >>> ax = nn.History(loss=[0.9, 0.5], accuracy=[0.6, 0.85]).plot(Figure().add_subplot())
        >>> ax.get_xlabel()
        'epoch'
        """
        ax = plotting.axes(ax, "History.plot")
        right = ax.twinx()
        lines = self._draw(ax, "loss", "-") + self._draw(right, "accuracy", "--")
        ax.set(xlabel="epoch", ylabel="loss")
        right.set(ylabel="accuracy")
        ax.legend(handles=lines)
        return ax

    def _draw(self, ax: Any, name: str, style: str) -> list[Any]:
        """Training and validation curve of one figure, against the number of epochs."""
        lines = []
        for color, label in (("C0", name), ("C1", f"val_{name}")):
            values = getattr(self, label)
            if values:
                lines += ax.plot(range(1, len(values) + 1), values, style, color=color, label=label)
        return lines
