"""The loops of depthwise planes, down a vector of columns: forward, and the ways back to the input and to the weights.

Without stride, each row of x is read once for each column of taps, and meets all rows of taps at once, which are as
many rows of results under way:

    row of x:    r - 1       r         r + 1
    results      r - 2 done  r - 1     r      done when the row below them has been met
                 r - 1       r         r + 1
                 r           r + 1     r + 2

With a stride of 2, two vectors of x are the numbers of two neighbouring taps. On the way back to the input each row of
the output's gradient meets all taps, and those of even rows and columns, and so on, belong to different results, which
are woven into whole rows:

    padded row of x's gradient   2 q       even rows of taps: w[0] g[q] + w[2] g[q - 1] + ...
                                 2 q + 1   odd ones:          w[1] g[q] + w[3] g[q - 1] + ...

On the way back to the weights rows of the output's gradient take the places of rows of results, and each tap has a sum
of its own.
"""

from functools import partial
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnkit.rooms.numba.depthwise import by_number
from cnnkit.rooms.numba.emit import Emitter, emitted
from cnnkit.rooms.numba.machine import REGISTERS
from cnnkit.rooms.numba.tile import sum_lanes

TAPS = (3, 5, 7)  # along either axis
AHEAD = 8192  # bytes that are fetched before they are needed: the next rows, which begin in other pages of memory


class Rows:
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
    return types.void(unit, *(types.intp,) * 15), emitted("planes", 15, partial(_emit_planes, 1))


