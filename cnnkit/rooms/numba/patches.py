"""The steps of a Winograd convolution F(4x4, 3x3), emitted as LLVM vector code; `winograd.py` says how they meet.

Lanes are channels everywhere, so no shape of an image wastes any. With the points 0, ±A, ±B and infinity, sizes that
keep the rounding errors small, and whose powers are exact in float32, a patch d of 6x6 inputs, a filter g of 3x3 and a
patch y of 4x4 outputs are tied by three small matrices (Lavin and Gray 2016, arXiv:1509.09308):

    y = T' [(F g F') * (S d S')] T        S 6x6, F 6x3, T' 4x6, * element by element

Each step does both sides of one product: `spectrum` S d S', `filters` F g F', `outputs` T' m T; `product` sums over the
channels between them, for one of the 36 elements. The way back to the filters, of which y is a linear function, is

    gradient of g = F' [(T gy T') * (S d S')] F        gy the gradient of y

with `gradients` T gy T' and `weights` F' m F, and sums over tiles between them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnkit.rooms.numba.emit import Emitter, emitted

A, B = 5 / 8, 3 / 2
AA, BB = A * A, B * B


# ---------------------------------------------------------------- one side of each transform


class _Arithmetic:
    """Sums of vectors times constants."""

    def __init__(self, emit: Emitter) -> None:
        self.emit, self.builder = emit, emit.builder

    def number(self, value: float) -> ir.Constant:
        return ir.Constant(self.emit.vector, [float(np.float32(value))] * self.emit.lanes)

    def plus(self, a: Any, factor: float, b: Any) -> Any:
        """a + factor * b."""
        if factor in (1, -1):
            return self.builder.fadd(a, b) if factor == 1 else self.builder.fsub(a, b)
        return self.builder.call(self.emit.fma, [self.number(factor), b, a])

    def times(self, factor: float, a: Any) -> Any:
        return self.builder.fmul(self.number(factor), a)

    def to_spectrum(self, d: list[Any], part: int | None = None) -> list[Any]:
        """S d: the patch's polynomial with every root but one divided out; all of it or one of four parts."""
        if part is None:
            return [one for part in range(4) for one in self.to_spectrum(d, part)]
        if part in (0, 3):
            at = part // 3
            return [self.plus(self.plus(d[4 + at], -(AA + BB), d[2 + at]), AA * BB, d[at])]
        point, other = ((A, BB), (B, AA))[part - 1]
        even, odd = self.plus(d[4], -other, d[2]), self.times(point, self.plus(d[3], -other, d[1]))
        return [self.plus(even, 1, odd), self.plus(even, -1, odd)]

    def to_filters(self, g: list[Any]) -> list[Any]:
        """F g: the filter's polynomial at every point, over the product of the distances to the others."""
        points = []
        for point, other in ((A, B), (B, A)):
            scale = _scale(point, other)
            even = self.times(scale, self.plus(g[0], point**2, g[2]))
            points += [self.plus(even, scale * point, g[1]), self.plus(even, -scale * point, g[1])]
        return [self.times(1 / (AA * BB), g[0]), *points, g[2]]

    def to_outputs(self, m: list[Any]) -> list[Any]:
        """T' m: sums over the points, weighted by their powers."""
        (p, q), (r, s) = ((self.plus(m[k], 1, m[k + 1]), self.plus(m[k], -1, m[k + 1])) for k in (1, 3))
        return [
            self.plus(m[0], 1, self.plus(p, 1, r)),
            self.plus(self.times(A, q), B, s),
            self.plus(self.times(AA, p), BB, r),
            self.plus(self.plus(m[5], A**3, q), B**3, s),
        ]

    def from_outputs(self, y: list[Any]) -> list[Any]:
        """T y: the polynomial of the outputs' gradients at every point."""
        points = []
        for point in (A, B):
            even, odd = self.plus(y[0], point**2, y[2]), self.times(point, self.plus(y[1], point**2, y[3]))
            points += [self.plus(even, 1, odd), self.plus(even, -1, odd)]
        return [y[0], *points, y[3]]

    def from_filters(self, m: list[Any]) -> list[Any]:
        """F' m: what each tap had a part in."""
        (p, q), (r, s) = ((self.plus(m[k], 1, m[k + 1]), self.plus(m[k], -1, m[k + 1])) for k in (1, 3))
        a, b = (_scale(*points) for points in ((A, B), (B, A)))
        return [
            self.plus(self.plus(self.times(1 / (AA * BB), m[0]), a, p), b, r),
            self.plus(self.times(a * A, q), b * B, s),
            self.plus(self.plus(m[5], a * AA, p), b * BB, r),
        ]


