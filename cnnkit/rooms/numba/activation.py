"""Activations and their like: one pass over memory, by loops that other kernels can call on what they have just stored.

A *closure* is what such a kernel is given: two numbers in memory, the address of a loop and the loop's parameter. A
loop is compiled for a function and a dtype, when it is first asked for.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnkit.arrays import Array
from cnnkit.geometry import Ints
from cnnkit.rooms import threads
from cnnkit.rooms.numba import functions
from cnnkit.rooms.numba.emit import NUMBER, UnitType, function, opaque, unit
from cnnkit.rooms.numba.machine import address_of, kernel
from cnnkit.rooms.numba.straight import emit_call, straight
from cnnkit.rooms.numba.vectors import at, lanes, load, load_all, size, store, store_all

NONE, RELU = 0, 1  # instead of a closure's address: what convolutions do to sums that are still in registers
NAMES = ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")
ONE = {name: getattr(functions, name) for name in NAMES}
TWO = {f"{name}_backward": getattr(functions, f"{name}_backward") for name in NAMES}
TWO |= {name: getattr(functions, name) for name in ("squared_error", "squared_error_backward")}
CHEAP = ("relu", "leaky_relu", "squared_error")  # their time is memory's
CLOSURE = np.dtype([("loop", np.int64), ("parameter", np.float64)])


def activate(activation: tuple[str, float], x: Array, out: Array) -> None:
    pointwise(*activation, out, x)


def activate_backward(activation: tuple[str, float], grad_output: Array, x: Array, out: Array) -> None:
    pointwise(f"{activation[0]}_backward", activation[1], out, grad_output, x)


def pointwise(name: str, parameter: float, out: Array, *given: Array) -> None:
    """Fill out with a function of one or two arrays, one number by one."""
    then, made = closure(name, parameter, out.dtype)
    work = out.nbytes / (16 if name.startswith(CHEAP) else 8)
    run = _one if len(given) == 1 else _two
    threads.run(run, out.size, work, then, *in_memory_order(out, *given, out), keep=made)


def memory_order(strides: Ints) -> list[int]:
    """The axes, outermost in memory first."""
    return sorted(range(len(strides)), key=lambda axis: -abs(strides[axis]))


def in_memory_order(out: Array, *given: Array) -> list[Array]:
    """All arrays as flat ones without gaps, in the order in which `out`, which has none, lies in memory."""
    if all(array.flags.c_contiguous for array in given):
        return [array.ravel() for array in given]
    order = memory_order(out.strides)
    return [array.transpose(order).ravel() for array in given]


def epilogue(activation: tuple[str, float] | None, dtype: np.dtype) -> tuple[int, Any]:
    """What kernels are told to do to their results, `NONE`, `RELU` or the address of a closure; and the closure."""
    if activation is None or activation[0] == "relu":
        return (NONE if activation is None else RELU), None
    return closure(*activation, dtype)


@lru_cache(64)
def closure(name: str, parameter: float, dtype: np.dtype) -> tuple[int, Array]:
    """The address of a closure, and its memory, which must live as long as that is used."""
    made = np.array((_loop(name, dtype), parameter), CLOSURE)
    return address_of(made), made


# ---------------------------------------------------------------- loops


class LoopType(types.Type):
    """The Numba type of a loop; its key holds everything that the compiled code depends on."""

    def __init__(self, name: str, unit: UnitType) -> None:
        self.function, self.unit = name, unit
        super().__init__(name=f"Loop({name}, {unit.name})")


class Loop:
    """A function's loop for a dtype."""

    def __init__(self, name: str, dtype: np.dtype) -> None:
        self._numba_type_ = LoopType(name, unit(dtype)._numba_type_)

    def __reduce__(self) -> Any:
        raise TypeError("a loop belongs to this process")


opaque(LoopType)


@lru_cache
def _loop(name: str, dtype: np.dtype) -> int:
    """The address of a loop, compiled (or read from the disk) when it is first asked for."""
    return _address(Loop(name, dtype))


@kernel
def _address(loop):
    return _compiled(loop)


@intrinsic
def _compiled(typingctx: Any, loop: Any) -> Any:
    two = loop.function in TWO
    body = (_rows_of_two if two else _rows_of_one)({**ONE, **TWO}[loop.function])
    like = types.float32 if loop.unit.dtype == "float32" else types.float64

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def emit_loop(emit: Any, *numbers: Any) -> None:
            emit_call(context, emit.builder, body, like, numbers)

        made = function(builder.module, f"loop.{loop.function}", loop.unit, 6, emit_loop)
        return builder.ptrtoint(made, NUMBER)

    return types.intp(loop), codegen


def _rows_of_one(function: Any) -> Any:
    def rows(zero, closure, x, out, step, rows, count):
        """Of `rows` rows of `count` numbers, `step` numbers apart, from x to out, which may be x."""
        parameter = at(closure, 1, 0.0)
        for row in range(rows):
            source, to = x + row * step * size(zero), out + row * step * size(zero)
            i, here = 0, _up_to_a_line(to, count, zero)
            while i < count:
                if here < lanes(zero):
                    store(to, function(load(source, here, zero), parameter), here)
                else:
                    store_all(to, function(load_all(source, zero), parameter))
                i, source, to = i + here, source + here * size(zero), to + here * size(zero)
                here = min(lanes(zero), count - i)

    return rows


def _rows_of_two(function: Any) -> Any:
    def rows(zero, closure, a, b, out, count, _):
        parameter = at(closure, 1, 0.0)
        i, here = 0, _up_to_a_line(out, count, zero)
        while i < count:
            if here < lanes(zero):
                store(out, function(load(a, here, zero), load(b, here, zero), parameter), here)
            else:
                store_all(out, function(load_all(a, zero), load_all(b, zero), parameter))
            step = here * size(zero)
            i, a, b, out = i + here, a + step, b + step, out + step
            here = min(lanes(zero), count - i)

    return rows


@kernel
def _up_to_a_line(address, count, like):
    """How many numbers to write at first, so that, of many, the vectors after them are written to whole cache lines."""
    before = -address % (lanes(like) * size(like)) // size(like)
    return before if before and count > 64 * lanes(like) else min(lanes(like), count)


@intrinsic
def call(typingctx: Any, closure: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    """Run a closure's loop: ``call(closure, x, out, step, rows, count)`` or ``call(closure, a, b, out, count, 0)``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [NUMBER] * 6).as_pointer()
        loop = builder.load(builder.inttoptr(args[0], NUMBER.as_pointer()))
        builder.call(builder.inttoptr(loop, kind), args)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 6), codegen


@straight
def _one(start, stop, closure, x, out):
    """A work item is a number: ``out[i] = function(x[i])``. Numbers are read and written once."""
    before = start * out.strides[0]
    call(closure, x.ctypes.data + before, out.ctypes.data + before, 0, 1, stop - start)


@straight
def _two(start, stop, closure, a, b, out):
    """A work item is a number: ``out[i] = function(a[i], b[i])``. Numbers are read and written once."""
    before = start * out.strides[0]
    call(closure, a.ctypes.data + before, b.ctypes.data + before, out.ctypes.data + before, stop - start, 0)
