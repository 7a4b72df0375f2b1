"""Bringing numbers to where a loop wants them: rows into lines, results into rows, weights together.

Arguments are addresses, or numbers; what lies around is neither read nor written.
"""

from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnkit.rooms.numba.emit import Emitter, emitted

AHEAD = 4096  # bytes that are fetched before they are needed: memory is as fast as it is asked early
MOST = 12  # vectors of a tile

STEPS = (1, 2, 3, 4)  # between numbers of a row that are taken by whole vectors


@intrinsic
def fill(
    typingctx: Any, unit: Any, to: Any, pitch: Any, source: Any, channels: Any, channel_step: Any, rows: Any,
    row_step: Any, first: Any, last: Any, count: Any, step: Any, low: Any, high: Any,
) -> Any:  # fmt: skip
    """The same rows of some channels, in each channel end to end, with zeros where there is no number.

    ``to[c * pitch + j * count + k] = source[c * channel_step + j * row_step + k * step]`` for c < `channels`,
    j < `rows`, k < `count` if ``first <= j < last and low <= k < high``, else 0. Whole vectors are written: up to
    ``lanes - 1`` numbers more behind the last row.
    """
    return types.void(unit, *(types.intp,) * 13), emitted("fill", 13, _emit_fill)


def _emit_fill(
    emit: Emitter, to: Any, pitch: Any, source: Any, channels: Any, channel_step: Any, rows: Any,
    row_step: Any, first: Any, last: Any, count: Any, step: Any, low: Any, high: Any,
) -> None:  # fmt: skip
    """One loop nest for each of `STEPS`, and one for all others.

    Vectors are the outer loop, so that a mask serves all rows, and the last come first: what they write too much, the
    first ones of the next rows write over.
    """
    builder, lanes = emit.builder, emit.lanes
    to, source = emit.pointer(to), emit.pointer(source)
    zero, one = emit.number(0), emit.number(1)
    vectors = builder.udiv(builder.add(count, emit.number(lanes - 1)), emit.number(lanes))
    below = builder.sub(rows, last)

    def vectors_of(step: int) -> Any:
        end = builder.sub(builder.mul(high, emit.number(step)), emit.number(step - 1))
        start = builder.mul(low, emit.number(step))

        def channel(line: Any, plane: Any) -> None:
            def vector(k: Any) -> None:
                at = builder.mul(builder.sub(builder.sub(vectors, one), k), emit.number(lanes))
                here = [builder.add(builder.mul(at, emit.number(step)), emit.number(n * lanes)) for n in range(step)]
                masks = [emit.lanes_from_to(builder.sub(start, p), builder.sub(end, p)) for p in here]

                def nothing(first: Any) -> Any:
                    def row(j: Any) -> None:
                        target = builder.add(builder.mul(builder.add(first, j), count), at)
                        emit.store_vector(emit.zero(), emit.at(line, target))

                    return row

                def row(j: Any) -> None:
                    j = builder.add(first, j)
                    numbers = emit.at(plane, builder.mul(j, row_step))
                    parts = [emit.load_masked(emit.at(numbers, p), mask) for p, mask in zip(here, masks, strict=True)]
                    value = emit.every(step, parts)
                    emit.store_vector(value, emit.at(line, builder.add(builder.mul(j, count), at)))

                emit.loop(first, nothing(zero))
                emit.loop(builder.sub(last, first), row)
                emit.loop(below, nothing(last))

            emit.loop(vectors, vector)

        return channel

    def numbers(line: Any, plane: Any) -> None:
        def row(j: Any) -> None:
            inside = builder.and_(builder.icmp_signed(">=", j, first), builder.icmp_signed("<", j, last))
            here, there = emit.at(plane, builder.mul(j, row_step)), emit.at(line, builder.mul(j, count))

            def number(k: Any) -> None:
                k = builder.add(low, k)
                builder.store(builder.load(emit.at(here, builder.mul(k, step))), emit.at(there, k))

            emit.loop(
                vectors, lambda k: emit.store_vector(emit.zero(), emit.at(there, builder.mul(k, emit.number(lanes))))
            )
            emit.loop(builder.select(inside, builder.sub(high, low), zero), number)

        emit.loop(rows, row)

    def channels_by(body: Any) -> None:
        emit.loop(
            channels, lambda c: body(emit.at(to, builder.mul(c, pitch)), emit.at(source, builder.mul(c, channel_step)))
        )

    done = builder.append_basic_block("done")
    for value in STEPS:
        this, other = builder.append_basic_block(f"step_{value}"), builder.append_basic_block("other")
        builder.cbranch(builder.icmp_signed("==", step, emit.number(value)), this, other)
        builder.position_at_end(this)
        channels_by(vectors_of(value))
        builder.branch(done)
        builder.position_at_end(other)
    channels_by(numbers)
    builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def fetch(typingctx: Any, unit: Any, address: Any, count: Any) -> Any:
    """Ask for `count` numbers from an address on, which may be any."""
    return types.void(unit, *(types.intp,) * 2), emitted("fetch", 2, _emit_fetch)