def _scale(point: float, other: float) -> float:
    """One over the product of a point's distances to the other ones."""
    return 1 / (2 * point**2 * (point**2 - other**2))


def _both_sides(transform: Callable[[list[Any]], list[Any]], square: list[list[Any]]) -> list[list[Any]]:
    """`transform` along the columns and then along the rows."""
    columns = [transform(list(column)) for column in zip(*square, strict=True)]
    return [transform(list(row)) for row in zip(*columns, strict=True)]


def _rows_of_lanes(emit: Emitter, source: Any, step: Any, count: Any) -> list[Any]:
    """Where each lane's data begin: ``source + lane * step``; lanes from `count` on repeat the last one."""
    builder, last = emit.builder, emit.builder.sub(count, emit.number(1))
    lanes = [emit.number(lane) for lane in range(emit.lanes)]
    lanes = [builder.select(builder.icmp_signed("<", lane, count), lane, last) for lane in lanes]
    return [builder.gep(source, [builder.mul(lane, step)]) for lane in lanes]


def _prefetch(emit: Emitter, pointer: Any, write: bool = False) -> None:
    """Ask for the cache line at an address, which need not be ours."""
    word = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), word, word, word])
    function = cgutils.get_or_insert_function(emit.builder.module, kind, "llvm.prefetch.p0")
    where = emit.builder.bitcast(pointer, ir.IntType(8).as_pointer())
    emit.builder.call(function, [where, *(ir.Constant(word, n) for n in (int(write), 3, 1))])


# ---------------------------------------------------------------- the steps


@intrinsic
def turn(typingctx: Any, unit: Any, to: Any, source: Any, step: Any, channels: Any, count: Any) -> Any:
    """``to[p * lanes + c] = source[c * step + p]`` for p < count: the channels of a pixel come to lie side by side.

    Addresses, but for `step` (elements), `channels` (how many there are; what lies in the lanes behind them is of no
    meaning) and `count`. Up to `lanes` - 1 pixels more are written.
    """
    return types.void(unit, *(types.intp,) * 5), emitted("turn", 5, _emit_turn)


def _emit_turn(emit: Emitter, to: Any, source: Any, step: Any, channels: Any, count: Any) -> None:
    builder = emit.builder
    to = emit.pointer(to)
    rows = _rows_of_lanes(emit, emit.pointer(source), step, channels)

    def block(t: Any, acc: list[Any]) -> list[Any]:
        p = builder.mul(t, emit.number(emit.lanes))
        mask = emit.lanes_below(builder.sub(count, p))
        pixels = emit.transposed([emit.load_masked(emit.at(row, p), mask) for row in rows])
        there = emit.at(to, builder.mul(p, emit.number(emit.lanes)))
        for i, pixel in enumerate(pixels):
            emit.store_vector(pixel, emit.at(there, i * emit.lanes))
        return []

    blocks = builder.udiv(builder.add(count, emit.number(emit.lanes - 1)), emit.number(emit.lanes))
    emit.accumulate(blocks, [], block)


@intrinsic
def spectrum(typingctx: Any, unit: Any, to: Any, plane: Any, source: Any, row: Any) -> Any:
    """S d S' of the patch ``d[i][j] = source[i * row + j * lanes ...]``: element e at ``to[e * plane ...]``."""
    return types.void(unit, *(types.intp,) * 4), emitted("spectrum", 4, _emit_spectrum)


def _emit_spectrum(emit: Emitter, to: Any, plane: Any, source: Any, row: Any) -> None:
    builder, source, to = emit.builder, emit.pointer(source), emit.pointer(to)
    rows = [emit.at(source, builder.mul(row, emit.number(i))) for i in range(6)]
    transform, e = _Arithmetic(emit).to_spectrum, 0
    for part in range(4):  # of the columns; the patch is read anew for each, as 36 vectors would not stay in registers
        columns = [[emit.load_vector(emit.at(one, j * emit.lanes)) for one in rows] for j in range(6)]
        for line in zip(*(transform(column, part) for column in columns), strict=True):
            for vector in transform(list(line)):
                emit.store_vector(vector, emit.at(to, builder.mul(plane, emit.number(e))))
                e += 1


