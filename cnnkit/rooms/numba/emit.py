"""Vectors of a dtype, and LLVM code on them, for what Numba does not write well by itself.

A *unit* is the vectors of a dtype on this processor. It is a value whose Numba *type* carries the constants, so that a
kernel that takes one has one compiled form for each dtype. Emitted code stands in functions by itself, which take
addresses and numbers, so that all registers are its own.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, unbox

from cnnkit.rooms.numba.machine import MASK_REGISTERS, VECTOR_BYTES

NUMBER = ir.IntType(64)  # an address, or a number


class UnitType(types.Type):
    """The Numba type of a unit; its key holds everything that the emitted code depends on."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Unit({dtype} x {lanes})")


class Unit:
    """The vectors of a dtype: `lanes` numbers each, a share of those of a register."""

    def __init__(self, dtype: np.dtype, share: int) -> None:
        self.lanes = VECTOR_BYTES // dtype.itemsize // share
        self._numba_type_ = UnitType(dtype.name, self.lanes)

    def __reduce__(self) -> Any:
        raise TypeError("a unit belongs to this process")


@lru_cache
def unit(dtype: np.dtype, share: int = 1) -> Unit:
    """The unit of a dtype, maybe of half a register."""
    return Unit(dtype, share)


def opaque(kind: type[types.Type]) -> None:
    """Let kernels take values of a Numba type that is all that there is to them."""
    register_model(kind)(models.OpaqueModel)
    unbox(kind)(lambda typ, obj, c: NativeValue(c.context.get_dummy_value()))


opaque(UnitType)


def _constant(read: Any) -> Any:
    @intrinsic
    def constant(typingctx: Any, unit: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return context.get_constant(types.intp, read(unit))

        return types.intp(unit), codegen

    return constant


lanes = _constant(lambda unit: unit.lanes)
itemsize = _constant(lambda unit: np.dtype(unit.dtype).itemsize)


def function(module: ir.Module, name: str, unit: UnitType, numbers: int, body: Any) -> ir.Function:
    """A function of so many numbers in a module, emitted by ``body(emit, *numbers)`` unless it is there."""
    full = f"cnnkit.{name}.{unit.dtype}x{unit.lanes}"
    if full in module.globals:
        return module.globals[full]
    made = ir.Function(module, ir.FunctionType(ir.VoidType(), [NUMBER] * numbers), full)
    made.linkage = "internal"
    made.attributes.add("noinline")
    inside = ir.IRBuilder(made.append_basic_block("entry"))
    body(Emitter(inside, unit), *made.args)
    inside.ret_void()
    return made


def emitted(name: str, numbers: int, body: Any) -> Any:
    """What an intrinsic ``f(unit, *numbers)`` returns that calls the function emitted by ``body(emit, *numbers)``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(function(builder.module, name, signature.args[0], numbers, body), args[1:])
        return context.get_dummy_value()

    return codegen


def called(numbers: int) -> Any:
    """What an intrinsic ``f(address, *numbers)`` returns that calls the function at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [NUMBER] * numbers)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*(types.intp,) * (numbers + 1)), codegen


def prefetch(builder: Any, pointer: Any, write: bool = False, near: int = 3) -> None:
    """What `Emitter.fetch` does, of a pointer to bytes."""
    word, data = ir.IntType(32), 1
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(ask, [pointer, *(ir.Constant(word, number) for number in (int(write), near, data))])


def store_first(builder: Any, value: Any, pointer: Any, count: Any, align: int) -> None:
    """Store the first lanes of a vector, as many as `count` says, which are not all: of 8 lanes 4, 2 and 1.

    A masked store, which is one instruction, takes AMD's processors without mask registers as long as ten whole ones.
    """
    n, scalar = value.type.count, value.type.element
    place = builder.bitcast(pointer, scalar.as_pointer())
    while n := n // 2:
        halves = [
            builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(ir.IntType(32), n), list(lanes)))
            for lanes in (range(n), range(n, 2 * n))
        ]
        before, wanted = builder.block, builder.icmp_signed("!=", builder.and_(count, count.type(n)), count.type(0))
        with builder.if_then(wanted):
            builder.store(halves[0], builder.bitcast(place, halves[0].type.as_pointer())).align = align
            behind, stored = builder.gep(place, [ir.IntType(32)(n)]), builder.block
        ends = []
        for low, high in (halves, (place, behind)):
            ends.append(builder.phi(low.type))
            ends[-1].add_incoming(low, before)
            ends[-1].add_incoming(high, stored)
        value, place = ends


