"""What the public functions share: docstrings for 1, 2 and 3 axes from one text, checks of common parameters."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from cnnkit.arrays import Array
from cnnkit.foreign import any_library
from cnnkit.geometry import AXES

Function = TypeVar("Function", bound=Callable[..., Any])

ACTIVATIONS = (None, "relu")
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


def check_activation(activation: Any) -> None:
    if activation is None:
        return
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, but must be one of {', '.join(map(repr, ACTIVATIONS))}")


def check_needs(needs: Any, known: tuple[str, ...] = EVERYTHING) -> None:
    if needs is known:
        return
    sentence = f"needs is {needs!r}, but must be a tuple of some of {', '.join(map(repr, known))}"
    if not isinstance(needs, str | tuple | list | set | frozenset):
        raise TypeError(sentence)
    if isinstance(needs, str) or not all(isinstance(name, str) and name in known for name in needs):
        raise ValueError(sentence)