def _store_planes(emit: Emitter, square: list[list[Any]], to: Any, plane: Any) -> None:
    to = emit.pointer(to)
    for e, vector in enumerate(vector for row in square for vector in row):
        emit.store_vector(vector, emit.at(to, emit.builder.mul(plane, emit.number(e))))


@intrinsic
def filters(typingctx: Any, unit: Any, to: Any, plane: Any, source: Any, step: Any, channels: Any, flipped: Any) -> Any:
    """F g F' of filters whose 9 taps lie together, one every `step` elements: element e at ``to[e * plane ...]``.

    `flipped` says that the taps lie in reverse order.
    """
    return types.void(unit, *(types.intp,) * 6), emitted("filters", 6, _emit_filters)


def _emit_filters(emit: Emitter, to: Any, plane: Any, source: Any, step: Any, channels: Any, flipped: Any) -> None:
    builder = emit.builder
    rows = _rows_of_lanes(emit, emit.pointer(source), step, channels)
    taps: list[Any] = []
    for row in rows:
        _prefetch(emit, emit.at(row, 48))
    for first in range(0, 9, emit.lanes):
        mask = ir.Constant(emit.bits, [int(first + lane < 9) for lane in range(emit.lanes)])
        taps += emit.transposed([emit.load_masked(emit.at(row, first), mask) for row in rows])
    backwards = builder.trunc(flipped, ir.IntType(1))
    taps = [builder.select(backwards, taps[8 - t], taps[t]) for t in range(9)]
    square = [taps[3 * i : 3 * i + 3] for i in range(3)]
    _store_planes(emit, _both_sides(_Arithmetic(emit).to_filters, square), to, plane)


@intrinsic
def outputs(typingctx: Any, unit: Any, to: Any, source: Any, plane: Any, bias: Any, relu: Any, doubt: Any) -> Any:
    """T' m T of the elements ``m[e] = source[e * plane ...]``, plus bias: 4 rows of 4 pixels for every lane's channel.

    They go to ``to[lane][i][j]``, of rows of `lanes` numbers. Bit ``lane`` of the number at `doubt` says that not all
    of them are finite (before the ReLU).
    """
    return types.void(unit, *(types.intp,) * 6), emitted("outputs", 6, _emit_outputs)


def _emit_outputs(emit: Emitter, to: Any, source: Any, plane: Any, bias: Any, relu: Any, doubt: Any) -> None:
    builder, to, source = emit.builder, emit.pointer(to), emit.pointer(source)
    m = [emit.load_vector(emit.at(source, builder.mul(plane, emit.number(e)))) for e in range(36)]
    square = _both_sides(_Arithmetic(emit).to_outputs, [m[6 * i : 6 * i + 6] for i in range(6)])
    biases = emit.load_vector(emit.pointer(bias))
    square = [[builder.fadd(pixel, biases) for pixel in line] for line in square]
    zeros = [emit.zero()] * 4
    for line in square:  # 0 * y is 0, or NaN where y is not finite
        zeros = [builder.call(emit.fma, [pixel, emit.zero(), zero]) for pixel, zero in zip(line, zeros, strict=True)]
    zero = builder.fadd(builder.fadd(*zeros[:2]), builder.fadd(*zeros[2:]))
    bits = builder.bitcast(builder.fcmp_unordered("uno", zero, zero), ir.IntType(emit.lanes))
    builder.store(builder.zext(bits, emit.index), emit.pointer(doubt, emit.index))
    for i, line in enumerate(square):
        vectors = emit.transposed([emit.relu(pixel, relu) for pixel in line])
        for lane in range(emit.lanes):  # four pixels of a channel lie together in every fourth vector
            first = lane // 4 * 4
            four = emit.shuffle(vectors[lane % 4], vectors[lane % 4], range(first, first + 4))
            place = emit.at(to, (4 * lane + i) * emit.lanes)
            builder.store(four, builder.bitcast(place, four.type.as_pointer())).align = emit.align


@intrinsic
def bring(
    typingctx: Any, unit: Any, to: Any, channel: Any, row: Any, source: Any, channels: Any, high: Any, wide: Any
) -> Any:
    """``to[c * channel + i * row + j] = source[c][i][j]`` for c < `channels`, i < `high`, j < `wide`.

    `source` is what `outputs` wrote; `high` is at most 4, `wide` at most `lanes`.
    """
    return types.void(unit, *(types.intp,) * 7), emitted("bring", 7, _emit_bring)


