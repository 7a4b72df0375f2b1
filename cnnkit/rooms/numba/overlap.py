"""The input gradient of a convolution of few windows: what each window gives to its taps, added up where they overlap.

As a convolution, every element of the gradient is a sum over all taps, of which most lie in the padding if windows are
few: 7x7 taps for each element of 8x8, but 4 windows. Here each window is a dense layer, from its output channels to all
that it saw, and no product is with padding.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from cnnkit import settings
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.dense import multiply
from cnnkit.rooms.numba.emit import Emitter, emitted, itemsize, unit
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import FMAS, VECTOR_BYTES, address_of
from cnnkit.rooms.numba.straight import straight

A_ROW = 10  # cycles to store, load and add a row of taps, about
CLEARLY = 1.2  # how much faster it must be than a convolution
NUMBERS = 4  # added up in a nanosecond, about


def takes(plan: ConvPlan, weight: Array, filled: Array) -> bool:
    """Whether a plan over three spatial axes has so few windows that this is clearly faster than a convolution."""
    near = filled.strides[-1] == filled.itemsize and weight.flags.c_contiguous
    shares = volume(plan.output_size) * plan.in_channels * volume(plan.kernel_size) * filled.itemsize
    return near and shares <= settings.current().max_workspace and _pays(plan, filled.dtype)


@lru_cache(1024)
def _pays(plan: ConvPlan, dtype: np.dtype) -> bool:
    """Compares cycles for a channel of an image, if multiply-adds take their time and nothing else does."""
    if plan.groups > 1 or plan.dilation[2] > 1:
        return False
    taps, windows, lanes_ = volume(plan.kernel_size), volume(plan.output_size), VECTOR_BYTES // dtype.itemsize
    a_tap = plan.out_channels / lanes_ / FMAS
    rows = windows * volume(plan.kernel_size[:2]) * parts(plan.kernel_size[2], lanes_)
    here = windows * taps * a_tap + rows * A_ROW
    return here * CLEARLY < volume(plan.input_size) * taps / volume(plan.stride) * a_tap


def input_gradient(grad_output: Array, weight: Array, plan: ConvPlan, grad_x: Array) -> None:
    """Add to grad_x (N, C_in, *spatial), by a plan over three axes: all the images at once that there is room for."""
    windows, seen = volume(plan.output_size), plan.in_channels * volume(plan.kernel_size)
    at_once = max(1, settings.current().max_workspace // (windows * seen * grad_x.itemsize))
    filters, vector = weight.reshape(len(weight), seen), unit(grad_x.dtype)
    for first in range(0, plan.batch, at_once):
        some = slice(first, min(first + at_once, plan.batch))
        grads, to = grad_output[some], grad_x[some]
        given = grads.reshape(len(grads), len(weight), windows).swapaxes(1, 2).reshape(-1, len(weight))
        shares = np.empty((len(given), seen), grad_x.dtype)
        multiply(given, filters, shares)
        threads.run(
            _add_up, len(to) * plan.in_channels, shares.size / NUMBERS,
            vector, address_of(shares), lines.numbers(to), plan.in_channels, plan.output_size, plan.kernel_size,
            plan.stride, plan.dilation, plan.before, keep=(shares, to),
        )  # fmt: skip


@straight
def _add_up(start, stop, unit, shares, x_numbers, channels, windows, kernel, stride, dilation, before):
    """A work item is a channel of an image: rows of x, to each of which rows of taps of its windows are added."""
    x, bytes_ = lines.block(unit, x_numbers), itemsize(unit)
    taps = kernel[0] * kernel[1] * kernel[2]
    n, c = divmod(start, channels)
    for _ in range(start, stop):
        plane = x.address + (n * x.n + c * x.c) * bytes_
        for d in range(windows[0]):
            for h in range(windows[1]):
                first = ((n * windows[0] + d) * windows[1] + h) * windows[2]
                source = shares + (first * channels + c) * taps * bytes_
                for kd in range(kernel[0]):
                    z = d * stride[0] + kd * dilation[0] - before[0]
                    for kh in range(kernel[1]):
                        y = h * stride[1] + kh * dilation[1] - before[1]
                        if 0 <= z < x.depth and 0 <= y < x.height:
                            add_row(
                                unit, plane + (z * x.d + y * x.h) * bytes_, x.width,
                                source + (kd * kernel[1] + kh) * kernel[2] * bytes_, channels * taps, windows[2],
                                stride[2], before[2], kernel[2],
                            )  # fmt: skip
        c += 1
        if c == channels:
            n, c = n + 1, 0


@intrinsic
def add_row(
    typingctx: Any, unit: Any, to: Any, width: Any, source: Any, step: Any, windows: Any, stride: Any, before: Any,
    taps: Any,
) -> Any:  # fmt: skip
    """``to[o * stride + k - before] += source[o * step + k]`` for o < `windows`, k < `taps`, if it is below `width`.

    Addresses and numbers; nothing else is read or written.
    """
    return types.void(unit, *(types.intp,) * 8), emitted("add_row", 8, _emit_add_row)


def _emit_add_row(
    emit: Emitter, to: Any, width: Any, source: Any, step: Any, windows: Any, stride: Any, before: Any, taps: Any
) -> None:
    """Vectors of `to`, to each of which the windows that reach it are added in order."""
    builder, zero, lanes = emit.builder, emit.number(0), emit.number(emit.lanes)
    to, source = emit.pointer(to), emit.pointer(source)

    def at_least(a: Any, b: Any) -> Any:
        return builder.select(builder.icmp_signed(">", a, b), a, b)

    def vector(v: Any) -> None:
        column = builder.mul(v, lanes)
        place = builder.add(column, before)  # of lane 0, counted from the first tap of window 0
        # windows first <= o < end have o * stride <= place + lanes - 1 and o * stride + taps > place
        first = builder.sdiv(at_least(builder.add(builder.sub(place, taps), stride), zero), stride)
        end = builder.add(builder.sdiv(builder.add(place, emit.number(emit.lanes - 1)), stride), emit.number(1))
        end = builder.select(builder.icmp_signed("<", end, windows), end, windows)
        inside = emit.lanes_below(builder.sub(width, column))
        there = emit.at(to, column)

        def window(o: Any, acc: list[Any]) -> list[Any]:
            o = builder.add(first, o)
            tap = builder.sub(place, builder.mul(o, stride))  # of lane 0, which may lie before the window
            mask = emit.lanes_from_to(builder.neg(tap), builder.sub(taps, tap))
            row = emit.at(source, builder.add(builder.mul(o, step), tap))
            return [builder.fadd(acc[0], emit.load_masked(row, mask))]

        summed = emit.accumulate(builder.sub(end, first), [emit.load_masked(there, inside)], window)
        emit.store_masked(summed[0], there, inside)

    emit.loop(builder.udiv(builder.add(width, emit.number(emit.lanes - 1)), lanes), vector)
