"""The building block: a tile of sums of products, held in vector registers, emitted as LLVM vector code.

A tile has `rows` x `vectors` accumulators, each a vector of `lanes` numbers. Loops are made of it, and all of
convolution and dense layers are made of these; the emitter knows registers, its callers know tensors:

    outer   acc[i][v] += a[t * rows + i] * b[offset[t] + v * lanes : ... + lanes]             for every term t
    inner   acc[i][j] += x[x_offset[i] + p : ... + lanes] * g[g_offset[j] + p : ... + lanes]  for p in steps of lanes
    gather  acc[i][v] += a[rows[i] + offset[t]] * b[t * b_step + v * lanes : ... + lanes]     for every term t

`outer` keeps every lane apart (a lane is a pixel) and reads, per term, `vectors` vectors and `rows` numbers for
`rows * vectors` fused multiply-adds. `inner` adds its lanes up at the end (a lane is a term); terms that a mask leaves
out are not read. `gather` is `outer` with the sides exchanged (a lane is an output channel).

A tile's loop is compiled by itself, and kernels call it by its address: to them rows and vectors are numbers, and one
compiled form of a kernel serves all tiles.
"""

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnkit.rooms.numba.emit import NUMBER, Emitter, UnitType, called, function, opaque, unit
from cnnkit.rooms.numba.machine import REGISTERS, VECTOR_BYTES, kernel


class TileType(types.Type):
    """The Numba type of a tile; its key holds everything that the emitted code depends on."""

    def __init__(self, rows: int, vectors: int, unit: UnitType) -> None:
        self.rows, self.vectors, self.unit = rows, vectors, unit
        super().__init__(name=f"Tile({rows} x {vectors}, {unit.name})")


class Tile:
    """`rows` x `vectors` accumulators of a dtype, for a kind of loop.

    Its vectors may be `share` times narrower than those of the `unit` that kernels are compiled for.
    """

    def __init__(self, kind: str, rows: int, vectors: int, dtype: np.dtype, share: int = 1) -> None:
        self.kind, self.rows, self.vectors, self.unit = kind, rows, vectors, unit(dtype)
        self.lanes = self.unit.lanes // share
        self.columns = vectors * self.lanes
        self._numba_type_ = TileType(rows, vectors, UnitType(dtype.name, self.lanes))

    @cached_property
    def loop(self) -> int:
        """The address of the loop, compiled (or read from the disk) when it is first asked for."""
        address = {
            "outer": _outer_address,
            "inner": _inner_address,
            "product": _product_address,
            "gather": _gather_address,
        }
        return address[self.kind](self)

    def __reduce__(self) -> Any:
        raise TypeError("a tile belongs to this process")


opaque(TileType)

if REGISTERS >= 32:
    OUTER = [(5, 5), (6, 4), (8, 3), (4, 4), (10, 2), (16, 1), (4, 1), (3, 7), (2, 6), (1, 12)]
    INNER = [(6, 4), (8, 2), (9, 1)]
    PRODUCT = [(6, 4), (4, 4), (8, 2), (8, 1)]
    GATHER = [(6, 4), (8, 3), (8, 2), (1, 8), (8, 1)]
else:
    OUTER = [(4, 3), (3, 3), (6, 2), (2, 4), (12, 1), (4, 1), (1, 6)]
    INNER = [(4, 3), (6, 2), (9, 1)]
    PRODUCT = [(6, 2), (4, 2)]
    GATHER = [(4, 3), (3, 3), (6, 2), (1, 8), (8, 1)]
if VECTOR_BYTES == 16:  # the largest spills: SSE needs a register for a product too, ARM's scheduler one to spare
    OUTER, GATHER, INNER = OUTER[1:], GATHER[1:], [(3, 3), (4, 2), (9, 1)]
