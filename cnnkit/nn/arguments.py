"""Constructor arguments in their shortest plain form: ints, bools and tuples, fit for a repr and for JSON."""

from typing import Any

import numpy as np

from cnnkit.arrays import FLOATS
from cnnkit.geometry import boolean, integer, norm_type, number, parse_output_size, parse_padding, per_axis

__all__ = [
    "boolean",
    "check_groups",
    "floating",
    "integer",
    "norm_type",
    "number",
    "per_axis",
    "short_output_size",
    "short_padding",
    "short_per_axis",
]


def floating(dtype: Any) -> np.dtype:
    """The dtype of a layer's parameters."""
    kind = np.dtype(dtype)
    if kind not in FLOATS:
        raise TypeError(f"dtype is {kind}, but a layer needs float32 or float64")
    return kind


def short_per_axis(value: Any, ndim: int, name: str, least: int = 1) -> Any:
    """A window argument: an int if it is the same for every axis, else one int for each."""
    return _short(per_axis(value, ndim, name, least))


def short_output_size(value: Any, ndim: int) -> Any:
    """An int or None if it is the same for every axis, else one of these for each."""
    return _short(parse_output_size(value, ndim))


def short_padding(padding: Any, ndim: int) -> Any:
    """A name, an int for all sides, one int for each axis, or a (before, after) pair for each axis."""
    pairs = parse_padding(padding, ndim)
    if isinstance(pairs, str) or any(before != after for before, after in pairs):
        return pairs
    return _short(tuple(before for before, _ in pairs))


def check_groups(groups: int, **channels: int) -> None:
    """Complain unless `groups` divides these numbers of channels."""
    for name, count in channels.items():
        if count % groups:
            raise ValueError(f"{name} is {count}, which groups={groups} does not divide")


def _short(values: tuple[int | None, ...]) -> Any:
    return values[0] if len(set(values)) == 1 else values
