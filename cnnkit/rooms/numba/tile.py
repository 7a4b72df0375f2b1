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
    INNER = [(6, 4), (6, 1)]
else:
    OUTER = [(4, 3), (3, 3), (6, 2), (2, 4), (12, 1), (4, 1), (1, 6)]
    INNER = [(3, 3), (4, 1)]


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
    typingctx: Any, tile: Any, out: Any, step: Any, bias: Any, relu: Any, a: Any, b: Any, offsets: Any, terms: Any
) -> Any:
    """``out[i * step + v * lanes ...] = bias[i] + sum over t of a[t * rows + i] * b[offsets[t] + v * lanes ...]``.

    Arguments are addresses, but for `step` (elements between rows of `out`), `relu` (a bool) and `terms`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call_apart("outer", builder, tile, _emit_outer, args[1:])
        return context.get_dummy_value()

    address = types.intp
    return types.void(tile, address, types.intp, address, types.boolean, address, address, address, types.intp), codegen


def _emit_outer(
    emit: _Emitter, tile: TileType, out: Any, step: Any, bias: Any, relu: Any, a: Any, b: Any, offsets: Any, terms: Any
) -> None:
    builder = emit.builder
    out, bias, a, b = (emit.pointer(address) for address in (out, bias, a, b))
    offsets = emit.pointer(offsets, emit.index)

    def add_term(t: Any, acc: list[Any]) -> list[Any]:
        source = emit.at(b, builder.load(emit.at(offsets, t)))
        vs = [emit.load_vector(emit.at(source, v * tile.lanes)) for v in range(tile.vectors)]
        row = emit.at(a, builder.mul(t, emit.number(tile.rows)))
        new = []
        for i in range(tile.rows):
            factor = emit.broadcast(emit.at(row, i))
            new += [builder.call(emit.fma, [factor, v, acc[i * tile.vectors + n]]) for n, v in enumerate(vs)]
        return new

    biases = [emit.broadcast(emit.at(bias, i)) for i in range(tile.rows)]
    sums = emit.accumulate(terms, [one for one in biases for _ in range(tile.vectors)], add_term)
    for i in range(tile.rows):
        row = emit.at(out, builder.mul(step, emit.number(i)))
        for v in range(tile.vectors):
            emit.store_vector(emit.relu(sums[i * tile.vectors + v], relu), emit.at(row, v * tile.lanes))


@intrinsic
def inner(
    typingctx: Any, tile: Any, out: Any, x: Any, x_offsets: Any, g: Any, g_offsets: Any, masks: Any, blocks: Any
) -> Any:
    """``out[i][j] = sum over p of x[x_offsets[i] + p] * g[g_offsets[j] + p]``, p in `blocks` of `lanes`.

    Arguments are addresses, but for `blocks`. Bit ``l`` of the 32-bit word ``masks[block]`` says whether
    ``p = block * lanes + l`` counts.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call_apart("inner", builder, tile, _emit_inner, args[1:])
        return context.get_dummy_value()

    return types.void(tile, *(types.intp,) * 7), codegen


def _emit_inner(
    emit: _Emitter, tile: TileType, out: Any, x: Any, x_offsets: Any, g: Any, g_offsets: Any, masks: Any, blocks: Any
) -> None:
    builder = emit.builder
    out, x, g = (emit.pointer(address) for address in (out, x, g))
    x_offsets, g_offsets = (emit.pointer(address, emit.index) for address in (x_offsets, g_offsets))
    masks = emit.pointer(masks, ir.IntType(32))
    xs = [emit.at(x, builder.load(emit.at(x_offsets, i))) for i in range(tile.rows)]
    gs = [emit.at(g, builder.load(emit.at(g_offsets, j))) for j in range(tile.vectors)]
    read = _masked_load(emit)

    def add_block(block: Any, acc: list[Any]) -> list[Any]:
        p = builder.mul(block, emit.number(tile.lanes))
        word = builder.trunc(builder.load(emit.at(masks, block)), ir.IntType(tile.lanes))
        mask = builder.bitcast(word, emit.bits)
        right = [read(emit.at(one, p), mask) for one in gs]
        new = []
        for i, one in enumerate(xs):
            left = read(emit.at(one, p), mask)
            new += [builder.call(emit.fma, [left, r, acc[i * tile.vectors + j]]) for j, r in enumerate(right)]
        return new

    sums = emit.accumulate(blocks, [emit.zero()] * (tile.rows * tile.vectors), add_block)
    for n, total in enumerate(sums):
        builder.store(_sum_lanes(emit, total), emit.at(out, n))


@intrinsic
def copy(typingctx: Any, tile: Any, to: Any, source: Any, count: Any) -> Any:
    """``to[:count] = source[:count]``, of addresses, in vectors, of which the last is read and stored in part."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call_apart("copy", builder, tile, _emit_copy, args[1:])
        return context.get_dummy_value()

    return types.void(tile, types.intp, types.intp, types.intp), codegen


def _emit_copy(emit: _Emitter, tile: TileType, to: Any, source: Any, count: Any) -> None:
    builder = emit.builder
    to, source = emit.pointer(to), emit.pointer(source)
    lanes = ir.VectorType(emit.index, tile.lanes)
    numbers = ir.Constant(lanes, list(range(tile.lanes)))
    kind = ir.FunctionType(ir.VoidType(), [emit.vector, emit.vector.as_pointer(), ir.IntType(32), emit.bits])
    store, read = emit.intrinsic("llvm.masked.store", kind, ".p0"), _masked_load(emit)

    def copy_vector(t: Any, acc: list[Any]) -> list[Any]:
        at = builder.mul(t, emit.number(tile.lanes))
        mask = builder.icmp_unsigned("<", numbers, emit.spread(builder.sub(count, at), lanes))
        value = read(emit.at(source, at), mask)  # what lies behind the source may not be ours to read
        there = builder.bitcast(emit.at(to, at), emit.vector.as_pointer())
        builder.call(store, [value, there, ir.Constant(ir.IntType(32), emit.align), mask])
        return []

    vectors = builder.udiv(builder.add(count, emit.number(tile.lanes - 1)), emit.number(tile.lanes))
    emit.accumulate(vectors, [], copy_vector)


def _masked_load(emit: _Emitter) -> Any:
    pointer = emit.vector.as_pointer()
    kind = ir.FunctionType(emit.vector, [pointer, ir.IntType(32), emit.bits, emit.vector])
    load = emit.intrinsic("llvm.masked.load", kind, ".p0")

    def read(address: Any, mask: Any) -> Any:
        source = emit.builder.bitcast(address, pointer)
        return emit.builder.call(load, [source, ir.Constant(ir.IntType(32), emit.align), mask, emit.zero()])

    return read


def _sum_lanes(emit: _Emitter, vector: Any) -> Any:
    """All lanes added up, in a fixed order: halves, quarters, and so on."""
    builder, width = emit.builder, emit.lanes
    while width > 1:
        width //= 2
        halves = [
            builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
            )
            for start in (0, width)
        ]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))
