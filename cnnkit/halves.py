"""float16 and bfloat16: stored as they are, computed in float32.

Rooms compute nothing in halves, but for functions that say so (`taken`). `in_float32` stands between a public function
and its room: inputs go in as float32 copies; what the room fills is rounded into the arrays that were given; a part of
the batch at a time where it can be.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from cnnkit import arrays, settings

Given = dict[str, Any]
Fill = Callable[..., None]

# by the contract's names: what has an image at each place of its first axis; a result that has not is a sum over all
BATCHED = ("x", "grad_output", "logits", "labels", "scale", "out", "grad_x", "indices", "kept")
# ops that see one image at a time; others are done at once
IN_PARTS = (
    *("conv", "conv_backward", "conv_transpose", "dense", "dense_backward"),
    *("max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward"),
    *("max_unpool", "max_unpool_backward", "lp_pool", "lp_pool_backward"),
    *("activate", "activate_backward", "dropout", "softmax", "softmax_backward", "log_softmax", "log_softmax_backward"),
    *("cross_entropy", "cross_entropy_backward"),
)


def taken(run: Fill) -> Fill:
    """A room's function that computes in halves itself, or sees to it."""
    run.takes_halves = True  # type: ignore[attr-defined]
    return run


def widely(op: str, run: Fill, room: Any, like: Any) -> Fill:
    """A room's function for arrays like this one: if they are of halves, in float32."""
    return in_float32(op, run, room.widen, room.narrow) if _half(like) else run


@lru_cache
def in_float32(op: str, run: Fill, widen: Fill, narrow: Fill) -> Fill:
    """A room's function for arrays of halves, which two others of the room make float32 of, and back."""
    names = tuple(inspect.signature(run).parameters)

    def widened(name: str, value: Any) -> Any:
        if not _half(value):
            return value
        wide = arrays.namespace(value).empty_like(value, dtype="float32")
        if not _filled(name):
            widen(value, wide)
        return wide

    def call(*args: Any) -> None:
        given = dict(zip(names, args, strict=True))
        shared = {name: widened(name, given[name]) for name in names if name not in BATCHED and not _filled(name)}
        sums: Given = {}
        for part in _parts(op, given | shared):
            wide = {name: widened(name, value) for name, value in part.items()}
            run(*(wide[name] for name in names))
            for name in (name for name in names if _filled(name) and _half(part[name])):
                if name in BATCHED:
                    narrow(wide[name], part[name])
                else:
                    sums[name] = sums[name] + wide[name] if name in sums else wide[name]
        for name, total in sums.items():
            narrow(total, given[name])

    return call


def _parts(op: str, given: Given) -> Iterator[Given]:
    """The arguments for so many images at a time as `max_workspace` has room for, in float32."""
    if op not in IN_PARTS or given.get("axis") == 0:
        yield given
        return
    batched = {name: value for name, value in given.items() if name in BATCHED and hasattr(value, "shape")}
    images = min(len(value) if value.ndim else 1 for value in batched.values())
    copies = sum(4 * value.size for value in batched.values() if _half(value))
    at_once = max(1, settings.current().max_workspace * images // max(1, copies))
    if at_once >= images:
        yield given
        return
    for start in range(0, images, at_once):
        part = {name: value[start : start + at_once] for name, value in batched.items()}
        if "plan" in given:
            part["plan"] = given["plan"]._replace(batch=min(at_once, images - start))
        yield given | part


def _filled(name: str) -> bool:
    """Whether a room fills what the contract calls so: `out`, or a gradient, but the one that comes in."""
    return name == "out" or (name.startswith("grad_") and name != "grad_output")


def _half(value: Any) -> bool:
    return hasattr(value, "dtype") and arrays.is_half(value.dtype)