def _emit_fetch(emit: Emitter, address: Any, count: Any, near: int = 3) -> None:
    start, line = emit.pointer(address), emit.number(64 // emit.align)
    lines = emit.builder.sdiv(count, line)
    emit.loop(lines, lambda n: emit.fetch(emit.at(start, emit.builder.mul(n, line)), near=near))


@intrinsic
def fetch_far(typingctx: Any, unit: Any, address: Any, count: Any) -> Any:
    """The same, to come no nearer than the L2 cache: what is needed later."""
    return types.void(unit, *(types.intp,) * 2), emitted("fetch_far", 2, _emit_fetch_far)


def _emit_fetch_far(emit: Emitter, address: Any, count: Any) -> None:
    _emit_fetch(emit, address, count, near=2)


@intrinsic
def copy(typingctx: Any, unit: Any, to: Any, step: Any, source: Any, count: Any) -> Any:
    """``to[k * step] = source[k]`` for k < `count`."""
    return types.void(unit, *(types.intp,) * 4), emitted("copy", 4, _emit_copy)


def _emit_copy(emit: Emitter, to: Any, step: Any, source: Any, count: Any) -> None:
    builder = emit.builder
    to, source = emit.pointer(to), emit.pointer(source)

    def copy_vector(t: Any, acc: list[Any]) -> list[Any]:
        at = builder.mul(t, emit.number(emit.lanes))
        mask = emit.lanes_below(builder.sub(count, at))
        emit.store_masked(emit.load_masked(emit.at(source, at), mask), emit.at(to, at), mask)
        return []

    def copy_number(t: Any, acc: list[Any]) -> list[Any]:
        builder.store(builder.load(emit.at(source, t)), emit.at(to, builder.mul(t, step)))
        return []

    near, far, done = (builder.append_basic_block(name) for name in ("near", "far", "done"))
    builder.cbranch(builder.icmp_signed("==", step, emit.number(1)), near, far)
    builder.position_at_end(near)
    vectors = builder.udiv(builder.add(count, emit.number(emit.lanes - 1)), emit.number(emit.lanes))
    emit.accumulate(vectors, [], copy_vector)
    builder.branch(done)
    builder.position_at_end(far)
    emit.accumulate(count, [], copy_number)
    builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def gather_lines(
    typingctx: Any, unit: Any, to: Any, step: Any, source: Any, offsets: Any, terms: Any, count: Any
) -> Any:
    """``to[t * step + k] = source[offsets[t] + k]`` for every term t, k < `count`; whole vectors of `to`."""
    return types.void(unit, *(types.intp,) * 6), emitted("gather_lines", 6, _emit_gather_lines)


def _emit_gather_lines(emit: Emitter, to: Any, step: Any, source: Any, offsets: Any, terms: Any, count: Any) -> None:
    """One loop for each number of vectors up to some; what the next windows need is asked for."""
    builder, lanes = emit.builder, emit.lanes
    to, source, offsets = emit.pointer(to), emit.pointer(source), emit.pointer(offsets, emit.index)
    before = builder.udiv(builder.sub(count, emit.number(1)), emit.number(lanes))  # vectors before the last
    last = builder.mul(before, emit.number(lanes))
    mask = emit.lanes_below(builder.sub(count, last))

    def loop(vectors: int) -> None:
        def term(t: Any) -> None:
            here, there = emit.at(source, builder.load(emit.at(offsets, t))), emit.at(to, builder.mul(t, step))
            values = [emit.load_vector(emit.at(here, v * lanes)) for v in range(vectors)]
            values.append(emit.load_masked(emit.at(here, vectors * lanes), mask))
            bytes_ = (vectors + 1) * lanes * emit.align
            for ahead in range(0, bytes_, 64):
                emit.fetch(here, bytes_ + ahead)
            for v, value in enumerate(values):
                emit.store_vector(value, emit.at(there, v * lanes))

        emit.loop(terms, term)

    done = builder.append_basic_block("done")
    choice = builder.switch(before, done)
    for vectors in range(MOST):
        block = builder.append_basic_block(f"vectors_{vectors}")
        choice.add_case(emit.number(vectors), block)
        builder.position_at_end(block)
        loop(vectors)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def weave(typingctx: Any, unit: Any, to: Any, source: Any, step: Any, rows: Any, count: Any) -> Any:
    """``to[k * rows + r] = source[r * step + k]`` for r < `rows`, in all `count` numbers; `rows` is one of `STEPS`."""
    return types.void(unit, *(types.intp,) * 5), emitted("weave", 5, _emit_weave)


def _emit_weave(emit: Emitter, to: Any, source: Any, step: Any, rows: Any, count: Any) -> None:
    builder = emit.builder
    to, source = emit.pointer(to), emit.pointer(source)
    done = builder.append_basic_block("done")

    def body(number: int) -> None:
        columns = emit.number(number * emit.lanes)

        def vectors(k: Any) -> None:
            first = builder.mul(k, emit.number(emit.lanes))
            places = [builder.add(first, builder.mul(step, emit.number(r))) for r in range(number)]
            row = [emit.load_vector(emit.at(source, place)) for place in places]
            target = builder.mul(k, columns)
            for n, vector in enumerate(emit.woven(row)):
                at = builder.add(target, emit.number(n * emit.lanes))
                emit.store_masked(vector, emit.at(to, at), emit.lanes_below(builder.sub(count, at)))

        emit.loop(builder.udiv(builder.add(count, builder.sub(columns, emit.number(1))), columns), vectors)

    switch = builder.switch(rows, done)
    for number in STEPS[1:]:
        block = builder.append_basic_block(f"rows_{number}")
        switch.add_case(emit.number(number), block)
        builder.position_at_end(block)
        body(number)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def repeat(typingctx: Any, unit: Any, to: Any, source: Any, step: Any, times: Any, count: Any) -> Any:
    """``to[k * times + r] = source[k * step]`` for k < `count`, r < `times`; `step` and `times` are two of `STEPS`."""
    return types.void(unit, *(types.intp,) * 5), emitted("repeat", 5, _emit_repeat)


def _emit_repeat(emit: Emitter, to: Any, source: Any, step: Any, times: Any, count: Any) -> None:
    """The last vector is masked, for behind the last number there may be no memory."""
    builder, lanes = emit.builder, emit.lanes
    to, source = emit.pointer(to), emit.pointer(source)
    whole = builder.sdiv(builder.sub(count, emit.number(1)), emit.number(lanes))
    done = builder.append_basic_block("done")

    def some(step: int, times: int, k: Any, last: bool) -> None:
        at = builder.mul(k, emit.number(lanes))
        left = builder.sub(count, at)
        here, there = (emit.at(one, builder.mul(at, emit.number(by))) for one, by in ((source, step), (to, times)))
        numbers = builder.sub(builder.mul(left, emit.number(step)), emit.number(step - 1))

        def load(n: int) -> Any:
            pointer = emit.at(here, n * lanes)
            if not last:
                return emit.load_vector(pointer)
            return emit.load_masked(pointer, emit.lanes_below(builder.sub(numbers, emit.number(n * lanes))))

        taken = emit.every(step, [load(n) for n in range(step)])
        for r in range(times):
            value = emit.shuffle(taken, taken, [(r * lanes + k) // times for k in range(lanes)])
            if not last:
                emit.store_vector(value, emit.at(there, r * lanes))
            else:
                mask = emit.lanes_below(builder.sub(builder.mul(left, emit.number(times)), emit.number(r * lanes)))
                emit.store_masked(value, emit.at(there, r * lanes), mask)

    switch = builder.switch(builder.add(builder.mul(step, emit.number(len(STEPS) + 1)), times), done)
    for one, other in product(STEPS, STEPS):
        block = builder.append_basic_block(f"by_{one}_{other}")
        switch.add_case(emit.number(one * (len(STEPS) + 1) + other), block)
        builder.position_at_end(block)
        emit.loop(whole, lambda k, one=one, other=other: some(one, other, k, False))
        some(one, other, whole, True)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def transpose(
    typingctx: Any, unit: Any, to: Any, to_step: Any, source: Any, source_step: Any, rows: Any, columns: Any
) -> Any:
    """``to[j * to_step + i] = source[i * source_step + j]`` for i < `rows`, j < `columns`."""
    return types.void(unit, *(types.intp,) * 6), emitted("transpose", 6, _emit_transpose)


def _emit_transpose(
    emit: Emitter, to: Any, to_step: Any, source: Any, source_step: Any, rows: Any, columns: Any
) -> None:
    """Squares of `lanes` x `lanes`, turned in registers: halves of a square change places, then halves of halves.

    A row that a square lacks is its first one with no lane: behind an array there may be no memory, and a processor
    takes microseconds to find that none was asked for.
    """
    builder, lanes = emit.builder, emit.lanes
    to, source = emit.pointer(to), emit.pointer(source)

    def blocks(count: Any) -> Any:
        return builder.udiv(builder.add(count, emit.number(lanes - 1)), emit.number(lanes))

    def square(i: Any, j: Any) -> None:
        here, across = builder.sub(rows, i), builder.sub(columns, j)
        read, written = emit.lanes_below(across), emit.lanes_below(here)
        nothing = ir.Constant(emit.bits, [0] * lanes)

        def row(k: int, rows: Any, corner: Any, step: Any, mask: Any) -> tuple[Any, Any]:
            there = builder.icmp_signed("<", emit.number(k), rows)
            offset = builder.select(there, builder.mul(step, emit.number(k)), emit.number(0))
            return emit.at(corner, offset), builder.select(there, mask, nothing)

        corner = emit.at(source, builder.add(builder.mul(i, source_step), j))
        target = emit.at(to, builder.add(builder.mul(j, to_step), i))
        vectors = [emit.load_masked(*row(k, here, corner, source_step, read)) for k in range(lanes)]
        for k, vector in enumerate(emit.transposed(vectors)):
            emit.store_masked(vector, *row(k, across, target, to_step, written))

    def row_of_squares(i: Any) -> None:
        i = builder.mul(i, emit.number(lanes))
        emit.loop(blocks(columns), lambda j: square(i, builder.mul(j, emit.number(lanes))))

    emit.loop(blocks(rows), row_of_squares)


FEW = 8  # terms that `pack` takes at a time: the ways of an L1 cache, for they can lie a large power of two apart
WOVEN = (4, 5, 6, 8)  # rows of the usual tiles, which `pack` weaves into each other in registers


@intrinsic
def pack(
    typingctx: Any, unit: Any, to: Any, rows: Any, source: Any, step: Any, here: Any, offsets: Any, terms: Any
) -> Any:
    """``to[t * rows + i] = source[i * step + offsets[t]] if i < here else 0``, for every term t and row i."""
    return types.void(unit, *(types.intp,) * 7), emitted("pack", 7, _emit_pack)


def _emit_pack(emit: Emitter, to: Any, rows: Any, source: Any, step: Any, here: Any, offsets: Any, terms: Any) -> None:
    """Vectors of rows, if those lie side by side; of terms, if those do, whose rows are turned in registers."""
    builder, lanes = emit.builder, emit.lanes
    to, source, offsets = emit.pointer(to), emit.pointer(source), emit.pointer(offsets, emit.index)

    def numbers(first: Any, count: Any) -> None:
        _pack_numbers(
            emit, emit.at(to, builder.mul(first, rows)), rows, source, step, here, emit.at(offsets, first), count
        )

    def some(block: Any) -> None:
        first = builder.mul(block, emit.number(lanes))
        place, target = emit.at(offsets, first), emit.at(to, builder.mul(first, rows))
        lines = emit.at(source, builder.load(place))
        done, apart, blocks = (builder.append_basic_block(name) for name in ("done", "apart", "squares"))

        def row(i: Any) -> Any:
            there = builder.icmp_signed("<", i, here)
            mask = builder.select(there, *(ir.Constant(emit.bits, [bit] * lanes) for bit in (1, 0)))
            return emit.load_masked(emit.at(lines, builder.select(there, builder.mul(step, i), emit.number(0))), mask)

        def square(k: Any) -> None:
            corner = builder.mul(k, emit.number(lanes))
            turned = emit.transposed([row(builder.add(corner, emit.number(i))) for i in range(lanes)])
            for t, vector in enumerate(turned):
                at = builder.add(corner, builder.mul(rows, emit.number(t)))
                emit.store_vector(vector, emit.at(target, at))

        together = builder.append_basic_block("together")
        builder.cbranch(_consecutive(emit, place), together, apart)
        builder.position_at_end(together)
        whole = builder.icmp_signed("==", builder.urem(rows, emit.number(lanes)), emit.number(0))
        choice = builder.switch(builder.select(whole, emit.number(0), rows), apart)
        choice.add_case(emit.number(0), blocks)
        for number in WOVEN:
            if number % lanes:
                block = builder.append_basic_block(f"rows_{number}")
                choice.add_case(emit.number(number), block)
                builder.position_at_end(block)
                for n, vector in enumerate(emit.woven([row(emit.number(i)) for i in range(number)])):
                    emit.store_vector(vector, emit.at(target, n * lanes))
                builder.branch(done)
        builder.position_at_end(blocks)
        emit.loop(builder.udiv(rows, emit.number(lanes)), square)
        builder.branch(done)
        builder.position_at_end(apart)
        numbers(first, emit.number(lanes))
        builder.branch(done)
        builder.position_at_end(done)

    def beside() -> Any:
        """Rows lie side by side, in one vector: whole vectors are written, as long as they are ours."""
        mask, spare = emit.lanes_below(here), builder.udiv(emit.number(lanes - 1), rows)
        count = builder.sub(terms, builder.select(builder.icmp_signed("<", terms, spare), terms, spare))
        none = builder.icmp_signed("==", here, emit.number(0))  # then nothing may be there to read
        count = builder.select(none, emit.number(0), count)

        def term(t: Any) -> None:
            line = emit.load_masked(emit.at(source, builder.load(emit.at(offsets, t))), mask)
            emit.store_vector(line, emit.at(to, builder.mul(t, rows)))

        emit.loop(count, term)
        return count

    def turned() -> Any:
        vectors = builder.udiv(terms, emit.number(lanes))
        emit.loop(vectors, some)
        return builder.mul(vectors, emit.number(lanes))

    one = builder.icmp_signed("==", step, emit.number(1))
    in_one = builder.and_(one, builder.icmp_unsigned("<=", rows, emit.number(lanes)))
    with builder.if_else(in_one) as (lines_, squares):
        with lines_:
            first = beside()
            end = builder.block
        with squares:
            other = turned()
            other_end = builder.block
    done = builder.phi(emit.index)
    done.add_incoming(first, end)
    done.add_incoming(other, other_end)
    numbers(done, builder.sub(terms, done))


def _consecutive(emit: Emitter, places: Any) -> Any:
    """Whether a vector's lanes of places count on from the first."""
    builder = emit.builder
    kind = ir.VectorType(emit.index, emit.lanes)
    there = builder.load(builder.bitcast(places, kind.as_pointer()))
    there.align = 8
    counted = builder.add(emit.spread(builder.load(places), kind), ir.Constant(kind, list(range(emit.lanes))))
    same = builder.bitcast(builder.icmp_signed("==", there, counted), ir.IntType(emit.lanes))
    return builder.icmp_signed("==", same, ir.Constant(ir.IntType(emit.lanes), -1))


def _pack_numbers(
    emit: Emitter, to: Any, rows: Any, source: Any, step: Any, here: Any, offsets: Any, terms: Any
) -> None:
    """A few terms at a time, row by row: whether rows or terms lie together, what is near is used up while it is."""
    builder = emit.builder
    zero, few = ir.Constant(emit.scalar, 0.0), emit.number(FEW)

    def some(block: Any) -> None:
        first = builder.mul(block, few)
        left = builder.sub(terms, first)
        count = builder.select(builder.icmp_signed("<", left, few), left, few)
        target, places = emit.at(to, builder.mul(first, rows)), emit.at(offsets, first)

        def row(i: Any) -> None:
            numbers, there = emit.at(source, builder.mul(i, step)), emit.at(target, i)
            emit.loop(
                count,
                lambda t: builder.store(
                    builder.load(emit.at(numbers, builder.load(emit.at(places, t)))),
                    emit.at(there, builder.mul(t, rows)),
                ),
            )

        def empty(i: Any) -> None:
            there = emit.at(target, builder.add(here, i))
            emit.loop(count, lambda t: builder.store(zero, emit.at(there, builder.mul(t, rows))))

        emit.loop(here, row)
        emit.loop(builder.sub(rows, here), empty)

    emit.loop(builder.udiv(builder.add(terms, emit.number(FEW - 1)), few), some)
