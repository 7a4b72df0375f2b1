"""What the public functions share: docstrings for 1, 2 and 3 axes from one text, checks of common parameters."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from cnnkit.arrays import Array
from cnnkit.foreign import any_library
from cnnkit.geometry import AXES

Function = TypeVar("Function", bound=Callable[..., Any])

ACTIVATIONS = {  # the ones that conv and dense can apply, as rooms know them: with their parameters
    "relu": ("relu", 0.0),
    "leaky_relu": ("leaky_relu", 0.01),
    "elu": ("elu", 1.0),
    "gelu": ("gelu", 0.0),
    "silu": ("silu", 0.0),
    "sigmoid": ("sigmoid", 0.0),
    "tanh": ("tanh", 0.0),
}
EVERYTHING = ("x", "weight", "bias")


def documented(text: str, ndim: int, example: str = "") -> Callable[[Function], Function]:
    """Give a function the docstring `text`, in which ``@n``, ``@in``, ``@out`` and ``@kernel`` stand for its axes.

    It is one of three that are made at once, and is let take `any_library` too.
    """
    axes = AXES[ndim]
    shapes = {"@n": str(ndim), "@in": ", ".join(axes), "@out": ", ".join(f"{a}_out" for a in axes)}
    shapes["@kernel"] = ", ".join(f"k{a}" for a in axes)

    def decorate(function: Function) -> Function:
        full = inspect.cleandoc(text)
        for word, meaning in shapes.items():
            full = full.replace(word, meaning)
        function.__doc__ = f"{full}\n\nExamples\n--------\n{inspect.cleandoc(example)}\n"
        return any_library(function)

    return decorate


def batched(array: Array, ndim: int) -> Array:
    """The array with its batch axis; an unbatched one as a batch of one."""
    return array if array.ndim == ndim + 2 else array[None]


def fused(activation: Any) -> tuple[str, float] | None:
    """What a room is told of `activation`."""
    if activation is None:
        return None
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(map(repr, (None, *ACTIVATIONS)))
        raise ValueError(f"activation is {activation!r}, but must be one of {known}")
    return ACTIVATIONS[activation]


def check_needs(needs: Any, known: tuple[str, ...] = EVERYTHING) -> None:
    if needs is known:
        return
    sentence = f"needs is {needs!r}, but must be a tuple of some of {', '.join(map(repr, known))}"
    if not isinstance(needs, str | tuple | list | set | frozenset):
        raise TypeError(sentence)
    if isinstance(needs, str) or not all(isinstance(name, str) and name in known for name in needs):
        raise ValueError(sentence)
