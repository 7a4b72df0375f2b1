"""The building block: a tile of sums of products, held in vector registers, emitted as LLVM vector code.

A tile has `rows` x `vectors` accumulators, each a vector of `lanes` numbers. Two loops are made of it, and all of
convolution and dense layers are made of these two; the emitter knows registers, its callers know tensors:

    outer   acc[i][v] += a[t * rows + i] * b[offset[t] + v * lanes : ... + lanes]             for every term t
    inner   acc[i][j] += x[x_offset[i] + p : ... + lanes] * g[g_offset[j] + p : ... + lanes]  for p in steps of lanes

`outer` keeps every lane apart (a lane is a pixel) and reads, per term, `vectors` vectors and `rows` numbers for
`rows * vectors` fused multiply-adds. `inner` adds its lanes up at the end (a lane is a term); terms that a mask leaves
out are not read.

A tile is a value whose Numba *type* carries the constants, so that one kernel has one compiled form per tile.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from cnnkit.rooms.numba.machine import REGISTERS, VECTOR_BYTES


class TileType(types.Type):
    """The Numba type of a tile: its key holds everything that the emitted code depends on."""

    def __init__(self, rows: int, vectors: int, lanes: int, dtype: str) -> None:
        self.rows, self.vectors, self.lanes, self.dtype = rows, vectors, lanes, dtype
        super().__init__(name=f"Tile({rows}, {vectors}, {lanes}, {dtype})")


class Tile:
    """A run-time handle of a :class:`TileType`; it holds nothing else."""

    def __init__(self, rows: int, vectors: int, dtype: np.dtype) -> None:
        self.rows, self.vectors = rows, vectors
        self.lanes = VECTOR_BYTES // dtype.itemsize
        self.columns = vectors * self.lanes
        self._numba_type_ = TileType(rows, vectors, self.lanes, dtype.name)

    def __reduce__(self) -> Any:
        raise TypeError("a tile belongs to this process")


if REGISTERS >= 32:
    OUTER = [(5, 5), (6, 4), (8, 3), (4, 4), (10, 2), (16, 1), (4, 1), (2, 6), (1, 6)]
    INNER = [(6, 4), (8, 2), (9, 1)]
else:
    OUTER = [(4, 3), (3, 3), (6, 2), (2, 4), (12, 1), (4, 1), (1, 6)]
    INNER = [(3, 3), (4, 2), (9, 1)]
if VECTOR_BYTES == 16:  # the largest spills: SSE needs a register for a product too, ARM's scheduler one to spare
    OUTER = OUTER[1:]


@lru_cache
def tiles(kind: str, dtype: np.dtype) -> list[Tile]:
    """All tiles that are ever compiled for a kind of loop and a dtype."""
    return [Tile(rows, vectors, dtype) for rows, vectors in {"outer": OUTER, "inner": INNER}[kind]]


@register_model(TileType)
class _TileModel(models.OpaqueModel):
    pass


@unbox(TileType)
def _unbox_tile(typ: TileType, obj: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


# ---------------------------------------------------------------- constants of a tile, seen from a kernel


def _constant(read: Any) -> Any:
    @intrinsic
    def constant(typingctx: Any, tile: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return context.get_constant(types.intp, read(tile))

        return types.intp(tile), codegen

    return constant


rows = _constant(lambda tile: tile.rows)
vectors = _constant(lambda tile: tile.vectors)
columns = _constant(lambda tile: tile.vectors * tile.lanes)
lanes = _constant(lambda tile: tile.lanes)
itemsize = _constant(lambda tile: np.dtype(tile.dtype).itemsize)


# ---------------------------------------------------------------- the two loops


class _Emitter:
    """LLVM values that both loops need: the tile's types, pointers from addresses, loads, and the accumulating loop."""

    def __init__(self, builder: ir.IRBuilder, tile: TileType) -> None:
        self.builder = builder
        self.index = ir.IntType(64)
        self.scalar = ir.FloatType() if tile.dtype == "float32" else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, tile.lanes)
        self.lanes = tile.lanes
        self.bits = ir.VectorType(ir.IntType(1), tile.lanes)
        self.align = 4 if tile.dtype == "float32" else 8
        self.fma = self.intrinsic("llvm.fmuladd", ir.FunctionType(self.vector, [self.vector] * 3))

    def intrinsic(self, name: str, kind: ir.FunctionType, suffix: str = "") -> Any:
        """An LLVM intrinsic for the tile's vectors."""
        full = f"{name}.v{self.lanes}f{8 * self.align}{suffix}"
        return cgutils.get_or_insert_function(self.builder.module, kind, full)

    def _not_unrolled(self) -> Any:
        """A loop's metadata: two terms at a time would need twice the registers, and spill them all."""
        module = self.builder.module
        disable = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
        loop = module.add_metadata(
            [ir.MetaDataString(module, f"cnnkit.loop.{self.builder.block.parent.name}"), disable]
        )
        loop.operands = (loop, disable)  # LLVM knows a loop's metadata by its pointing to itself
        return loop

    def number(self, value: int) -> ir.Constant:
        return ir.Constant(self.index, value)

    def pointer(self, address: Any, kind: Any = None) -> Any:
        return self.builder.inttoptr(address, (kind or self.scalar).as_pointer())

    def at(self, pointer: Any, offset: Any) -> Any:
        return self.builder.gep(pointer, [self.number(offset) if isinstance(offset, int) else offset])

    def load_vector(self, pointer: Any) -> Any:
        value = self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()))
        value.align = self.align
        return value

    def store_vector(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer())).align = self.align

    def spread(self, scalar: Any, kind: ir.VectorType) -> Any:
        """A vector with `scalar` in every lane."""
        nothing = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
        same = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, nothing, same)

    def broadcast(self, address: Any) -> Any:
        """The number at an address, in every lane."""
        return self.spread(self.builder.load(address), self.vector)

    def shuffle(self, a: Any, b: Any, lanes: Any) -> Any:
        """The given lanes of two vectors laid end to end."""
        lanes = list(lanes)
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))

    def lanes_below(self, count: Any) -> Any:
        """A mask of the first `count` lanes; of none if it is not positive."""
        numbers = ir.VectorType(self.index, self.lanes)
        return self.builder.icmp_signed(
            "<", ir.Constant(numbers, list(range(self.lanes))), self.spread(count, numbers)
        )

    def load_masked(self, pointer: Any, mask: Any) -> Any:
        """A vector with zeros where the mask is off; memory is not touched there."""
        address = self.vector.as_pointer()
        kind = ir.FunctionType(self.vector, [address, ir.IntType(32), self.bits, self.vector])
        load = self.intrinsic("llvm.masked.load", kind, ".p0")
        align = ir.Constant(ir.IntType(32), self.align)
        return self.builder.call(load, [self.builder.bitcast(pointer, address), align, mask, self.zero()])

    def store_masked(self, value: Any, pointer: Any, mask: Any) -> None:
        """Store the lanes where the mask is on; memory is not touched elsewhere."""
        address = self.vector.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [self.vector, address, ir.IntType(32), self.bits])
        store = self.intrinsic("llvm.masked.store", kind, ".p0")
        align = ir.Constant(ir.IntType(32), self.align)
        self.builder.call(store, [value, self.builder.bitcast(pointer, address), align, mask])

    def zero(self) -> ir.Constant:
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def relu(self, vector: Any, wanted: Any) -> Any:
        """Zero where a lane is negative, if it is wanted; NaN stays."""
        positive = self.builder.select(self.builder.fcmp_ordered("<", vector, self.zero()), self.zero(), vector)
        return self.builder.select(self.builder.trunc(wanted, ir.IntType(1)), positive, vector)

    def accumulate(self, count: Any, starts: list[Any], add_term: Any) -> list[Any]:
        """``acc = starts; for t in range(count): acc = add_term(t, acc)``, all in registers; the final one."""
        builder = self.builder
        before = builder.block
        body, after = builder.append_basic_block("terms"), builder.append_basic_block("summed")
        builder.cbranch(builder.icmp_signed(">", count, self.number(0)), body, after)
        builder.position_at_end(body)
        t = builder.phi(self.index)
        acc = [builder.phi(self.vector) for _ in starts]
        new = add_term(t, acc)
        following = builder.add(t, self.number(1))
        again = builder.cbranch(builder.icmp_signed("<", following, count), body, after)
        again.set_metadata("llvm.loop", self._not_unrolled())
        for phi, start, then in zip([t, *acc], [self.number(0), *starts], [following, *new], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(then, builder.block)
        end = builder.block
        builder.position_at_end(after)
        sums = [builder.phi(self.vector) for _ in starts]
        for phi, start, then in zip(sums, starts, new, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(then, end)
        return sums


def _call_apart(name: str, builder: ir.IRBuilder, tile: TileType, body: Any, args: Any) -> None:
    """Call ``body(emit, *args)``, emitted as a function by itself, so that all registers are its own."""
    full = f"cnnkit.{name}.{tile.rows}x{tile.vectors}x{tile.lanes}.{tile.dtype}"
    function = builder.module.globals.get(full)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
        function = ir.Function(builder.module, kind, full)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        body(_Emitter(inside, tile), tile, *function.args)
        inside.ret_void()
    builder.call(function, args)


@intrinsic
def outer(
    typingctx: Any, tile: Any, out: Any, step: Any, here: Any, count: Any, bias: Any, relu: Any, a: Any, b: Any,
    offsets: Any, terms: Any,
) -> Any:  # fmt: skip
    """``out[i * step + p] = bias[i] + sum over t of a[t * rows + i] * b[offsets[t] + p]``, i < `here`, p < `count`.

    Arguments are addresses, but for `step` (elements between rows of `out`), `here` (at most `rows`), `count` (at most
    `columns`), `relu` (a bool) and `terms`. Whole vectors of b are read: `count` rounded up to `lanes`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call_apart("outer", builder, tile, _emit_outer, args[1:])
        return context.get_dummy_value()

    address, number = types.intp, types.intp
    given = address, number, number, number, address, types.boolean, address, address, address, number
    return types.void(tile, *given), codegen


def _emit_outer(emit: _Emitter, tile: TileType, *args: Any) -> None:
    """One loop for each number of vectors that `count` may need."""
    builder = emit.builder
    _, _, _, count, *_ = args
    needed = builder.udiv(builder.add(count, emit.number(tile.lanes - 1)), emit.number(tile.lanes))
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
        _emit_outer_loop(emit, tile, vectors, *args)
        builder.branch(done)
    builder.position_at_end(done)


def _emit_outer_loop(
    emit: _Emitter, tile: TileType, vectors: int,
    out: Any, step: Any, here: Any, count: Any, bias: Any, relu: Any, a: Any, b: Any, offsets: Any, terms: Any,
) -> None:  # fmt: skip
    builder = emit.builder
    out, bias, a, b = (emit.pointer(address) for address in (out, bias, a, b))
    offsets = emit.pointer(offsets, emit.index)

    def add_term(t: Any, acc: list[Any]) -> list[Any]:
        source = emit.at(b, builder.load(emit.at(offsets, t)))
        vs = [emit.load_vector(emit.at(source, v * tile.lanes)) for v in range(vectors)]
        row = emit.at(a, builder.mul(t, emit.number(tile.rows)))
        new = []
        for i in range(tile.rows):
            factor = emit.broadcast(emit.at(row, i))
            new += [builder.call(emit.fma, [factor, v, acc[i * vectors + n]]) for n, v in enumerate(vs)]
        return new

    biases = [emit.broadcast(emit.at(bias, i)) for i in range(tile.rows)]
    sums = emit.accumulate(terms, [one for one in biases for _ in range(vectors)], add_term)
    last = emit.lanes_below(builder.sub(count, emit.number((vectors - 1) * tile.lanes)))
    stored = builder.append_basic_block("stored")
    for i in range(tile.rows):
        row = emit.at(out, builder.mul(step, emit.number(i)))
        for v in range(vectors):
            value, to = emit.relu(sums[i * vectors + v], relu), emit.at(row, v * tile.lanes)
            if v < vectors - 1:
                emit.store_vector(value, to)
            else:
                emit.store_masked(value, to, last)
        more = builder.append_basic_block("row")
        builder.cbranch(builder.icmp_signed(">", here, emit.number(i + 1)), more, stored)
        builder.position_at_end(more)
    builder.branch(stored)
    builder.position_at_end(stored)


@intrinsic
def inner(
    typingctx: Any, tile: Any, out: Any, x: Any, x_offsets: Any, g: Any, g_offsets: Any, count: Any
) -> Any:
    """``out[i * vectors + j] = sum over p < count of x[x_offsets[i] + p] * g[g_offsets[j] + p]``.

    Arguments are addresses, but for `count`. Nothing behind the `count` is read.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call_apart("inner", builder, tile, _emit_inner, args[1:])
        return context.get_dummy_value()

    return types.void(tile, *(types.intp,) * 6), codegen


def _emit_inner(
    emit: _Emitter, tile: TileType, out: Any, x: Any, x_offsets: Any, g: Any, g_offsets: Any, count: Any
) -> None:
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
        return add_block(builder.mul(block, emit.number(tile.lanes)), acc, emit.load_vector)

    full = builder.udiv(count, emit.number(tile.lanes))
    sums = emit.accumulate(full, [emit.zero()] * (tile.rows * tile.vectors), add_full)
    before = builder.block
    rest, after = builder.append_basic_block("rest"), builder.append_basic_block("complete")
    done = builder.mul(full, emit.number(tile.lanes))
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
    for start in range(0, len(totals), tile.lanes):
        group = totals[start : start + tile.lanes]
        total = _sum_lanes(emit, group)
        emit.store_masked(total, emit.at(out, start), emit.lanes_below(emit.number(len(group))))


def _sum_lanes(emit: _Emitter, vectors: list[Any]) -> Any:
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


@intrinsic
def fill(
    typingctx: Any, tile: Any, to: Any, count: Any, source: Any, step: Any, low: Any, high: Any
) -> Any:
    """``to[k] = source[k * step] if low <= k < high else 0`` for k < `count`, rounded up to `lanes`.

    `to` and `source` are addresses; nothing of `source` but what is named is read.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call_apart("fill", builder, tile, _emit_fill, args[1:])
        return context.get_dummy_value()

    return types.void(tile, *(types.intp,) * 6), codegen


def _emit_fill(
    emit: _Emitter, tile: TileType, to: Any, count: Any, source: Any, step: Any, low: Any, high: Any
) -> None:
    builder = emit.builder
    to, source = emit.pointer(to), emit.pointer(source)
    blocks = builder.udiv(builder.add(count, emit.number(tile.lanes - 1)), emit.number(tile.lanes))

    def between(low: Any, high: Any, at: Any) -> Any:
        below = emit.lanes_below(builder.sub(high, at))
        return builder.and_(below, builder.not_(emit.lanes_below(builder.sub(low, at))))

    def neighbours(t: Any, acc: list[Any]) -> list[Any]:
        at = builder.mul(t, emit.number(tile.lanes))
        emit.store_vector(emit.load_masked(emit.at(source, at), between(low, high, at)), emit.at(to, at))
        return []

    def every_other(t: Any, acc: list[Any]) -> list[Any]:
        at = builder.mul(t, emit.number(tile.lanes))
        first, end = builder.mul(low, emit.number(2)), builder.sub(builder.mul(high, emit.number(2)), emit.number(1))
        parts = []
        for half in (0, tile.lanes):
            there = builder.add(builder.mul(at, emit.number(2)), emit.number(half))
            parts.append(emit.load_masked(emit.at(source, there), between(first, end, there)))
        emit.store_vector(emit.shuffle(*parts, range(0, 2 * tile.lanes, 2)), emit.at(to, at))
        return []

    def zeros(t: Any, acc: list[Any]) -> list[Any]:
        emit.store_vector(emit.zero(), emit.at(to, builder.mul(t, emit.number(tile.lanes))))
        return []

    def number(t: Any, acc: list[Any]) -> list[Any]:
        k = builder.add(low, t)
        builder.store(builder.load(emit.at(source, builder.mul(k, step))), emit.at(to, k))
        return []

    one, two, more, done = (builder.append_basic_block(name) for name in ("one", "two", "more", "done"))
    choice = builder.switch(step, more)
    choice.add_case(emit.number(1), one)
    choice.add_case(emit.number(2), two)
    for block, loops in ((one, [neighbours]), (two, [every_other]), (more, [zeros, number])):
        builder.position_at_end(block)
        for loop in loops:
            emit.accumulate(builder.sub(high, low) if loop is number else blocks, [], loop)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def copy(typingctx: Any, tile: Any, to: Any, step: Any, source: Any, count: Any) -> Any:
    """``to[k * step] = source[k]`` for k < `count`, of addresses; nothing else is read or written."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call_apart("copy", builder, tile, _emit_copy, args[1:])
        return context.get_dummy_value()

    return types.void(tile, *(types.intp,) * 4), codegen


def _emit_copy(emit: _Emitter, tile: TileType, to: Any, step: Any, source: Any, count: Any) -> None:
    builder = emit.builder
    to, source = emit.pointer(to), emit.pointer(source)

    def copy_vector(t: Any, acc: list[Any]) -> list[Any]:
        at = builder.mul(t, emit.number(tile.lanes))
        mask = emit.lanes_below(builder.sub(count, at))
        emit.store_masked(emit.load_masked(emit.at(source, at), mask), emit.at(to, at), mask)
        return []

    def copy_number(t: Any, acc: list[Any]) -> list[Any]:
        builder.store(builder.load(emit.at(source, t)), emit.at(to, builder.mul(t, step)))
        return []

    near, far, done = (builder.append_basic_block(name) for name in ("near", "far", "done"))
    builder.cbranch(builder.icmp_signed("==", step, emit.number(1)), near, far)
    builder.position_at_end(near)
    vectors = builder.udiv(builder.add(count, emit.number(tile.lanes - 1)), emit.number(tile.lanes))
    emit.accumulate(vectors, [], copy_vector)
    builder.branch(done)
    builder.position_at_end(far)
    emit.accumulate(count, [], copy_number)
    builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def pack(typingctx: Any, tile: Any, to: Any, source: Any, step: Any, here: Any, offsets: Any, terms: Any) -> Any:
    """``to[t * rows + i] = source[i * step + offsets[t]] if i < here else 0``, for every term t and row i.

    `to`, `source` and `offsets` are addresses.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call_apart("pack", builder, tile, _emit_pack, args[1:])
        return context.get_dummy_value()

    return types.void(tile, *(types.intp,) * 6), codegen


def _emit_pack(
    emit: _Emitter, tile: TileType, to: Any, source: Any, step: Any, here: Any, offsets: Any, terms: Any
) -> None:
    builder = emit.builder
    to, source, offsets = emit.pointer(to), emit.pointer(source), emit.pointer(offsets, emit.index)
    last = builder.sub(here, emit.number(1))
    inside = [builder.icmp_signed("<", emit.number(i), here) for i in range(tile.rows)]
    rows = [builder.mul(step, builder.select(one, emit.number(i), last)) for i, one in enumerate(inside)]
    nothing = ir.Constant(emit.scalar, 0.0)

    def term(t: Any, acc: list[Any]) -> list[Any]:
        first = emit.at(source, builder.load(emit.at(offsets, t)))
        there = emit.at(to, builder.mul(t, emit.number(tile.rows)))
        for i, (one, row) in enumerate(zip(inside, rows, strict=True)):
            value = builder.load(emit.at(first, row))
            builder.store(builder.select(one, value, nothing), emit.at(there, i))
        return []

    emit.accumulate(terms, [], term)