class Emitter:
    """LLVM values in a function of a unit: types, pointers from addresses, loads and stores, the accumulating loop."""

    def __init__(self, builder: ir.IRBuilder, unit: UnitType) -> None:
        self.builder = builder
        self.index = ir.IntType(64)
        self.scalar = ir.FloatType() if unit.dtype == "float32" else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, unit.lanes)
        self.lanes = unit.lanes
        self.bits = ir.VectorType(ir.IntType(1), unit.lanes)
        self.align = 4 if unit.dtype == "float32" else 8
        self.fma = self.intrinsic("llvm.fmuladd", ir.FunctionType(self.vector, [self.vector] * 3))

    def intrinsic(self, name: str, kind: ir.FunctionType, suffix: str = "") -> Any:
        """An LLVM intrinsic for the vectors."""
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

    def every(self, step: int, vectors: list[Any]) -> Any:
        """Every `step`-th number of `step` vectors laid end to end."""
        taken = vectors[0]
        for n, vector in enumerate(vectors):
            places = [divmod(lane * step, self.lanes) for lane in range(self.lanes)]
            taken = self.shuffle(
                taken, vector, [self.lanes + at if which == n else lane for lane, (which, at) in enumerate(places)]
            )
        return taken

    def woven(self, vectors: list[Any]) -> list[Any]:
        """The way back from `every`, for all numbers: number k of vector r becomes number ``k * len(vectors) + r``."""
        step, results = len(vectors), []
        for n in range(step):
            places = [divmod(n * self.lanes + lane, step) for lane in range(self.lanes)]
            taken = vectors[0]
            for r, vector in enumerate(vectors):
                order = [self.lanes + k if which == r else lane for lane, (k, which) in enumerate(places)]
                taken = self.shuffle(taken, vector, order)
            results.append(taken)
        return results

    def transposed(self, vectors: list[Any]) -> list[Any]:
        """n vectors, whose every n lanes are a square by itself: lane j of vector i goes to lane i of vector j."""
        vectors, n, lanes = list(vectors), len(vectors), range(self.lanes)
        distance = n // 2
        while distance:
            low = [j - distance + self.lanes if j & distance else j for j in lanes]
            high = [j + self.lanes if j & distance else j + distance for j in lanes]
            for i in range(n):
                if not i & distance:
                    pair = vectors[i], vectors[i + distance]
                    vectors[i], vectors[i + distance] = (self.shuffle(*pair, order) for order in (low, high))
            distance //= 2
        return vectors

    def lanes_below(self, count: Any) -> Any:
        """A mask of the first `count` lanes; of none if it is not positive."""
        builder, most = self.builder, self.number(self.lanes)
        count = builder.select(builder.icmp_signed("<", count, most), count, most)
        count = builder.select(builder.icmp_signed(">", count, self.number(0)), count, self.number(0))
        if MASK_REGISTERS:
            bits = builder.sub(builder.shl(self.number(1), count), self.number(1))
            return builder.bitcast(builder.trunc(bits, ir.IntType(self.lanes)), self.bits)
        kind = ir.VectorType(ir.IntType(8 * self.align), self.lanes)  # bits would be spread one by one
        spread = self.spread(builder.trunc(count, kind.element) if self.align < 8 else count, kind)
        return builder.icmp_signed(">", spread, ir.Constant(kind, list(range(self.lanes))))

    def lanes_from_to(self, low: Any, high: Any) -> Any:
        """A mask of the lanes ``low <= lane < high``."""
        return self.builder.and_(self.lanes_below(high), self.builder.not_(self.lanes_below(low)))

    def load_masked(self, pointer: Any, mask: Any) -> Any:
        """A vector with zeros where the mask is off; memory is not touched there."""
        address = self.vector.as_pointer()
        kind = ir.FunctionType(self.vector, [address, ir.IntType(32), self.bits, self.vector])
        load = self.intrinsic("llvm.masked.load", kind, ".p0")
        align = ir.Constant(ir.IntType(32), self.align)
        return self.builder.call(load, [self.builder.bitcast(pointer, address), align, mask, self.zero()])

    def store_masked(self, value: Any, pointer: Any, mask: Any) -> None:
        """Store the lanes where the mask is on; memory is not touched elsewhere."""
        if MASK_REGISTERS:
            self._store_some(value, pointer, mask)
            return
        builder, bits = self.builder, self.builder.bitcast(mask, ir.IntType(self.lanes))
        with builder.if_else(builder.icmp_signed("==", bits, bits.type(-1))) as (whole, not_whole):
            with whole:
                self.store_vector(value, pointer)
            with not_whole:
                from_first = builder.icmp_signed(
                    "==", builder.and_(bits, builder.add(bits, bits.type(1))), bits.type(0)
                )
                with builder.if_else(from_first) as (first, some):
                    with first:
                        store_first(builder, value, pointer, builder.ctpop(bits), self.align)
                    with some:
                        self._store_some(value, pointer, mask)

    def _store_some(self, value: Any, pointer: Any, mask: Any) -> None:
        address = self.vector.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [self.vector, address, ir.IntType(32), self.bits])
        store = self.intrinsic("llvm.masked.store", kind, ".p0")
        align = ir.Constant(ir.IntType(32), self.align)
        self.builder.call(store, [value, self.builder.bitcast(pointer, address), align, mask])

    def add_first(self, value: Any, pointer: Any, count: Any, most: int) -> None:
        """Add the first `count` lanes, of which there may be `most`, to what stands at a pointer."""
        builder = self.builder
        mask = self.lanes_below(count)
        if MASK_REGISTERS:
            self.store_masked(builder.fadd(self.load_masked(pointer, mask), value), pointer, mask)
            return
        with builder.if_else(builder.icmp_signed(">=", count, self.number(most))) as (all_of_them, some):
            with all_of_them:
                narrow = builder.bitcast(pointer, ir.VectorType(self.scalar, most).as_pointer())
                old = builder.load(narrow)
                old.align = self.align
                new = builder.fadd(old, self.shuffle(value, value, range(most)))
                builder.store(new, narrow).align = self.align
            with some:
                self._store_some(builder.fadd(self.load_masked(pointer, mask), value), pointer, mask)

    def fetch(self, pointer: Any, ahead: int = 0, write: bool = False, near: int = 3) -> None:
        """Ask for the cache line so many bytes behind a pointer, to be read or written; it need not be ours.

        Into the L1 cache, or the L2 cache if `near` is 2.
        """
        line = self.builder.bitcast(pointer, ir.IntType(8).as_pointer())
        prefetch(self.builder, self.builder.gep(line, [self.number(ahead)]), write, near)

    def zero(self) -> ir.Constant:
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def relu(self, vector: Any, wanted: Any) -> Any:
        """Zero where a lane is negative, if it is wanted; NaN stays."""
        return self.at_least(self.least(wanted), vector)

    def least(self, relu: Any) -> Any:
        """What no number is below, in every lane: 0 if `relu` is wanted."""
        least = ir.Constant(self.vector, [-math.inf] * self.lanes)
        return self.builder.select(self.builder.trunc(relu, ir.IntType(1)), self.zero(), least)

    def at_least(self, least: Any, vector: Any) -> Any:
        """The larger of two, which is one instruction; NaN stays."""
        return self.builder.select(self.builder.fcmp_ordered(">", least, vector), least, vector)

    def loop(self, count: Any, body: Any) -> None:
        """``for k in range(count): body(k)``."""
        self.accumulate(count, [], lambda k, _: [body(k)][1:])

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
