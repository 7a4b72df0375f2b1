"""Constructor arguments in their shortest plain form: ints, bools and tuples, fit for a repr and for JSON."""

from typing import Any

from cnnkit.geometry import boolean, integer, norm_type, parse_output_size, parse_padding, per_axis

__all__ = ["boolean", "integer", "norm_type", "per_axis", "short_output_size", "short_padding", "short_per_axis"]


def short_per_axis(value: Any, ndim: int, name: str) -> Any:
    """A window argument: an int if it is the same for every axis, else one int for each."""
    return _short(per_axis(value, ndim, name))


def short_output_size(value: Any, ndim: int) -> Any:
    """An int or None if it is the same for every axis, else one of these for each."""
    return _short(parse_output_size(value, ndim))


def short_padding(padding: Any, ndim: int) -> Any:
    """A name, an int for all sides, one int for each axis, or a (before, after) pair for each axis."""
    pairs = parse_padding(padding, ndim)
    if isinstance(pairs, str) or any(before != after for before, after in pairs):
        return pairs
    return _short(tuple(before for before, _ in pairs))


def _short(values: tuple[int | None, ...]) -> Any:
    return values[0] if len(set(values)) == 1 else values
