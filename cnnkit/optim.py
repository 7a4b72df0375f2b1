"""Optimizers, with PyTorch's update rules, and learning rates that change while training goes on.

An optimizer changes the arrays of ``model.parameters()`` in place. It uses arithmetic operators only, so that arrays
of any library that has in-place arithmetic will do, and keeps its state per parameter name.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnkit.arrays import Array
from cnnkit.geometry import number

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "cosine", "step_decay"]

Schedule = Callable[[float], float]  # training progress, from 0 to 1 -> learning rate


# ---------------------------------------------------------------- learning rates


@dataclass(frozen=True)
class cosine:  # noqa: N801  called like a function, and described by its repr
    r"""A learning rate that falls from `lr` to `final` along half a cosine wave.

    After the warm-up, at training progress :math:`p` and with warm-up :math:`w`:
    :math:`\mathrm{final} + (\mathrm{lr} - \mathrm{final}) (1 + \cos(\pi (p - w) / (1 - w))) / 2`
    (Loshchilov & Hutter, *SGDR*, 2017).

    Parameters
    ----------
    lr : float
        The highest learning rate.
    final : float
        The learning rate at the end of training.
    warmup : float
        The fraction of training in which the learning rate first rises linearly from 0 to `lr`.

    Raises
    ------
    ValueError
        If a learning rate is negative or `warmup` is not in [0, 1).

    Examples
    --------
    >>> from cnnkit import optim
    >>> schedule = optim.cosine(0.1, final=0.02, warmup=0.2)
    >>> [round(schedule(progress), 3) for progress in (0, 0.1, 0.2, 0.6, 1)]
    [0.0, 0.05, 0.1, 0.06, 0.02]
    """

    lr: float
    final: float = 0.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _at_least_0("lr", self.lr)
        _at_least_0("final", self.final)
        _fraction("warmup", self.warmup)

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        wave = math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))
        return self.final + (self.lr - self.final) * (1 + wave) / 2


@dataclass(frozen=True)
class step_decay:  # noqa: N801  called like a function, and described by its repr
    """A learning rate that is multiplied by `factor` at every milestone.

    Parameters
    ----------
    lr : float
        The learning rate up to the first milestone.
    factor : float
        What each milestone multiplies it by.
    milestones : sequence of float
        Fractions of training, in [0, 1).

    Raises
    ------
    ValueError
        If `lr` or `factor` is negative or a milestone is not in [0, 1).

    Examples
    --------
    >>> from cnnkit import optim
    >>> schedule = optim.step_decay(0.8, 0.5, (0.5, 0.75))
    >>> [schedule(progress) for progress in (0, 0.5, 0.9)]
    [0.8, 0.4, 0.2]
    """

    lr: float
    factor: float
    milestones: tuple[float, ...]

    def __post_init__(self) -> None:
        _at_least_0("lr", self.lr)
        _at_least_0("factor", self.factor)
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for milestone in self.milestones:
            _fraction("milestones", milestone)

    def __call__(self, progress: float) -> float:
        passed = sum(milestone <= progress for milestone in self.milestones)
        return self.lr * self.factor**passed


# ---------------------------------------------------------------- optimizers


class Optimizer(ABC):
    """What every optimizer is: `step` changes parameters in place, `state_dict` tells what it remembers.

    A subclass gives `_kinds`, the names of what it keeps per parameter, and `_update`.

    Examples
    --------
    >>> from cnnkit import optim
    >>> isinstance(optim.SGD(lr=0.1), optim.Optimizer)
    True
    """

    lr: float | Schedule
    _state: dict[str, dict[str, Any]]  # parameter name -> kind -> array or count

    def step(self, parameters: Mapping[str, Array], grads: Mapping[str, Array], progress: float = 0.0) -> None:
        """Change every parameter in place, in its own dtype.

        Parameters
        ----------
        parameters : dict of str to array
            The live arrays, as `model.parameters()` gives them.
        grads : dict of str to array
            The loss's gradient with respect to each: the same names and shapes.
        progress : float
            How much of the training lies behind, from 0 at the first step to 1 at the end. Only a learning rate that
            is a schedule reads it.

        Raises
        ------
        ValueError
            If names or shapes differ. Nothing is changed then.

        Examples
        --------
        >>> import numpy as np
        >>> from cnnkit import optim
        >>> weight = np.array([1.0, 2.0])
        >>> optim.SGD(lr=0.5).step({"weight": weight}, {"weight": np.array([2.0, -2.0])})
        >>> weight
        array([0., 3.])
        """
        self._check(parameters, grads)
        lr = self.learning_rate(progress)
        for name, parameter in parameters.items():
            self._update(parameter, grads[name], self._state.setdefault(name, {}), lr)

    def learning_rate(self, progress: float) -> float:
        """The learning rate at a fraction of training.

        Parameters
        ----------
        progress : float
            From 0 at the first step to 1 at the end.

        Returns
        -------
        float

        Examples
        --------
        >>> from cnnkit import optim
        >>> optim.Adam(lr=optim.cosine(0.01)).learning_rate(0.5)
        0.005
        """
        return float(self.lr(progress) if callable(self.lr) else self.lr)

    def state_dict(self) -> dict[str, Array]:
        """What the optimizer remembers, as one flat dict.

        Returns
        -------
        dict of str to array
            ``"<parameter name>.<kind>"`` to the live array; a count is an array without axes.

        Examples
        --------
        >>> import numpy as np
        >>> from cnnkit import optim
        >>> optimizer = optim.Adam()
        >>> optimizer.step({"weight": np.zeros(2)}, {"weight": np.ones(2)})
        >>> sorted(optimizer.state_dict())
        ['weight.mean', 'weight.square', 'weight.steps']
        """
        return {
            f"{name}.{kind}": np.array(value) if kind == "steps" else value
            for name, kept in self._state.items()
            for kind, value in kept.items()
        }

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Go on from what an optimizer of the same class remembered; the arrays are copied.

        Parameters
        ----------
        state : dict of str to array
            What `state_dict` gave.

        Raises
        ------
        ValueError
            If the names are not those that this optimizer keeps. Nothing is changed then.

        Examples
        --------
        >>> import numpy as np
        >>> from cnnkit import optim
        >>> optimizer = optim.SGD(lr=0.1, momentum=0.9)
        >>> optimizer.load_state_dict({"weight.velocity": np.ones(2)})
        >>> optimizer.load_state_dict({"weight.mean": np.ones(2)})
        Traceback (most recent call last):
            ...
        ValueError: state has 'weight.mean', but this SGD keeps velocity
        """
        loaded: dict[str, dict[str, Any]] = {}
        for key, value in state.items():
            name, _, kind = key.rpartition(".")
            if kind not in self._kinds:
                keeps = ", ".join(self._kinds) or "nothing"
                raise ValueError(f"state has {key!r}, but this {type(self).__name__} keeps {keeps}")
            loaded.setdefault(name, {})[kind] = int(value) if kind == "steps" else deepcopy(value)
        for name, kept in loaded.items():
            if len(kept) < len(self._kinds):
                lacking = ", ".join(kind for kind in self._kinds if kind not in kept)
                raise ValueError(f"state lacks {lacking} of {name!r}, but {type(self).__name__} needs them")
        self._state = loaded

    def _check(self, parameters: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        differing = sorted(parameters.keys() ^ grads.keys())
        if differing:
            raise ValueError(f"grads and parameters must have the same names, but differ in {', '.join(differing)}")
        for name, parameter in parameters.items():
            kept = {kind: value for kind, value in self._state.get(name, {}).items() if kind != "steps"}
            for what, array in {"gradient": grads[name], **kept}.items():
                if array.shape != parameter.shape:
                    raise ValueError(
                        f"the {what} of {name!r} has shape {array.shape}, but the parameter has {parameter.shape}"
                    )

    @property
    @abstractmethod
    def _kinds(self) -> tuple[str, ...]:
        """The names of what is kept for each parameter."""

    @abstractmethod
    def _update(self, parameter: Array, grad: Array, kept: dict[str, Any], lr: float) -> None:
        """Change `parameter` and what is `kept` for it, in place."""


@dataclass(eq=False)
class SGD(Optimizer):
    r"""Stochastic gradient descent, with momentum if wanted; PyTorch's rule.

    With the gradient :math:`g` (to which ``weight_decay * p`` is added), the velocity :math:`v \leftarrow \mu v + g`
    (:math:`v = g` in the first step) and :math:`p \leftarrow p - \mathrm{lr}\, v`; by Nesterov's rule
    :math:`p \leftarrow p - \mathrm{lr}\, (g + \mu v)`.

    Parameters
    ----------
    lr : float or callable
        The learning rate, or a schedule from training progress (0 to 1) to it.
    momentum : float
        :math:`\mu`, in [0, 1).
    nesterov : bool
        Whether to look ahead by one momentum step.
    weight_decay : float
        The strength of the L2 penalty.

    Raises
    ------
    ValueError
        If a number is out of its range, or `nesterov` is asked for without momentum.
    TypeError
        If `lr` is neither a number nor callable.

    Examples
    --------
    >>> from cnnkit import optim
    >>> optim.SGD(optim.cosine(0.1), momentum=0.9)
    SGD(lr=cosine(lr=0.1, final=0.0, warmup=0.0), momentum=0.9, nesterov=False, weight_decay=0.0)
    """

    lr: float | Schedule
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    _state: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _learning_rate(self.lr)
        _fraction("momentum", self.momentum)
        _at_least_0("weight_decay", self.weight_decay)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum, but momentum is 0")

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def _update(self, parameter: Array, grad: Array, kept: dict[str, Any], lr: float) -> None:
        if self.weight_decay:
            grad = grad + self.weight_decay * parameter
        parameter -= lr * (self._with_momentum(grad, kept) if self.momentum else grad)

    def _with_momentum(self, grad: Array, kept: dict[str, Any]) -> Array:
        if "velocity" in kept:
            kept["velocity"] *= self.momentum
            kept["velocity"] += grad
        else:
            kept["velocity"] = 1.0 * grad  # a copy
        return grad + self.momentum * kept["velocity"] if self.nesterov else kept["velocity"]


@dataclass(eq=False)
class Adam(Optimizer):
    r"""Adam (Kingma & Ba 2015); PyTorch's rule.

    With the gradient :math:`g` (to which ``weight_decay * p`` is added) and step count :math:`t`:
    :math:`m \leftarrow \beta_1 m + (1 - \beta_1) g`, :math:`s \leftarrow \beta_2 s + (1 - \beta_2) g^2`,
    :math:`p \leftarrow p - \mathrm{lr}\, \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}`.

    Parameters
    ----------
    lr : float or callable
        The learning rate, or a schedule from training progress (0 to 1) to it.
    betas : (float, float)
        :math:`\beta_1` and :math:`\beta_2`, how slowly the two running means forget; in [0, 1).
    eps : float
        What keeps the quotient finite.
    weight_decay : float
        The strength of the L2 penalty.

    Raises
    ------
    ValueError
        If a number is out of its range.
    TypeError
        If `lr` is neither a number nor callable.

    Examples
    --------
    >>> from cnnkit import optim
    >>> optim.Adam()
    Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)
    """

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    _state: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _learning_rate(self.lr)
        if len(self.betas) != 2:
            raise ValueError(f"betas is {self.betas!r}, but must be two numbers")
        for beta in self.betas:
            _fraction("betas", beta)
        _at_least_0("eps", self.eps)
        _at_least_0("weight_decay", self.weight_decay)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("steps", "mean", "square")

    def _update(self, parameter: Array, grad: Array, kept: dict[str, Any], lr: float) -> None:
        if self.weight_decay:
            grad = grad + self.weight_decay * parameter
        self._descend(parameter, grad, kept, lr)

    def _descend(self, parameter: Array, grad: Array, kept: dict[str, Any], lr: float) -> None:
        beta1, beta2 = self.betas
        kept["steps"] = kept.get("steps", 0) + 1
        _decay_towards(kept, "mean", grad, beta1)
        _decay_towards(kept, "square", grad * grad, beta2)
        root = (kept["square"] ** 0.5) / math.sqrt(1 - beta2 ** kept["steps"])
        parameter -= (lr / (1 - beta1 ** kept["steps"])) * (kept["mean"] / (root + self.eps))


@dataclass(eq=False)
class AdamW(Adam):
    r"""Adam with decoupled weight decay (Loshchilov & Hutter 2019); PyTorch's rule.

    First :math:`p \leftarrow (1 - \mathrm{lr} \cdot \mathrm{weight\_decay})\, p`, then `Adam`'s step on the gradient
    alone.

    Parameters
    ----------
    lr, betas, eps
        As for `Adam`.
    weight_decay : float
        The fraction of a parameter that each unit of learning rate takes away.

    Raises
    ------
    ValueError
        If a number is out of its range.
    TypeError
        If `lr` is neither a number nor callable.

    Examples
    --------
    >>> from cnnkit import optim
    >>> optim.AdamW(lr=0.01)
    AdamW(lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)
    """

    weight_decay: float = 0.01

    def _update(self, parameter: Array, grad: Array, kept: dict[str, Any], lr: float) -> None:
        parameter *= 1 - lr * self.weight_decay
        self._descend(parameter, grad, kept, lr)


def _decay_towards(kept: dict[str, Any], kind: str, value: Array, beta: float) -> None:
    """The running mean ``beta * mean + (1 - beta) * value``, which starts from 0."""
    if kind in kept:
        kept[kind] *= beta
        kept[kind] += (1 - beta) * value
    else:
        kept[kind] = (1 - beta) * value


# ---------------------------------------------------------------- checks


def _learning_rate(lr: Any) -> None:
    if not callable(lr):
        _at_least_0("lr", lr)


def _at_least_0(name: str, value: Any) -> None:
    if not number(value, name) >= 0 or math.isinf(value):
        raise ValueError(f"{name} is {value!r}, but must be at least 0 and finite")


def _fraction(name: str, value: Any) -> None:
    if not 0 <= number(value, name) < 1:
        raise ValueError(f"{name} is {value!r}, but must be at least 0 and below 1")
