"""Depthwise convolution of planes: square kernels of 3, 5 or 7, where rows lie together in memory.

Nothing is laid out. A vector of columns of the results goes down a plane: each row of x is read once for each column of
taps, and meets all rows of taps at once, which are as many rows of results under way (without stride).

    row of x:    r - 1       r         r + 1
    results      r - 2 done  r - 1     r      done when the row below them has been met
                 r - 1       r         r + 1
                 r           r + 1     r + 2

The way back to the input is the same with the taps reversed; on the way back to the weights rows of the output
gradient take the places of rows of results, and each tap has a sum of its own.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, volume
from cnnkit.rooms import threads
from cnnkit.rooms.numba import lines
from cnnkit.rooms.numba.activation import RELU, call
from cnnkit.rooms.numba.depthwise import by_number
from cnnkit.rooms.numba.emit import Emitter, emitted, itemsize, lanes, unit
from cnnkit.rooms.numba.machine import REGISTERS, address_of
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.tile import sum_lanes

TAPS = (3, 5, 7)  # along either axis
AHEAD = 8192  # bytes that are fetched before they are needed: the next rows, which begin in other pages of memory
NEAR = 4096  # bytes of rows that are taken from left to right at a time: memory is read in its order, nearly
BANDWIDTH = 4  # numbers read or written in a nanosecond, about
TERMS = 32  # multiply-adds in a nanosecond, about


def takes(plan: ConvPlan, most: int, *given: Array) -> bool:
    """Whether a plan over three spatial axes is of the kind done here: one input channel for each output, a stride of
    `most` at most (2 forward, 1 on the way back to the weights).
    """
    taps = plan.kernel_size[2]
    return (
        plan.in_channels == plan.groups
        and plan.kernel_size == (1, taps, taps)
        and taps in TAPS
        and plan.stride == (1, plan.stride[2], plan.stride[2])
        and plan.stride[2] <= most
        and plan.dilation == lines.ONES
        and not plan.before[0]
        and not plan.after[0]
        and max(plan.before) < taps
        and all(array.strides[-1] == array.itemsize for array in given)
    )


def forward(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, then: int, out: Array) -> None:
    """Fill out (N, C_out, *spatial) from x (N, C, *spatial) and weight (C_out, 1, *kernel)."""
    taps = np.ascontiguousarray(weight)
    first = np.zeros(plan.out_channels, x.dtype) if bias is None else np.ascontiguousarray(bias)
    threads.run(
        _forward, plan.batch * plan.out_channels, _work(plan),
        unit(x.dtype), lines.numbers(x), plan.out_channels, plan.out_channels // plan.groups, plan.kernel_size[2],
        plan.stride[2], plan.before[1:], address_of(taps), address_of(first), then, lines.numbers(out),
        keep=(x, taps, first, out),
    )  # fmt: skip


def weight_gradient(grad: Array, x: Array, plan: ConvPlan, total: Array) -> None:
    """Fill total (C_out, taps) with the sums over all windows of the output gradient times what the taps met."""
    threads.run(
        _weight_gradient, plan.out_channels, _work(plan),
        unit(x.dtype), lines.numbers(grad), lines.numbers(x), plan.out_channels // plan.groups, plan.kernel_size[2],
        plan.before[1:], total, keep=(grad, x),
    )  # fmt: skip


def _work(plan: ConvPlan) -> float:
    """About how many nanoseconds a way takes."""
    outputs = plan.batch * plan.out_channels * volume(plan.output_size)
    return outputs * (2 / BANDWIDTH + volume(plan.kernel_size) / TERMS)


@straight
def _forward(start, stop, unit, x_numbers, channels, each, taps, stride, before, weight, bias, then, out_numbers):
    """A work item is a channel of an image: its planes are read once and written once."""
    x, out = lines.block(unit, x_numbers), lines.block(unit, out_numbers)
    bytes_, area = itemsize(unit), taps * taps
    nothing = np.zeros((x.width + lanes(unit)) * bytes_, np.uint8)
    band = max(4 * taps, NEAR // (x.width * bytes_))
    for item in range(start, stop):
        n, o = divmod(item, channels)
        for d in range(out.depth):
            to = out.address + (n * out.n + o * out.c + d * out.d) * bytes_
            plane = x.address + (n * x.n + o // each * x.c + d * x.d) * bytes_
            filters, first = weight + o * area * bytes_, bias + o * bytes_
            for h in range(0, out.height, band):
                row, above, rows = to + h * out.h * bytes_, before[0] - h * stride, min(band, out.height - h)
                if stride == 1:
                    planes(
                        unit, taps, row, out.h, plane, x.h, nothing.ctypes.data, filters, first, then == RELU,
                        x.height, x.width, above, before[1], rows, out.width,
                    )  # fmt: skip
                else:
                    every_other(
                        unit, taps, row, out.h, plane, x.h, nothing.ctypes.data, filters, first, then == RELU,
                        x.height, x.width, above, before[1], rows, out.width,
                    )  # fmt: skip
            if then > RELU:
                call(then, to, to, out.h, out.height, out.width)


@straight
def _weight_gradient(start, stop, unit, grad_numbers, x_numbers, each, taps, before, total):
    """A work item is an output channel; those of a thread go through the images together, in the order of memory.

    Sums over a plane stay in registers; planes are added up in float64.
    """
    grad, x = lines.block(unit, grad_numbers), lines.block(unit, x_numbers)
    bytes_, area = itemsize(unit), taps * taps
    nothing = np.zeros((x.width + lanes(unit)) * bytes_, np.uint8)
    of_plane, sums = np.empty(area, total.dtype), np.zeros((stop - start, area), np.float64)
    for n in range(grad.batch):
        for o in range(start, stop):
            for d in range(grad.depth):
                plane_grad = grad.address + (n * grad.n + o * grad.c + d * grad.d) * bytes_
                plane = x.address + (n * x.n + o // each * x.c + d * x.d) * bytes_
                plane_taps(
                    unit, taps, of_plane.ctypes.data, plane_grad, grad.h, plane, x.h, nothing.ctypes.data,
                    x.height, x.width, before[0], before[1], grad.height, grad.width,
                )  # fmt: skip
                for t in range(area):
                    sums[o - start, t] += of_plane[t]
    for o in range(start, stop):
        for t in range(area):
            total[o, t] = sums[o - start, t]


# ---------------------------------------------------------------- the loops


class _Rows:
    """Rows of x as a vector of columns of results meets them, from column `first` on."""

    def __init__(self, emit: Emitter, x: Any, step: Any, nothing: Any, high: Any, wide: Any, above: Any) -> None:
        self.emit, self.x, self.step, self.nothing = emit, x, step, nothing
        self.high, self.wide, self.above = high, wide, above

    def __call__(self, r: Any) -> Any:
        """The r-th row from the top of the padding on."""
        builder = self.emit.builder
        y = builder.sub(r, self.above)
        inside = builder.icmp_unsigned("<", y, self.high)  # -1 is a large number here
        return builder.select(inside, self.emit.at(self.x, builder.mul(y, self.step)), self.nothing)

    def columns(self, first: Any, count: Any) -> tuple[Any, Any]:
        """Where the vector begins that `count` results see from column `first` on, maybe in the padding; its mask."""
        builder, emit = self.emit.builder, self.emit
        inside = emit.lanes_from_to(builder.neg(first), builder.sub(self.wide, first))
        return first, builder.and_(inside, emit.lanes_below(count))


@intrinsic
def planes(
    typingctx: Any, unit: Any, taps: Any, to: Any, to_step: Any, x: Any, x_step: Any, nothing: Any, weight: Any,
    bias: Any, relu: Any, high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> Any:  # fmt: skip
    """``to[h, w] = bias + sum over i, j < taps of weight[i, j] * x[h + i - above, w + j - left]``, zeros around x.

    For h < `rows`, w < `columns`; x has `high` rows of `wide` numbers, and `nothing` is one of zeros. Addresses, but
    for steps from row to row (elements), sizes, and `relu` (0 or 1). Nothing else is read or written.
    """
    return types.void(unit, *(types.intp,) * 15), emitted("planes", 15, _emit_planes)


def _emit_planes(
    emit: Emitter, taps: Any, to: Any, to_step: Any, x: Any, x_step: Any, nothing: Any, weight: Any, bias: Any,
    relu: Any, high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> None:  # fmt: skip
    """Two vectors of columns at a time for 3 x 3 taps, whose sums would wait for themselves; one for more."""
    builder = emit.builder
    to, x, nothing, weight, bias = (emit.pointer(address) for address in (to, x, nothing, weight, bias))
    row_of = _Rows(emit, x, x_step, nothing, high, wide, above)
    start = emit.broadcast(bias)

    def down(size: int, vectors: int, first: Any) -> None:
        """`vectors` columns of vectors from one on; the result that is done first comes first among the sums."""
        each = [builder.add(first, emit.number(v * emit.lanes)) for v in range(vectors)]
        left_over = [builder.sub(columns, column) for column in each]
        masks = [emit.lanes_below(count) for count in left_over]
        seen = [
            [row_of.columns(builder.add(builder.sub(column, left), emit.number(k)), count) for k in range(size)]
            for column, count in zip(each, left_over, strict=True)
        ]
        near = [emit.broadcast(emit.at(weight, t)) for t in range(size * size)] if size == TAPS[0] else None

        def row(r: Any, sums: list[Any]) -> list[Any]:
            source, sums = row_of(r), list(sums)
            if size > TAPS[0]:  # with fewer, the processor's own fetching keeps up
                for column in each:
                    emit.fetch(emit.at(source, column), AHEAD)
                    emit.fetch(emit.at(emit.at(to, builder.mul(r, to_step)), column), AHEAD, write=True)
            for k in range(size):
                values = [emit.load_masked(emit.at(source, at), mask) for at, mask in (one[k] for one in seen)]
                for j in range(size):
                    t = (size - 1 - j) * size + k
                    factor = near[t] if near else emit.broadcast(emit.at(weight, t))
                    for v, value in enumerate(values):
                        n = j * vectors + v
                        sums[n] = builder.call(emit.fma, [factor, value, sums[n]])
            done = builder.sub(r, emit.number(size - 1))
            done = builder.select(builder.icmp_signed("<", done, emit.number(0)), emit.number(0), done)  # stored anew
            there = emit.at(to, builder.mul(done, to_step))
            for column, mask, value in zip(each, masks, sums, strict=False):
                emit.store_masked(emit.relu(value, relu), emit.at(there, column), mask)
            return [*sums[vectors:], *[start] * vectors]

        emit.accumulate(builder.add(rows, emit.number(size - 1)), [start] * size * vectors, row)

    def all_columns(size: int) -> None:
        most = 2 if size == TAPS[0] else 1
        wide_ = emit.number(most * emit.lanes)
        blocks = builder.udiv(builder.add(columns, emit.number(emit.lanes - 1)), wide_)
        emit.loop(blocks, lambda b: down(size, most, builder.mul(b, wide_)))
        done = builder.mul(blocks, wide_)
        more = builder.icmp_signed("<", done, columns)
        emit.loop(builder.zext(more, emit.index), lambda _: down(size, 1, done))

    by_number(emit, taps, TAPS, all_columns)


@intrinsic
def every_other(
    typingctx: Any, unit: Any, taps: Any, to: Any, to_step: Any, x: Any, x_step: Any, nothing: Any, weight: Any,
    bias: Any, relu: Any, high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> Any:  # fmt: skip
    """As `planes` with a stride of 2: ``x[2 * h + i - above, 2 * w + j - left]``."""
    return types.void(unit, *(types.intp,) * 15), emitted("every_other", 15, _emit_every_other)


def _emit_every_other(
    emit: Emitter, taps: Any, to: Any, to_step: Any, x: Any, x_step: Any, nothing: Any, weight: Any, bias: Any,
    relu: Any, high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> None:  # fmt: skip
    """A row of results at a time: two vectors of x are the numbers of two neighbouring taps."""
    builder, two, whole = emit.builder, emit.number(2), emit.number(emit.lanes)
    to, x, nothing, weight, bias = (emit.pointer(address) for address in (to, x, nothing, weight, bias))
    row_of = _Rows(emit, x, x_step, nothing, high, wide, above)
    start = emit.broadcast(bias)

    def vector(size: int, first: Any) -> None:
        count = builder.sub(columns, first)
        mask, begin = emit.lanes_below(count), builder.sub(builder.mul(first, two), left)
        pairs = [
            [row_of.columns(builder.add(begin, emit.number(k + n * emit.lanes)), whole) for n in range(2)]
            for k in range(0, size, 2)
        ]

        def row(r: Any) -> None:
            total = start
            for i in range(size):
                source = row_of(builder.add(builder.mul(r, two), emit.number(i)))
                if i < 2:  # what later rows of results see
                    for at in (begin, builder.add(begin, whole)):
                        emit.fetch(emit.at(source, at), AHEAD)
                for pair, places in enumerate(pairs):
                    numbers = [emit.load_masked(emit.at(source, at), inside) for at, inside in places]
                    for odd in range(min(2, size - 2 * pair)):
                        order = range(odd, 2 * emit.lanes, 2)
                        factor = emit.broadcast(emit.at(weight, i * size + 2 * pair + odd))
                        total = builder.call(emit.fma, [factor, emit.shuffle(*numbers, order), total])
            there = emit.at(emit.at(to, builder.mul(r, to_step)), first)
            emit.store_masked(emit.relu(total, relu), there, mask)

        emit.loop(rows, row)

    def all_columns(size: int) -> None:
        blocks = builder.udiv(builder.add(columns, emit.number(emit.lanes - 1)), emit.number(emit.lanes))
        emit.loop(blocks, lambda b: vector(size, builder.mul(b, emit.number(emit.lanes))))

    by_number(emit, taps, TAPS, all_columns)


@intrinsic
def plane_taps(
    typingctx: Any, unit: Any, taps: Any, to: Any, grad: Any, grad_step: Any, x: Any, x_step: Any, nothing: Any,
    high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> Any:  # fmt: skip
    """``to[i * taps + j] = sum over h < rows, w < columns of grad[h, w] * x[h + i - above, w + j - left]``.

    With zeros around x, and arguments as those of `planes`.
    """
    return types.void(unit, *(types.intp,) * 13), emitted("plane_taps", 13, _emit_plane_taps)


def _emit_plane_taps(
    emit: Emitter, taps: Any, to: Any, grad: Any, grad_step: Any, x: Any, x_step: Any, nothing: Any, high: Any,
    wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> None:  # fmt: skip
    """As many columns of taps at a time as leave registers for rows of gradients.

    Only the first and the last rows of x meet fewer rows of gradients than there are taps; no number is multiplied by a
    zero that stands for a gradient, for it may be no number.
    """
    builder, zero = emit.builder, emit.number(0)
    to, grad, x, nothing = (emit.pointer(address) for address in (to, grad, x, nothing))
    row_of = _Rows(emit, x, x_step, nothing, high, wide, above)
    blocks = builder.udiv(builder.add(columns, emit.number(emit.lanes - 1)), emit.number(emit.lanes))

    def least(a: Any, b: Any) -> Any:
        return builder.select(builder.icmp_signed("<", a, b), a, b)

    def taps_of(size: int, some: range) -> None:
        across = len(some)
        whole = emit.number(size - 1)
        full = at_least_zero(builder.sub(rows, whole))  # rows that meet all taps

        def block(b: Any, sums: list[Any]) -> list[Any]:
            first = builder.mul(b, emit.number(emit.lanes))
            count = builder.sub(columns, first)
            mask = emit.lanes_below(count)
            seen = [row_of.columns(builder.add(builder.sub(first, left), emit.number(k)), count) for k in some]

            def values(r: Any) -> list[Any]:
                source = row_of(r)
                emit.fetch(emit.at(source, first), AHEAD)
                return [emit.load_masked(emit.at(source, at), inside) for at, inside in seen]

            def grads(h: Any) -> Any:
                one = emit.at(emit.at(grad, builder.mul(h, grad_step)), first)
                emit.fetch(one, AHEAD)
                return emit.load_masked(one, mask)

            def edge(r: Any, sums: list[Any]) -> list[Any]:
                met, results = values(r), []
                for i in range(size):
                    h = builder.sub(r, emit.number(i))
                    there = builder.zext(builder.icmp_unsigned("<", h, rows), emit.index)
                    own = sums[i * across : (i + 1) * across]

                    def add(_: Any, own: list[Any], h: Any = h) -> list[Any]:
                        left_factor = grads(h)
                        terms = zip(met, own, strict=True)
                        return [builder.call(emit.fma, [left_factor, value, old]) for value, old in terms]

                    results += emit.accumulate(there, own, add)
                return results

            def middle(r: Any, state: list[Any]) -> list[Any]:
                r = builder.add(r, whole)
                sums, rows_ = list(state[: size * across]), [grads(r), *state[size * across :]]
                for k, value in enumerate(values(r)):
                    for i, left_factor in enumerate(rows_):
                        n = i * across + k
                        sums[n] = builder.call(emit.fma, [left_factor, value, sums[n]])
                return [*sums, *rows_[:-1]]

            sums = emit.accumulate(whole, sums, edge)
            last = builder.sub(rows, emit.number(1))
            before = [grads(least(emit.number(size - 1 - i), last)) for i in range(1, size)]
            sums = emit.accumulate(full, [*sums, *before], middle)[: size * across]
            begin = builder.add(whole, full)
            return emit.accumulate(builder.sub(rows, full), sums, lambda r, sums: edge(builder.add(begin, r), sums))

        totals = emit.accumulate(blocks, [emit.zero()] * size * across, block)
        for first in range(0, len(totals), emit.lanes):
            some_totals = totals[first : first + emit.lanes]
            summed = sum_lanes(emit, some_totals)
            for lane in range(len(some_totals)):
                i, k = divmod(first + lane, across)
                number = builder.extract_element(summed, ir.Constant(ir.IntType(32), lane))
                builder.store(number, emit.at(to, i * size + some[k]))

    def at_least_zero(a: Any) -> Any:
        return builder.select(builder.icmp_signed("<", a, zero), zero, a)

    def all_taps(size: int) -> None:
        at_once = (REGISTERS - size - 2) // size
        for first in range(0, size, at_once):
            taps_of(size, range(first, min(first + at_once, size)))

    by_number(emit, taps, TAPS, all_taps)
