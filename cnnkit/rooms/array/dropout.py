"""Dropout in the array library's own words."""

from cnnkit.arrays import Array, namespace


def dropout(x: Array, kept: Array, scale: float, out: Array) -> None:
    namespace(x).multiply(x, kept, out=out)
    out *= scale