@intrinsic
def every_other(
    typingctx: Any, unit: Any, taps: Any, to: Any, to_step: Any, x: Any, x_step: Any, nothing: Any, weight: Any,
    bias: Any, relu: Any, high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> Any:  # fmt: skip
    """As `planes` with a stride of 2: ``x[2 * h + i - above, 2 * w + j - left]``."""
    return types.void(unit, *(types.intp,) * 15), emitted("every_other", 15, partial(_emit_planes, 2))


def _emit_planes(
    stride: int, emit: Emitter, taps: Any, to: Any, to_step: Any, x: Any, x_step: Any, nothing: Any, weight: Any,
    bias: Any, relu: Any, high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> None:  # fmt: skip
    """A step is `stride` rows of x. Of 3 x 3 taps without stride, two vectors of columns go down side by side, as their
    sums would wait for themselves.
    """
    builder = emit.builder
    to, x, nothing, weight, bias = (emit.pointer(address) for address in (to, x, nothing, weight, bias))
    row_of = Rows(emit, x, x_step, nothing, high, wide, above)
    start = emit.broadcast(bias)

    def down(size: int, vectors: int, first: Any) -> None:
        """`vectors` columns of vectors from one on; the result that is done first comes first among the sums."""
        behind = (size - 1) // stride  # steps that a result is still under way after its first
        each = [builder.add(first, emit.number(v * emit.lanes)) for v in range(vectors)]
        begins = [builder.sub(builder.mul(column, emit.number(stride)), left) for column in each]
        left_over = [builder.sub(columns, column) for column in each]
        masks = [emit.lanes_below(count) for count in left_over]
        seen = [
            columns_of_taps(row_of, stride, begin, count, range(size))
            for begin, count in zip(begins, left_over, strict=True)
        ]
        near = [emit.broadcast(emit.at(weight, t)) for t in range(size * size)] if size == TAPS[0] else None

        def fetch(source: Any) -> None:
            for begin in begins:
                for n in range(stride):
                    emit.fetch(emit.at(source, builder.add(begin, emit.number(n * emit.lanes))), AHEAD)

        def step(q: Any, state: list[Any]) -> list[Any]:
            sums, top = [*state, *[start] * vectors], builder.mul(q, emit.number(stride))
            there = emit.at(to, builder.mul(q, to_step))
            for e in range(stride):
                source = row_of(builder.add(top, emit.number(e)))
                if stride > 1 or size > TAPS[0]:  # else the processor's own fetching keeps up
                    fetch(source)
                numbers = [of_taps(emit, source, one) for one in seen]
                for k, i in product(range(size), range(e, size, stride)):
                    factor = near[i * size + k] if near else emit.broadcast(emit.at(weight, i * size + k))
                    for v in range(vectors):
                        n = (behind - i // stride) * vectors + v
                        sums[n] = builder.call(emit.fma, [factor, numbers[v][k], sums[n]])
            done = builder.sub(q, emit.number(behind))
            done = builder.select(builder.icmp_signed("<", done, emit.number(0)), emit.number(0), done)  # stored anew
            target = emit.at(to, builder.mul(done, to_step))
            for column, mask, value in zip(each, masks, sums, strict=False):
                if size > TAPS[0]:
                    emit.fetch(emit.at(there, column), AHEAD, write=True)
                emit.store_masked(emit.relu(value, relu), emit.at(target, column), mask)
            return sums[vectors:]

        emit.accumulate(builder.add(rows, emit.number(behind)), [start] * behind * vectors, step)

    def all_columns(size: int) -> None:
        most = 2 if stride == 1 and size == TAPS[0] else 1
        wide_ = emit.number(most * emit.lanes)
        blocks = builder.udiv(builder.add(columns, emit.number(emit.lanes - 1)), wide_)
        emit.loop(blocks, lambda b: down(size, most, builder.mul(b, wide_)))
        if most > 1:
            done = builder.mul(blocks, wide_)
            more = builder.icmp_signed("<", done, columns)
            emit.loop(builder.zext(more, emit.index), lambda _: down(size, 1, done))

    by_number(emit, taps, TAPS, all_columns)


@intrinsic
def plane_taps(
    typingctx: Any, unit: Any, taps: Any, to: Any, grad: Any, grad_step: Any, x: Any, x_step: Any, nothing: Any,
    high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> Any:  # fmt: skip
    """``to[i * taps + j] = sum over h < rows, w < columns of grad[h, w] * x[h + i - above, w + j - left]``.

    With zeros around x, and arguments as those of `planes`.
    """
    return types.void(unit, *(types.intp,) * 13), emitted("plane_taps", 13, partial(_emit_plane_taps, 1))


@intrinsic
def every_other_taps(
    typingctx: Any, unit: Any, taps: Any, to: Any, grad: Any, grad_step: Any, x: Any, x_step: Any, nothing: Any,
    high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> Any:  # fmt: skip
    """As `plane_taps` with a stride of 2: ``x[2 * h + i - above, 2 * w + j - left]``."""
    return types.void(unit, *(types.intp,) * 13), emitted("every_other_taps", 13, partial(_emit_plane_taps, 2))


def _emit_plane_taps(
    stride: int, emit: Emitter, taps: Any, to: Any, grad: Any, grad_step: Any, x: Any, x_step: Any, nothing: Any,
    high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any,
) -> None:  # fmt: skip
    """As many columns of taps at a time as leave registers for the rows of gradients that `stride` rows of x meet.

    Only the first and the last rows of x meet fewer rows of gradients than there are; no number is multiplied by a zero
    that stands for a gradient, for it may be no number.
    """
    builder, zero = emit.builder, emit.number(0)
    to, grad, x, nothing = (emit.pointer(address) for address in (to, grad, x, nothing))
    row_of = Rows(emit, x, x_step, nothing, high, wide, above)
    blocks = builder.udiv(builder.add(columns, emit.number(emit.lanes - 1)), emit.number(emit.lanes))

    def least(a: Any, b: Any) -> Any:
        return builder.select(builder.icmp_signed("<", a, b), a, b)

    def taps_of(size: int, some: range) -> None:
        across, behind = len(some), (size - 1) // stride  # rows of gradients that are met again
        whole = emit.number(behind)
        full = at_least_zero(builder.sub(rows, whole))  # steps that meet all taps
        met = [  # by each step's a-th row of gradients: the sum, the row of x and the number in it
            [
                (i * across + k, i - stride * a, k)
                for i in range(stride * a, min(size, stride * a + stride))
                for k in range(across)
            ]
            for a in range(behind + 1)
        ]

        def block(b: Any, sums: list[Any]) -> list[Any]:
            first = builder.mul(b, emit.number(emit.lanes))
            count = builder.sub(columns, first)
            mask, begin = emit.lanes_below(count), builder.sub(builder.mul(first, emit.number(stride)), left)
            seen = columns_of_taps(row_of, stride, begin, count, some)

            def values(q: Any) -> list[list[Any]]:
                sources = [
                    row_of(builder.add(builder.mul(q, emit.number(stride)), emit.number(e))) for e in range(stride)
                ]
                for source in sources:
                    for n in range(stride):
                        emit.fetch(emit.at(source, builder.add(begin, emit.number(n * emit.lanes))), AHEAD)
                return [of_taps(emit, source, seen)[some.start % stride :] for source in sources]

            def grads(h: Any) -> Any:
                one = emit.at(emit.at(grad, builder.mul(h, grad_step)), first)
                emit.fetch(one, AHEAD // stride**2)
                return emit.load_masked(one, mask)

            def edge(q: Any, sums: list[Any]) -> list[Any]:
                numbers, results = values(q), list(sums)
                for a, terms in enumerate(met):
                    h = builder.sub(q, emit.number(a))
                    there = builder.zext(builder.icmp_unsigned("<", h, rows), emit.index)

                    def add(_: Any, own: list[Any], h: Any = h, terms: Any = terms) -> list[Any]:
                        factor = grads(h)
                        added = zip(terms, own, strict=True)
                        return [builder.call(emit.fma, [factor, numbers[e][k], old]) for (_, e, k), old in added]

                    own = emit.accumulate(there, [results[n] for n, _, _ in terms], add)
                    for (n, _, _), total in zip(terms, own, strict=True):
                        results[n] = total
                return results

            def middle(t: Any, state: list[Any]) -> list[Any]:
                q = builder.add(t, whole)
                sums, rows_ = list(state[: size * across]), [grads(q), *state[size * across :]]
                numbers = values(q)
                for factor, terms in zip(rows_, met, strict=True):
                    for n, e, k in terms:
                        sums[n] = builder.call(emit.fma, [factor, numbers[e][k], sums[n]])
                return [*sums, *rows_[:-1]]

            sums = emit.accumulate(whole, sums, edge)
            last = builder.sub(rows, emit.number(1))
            before = [grads(least(emit.number(behind - 1 - a), last)) for a in range(behind)]
            sums = emit.accumulate(full, [*sums, *before], middle)[: size * across]
            end = builder.add(whole, full)
            return emit.accumulate(builder.sub(rows, full), sums, lambda q, sums: edge(builder.add(end, q), sums))

        totals = emit.accumulate(blocks, [emit.zero()] * size * across, block)
        store_sums(emit, totals, to, [i * size + k for i in range(size) for k in some])

    def at_least_zero(a: Any) -> Any:
        return builder.select(builder.icmp_signed("<", a, zero), zero, a)

    def all_taps(size: int) -> None:
        at_once = (REGISTERS - (size - 1) // stride - 3) // size
        for first in range(0, size, at_once):
            taps_of(size, range(first, min(first + at_once, size)))

    by_number(emit, taps, TAPS, all_taps)


@intrinsic
def between(
    typingctx: Any, unit: Any, taps: Any, to: Any, to_step: Any, grad: Any, grad_step: Any, nothing: Any, weight: Any,
    bias: Any, high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any, first: Any, pairs: Any,
) -> Any:  # fmt: skip
    """``to[y, x] = bias + sum of weight[i, j] * grad[h, w]``, over ``2 * h + i = y + above``, ``2 * w + j = x + left``.

    For the `pairs` pairs of rows ``y + above`` from ``2 * first`` on that are among the `high` rows of `wide` numbers;
    grad has `rows` and `columns`. Other arguments are those of `planes`.
    """
    return types.void(unit, *(types.intp,) * 16), emitted("between", 16, _emit_between)


def _emit_between(
    emit: Emitter, taps: Any, to: Any, to_step: Any, grad: Any, grad_step: Any, nothing: Any, weight: Any, bias: Any,
    high: Any, wide: Any, above: Any, left: Any, rows: Any, columns: Any, first: Any, pairs: Any,
) -> None:  # fmt: skip
    builder, two, whole = emit.builder, emit.number(2), emit.number(emit.lanes)
    to, grad, nothing, weight, bias = (emit.pointer(address) for address in (to, grad, nothing, weight, bias))
    row_of = Rows(emit, grad, grad_step, nothing, rows, columns, emit.number(0))
    start, none = emit.broadcast(bias), emit.lanes_below(emit.number(0))

    def vector(size: int, begin: Any) -> None:
        """The columns 2 * `begin` and following, padding counted; `before` more rows of gradients come first."""
        before = (size - 1) // 2
        places = [row_of.columns(builder.sub(begin, emit.number(b)), whole) for b in range(before + 1)]
        x = [builder.sub(builder.mul(builder.add(begin, emit.number(n)), two), left) for n in (0, emit.lanes // 2)]
        masks = [emit.lanes_from_to(builder.neg(one), builder.sub(wide, one)) for one in x]
        near = [emit.broadcast(emit.at(weight, t)) for t in range(size * size)] if size == TAPS[0] else None

        def sum_of(e: int, f: int, a: int, values: list[Any], total: Any) -> Any:
            for b, value in enumerate(values[: len(range(f, size, 2))]):
                t = (2 * a + e) * size + 2 * b + f
                factor = near[t] if near else emit.broadcast(emit.at(weight, t))
                total = builder.call(emit.fma, [factor, value, total])
            return total

        def row(t: Any, state: list[Any]) -> list[Any]:
            pair = builder.add(builder.sub(t, emit.number(before)), first)
            source, sums, later = row_of(pair), list(state), []
            values = [emit.load_masked(emit.at(source, at), mask) for at, mask in places]
            for e in range(2):
                y = builder.sub(builder.add(builder.mul(pair, two), emit.number(e)), above)
                there = builder.and_(
                    builder.icmp_unsigned("<", y, high), builder.icmp_signed(">=", t, emit.number(before))
                )
                target = emit.at(to, builder.mul(to_step, builder.select(there, y, emit.number(0))))
                done = []
                for f in range(2):
                    pending = len(range(e, size, 2)) - 1
                    own, sums = [*sums[:pending], start], sums[pending:]
                    own = [sum_of(e, f, a, values, total) for a, total in enumerate(own)]
                    done.append(own[0])
                    later += own[1:]
                for at, mask, value in zip(x, masks, emit.woven(done), strict=True):
                    emit.fetch(emit.at(target, at), AHEAD, write=True)
                    emit.store_masked(value, emit.at(target, at), builder.select(there, mask, none))
            return later

        emit.accumulate(builder.add(pairs, emit.number(before)), [start] * (2 * (size - 2)), row)

    def all_columns(size: int) -> None:
        halves = builder.udiv(builder.add(builder.add(wide, left), emit.number(1)), two)
        blocks = builder.udiv(builder.add(halves, emit.number(emit.lanes - 1)), whole)
        emit.loop(blocks, lambda b: vector(size, builder.mul(b, whole)))

    by_number(emit, taps, TAPS, all_columns)


def columns_of_taps(row_of: Rows, stride: int, begin: Any, count: Any, taps: range) -> list[list[tuple[Any, Any]]]:
    """Places and masks of what `count` results see of a row from column `begin` on: a vector for each of the taps.

    With a stride of 2 two vectors, for two neighbouring taps; what no result sees is not read.
    """
    emit, builder = row_of.emit, row_of.emit.builder
    seen = builder.mul(count, emit.number(stride))
    return [
        [
            row_of.columns(
                builder.add(begin, emit.number(k + n * emit.lanes)), builder.sub(seen, emit.number(n * emit.lanes))
            )
            for n in range(stride)
        ]
        for k in range(taps.start // stride * stride, taps.stop, stride)
    ]


def of_taps(emit: Emitter, source: Any, seen: list[list[tuple[Any, Any]]]) -> list[Any]:
    """What the taps see of a row; two neighbouring ones, of a pair of vectors, its even numbers and its odd ones."""
    values = []
    for places in seen:
        numbers = [emit.load_masked(emit.at(source, at), inside) for at, inside in places]
        if len(numbers) == 1:
            values += numbers
        else:
            values += [emit.shuffle(*numbers, range(odd, 2 * emit.lanes, 2)) for odd in range(2)]
    return values


def store_sums(emit: Emitter, totals: list[Any], to: Any, places: list[int]) -> None:
    """Add up each vector's lanes, and store the sums at their places behind `to`."""
    for first in range(0, len(totals), emit.lanes):
        some = totals[first : first + emit.lanes]
        summed = sum_lanes(emit, some)
        for lane, place in zip(range(len(some)), places[first:], strict=False):
            number = emit.builder.extract_element(summed, ir.Constant(ir.IntType(32), lane))
            emit.builder.store(number, emit.at(to, place))
