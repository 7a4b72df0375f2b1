"""Depthwise planes in blocks of rows and columns of results, where vector registers are few (16).

Rows of x that a band of rows of results sees are laid out with zeros around them, every `stride`-th number together, as
the phases of `lines`. So no vector is masked, and with a stride, too, neighbouring results see neighbouring numbers.

    line e of a row:  x[e - left], x[stride + e - left], ...    tap k of result w:  line k % stride, at w + k // stride

The sums of a block of results stay in registers. For each column of taps its weights are spread, and each vector of the
rows that the block sees is loaded once and meets all results that see it. The last vectors of a row begin where they
end with the row, so that all are whole; results are summed twice there.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnkit.rooms.numba.depthwise import by_number
from cnnkit.rooms.numba.emit import Emitter, emitted
from cnnkit.rooms.numba.machine import REGISTERS
from cnnkit.rooms.numba.plane_loops import AHEAD, TAPS

BETTER = REGISTERS < 32  # than `plane_loops`, whose rows of results under way and weights take more registers
SUMS = 8  # of a block: as many multiply-adds as are under way at once
STRIDES = (1, 2)
WHOLE = 8  # numbers: as many vectors, of any dtype; no fewer than padding
NEAR = 16 << 10  # bytes of lines: half of the L1 cache


@intrinsic
def blocks(
    typingctx: Any, unit: Any, taps: Any, stride: Any, to: Any, to_step: Any, x: Any, x_step: Any, lines: Any,
    pitch: Any, again: Any, weight: Any, bias: Any, relu: Any, high: Any, wide: Any, above: Any, left: Any, rows: Any,
    columns: Any,
) -> Any:  # fmt: skip
    """``to[h, w] = bias + sum over i, j of weight[i, j] * x[h * stride + i - above, w * stride + j - left]``.

    For h < `rows`, w < `columns`, with zeros around x, which has `high` rows of `wide` numbers. At `lines` there are
    zeros, or what this function left there, for `line_rows` rows of `stride` lines, `pitch` numbers apart; `again` if
    other rows were in the padding then. Addresses, but for steps from row to row (elements), sizes, and what is 0 or 1
    (`relu`, `again`). Nothing else is read or written.
    """
    return types.void(unit, *(types.intp,) * 18), emitted("blocks", 18, _emit_blocks)


def line_pitch(taps, width, columns, lanes):
    """Numbers from line to line: a row of x, or of results, and what is read or written behind them."""
    return (max(width, columns) + WHOLE + taps + 3 * lanes) // WHOLE * WHOLE


def line_rows(taps, stride, rows):
    """Rows of lines that are read for so many rows of results."""
    return (rows + SUMS) * stride + taps


def band_of(row, stride):
    """How many rows of results are laid out for at a time, if a row of x takes so many bytes."""
    return max(SUMS, NEAR // (row * stride) // SUMS * SUMS)


def _emit_blocks(
    emit: Emitter, taps: Any, stride: Any, to: Any, to_step: Any, x: Any, x_step: Any, lines: Any, pitch: Any,
    again: Any, weight: Any, bias: Any, relu: Any, high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> None:  # fmt: skip
    builder, vector, zero = emit.builder, emit.number(emit.lanes), emit.number(0)
    to, x, lines, weight, bias = (emit.pointer(address) for address in (to, x, lines, weight, bias))
    start, stale = emit.broadcast(bias), builder.trunc(again, ir.IntType(1))
    floor = emit.least(relu)

    def least(a: Any, b: Any) -> Any:
        return builder.select(builder.icmp_signed("<", a, b), a, b)

    def most(a: Any, b: Any) -> Any:
        return builder.select(builder.icmp_signed(">", a, b), a, b)

    def origin(stride: int) -> Any:
        """Where a line begins for column 0 of the padding: x's own columns begin at whole vectors then."""
        return builder.sub(emit.number(WHOLE), builder.udiv(left, emit.number(stride)))

    def lay(stride: int) -> None:
        """All rows of x that the results see, zeros if they lie in the padding."""
        ends = [builder.add(left, emit.number(e)) for e in range(stride)]
        places = [  # of every phase of x's own columns: its line, and where it begins there
            builder.add(builder.mul(builder.urem(end, by), pitch), builder.add(builder.udiv(end, by), origin(stride)))
            for end, by in ((end, emit.number(stride)) for end in ends)
        ]
        by, group = emit.number(stride), emit.number(stride * emit.lanes)
        whole = builder.udiv(builder.sub(wide, emit.number(1)), group)  # the last ones are read with a mask
        rest = builder.sub(wide, builder.mul(whole, group))
        masks = [emit.lanes_below(builder.sub(rest, emit.number(n * emit.lanes))) for n in range(stride)]

        def put(r: Any, v: Any, numbers: list[Any]) -> None:
            line = emit.at(lines, builder.add(builder.mul(r, builder.mul(pitch, by)), builder.mul(v, vector)))
            for e, place in enumerate(places):
                phase = emit.shuffle(*numbers, range(e, 2 * emit.lanes, 2)) if stride > 1 else numbers[0]
                emit.store_vector(phase, emit.at(line, place))

        def row(r: Any) -> None:
            source = emit.at(x, builder.mul(builder.sub(r, above), x_step))

            def part(v: Any, read: Any) -> None:
                begin = emit.at(source, builder.mul(v, group))
                emit.fetch(begin, AHEAD)
                put(r, v, [read(emit.at(begin, n * emit.lanes), n) for n in range(stride)])

            emit.loop(whole, lambda v: part(v, lambda at, _: emit.load_vector(at)))
            part(whole, lambda at, n: emit.load_masked(at, masks[n]))

        def zeros(r: Any) -> None:
            emit.loop(builder.add(whole, emit.number(1)), lambda v: put(r, v, [emit.zero()] * stride))

        seen = builder.add(builder.mul(builder.sub(rows, emit.number(1)), by), taps)
        first = least(most(above, zero), seen)
        end = most(least(builder.add(above, high), seen), first)
        below = builder.select(stale, builder.sub(seen, end), zero)
        emit.loop(builder.select(stale, first, zero), zeros)
        emit.loop(builder.sub(end, first), lambda r: row(builder.add(first, r)))
        emit.loop(below, lambda r: zeros(builder.add(end, r)))

    def block(stride: int, size: int, tall: int, h: Any, places: list[Any], store: Any) -> None:
        """The results of `tall` rows from h on, of a vector from each of the places on."""
        number, line = len(places), builder.mul(pitch, emit.number(stride))
        top = emit.at(lines, builder.mul(h, builder.mul(line, emit.number(stride))))

        def column_of_taps(k: Any, sums: list[Any]) -> list[Any]:
            by, sums = emit.number(stride), list(sums)
            factors = [emit.broadcast(emit.at(emit.at(weight, i * size), k)) for i in range(size)]
            row = emit.at(top, builder.add(builder.mul(builder.urem(k, by), pitch), builder.udiv(k, by)))
            row = emit.at(row, origin(stride))
            for r in range((tall - 1) * stride + size):
                for v, place in enumerate(places):
                    value = emit.load_vector(emit.at(row, place))
                    for i in range(r % stride, size, stride):
                        if 0 <= r - i <= (tall - 1) * stride:
                            n = (r - i) // stride * number + v
                            sums[n] = builder.call(emit.fma, [factors[i], value, sums[n]])
                row = emit.at(row, line)
            return sums

        sums = emit.accumulate(emit.number(size), [start] * tall * number, column_of_taps)
        for r in range(tall):
            row = builder.add(h, emit.number(r))
            with builder.if_then(builder.icmp_signed("<", row, rows)):
                there = emit.at(to, builder.mul(row, to_step))
                emit.fetch(emit.at(there, places[0]), AHEAD, write=True)
                for v, place in enumerate(places):
                    store(emit.at_least(floor, sums[r * number + v]), emit.at(there, place), row)

    def all_blocks(stride: int, size: int, number: int, across: Any) -> None:
        tall = emit.number(SUMS // number)
        count = builder.udiv(builder.sub(builder.add(rows, tall), emit.number(1)), tall)
        emit.loop(count, lambda b: across(lambda *of: block(stride, size, SUMS // number, builder.mul(b, tall), *of)))

    def pairs(one: Any) -> None:
        """Of columns that fill a vector and more."""
        two = emit.number(2 * emit.lanes)
        last = most(builder.sub(columns, two), zero)

        def pair(j: Any) -> None:
            first = least(builder.mul(j, two), last)
            second = least(builder.add(first, vector), builder.sub(columns, vector))
            one([first, second], lambda value, place, _: emit.store_vector(value, place))

        emit.loop(builder.udiv(builder.add(columns, emit.number(2 * emit.lanes - 1)), two), pair)

    def single(one: Any) -> None:
        mask, dense = emit.lanes_below(columns), builder.icmp_signed("==", to_step, columns)

        def store(value: Any, place: Any, row: Any) -> None:
            """Whole, where what lies behind a row are rows that are stored later."""
            behind = builder.mul(builder.sub(rows, row), to_step)
            with builder.if_else(builder.and_(dense, builder.icmp_signed(">=", behind, vector))) as (whole, part):
                with whole:
                    emit.store_vector(value, place)
                with part:
                    emit.store_masked(value, place, mask)

        one([zero], store)

    def plane(stride: int, size: int) -> None:
        with builder.if_else(builder.icmp_signed(">", columns, vector)) as (many, few):
            with many:
                all_blocks(stride, size, 2, pairs)
            with few:
                all_blocks(stride, size, 1, single)

    def strided(stride: int) -> None:
        lay(stride)
        by_number(emit, taps, TAPS, lambda size: plane(stride, size))

    by_number(emit, stride, STRIDES, strided)