def _emit_bring(
    emit: Emitter, to: Any, channel: Any, row: Any, source: Any, channels: Any, high: Any, wide: Any
) -> None:
    builder, to, source = emit.builder, emit.pointer(to), emit.pointer(source)
    mask, last = emit.lanes_below(wide), builder.sub(high, emit.number(1))
    lines = [emit.number(i) for i in range(4)]
    lines = [builder.select(builder.icmp_signed("<", i, last), i, last) for i in lines]  # the last one several times
    froms, steps = ([builder.mul(i, step) for i in lines] for step in (emit.number(emit.lanes), row))

    def bring_channel(c: Any, acc: list[Any]) -> list[Any]:
        here = emit.at(source, builder.mul(c, emit.number(4 * emit.lanes)))
        there = emit.at(to, builder.mul(c, channel))
        for origin, step in zip(froms, steps, strict=True):
            emit.store_masked(emit.load_vector(emit.at(here, origin)), emit.at(there, step), mask)
        return []

    emit.accumulate(channels, [], bring_channel)


@intrinsic
def gradients(typingctx: Any, unit: Any, to: Any, plane: Any, source: Any, row: Any) -> Any:
    """T gy T' of ``gy[i][j] = source[i * row + j * lanes ...]``, 4x4 of them: element e at ``to[e * plane ...]``."""
    return types.void(unit, *(types.intp,) * 4), emitted("gradients", 4, _emit_gradients)


def _emit_gradients(emit: Emitter, to: Any, plane: Any, source: Any, row: Any) -> None:
    rows = [emit.at(emit.pointer(source), emit.builder.mul(row, emit.number(i))) for i in range(4)]
    square = [[emit.load_vector(emit.at(one, j * emit.lanes)) for j in range(4)] for one in rows]
    _store_planes(emit, _both_sides(_Arithmetic(emit).from_outputs, square), to, plane)


@intrinsic
def weights(typingctx: Any, unit: Any, to: Any, step: Any, count: Any, source: Any, plane: Any, doubt: Any) -> Any:
    """F' m F of the elements ``m[e] = source[e * plane ...]``: 9 taps, those of lane i to ``to[i * step ...]``.

    For i < `count`. The number at `doubt` becomes 1 if not all of them are finite.
    """
    return types.void(unit, *(types.intp,) * 6), emitted("weights", 6, _emit_weights)


def _emit_weights(emit: Emitter, to: Any, step: Any, count: Any, source: Any, plane: Any, doubt: Any) -> None:
    builder, to, source = emit.builder, emit.pointer(to), emit.pointer(source)
    m = [emit.load_vector(emit.at(source, builder.mul(plane, emit.number(e)))) for e in range(36)]
    square = _both_sides(_Arithmetic(emit).from_filters, [m[6 * i : 6 * i + 6] for i in range(6)])
    taps = [tap for line in square for tap in line]
    zero = emit.zero()
    for tap in taps:  # 0 * tap is 0, or NaN where the tap is not finite
        zero = builder.call(emit.fma, [tap, emit.zero(), zero])
    finite = builder.fcmp_ordered("ord", zero, zero)
    bits = builder.bitcast(builder.and_(builder.not_(finite), emit.lanes_below(count)), ir.IntType(emit.lanes))
    doubt = emit.pointer(doubt, emit.index)
    found = builder.zext(builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)), emit.index)
    builder.store(builder.or_(builder.load(doubt), found), doubt)
    places = _rows_of_lanes(emit, to, step, count)  # those from `count` on are the last one's, which is stored last
    for first in range(0, 9, emit.lanes):
        some = taps[first : first + emit.lanes]
        mask = ir.Constant(emit.bits, [int(lane < len(some)) for lane in range(emit.lanes)])
        lines = emit.transposed([*some, *[emit.zero()] * (emit.lanes - len(some))])
        for lane in reversed(range(emit.lanes)):
            emit.store_masked(lines[lane], emit.at(places[lane], first), mask)


# ---------------------------------------------------------------- single numbers, by their address


@intrinsic
def peek(typingctx: Any, address: Any) -> Any:
    """The float32 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.FloatType().as_pointer()))

    return types.float32(types.intp), codegen


@intrinsic
def poke(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a float32 to an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.FloatType().as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp, types.float32), codegen
