"""Training a classifier."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnkit.arrays import Array, beside, family, namespace
from cnnkit.files import Path
from cnnkit.nn.arguments import integer
from cnnkit.nn.callbacks import Callback, TrainingState
from cnnkit.nn.checkpoint import resume_from
from cnnkit.nn.evaluation import Tally, measure
from cnnkit.nn.history import History
from cnnkit.nn.interrupt import Interrupt, catch_interrupt
from cnnkit.nn.layer import Layer
from cnnkit.nn.training_data import check_data
from cnnkit.ops.loss import cross_entropy, cross_entropy_backward
from cnnkit.optim import Optimizer


def fit(
    model: Layer,
    data: tuple[Array, Array],
    *,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    validation: tuple[Array, Array] | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
    seed: int = 0,
    resume: Path | None = None,
) -> History:
    """Train a classifier by cross-entropy.

    With the same arguments every run gives the same parameters, to the bit; so does a run that goes on from a
    checkpoint. Ctrl-C ends the training after the batch that is running: the model keeps what it has learnt, the
    history the whole epochs. A second Ctrl-C raises KeyboardInterrupt at once.

    Parameters
    ----------
    model : Layer
        From `x` to logits (N, classes). It is trained in place.
    data : (x, labels)
        Examples (N, ...) in the model's dtype, and their classes (N,), integers from 0.
    epochs : int
        How many times to go through the examples, those before a checkpoint included.
    batch_size : int
        How many examples each step learns from; the last batch of an epoch takes what is left.
    optimizer : cnnkit.optim.Optimizer
    validation : (x, labels), optional
        What to measure loss and accuracy on after each epoch.
    callbacks : iterable of callables
        Each is called with a `TrainingState` after each epoch, and may return ``"stop"`` to end the training.
    progress : bool
        Whether to show a progress bar, with the running epoch's means.
    seed : int
        What the order of the examples and dropout depend on, together with the epoch.
    resume : str or path-like, optional
        A file that `Checkpoint` wrote: go on from there. Model, optimizer, data and the other arguments must be those
        of the first run.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If shapes, lengths, labels or numbers do not fit, or the checkpoint is damaged or of another model.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn, optim
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 2))
    >>> labels = (x[:, 0] > x[:, 1]).astype(int)
    >>> model = nn.Sequential(nn.Dense(2, 2, rng=rng, dtype="float64"))
    >>> optimizer = optim.SGD(lr=0.5, momentum=0.9)
    >>> history = nn.fit(model, (x, labels), epochs=10, batch_size=20, optimizer=optimizer, progress=False)
    >>> history.accuracy[-1] > 0.95
    True
    """
    callbacks = _check_training(optimizer, callbacks)
    epochs, batch_size = integer(epochs, "epochs"), integer(batch_size, "batch_size")
    seed = integer(seed, "seed", least=0)
    x, labels = check_data(model, data, "data")
    if validation is not None:
        validation = check_data(model, validation, "validation")
    history = History() if resume is None else resume_from(resume, model, optimizer)

    run = _Run(model, optimizer, x, labels, batch_size, epochs, seed)
    with catch_interrupt() as interrupt, _progress_bar(run, len(history.loss), progress) as bar:
        for epoch in range(len(history.loss), epochs):
            started = time.perf_counter()
            figures = run.epoch(epoch, bar, interrupt)
            if interrupt.seen:
                break
            if validation is not None:
                figures |= dict(zip(("val_loss", "val_accuracy"), measure(model, *validation, batch_size), strict=True))
            history.record(**figures, seconds=time.perf_counter() - started)
            if _wants_stop(callbacks, TrainingState(epoch + 1, model, optimizer, history)) or interrupt.seen:
                break
    history.interrupted = interrupt.seen
    return history


@dataclass
class _Run:
    """What stays the same from step to step."""

    model: Layer
    optimizer: Optimizer
    x: Array
    labels: Array
    batch_size: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def epoch(self, epoch: int, bar: Any, interrupt: Interrupt) -> dict[str, float]:
        """Go through the examples once, or until an interrupt; the means of what was seen."""
        rng = np.random.default_rng([self.seed, epoch])  # not one generator for all: an epoch can be run again alone
        order, rng = beside(rng.permutation(len(self.x)), self.x), self._generator(rng)
        tally = Tally()
        for i, start in enumerate(range(0, len(order), self.batch_size)):
            fraction = (epoch + i / self.steps_per_epoch) / self.epochs
            self._step(order[start : start + self.batch_size], rng, fraction, tally)
            if bar.update():  # it is drawn, some ten times a second: to see a GPU's figures is to wait for it
                bar.set_postfix(epoch=epoch + 1, loss=tally.loss, accuracy=tally.accuracy)
            if interrupt.seen:
                break
        bar.set_postfix(epoch=epoch + 1, loss=tally.loss, accuracy=tally.accuracy)
        return {"loss": tally.loss, "accuracy": tally.accuracy}

    def _generator(self, rng: np.random.Generator) -> Any:
        """What dropout draws from: `rng`, or a generator of the GPU's own that follows from it."""
        return rng if family(self.x) == "numpy" else namespace(self.x).random.default_rng(int(rng.integers(1 << 32)))

    def _step(self, chosen: Array, rng: Any, fraction: float, tally: Tally) -> None:
        labels = self.labels[chosen]
        logits, pullback = self.model.forward(self.x[chosen], rng)
        _, grads = pullback(cross_entropy_backward(1.0, logits, labels), needs_x=False)
        self.optimizer.step(self.model.parameters(), grads, fraction)
        tally.add(cross_entropy(logits, labels), logits, labels)


def _check_training(optimizer: Any, callbacks: Any) -> tuple[Callback, ...]:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is {optimizer!r}, but one of cnnkit.optim is needed, such as optim.Adam()")
    several = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
    if not all(map(callable, several)):
        raise TypeError(f"callbacks is {callbacks!r}, but an iterable of callables is needed")
    return several


def _wants_stop(callbacks: Iterable[Callback], state: TrainingState) -> bool:
    """Call all of them, whatever the first ones say."""
    answers = [callback(state) for callback in callbacks]
    return "stop" in answers


def _progress_bar(run: _Run, done: int, shown: bool) -> Any:
    """One bar over the steps of all epochs."""
    from tqdm.auto import tqdm

    steps = run.steps_per_epoch
    return tqdm(total=run.epochs * steps, initial=done * steps, disable=not shown, unit="step")
