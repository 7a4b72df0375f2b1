"""What a trained model says, and how right it is."""

from typing import Any

from cnnkit.arrays import Array, namespace
from cnnkit.nn.arguments import integer
from cnnkit.nn.layer import Layer
from cnnkit.nn.training_data import check_data
from cnnkit.ops.loss import cross_entropy


class Tally:
    """Running means of loss and accuracy over examples; sums stay where the arrays are until somebody asks."""

    def __init__(self) -> None:
        self.examples = 0
        self._loss: Any = 0.0
        self._right: Any = 0

    def add(self, loss: Array, logits: Array, labels: Array) -> None:
        """Add a batch: its mean loss, its logits (N, classes) and its labels (N,)."""
        self.examples += len(labels)
        self._loss = self._loss + loss.astype("float64") * len(labels)
        self._right = self._right + (logits.argmax(axis=1) == labels).sum()

    @property
    def loss(self) -> float:
        return float(self._loss) / self.examples

    @property
    def accuracy(self) -> float:
        return int(self._right) / self.examples


def evaluate(model: Layer, data: tuple[Array, Array], batch_size: int = 256) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of a classifier.

    Parameters
    ----------
    model : Layer
        From `x` to logits (N, classes).
    data : (x, labels)
        Examples (N, ...) and their classes (N,), integers from 0.
    batch_size : int
        How many examples go through the model at once.

    Returns
    -------
    loss, accuracy : float

    Raises
    ------
    ValueError
        If shapes, lengths or labels do not fit, or there is no example.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> logits, labels = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 1])
    >>> loss, accuracy = nn.evaluate(nn.Flatten(), (logits, labels))
    >>> round(loss, 4), accuracy
    (0.1269, 1.0)
    """
    batch_size = integer(batch_size, "batch_size")
    x, labels = check_data(model, data, "data")
    return measure(model, x, labels, batch_size)


def measure(model: Layer, x: Array, labels: Array, batch_size: int) -> tuple[float, float]:
    """`evaluate`, of data that was checked."""
    tally = Tally()
    for start in range(0, len(x), batch_size):
        logits, classes = model(x[start : start + batch_size]), labels[start : start + batch_size]
        tally.add(cross_entropy(logits, classes), logits, classes)
    return tally.loss, tally.accuracy


def predict(model: Layer, x: Array, batch_size: int = 256) -> Array:
    """Run a model over many examples, batch by batch.

    Parameters
    ----------
    model : Layer
    x : array
        (N, ...).
    batch_size : int
        How many examples go through the model at once.

    Returns
    -------
    array
        (N, ...), for a classifier the logits (N, classes); ``.argmax(axis=1)`` are the classes.

    Raises
    ------
    ValueError
        If `batch_size` is below 1, or the model refuses the shape of `x`.
    TypeError
        If the model refuses the kind or dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> nn.predict(nn.Dense(4, 3), np.zeros((5, 4), dtype="float32"), batch_size=2).shape
    (5, 3)
    """
    batch_size = integer(batch_size, "batch_size")
    starts: Any = range(0, max(len(x), 1), batch_size)  # without examples, one empty batch
    return namespace(x).concatenate([model(x[start : start + batch_size]) for start in starts])
