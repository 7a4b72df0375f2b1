"""Depthwise convolution of channels-last arrays: kernels of 3, 5 or 7 columns, in blocks of windows.

Nothing is laid out. A block is some rows by some columns of windows, for a vector of channels: a row of x is read once
for all rows of windows that see it, and each of its numbers once for all columns. A block goes through the channels
vector by vector, then comes the next one in the row. Columns that lie in the padding are read from a vector of zeros;
rows there are left out.

On the way back to the weights the sums are those of the taps, and the windows of a block are terms.
"""

from typing import Any

import numpy as np
from numba.extending import intrinsic

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.depthwise import _by_vectors, by_number
from cnnkit.rooms.numba.emit import Emitter, UnitType, called, itemsize, lanes, unit
from cnnkit.rooms.numba.lines import parts
from cnnkit.rooms.numba.machine import REGISTERS, address_of, kernel
from cnnkit.rooms.numba.moves import AHEAD, transpose
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.tile import TileType, compiled

TAPS = (3, 5, 7)  # columns of a kernel
STRIDES = (1, 2)  # across: neighbouring windows share numbers
ROWS = 4 if REGISTERS >= 32 else 2  # of a block's windows
ACROSS = 4  # columns of a block's windows
BAND = 8  # rows of a block on the way back to the weights
BANDWIDTH = 4  # numbers read or written in a nanosecond, about
TERMS = 32  # multiply-adds in a nanosecond, about


class Kind:
    """What a loop is compiled for: a stride across, the columns of a kernel, vectors of a dtype."""

    def __init__(self, dtype: np.dtype, stride: int, taps: int) -> None:
        self._numba_type_ = TileType(stride, taps, UnitType(dtype.name, unit(dtype).lanes))


def takes(plan: ConvPlan) -> bool:
    """Whether a depthwise plan over three spatial axes is of the kind done here."""
    return (
        plan.kernel_size[2] in TAPS
        and plan.stride[2] in STRIDES
        and plan.kernel_size[0] == plan.stride[0] == 1
        and plan.dilation == lines.ONES
        and not plan.before[0]
        and not plan.after[0]
    )


def forward(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array) -> None:
    """Fill out (N, C, *spatial) from x (N, C, *spatial) and weight (C, 1, *kernel)."""
    taps = np.ascontiguousarray(weight)
    first = np.zeros(plan.out_channels, x.dtype) if bias is None else np.ascontiguousarray(bias)
    stride, columns = plan.stride[2], plan.kernel_size[2]
    threads.run(
        _forward, plan.batch * plan.output_size[0] * parts(plan.output_size[1], ROWS), _work(plan),
        unit(x.dtype), _sums_address(Kind(x.dtype, stride, columns)), lines.numbers(x), plan.out_channels,
        plan.kernel_size[1], columns, plan.stride[1], stride, plan.before[1:], address_of(taps), address_of(first),
        then, lines.numbers(out), keep=(x, taps, first, out),
    )  # fmt: skip


