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

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from cnnkit.rooms.numba.machine import REGISTERS, VECTOR_BYTES

_SOURCE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]  # Numba's cache looks at the caller's file only


class TileType(types.Type):
    """The Numba type of a tile: its key holds everything that the emitted code depends on."""

    def __init__(self, rows: int, vectors: int, lanes: int, dtype: str, source: str = _SOURCE) -> None:
        self.rows, self.vectors, self.lanes, self.dtype, self.source = rows, vectors, lanes, dtype, source
        super().__init__(name=f"Tile({rows}, {vectors}, {lanes}, {dtype}, {source})")


class Tile:
    """A run-time handle of a :class:`TileType`; it holds nothing else."""

    def __init__(self, rows: int, vectors: int, dtype: np.dtype) -> None:
        self.rows, self.vectors = rows, vectors
        self.lanes = VECTOR_BYTES // dtype.itemsize
        self.columns = vectors * self.lanes
        self._numba_type_ = TileType(rows, vectors, self.lanes, dtype.name)

    def __reduce__(self) -> Any:
        raise TypeError("a tile belongs to this process")


OUTER = (
    [(8, 3), (6, 4), (8, 2), (4, 4), (8, 1), (2, 4), (1, 4), (2, 1)]
    if REGISTERS >= 32
    else [(4, 3), (6, 2), (4, 1), (1, 3)]
)
INNER = [(6, 4), (6, 1)] if REGISTERS >= 32 else [(3, 3), (3, 1)]


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
        self.align = 4 if tile.dtype == "float32" else 8
        self.fma = self.intrinsic("llvm.fma", ir.FunctionType(self.vector, [self.vector] * 3))

    def intrinsic(self, name: str, kind: ir.FunctionType, suffix: str = "") -> Any:
        """An LLVM intrinsic for the tile's vectors."""
        full = f"{name}.v{self.lanes}f{8 * self.align}{suffix}"
        return cgutils.get_or_insert_function(self.builder.module, kind, full)

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

    def broadcast(self, scalar: Any) -> Any:
        first = self.builder.insert_element(
            ir.Constant(self.vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
        )
        same = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, ir.Constant(self.vector, ir.Undefined), same)

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
        builder.cbranch(builder.icmp_signed("<", following, count), body, after)
        for phi, start, then in zip([t, *acc], [self.number(0), *starts], [following, *new], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(then, builder.block)
        builder.position_at_end(after)
        sums = [builder.phi(self.vector) for _ in starts]
        for phi, start, then in zip(sums, starts, new, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(then, body)
        return sums


@intrinsic
def outer(
    typingctx: Any, tile: Any, out: Any, step: Any, bias: Any, relu: Any, a: Any, b: Any, offsets: Any, terms: Any
) -> Any:
    """``out[i * step + v * lanes ...] = bias[i] + sum over t of a[t * rows + i] * b[offsets[t] + v * lanes ...]``.

    Arguments are addresses, but for `step` (elements between rows of `out`), `relu` (a bool) and `terms`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emitter(builder, tile)
        _, out_, step_, bias_, relu_, a_, b_, offsets_, terms_ = args
        out_, bias_, a_, b_ = (emit.pointer(address) for address in (out_, bias_, a_, b_))
        offsets_ = emit.pointer(offsets_, emit.index)

        def add_term(t: Any, acc: list[Any]) -> list[Any]:
            source = emit.at(b_, builder.load(emit.at(offsets_, t)))
            vs = [emit.load_vector(emit.at(source, v * tile.lanes)) for v in range(tile.vectors)]
            row = emit.at(a_, builder.mul(t, emit.number(tile.rows)))
            new = []
            for i in range(tile.rows):
                factor = emit.broadcast(builder.load(emit.at(row, i)))
                new += [builder.call(emit.fma, [factor, v, acc[i * tile.vectors + n]]) for n, v in enumerate(vs)]
            return new

        starts = [
            emit.broadcast(builder.load(emit.at(bias_, i))) for i in range(tile.rows) for _ in range(tile.vectors)
        ]
        sums = emit.accumulate(terms_, starts, add_term)
        for i in range(tile.rows):
            row = emit.at(out_, builder.mul(step_, emit.number(i)))
            for v in range(tile.vectors):
                emit.store_vector(emit.relu(sums[i * tile.vectors + v], relu_), emit.at(row, v * tile.lanes))
        return context.get_dummy_value()

    address = types.intp
    return types.void(tile, address, types.intp, address, types.boolean, address, address, address, types.intp), codegen


@intrinsic
def inner(
    typingctx: Any, tile: Any, out: Any, x: Any, x_offsets: Any, g: Any, g_offsets: Any, masks: Any, blocks: Any
) -> Any:
    """``out[i][j] = sum over p of x[x_offsets[i] + p] * g[g_offsets[j] + p]``, p in `blocks` of `lanes`.

    Arguments are addresses, but for `blocks`. Bit ``l`` of the 32-bit word ``masks[block]`` says whether
    ``p = block * lanes + l`` counts.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emitter(builder, tile)
        out_, x_, g_ = emit.pointer(args[1]), emit.pointer(args[2]), emit.pointer(args[4])
        x_offsets_, g_offsets_ = emit.pointer(args[3], emit.index), emit.pointer(args[5], emit.index)
        masks_ = emit.pointer(args[6], ir.IntType(32))
        xs = [emit.at(x_, builder.load(emit.at(x_offsets_, i))) for i in range(tile.rows)]
        gs = [emit.at(g_, builder.load(emit.at(g_offsets_, j))) for j in range(tile.vectors)]
        read = _masked_load(emit)

        def add_block(block: Any, acc: list[Any]) -> list[Any]:
            p = builder.mul(block, emit.number(tile.lanes))
            word = builder.trunc(builder.load(emit.at(masks_, block)), ir.IntType(tile.lanes))
            mask = builder.bitcast(word, ir.VectorType(ir.IntType(1), tile.lanes))
            right = [read(emit.at(g, p), mask) for g in gs]
            new = []
            for i, x in enumerate(xs):
                left = read(emit.at(x, p), mask)
                new += [builder.call(emit.fma, [left, r, acc[i * tile.vectors + j]]) for j, r in enumerate(right)]
            return new

        sums = emit.accumulate(args[7], [emit.zero()] * (tile.rows * tile.vectors), add_block)
        for n, total in enumerate(sums):
            builder.store(_sum_lanes(emit, total), emit.at(out_, n))
        return context.get_dummy_value()

    return types.void(tile, *(types.intp,) * 7), codegen


def _masked_load(emit: _Emitter) -> Any:
    pointer = emit.vector.as_pointer()
    bits = ir.VectorType(ir.IntType(1), emit.lanes)
    kind = ir.FunctionType(emit.vector, [pointer, ir.IntType(32), bits, emit.vector])
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