NARROW = [share for share in (2, 4) if VECTOR_BYTES // share >= 16]  # of `gather`: few output channels fill few lanes


@lru_cache
def tiles(kind: str, dtype: np.dtype) -> list[Tile]:
    """All tiles that are ever compiled for a kind of loop, and a dtype."""
    sizes = {"outer": OUTER, "inner": INNER, "product": PRODUCT, "gather": GATHER}[kind]
    narrow = [Tile(kind, *sizes[-1], dtype, share) for share in NARROW] if kind == "gather" else []
    return [Tile(kind, rows, vectors, dtype) for rows, vectors in sizes] + narrow


def compile_all(dtype: np.dtype) -> None:
    """Compile all tiles of a dtype, or read them from the disk."""
    for kind in ("outer", "inner", "gather", *(("product",) if dtype == np.float32 else ())):
        for tile in tiles(kind, dtype):
            tile.loop  # noqa: B018


def compiled(name: str, numbers: int, body: Any) -> Any:
    """An intrinsic that emits a tile's loop, by ``body(emit, tile, *numbers)``, and gives its address."""

    @intrinsic
    def address(typingctx: Any, tile: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            full = f"{name}.{tile.rows}x{tile.vectors}"
            loop = function(builder.module, full, tile.unit, numbers, lambda emit, *given: body(emit, tile, *given))
            return builder.ptrtoint(loop, NUMBER)

        return types.intp(tile), codegen

    return address


# ---------------------------------------------------------------- outer products: lanes are kept apart


@intrinsic
def outer(
    typingctx: Any, loop: Any, out: Any, step: Any, here: Any, count: Any, bias: Any, relu: Any, a: Any, b: Any,
    offsets: Any, terms: Any,
) -> Any:  # fmt: skip
    """``out[i * step + p] = bias[i] + sum over t of a[t * rows + i] * b[offsets[t] + p]``, i < `here`, p < `count`.

    Arguments are addresses, but for `step` (elements between rows of `out`), `here` (at most the tile's rows), `count`
    (at most its columns), `relu` (0 or 1) and `terms`. Of b whole vectors are read: `count` rounded up to `lanes`.
    """
    return called(10)


def _emit_outer(emit: Emitter, tile: TileType, *args: Any) -> None:
    _for_vectors(emit, tile, args[3], lambda vectors: _emit_outer_loop(emit, tile, vectors, *args))


def _for_vectors(emit: Emitter, tile: TileType, count: Any, body: Any) -> None:
    """One ``body(vectors)`` for each number of vectors that `count` columns may need."""
    builder = emit.builder
    needed = builder.udiv(builder.add(count, emit.number(emit.lanes - 1)), emit.number(emit.lanes))
    done = builder.append_basic_block("done")
    full = builder.append_basic_block("full")
    choice = builder.switch(needed, full)
    for vectors in range(1, tile.vectors + 1):
        if vectors < tile.vectors:
            block = builder.append_basic_block(f"vectors_{vectors}")
            choice.add_case(emit.number(vectors), block)
        else:
            block = full
        builder.position_at_end(block)
        body(vectors)
        builder.branch(done)
    builder.position_at_end(done)


def _emit_outer_loop(
    emit: Emitter, tile: TileType, vectors: int,
    out: Any, step: Any, here: Any, count: Any, bias: Any, relu: Any, a: Any, b: Any, offsets: Any, terms: Any,
) -> None:  # fmt: skip
    builder = emit.builder
    out, bias, a, b = (emit.pointer(address) for address in (out, bias, a, b))
    offsets = emit.pointer(offsets, emit.index)

    def add_term(t: Any, acc: list[Any]) -> list[Any]:
        source = emit.at(b, builder.load(emit.at(offsets, t)))
        vs = [emit.load_vector(emit.at(source, v * emit.lanes)) for v in range(vectors)]
        row = emit.at(a, builder.mul(t, emit.number(tile.rows)))
        new = []
        for i in range(tile.rows):
            factor = emit.broadcast(emit.at(row, i))
            new += [builder.call(emit.fma, [factor, v, acc[i * vectors + n]]) for n, v in enumerate(vs)]
        return new

    biases = [emit.broadcast(emit.at(bias, i)) for i in range(tile.rows)]
    sums = emit.accumulate(terms, [one for one in biases for _ in range(vectors)], add_term)
    last = emit.lanes_below(builder.sub(count, emit.number((vectors - 1) * emit.lanes)))
    stored, least = builder.append_basic_block("stored"), emit.least(relu)
    for i in range(tile.rows):
        row = emit.at(out, builder.mul(step, emit.number(i)))
        for v in range(vectors):
            value, to = emit.at_least(least, sums[i * vectors + v]), emit.at(row, v * emit.lanes)
            if v < vectors - 1:
                emit.store_vector(value, to)
            else:
                emit.store_masked(value, to, last)
        more = builder.append_basic_block("row")
        builder.cbranch(builder.icmp_signed(">", here, emit.number(i + 1)), more, stored)
        builder.position_at_end(more)
    builder.branch(stored)
    builder.position_at_end(stored)


_outer_loop = compiled("outer", 10, _emit_outer)


@kernel
def _outer_address(tile):
    return _outer_loop(tile)


# ---------------------------------------------------------------- inner products: lanes are added up


@intrinsic
def inner(
    typingctx: Any, loop: Any, out: Any, step: Any, here: Any, across: Any, x: Any, x_offsets: Any, g: Any,
    g_offsets: Any, count: Any,
) -> Any:  # fmt: skip
    """``out[j * step + i] += sum over p < count of x[x_offsets[i] + p] * g[g_offsets[j] + p]``.

    For i < `here`, j < `across`. Arguments are addresses, but for `step` (elements), `here` (at most the tile's rows),
    `across` (at most its vectors) and `count`. All offsets must be ones to read at; nothing is read behind `count`.
    """
    return called(9)


def _emit_inner(
    emit: Emitter, tile: TileType, out: Any, step: Any, here: Any, across: Any, x: Any, x_offsets: Any, g: Any,
    g_offsets: Any, count: Any,
) -> None:  # fmt: skip
    builder = emit.builder
    out, x, g = (emit.pointer(address) for address in (out, x, g))
    x_offsets, g_offsets = (emit.pointer(address, emit.index) for address in (x_offsets, g_offsets))
    xs = [emit.at(x, builder.load(emit.at(x_offsets, i))) for i in range(tile.rows)]
    gs = [emit.at(g, builder.load(emit.at(g_offsets, j))) for j in range(tile.vectors)]

    def add_block(p: Any, acc: list[Any], read: Any) -> list[Any]:
        right = [read(emit.at(one, p)) for one in gs]
        new = []
        for i, one in enumerate(xs):
            left = read(emit.at(one, p))
            new += [builder.call(emit.fma, [left, r, acc[i * tile.vectors + j]]) for j, r in enumerate(right)]
        return new

    def add_full(block: Any, acc: list[Any]) -> list[Any]:
        return add_block(builder.mul(block, emit.number(emit.lanes)), acc, emit.load_vector)

    full = builder.udiv(count, emit.number(emit.lanes))
    sums = emit.accumulate(full, [emit.zero()] * (tile.rows * tile.vectors), add_full)
    before = builder.block
    rest, after = builder.append_basic_block("rest"), builder.append_basic_block("complete")
    done = builder.mul(full, emit.number(emit.lanes))
    left_over = builder.sub(count, done)
    builder.cbranch(builder.icmp_signed(">", left_over, emit.number(0)), rest, after)
    builder.position_at_end(rest)
    mask = emit.lanes_below(left_over)
    more = add_block(done, sums, lambda pointer: emit.load_masked(pointer, mask))
    builder.branch(after)
    builder.position_at_end(after)
    totals = []
    for one, then in zip(sums, more, strict=True):
        phi = builder.phi(emit.vector)
        phi.add_incoming(one, before)
        phi.add_incoming(then, rest)
        totals.append(phi)
    columns = [totals[i * tile.vectors + j] for j in range(tile.vectors) for i in range(tile.rows)]
    summed = [sum_lanes(emit, columns[n : n + emit.lanes]) for n in range(0, len(columns), emit.lanes)]
    summed.append(emit.zero())
    added = builder.append_basic_block("added")
    for j in range(tile.vectors):
        for i in range(0, tile.rows, emit.lanes):
            first, lane = divmod(j * tile.rows + i, emit.lanes)
            part = emit.shuffle(summed[first], summed[first + 1], range(lane, lane + emit.lanes))
            to = emit.at(out, builder.add(builder.mul(step, emit.number(j)), emit.number(i)))
            emit.add_first(part, to, builder.sub(here, emit.number(i)), min(tile.rows - i, emit.lanes))
        more = builder.append_basic_block("column")
        builder.cbranch(builder.icmp_signed(">", across, emit.number(j + 1)), more, added)
        builder.position_at_end(more)
    builder.branch(added)
    builder.position_at_end(added)


def sum_lanes(emit: Emitter, vectors: list[Any]) -> Any:
    """A vector of the sums over the lanes of each of up to `lanes` vectors, in a fixed order.

    Halves are added up in pairs: of every two vectors, one with the halves' sums of both, and so on.
    """
    builder, lanes = emit.builder, emit.lanes
    vectors = [*vectors, *[emit.zero()] * (lanes - len(vectors))]
    width = lanes  # lanes that still belong to one sum
    while width > 1:
        half = width // 2
        low = [lane for lane in range(2 * lanes) if lane % width < half]
        high = [lane + half for lane in low]
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.fadd(emit.shuffle(a, b, low), emit.shuffle(a, b, high)) for a, b in pairs]
        width = half
    return vectors[0]


_inner_loop = compiled("inner", 9, _emit_inner)


@kernel
def _inner_address(tile):
    return _inner_loop(tile)


# ---------------------------------------------------------------- matrix products: as outer, of terms that lie in rows


@intrinsic
def product(typingctx: Any, loop: Any, out: Any, step: Any, begin: Any, a: Any, a_step: Any, b: Any, terms: Any) -> Any:
    """``out[i * step + p] += sum over t of a[i * a_step + t] * b[t * columns + p]``.

    Arguments are addresses, but for steps (elements), `begin` (1 if what stood in `out` does not count) and `terms`.
    """
    return called(7)


def _emit_product(
    emit: Emitter, tile: TileType, out: Any, step: Any, begin: Any, a: Any, a_step: Any, b: Any, terms: Any
) -> None:
    builder = emit.builder
    out, a, b = (emit.pointer(address) for address in (out, a, b))
    rows = [emit.at(a, builder.mul(a_step, emit.number(i))) for i in range(tile.rows)]

    def add_term(t: Any, acc: list[Any]) -> list[Any]:
        source = emit.at(b, builder.mul(t, emit.number(tile.vectors * emit.lanes)))
        vs = [emit.load_vector(emit.at(source, v * emit.lanes)) for v in range(tile.vectors)]
        new = []
        for i, row in enumerate(rows):
            factor = emit.broadcast(emit.at(row, t))
            new += [builder.call(emit.fma, [factor, v, acc[i * tile.vectors + n]]) for n, v in enumerate(vs)]
        return new

    to = [
        emit.at(emit.at(out, builder.mul(step, emit.number(i))), v * emit.lanes)
        for i in range(tile.rows)
        for v in range(tile.vectors)
    ]
    anew = builder.trunc(begin, ir.IntType(1))
    starts = [builder.select(anew, emit.zero(), emit.load_vector(one)) for one in to]
    for total, one in zip(emit.accumulate(terms, starts, add_term), to, strict=True):
        emit.store_vector(total, one)


_product_loop = compiled("product", 7, _emit_product)


@kernel
def _product_address(tile):
    return _product_loop(tile)


# ---------------------------------------------------------------- the same, rows and terms standing in tables


@intrinsic
def gather(
    typingctx: Any, loop: Any, out: Any, places: Any, count: Any, more: Any, more_step: Any, relu: Any, a: Any,
    rows: Any, offsets: Any, terms: Any, b: Any, b_step: Any,
) -> Any:  # fmt: skip
    """``out[places[i] + p] = more[i * more_step + p] + sum over t of a[rows[i] + offsets[t]] * b[t * b_step + p]``.

    For all of the tile's rows, p < `count` (at most its columns). Arguments are addresses, but for `count`, steps
    (elements), `relu` (0 or 1) and `terms`. Of b and `more` whole vectors are read: `count` rounded up to `lanes`.
    """
    return called(12)


def _emit_gather(emit: Emitter, tile: TileType, *args: Any) -> None:
    _for_vectors(emit, tile, args[2], lambda vectors: _emit_gather_loop(emit, tile, vectors, *args))


def _emit_gather_loop(
    emit: Emitter, tile: TileType, vectors: int,
    out: Any, places: Any, count: Any, more: Any, more_step: Any, relu: Any, a: Any, rows: Any, offsets: Any,
    terms: Any, b: Any, b_step: Any,
) -> None:  # fmt: skip
    builder = emit.builder
    out, more, a, b = (emit.pointer(address) for address in (out, more, a, b))
    places, rows, offsets = (emit.pointer(address, emit.index) for address in (places, rows, offsets))
    sources = [emit.at(a, builder.load(emit.at(rows, i))) for i in range(tile.rows)]

    def add_term(t: Any, acc: list[Any]) -> list[Any]:
        offset = builder.load(emit.at(offsets, t))
        source = emit.at(b, builder.mul(t, b_step))
        vs = [emit.load_vector(emit.at(source, v * emit.lanes)) for v in range(vectors)]
        new = []
        for i, row in enumerate(sources):
            factor = emit.broadcast(emit.at(row, offset))
            new += [builder.call(emit.fma, [factor, v, acc[i * vectors + n]]) for n, v in enumerate(vs)]
        return new

    sums = emit.accumulate(terms, [emit.zero()] * (tile.rows * vectors), add_term)
    last, least = emit.lanes_below(builder.sub(count, emit.number((vectors - 1) * emit.lanes))), emit.least(relu)
    for i in range(tile.rows):
        to = emit.at(out, builder.load(emit.at(places, i)))
        addend = emit.at(more, builder.mul(more_step, emit.number(i)))
        for v in range(vectors):
            at = v * emit.lanes
            value = builder.fadd(sums[i * vectors + v], emit.load_vector(emit.at(addend, at)))
            value = emit.at_least(least, value)
            if v < vectors - 1:
                emit.store_vector(value, emit.at(to, at))
            else:
                emit.store_masked(value, emit.at(to, at), last)


_gather_loop = compiled("gather", 12, _emit_gather)


@kernel
def _gather_address(tile):
    return _gather_loop(tile)