def weight_gradient(grad: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """Fill grad_weight (C, 1, *kernel) with sums over all windows of the output gradient times what the taps met."""
    stride, columns, vector = plan.stride[2], plan.kernel_size[2], unit(x.dtype)
    total = np.empty((plan.out_channels, volume(plan.kernel_size)), np.float64)
    threads.run(
        _weight_gradient, parts(plan.out_channels, vector.lanes), _work(plan),
        vector, _taps_address(Kind(x.dtype, stride, columns)), x.dtype.type(0), lines.numbers(grad), lines.numbers(x),
        plan.out_channels, plan.kernel_size[1], columns, plan.stride[1], stride, plan.before[1:],
        total, keep=(grad, x),
    )  # fmt: skip
    grad_weight[...] = total.reshape(grad_weight.shape)


def _work(plan: ConvPlan) -> float:
    """About how many nanoseconds a way takes."""
    outputs = plan.batch * plan.out_channels * volume(plan.output_size)
    return outputs * (2 / BANDWIDTH + volume(plan.kernel_size) / TERMS)


# ---------------------------------------------------------------- kernels


@straight
def _forward(
    start, stop, unit, loop, x_numbers, channels, high, wide, down, stride, before, weight, bias, then, out_numbers
):
    """A work item is `ROWS` rows of windows, of all channels: x is read once for all of them."""
    x, out = lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    bytes_, vector, taps = itemsize(unit), lanes(unit), high * wide
    nothing = np.zeros(vector * bytes_, np.uint8)
    packed = np.zeros((channels + vector) * taps * bytes_, np.uint8)
    for c in range(0, channels, vector):
        transpose(
            unit, packed.ctypes.data + c * taps * bytes_, vector, weight + c * taps * bytes_, taps,
            min(vector, channels - c), taps,
        )  # fmt: skip
    bands = (out.height + ROWS - 1) // ROWS
    row, band = divmod(start, bands)
    n, d = divmod(row, out.depth)
    for _ in range(start, stop):
        h, end = band * ROWS, min(out.height, band * ROWS + ROWS)
        here = ROWS
        while h < end:
            while here > end - h:
                here //= 2
            top = h * down - before[0]
            low, below = max(0, -top), min(x.height - top, (here - 1) * down + high)
            w, across = 0, ACROSS if out.width >= ACROSS else 1
            while w < out.width:
                w = min(w, out.width - across)
                to = out.address + (n * out.n + d * out.d + h * out.h + w * out.w) * bytes_
                left = w * stride - before[1]
                sums(
                    loop, here * 8 + across, to, out.h, out.w, bias, packed.ctypes.data,
                    x.address + (n * x.n + d * x.d + top * x.h + left * x.w) * bytes_, x.h, x.w, low, below, down,
                    high, left, x.width, nothing.ctypes.data, channels, then == RELU,
                )  # fmt: skip
                if then > RELU:
                    for i in range(here):
                        call(then, to + i * out.h * bytes_, to + i * out.h * bytes_, out.w, across, channels)
                w += across
            h += here
        band += 1
        if band == bands:
            band, d = 0, d + 1
        if d == out.depth:
            d, n = 0, n + 1


@straight
def _weight_gradient(
    start, stop, unit, loop, zero, grad_numbers, x_numbers, channels, high, wide, down, stride, before, total
):
    """A work item is a vector of channels; those of a thread go through the blocks together, in the order of memory.

    Sums over a block stay in registers; they are added up over an image, and images in float64.
    """
    grad, x = lines.block(unit, grad_numbers), lines.block(unit, x_numbers)
    bytes_, vector, taps = itemsize(unit), lanes(unit), high * wide
    first = start * vector
    own = min(stop * vector, channels) - first
    nothing = np.zeros(vector * bytes_, np.uint8)
    image = np.empty(((stop - start) * taps, vector), zero)
    whole = np.zeros(((stop - start) * taps, vector), np.float64)
    many = (grad.height + BAND - 1) // BAND
    rows = (grad.height + many - 1) // many
    for n in range(grad.batch):
        image[:] = 0
        for d in range(grad.depth):
            for h in range(0, grad.height, rows):
                top, here = h * down - before[0], min(rows, grad.height - h)
                w, some = 0, ACROSS
                while w < grad.width:
                    while some > grad.width - w:
                        some //= 2
                    left = w * stride - before[1]
                    taps_of_block(
                        loop, some, image.ctypes.data,
                        grad.address + (n * grad.n + d * grad.d + h * grad.h + w * grad.w + first) * bytes_,
                        grad.h, grad.w,
                        x.address + (n * x.n + d * x.d + top * x.h + left * x.w + first) * bytes_, x.h, x.w,
                        here, top, x.height, down, high, left, x.width, nothing.ctypes.data, own,
                    )  # fmt: skip
                    w += some
        for t in range((stop - start) * taps):
            for k in range(vector):
                whole[t, k] += image[t, k]
    for c in range(own):
        for t in range(taps):
            total[first + c, t] = whole[c // vector * taps + t, c % vector]


# ---------------------------------------------------------------- the loops


class _Columns:
    """Columns of a row of x that a block meets, from column `left` on; what lies in the padding is `nothing`."""

    def __init__(self, emit: Emitter, step: Any, left: Any, wide: Any, nothing: Any, count: int) -> None:
        self.emit, self.nothing, builder = emit, nothing, emit.builder
        numbers = [emit.number(k) for k in range(count)]
        self.offsets = [builder.mul(step, k) for k in numbers]
        self.inside = [builder.icmp_unsigned("<", builder.add(left, k), wide) for k in numbers]  # -1 is large here

    def __call__(self, row: Any, k: int) -> Any:
        return self.emit.builder.select(self.inside[k], self.emit.at(row, self.offsets[k]), self.nothing)


@intrinsic
def sums(
    typingctx: Any, loop: Any, case: Any, to: Any, to_row: Any, to_step: Any, first: Any, weight: Any, x: Any,
    x_row: Any, x_step: Any, low: Any, below: Any, down: Any, high: Any, left: Any, wide: Any, nothing: Any,
    channels: Any, relu: Any,
) -> Any:  # fmt: skip
    """Of a block of windows, for every channel, the sums over taps.

    TODO
    """
    return called(18)


def _emit_sums(
    emit: Emitter, kind: TileType, case: Any, to: Any, to_row: Any, to_step: Any, first: Any, weight: Any, x: Any,
    x_row: Any, x_step: Any, low: Any, below: Any, down: Any, high: Any, left: Any, wide: Any, nothing: Any,
    channels: Any, relu: Any,
) -> None:  # fmt: skip
    builder, stride, taps = emit.builder, kind.rows, kind.vectors
    to, first, weight, x, nothing = (emit.pointer(address) for address in (to, first, weight, x, nothing))
    count, all_taps = builder.sub(below, low), builder.mul(high, emit.number(taps))

    def block(rows: int, across: int) -> None:
        columns = _Columns(emit, x_step, left, wide, nothing, (across - 1) * stride + taps)

        def vector(c: Any, read: Any, write: Any) -> None:
            here, filters = emit.at(x, c), emit.at(weight, builder.mul(c, all_taps))

            def row(r: Any, acc: list[Any]) -> list[Any]:
                r = builder.add(r, low)
                source = emit.at(here, builder.mul(r, x_row))
                numbers = [read(columns(source, k)) for k in range((across - 1) * stride + taps)]
                results = []
                for i in range(rows):
                    t = builder.sub(r, builder.mul(down, emit.number(i)))
                    there = builder.zext(builder.icmp_unsigned("<", t, high), emit.index)
                    near = emit.at(filters, builder.mul(t, emit.number(taps * emit.lanes)))

                    def add(_: Any, own: list[Any], near: Any = near) -> list[Any]:
                        own = list(own)
                        for k in range(taps):
                            factor = emit.load_vector(emit.at(near, k * emit.lanes))
                            for j in range(across):
                                own[j] = builder.call(emit.fma, [factor, numbers[j * stride + k], own[j]])
                        return own

                    results += emit.accumulate(there, acc[i * across : (i + 1) * across], add)
                return results

            def ask(i: Any) -> None:
                line = emit.at(ahead, builder.mul(builder.add(next_rows, i), x_row))
                for k in range(across * stride):
                    emit.fetch(emit.at(line, k * emit.lanes), near=2)

            ahead = emit.at(x, builder.mul(c, emit.number(across * stride)))
            next_rows = builder.add(high, builder.mul(down, emit.number(rows - 1)))
            emit.loop(builder.mul(down, emit.number(rows)), ask)
            acc = emit.accumulate(count, [read(emit.at(first, c))] * rows * across, row)
            for i in range(rows):
                there = emit.at(emit.at(to, c), builder.mul(to_row, emit.number(i)))
                for j in range(across):
                    one = emit.at(there, builder.mul(to_step, emit.number(j)))
                    write(emit.relu(acc[i * across + j], relu), one)

        _by_vectors(emit, channels, vector)

    sizes = [(rows, across) for rows in (1, 2, 4) for across in (1, ACROSS) if rows <= ROWS]
    cases = {rows * 8 + across: (rows, across) for rows, across in sizes}
    by_number(emit, case, cases, lambda case: block(*cases[case]))


_sums_loop = compiled("depthwise_sums", 18, _emit_sums)


@kernel
def _sums_address(kind):
    return _sums_loop(kind)


@intrinsic
def taps_of_block(
    typingctx: Any, loop: Any, some: Any, to: Any, grad: Any, grad_row: Any, grad_step: Any, x: Any, x_row: Any,
    x_step: Any, rows: Any, top: Any, x_high: Any, down: Any, high: Any, left: Any, wide: Any, nothing: Any,
    channels: Any,
) -> Any:  # fmt: skip
    """TODO."""
    return called(17)


def _emit_taps(
    emit: Emitter, kind: TileType, some: Any, to: Any, grad: Any, grad_row: Any, grad_step: Any, x: Any, x_row: Any,
    x_step: Any, rows: Any, top: Any, x_high: Any, down: Any, high: Any, left: Any, wide: Any, nothing: Any,
    channels: Any,
) -> None:  # fmt: skip
    builder, stride, taps = emit.builder, kind.rows, kind.vectors
    to, grad, x, nothing = (emit.pointer(address) for address in (to, grad, x, nothing))
    all_taps = builder.mul(high, emit.number(taps))

    def block(many: int) -> None:
        columns = _Columns(emit, x_step, left, wide, nothing, (many - 1) * stride + taps)
        at_once = max(1, min(taps, (REGISTERS - 3 - many) // taps))
        groups = builder.udiv(builder.add(high, emit.number(at_once - 1)), emit.number(at_once))

        def vector(c: Any, read: Any, write: Any) -> None:
            here, there, total = emit.at(x, c), emit.at(grad, c), emit.at(to, builder.mul(c, all_taps))

            def some_taps(group: Any) -> None:
                begin = builder.mul(group, emit.number(at_once))
                met = [
                    builder.icmp_signed("<", builder.add(begin, emit.number(g)), high) for g in range(at_once)
                ]

                def row(h: Any, acc: list[Any]) -> list[Any]:
                    source = emit.at(there, builder.mul(h, grad_row))
                    grads = []
                    for j in range(many):
                        one = emit.at(source, builder.mul(grad_step, emit.number(j)))
                        grads.append(read(one))
                    y = builder.add(builder.mul(h, down), begin)
                    results = []
                    for g in range(at_once):
                        r = builder.add(y, emit.number(g))
                        inside = builder.icmp_unsigned("<", builder.add(r, top), x_high)
                        inside = builder.zext(builder.and_(inside, met[g]), emit.index)
                        line = emit.at(here, builder.mul(r, x_row))

                        def add(_: Any, own: list[Any], line: Any = line, g: int = g) -> list[Any]:
                            own = list(own)
                            for q in range((many - 1) * stride + taps):
                                pairs = [(j, q - j * stride) for j in range(many) if 0 <= q - j * stride < taps]
                                number = read(columns(line, q)) if pairs else None
                                for j, k in pairs:
                                    own[k] = builder.call(emit.fma, [grads[j], number, own[k]])
                            return own

                        results += emit.accumulate(inside, acc[g * taps : (g + 1) * taps], add)
                    return results

                acc = emit.accumulate(rows, [emit.zero()] * at_once * taps, row)
                for g in range(at_once):
                    place = emit.at(
                        total, builder.mul(builder.add(begin, emit.number(g)), emit.number(taps * emit.lanes))
                    )

                    def add_up(_: Any, place: Any = place, own: Any = acc[g * taps : (g + 1) * taps]) -> None:
                        for k, value in enumerate(own):
                            one = emit.at(place, k * emit.lanes)
                            emit.store_vector(builder.fadd(emit.load_vector(one), value), one)

                    emit.loop(builder.zext(met[g], emit.index), add_up)

            def ask(i: Any) -> None:
                line = emit.at(ahead_grad, builder.mul(builder.add(rows, i), grad_row))
                for k in range(many):
                    emit.fetch(emit.at(line, k * emit.lanes), near=2)

            def ask_x(i: Any) -> None:
                line = emit.at(ahead_x, builder.mul(builder.add(next_rows, i), x_row))
                for k in range(many * stride):
                    emit.fetch(emit.at(line, k * emit.lanes), near=2)

            ahead_grad = emit.at(grad, builder.mul(c, emit.number(many)))
            ahead_x = emit.at(x, builder.mul(c, emit.number(many * stride)))
            next_rows = builder.sub(builder.add(high, builder.mul(down, rows)), down)
            emit.loop(rows, ask)
            emit.loop(builder.mul(down, rows), ask_x)
            emit.loop(groups, some_taps)

        _by_vectors(emit, channels, vector)

    by_number(emit, some, (1, 2, 4), block)


_taps_loop = compiled("depthwise_taps", 17, _emit_taps)


@kernel
def _taps_address(kind):
    return _taps_loop(kind)
