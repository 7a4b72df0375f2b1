"""A vector register as a Numba value: what Numba's own vectoriser does not do is written with these in plain kernels.

A `Vector` has `lanes` numbers of one dtype, as many of them as a register holds; a comparison gives one of booleans.
Operators work lane by lane, with numbers too. Addresses are in bytes. Nothing beyond `count` lanes is read or written.

    v = load(address, count, fill)      store(address, v, count)
"""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, overload, register_model

from cnnkit.rooms.numba.emit import prefetch, store_first
from cnnkit.rooms.numba.machine import MASK_REGISTERS, VECTOR_BYTES, kernel

intrinsic: Any = _intrinsic  # its results are Numba's to type
BOOLEAN = types.boolean


class Vector(types.Type):
    """`lanes` numbers of a Numba scalar type."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, _llvm(fe_type))


def _scalar(dtype: Any) -> ir.Type:
    if isinstance(dtype, types.Float):
        return ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()
    return ir.IntType(1 if dtype == BOOLEAN else dtype.bitwidth)


def _llvm(kind: Vector) -> ir.VectorType:
    return ir.VectorType(_scalar(kind.dtype), kind.lanes)


def _full(like: Any) -> Vector:
    """The vector of numbers of a type that fills a register; a vector's type itself."""
    return like if isinstance(like, Vector) else Vector(like, 8 * VECTOR_BYTES // like.bitwidth)


def _numbers(lanes: int, bits: int = 64) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(bits), lanes), list(range(lanes)))


def _spread(builder: Any, scalar: Any, lanes: int) -> Any:
    """A vector with `scalar` in every lane; a vector itself."""
    if isinstance(scalar.type, ir.VectorType):
        return scalar
    kind = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return _shuffled(builder, first, first, [0] * lanes)


def _shuffled(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


def _suffix(kind: Vector) -> str:
    return f"v{kind.lanes}{'f' if isinstance(kind.dtype, types.Float) else 'i'}{kind.dtype.bitwidth}"


def _call(builder: Any, name: str, returns: Any, args: list[Any]) -> Any:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(returns, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _first(builder: Any, count: Any, lanes: int) -> Any:
    """A mask of the first `count` lanes."""
    most = ir.Constant(count.type, lanes)
    few = builder.select(builder.icmp_signed("<", count, most), count, most)
    return builder.icmp_signed("<", _numbers(lanes, 32), _spread(builder, builder.trunc(few, ir.IntType(32)), lanes))


def _alignment(kind: Vector) -> ir.Constant:
    return ir.Constant(ir.IntType(32), kind.dtype.bitwidth // 8)


# ---------------------------------------------------------------- memory


@intrinsic
def load(typingctx: Any, address: Any, count: Any, fill: Any) -> Any:
    """The numbers at an address, as many as a register of the type of `fill` holds; `fill` behind the first `count`."""
    kind = _full(fill)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _llvm(kind).as_pointer())

        def some() -> Any:
            other, mask = _spread(builder, args[2], kind.lanes), _first(builder, args[1], kind.lanes)
            name = f"llvm.masked.load.{_suffix(kind)}.p0"
            return _call(builder, name, _llvm(kind), [pointer, _alignment(kind), mask, other])

        if MASK_REGISTERS:
            return some()
        whole = builder.icmp_signed(">=", args[1], args[1].type(kind.lanes))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                all_ = builder.load(pointer)
                all_.align, ends = kind.dtype.bitwidth // 8, [(all_, builder.block)]
            with otherwise:
                ends.append((some(), builder.block))
        value = builder.phi(_llvm(kind))
        for end in ends:
            value.add_incoming(*end)
        return value

    return kind(types.intp, types.intp, fill), codegen


@intrinsic
def load_all(typingctx: Any, address: Any, like: Any) -> Any:
    """A whole register of numbers of the type of the scalar `like`, or of the type of the vector `like`."""
    kind = _full(like)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(builder.inttoptr(args[0], _llvm(kind).as_pointer()))
        value.align = kind.dtype.bitwidth // 8
        return value

    return kind(types.intp, like), codegen


@intrinsic
def fetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which need not be ours."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefetch(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def gather(typingctx: Any, addresses: Any, count: Any, fill: Any) -> Any:
    """The numbers at the addresses in a vector of 64-bit integers; `fill` behind the first `count`."""
    kind = _full(fill)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = kind.lanes
        pointers = builder.inttoptr(args[0], ir.VectorType(ir.PointerType(), lanes))
        mask, other = _first(builder, args[1], lanes), _spread(builder, args[2], lanes)
        name = f"llvm.masked.gather.{_suffix(kind)}.v{lanes}p0"
        return _call(builder, name, _llvm(kind), [pointers, _alignment(kind), mask, other])

    return kind(addresses, types.intp, fill), codegen


@intrinsic
def store(typingctx: Any, address: Any, vector: Any, count: Any) -> Any:
    """Write the first `count` lanes to an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _llvm(vector).as_pointer())

        if MASK_REGISTERS:
            mask = _first(builder, args[2], vector.lanes)
            name = f"llvm.masked.store.{_suffix(vector)}.p0"
            _call(builder, name, ir.VoidType(), [args[1], pointer, _alignment(vector), mask])
            return context.get_dummy_value()
        count, none = args[2], ir.Constant(args[2].type, 0)
        whole, align = builder.icmp_signed(">=", count, none.type(vector.lanes)), vector.dtype.bitwidth // 8
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(args[1], pointer).align = align
            with otherwise:
                count = builder.select(builder.icmp_signed(">", count, none), count, none)
                store_first(builder, args[1], pointer, count, align)
        return context.get_dummy_value()

    return types.void(types.intp, vector, types.intp), codegen


@intrinsic
def scatter(typingctx: Any, addresses: Any, vector: Any, count: Any) -> Any:
    """Write the first `count` lanes to the addresses in a vector of 64-bit integers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = builder.inttoptr(args[0], ir.VectorType(ir.PointerType(), vector.lanes))
        name = f"llvm.masked.scatter.{_suffix(vector)}.v{vector.lanes}p0"
        mask = _first(builder, args[2], vector.lanes)
        _call(builder, name, ir.VoidType(), [args[1], pointers, _alignment(vector), mask])
        return context.get_dummy_value()

    return types.void(addresses, vector, types.intp), codegen


@intrinsic
def store_all(typingctx: Any, address: Any, vector: Any) -> Any:
    """Write all lanes to an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _llvm(vector).as_pointer())
        builder.store(args[1], pointer).align = vector.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(types.intp, vector), codegen


@intrinsic
def nothing(typingctx: Any, like: Any) -> Any:
    """A zero of the type of `like`."""
    return like(like), lambda context, builder, signature, args: context.get_constant_null(like)


@intrinsic
def at(typingctx: Any, address: Any, index: Any, like: Any) -> Any:
    """The number of the type of `like` that is `index` numbers behind an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(builder.inttoptr(args[0], _scalar(like).as_pointer()), [args[1]]))

    return like(types.intp, types.intp, like), codegen


@intrinsic
def put(typingctx: Any, to: Any, index: Any, value: Any, like: Any) -> Any:
    """Write `value` as a number of the type of `like`, `index` numbers behind an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _scalar(like).as_pointer())
        builder.store(context.cast(builder, args[2], value, like), builder.gep(pointer, [args[1]]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, value, like), codegen


@intrinsic
def rolled(typingctx: Any) -> Any:
    """Keep the loop around this from being unrolled: it mostly runs two or three times."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = builder.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], True)
        nothing.attributes.add("convergent")
        return context.get_dummy_value()

    return types.void(), codegen


# ---------------------------------------------------------------- whole vectors


@intrinsic
def splat(typingctx: Any, like: Any, value: Any) -> Any:
    """`value` in as many lanes as a register has of the type of `like` (a number)."""
    kind = Vector(value, _full(like).lanes)
    return kind(like, value), lambda context, builder, signature, args: _spread(builder, args[1], kind.lanes)


@intrinsic
def splat_as(typingctx: Any, like: Any, kind: Any, value: Any) -> Any:
    """`value`, cast to the type of `kind`, in as many lanes as a register has of the type of `like`."""
    result = Vector(kind, _full(like).lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, context.cast(builder, args[2], value, kind), result.lanes)

    return result(like, kind, value), codegen


@intrinsic
def lanes(typingctx: Any, like: Any) -> Any:
    """How many numbers of the type of `like` a register holds; of a vector, how many it has."""
    count = _full(like).lanes
    return types.intp(like), lambda context, builder, signature, args: context.get_constant(types.intp, count)


@intrinsic
def size(typingctx: Any, like: Any) -> Any:
    """Bytes of a number of the type of `like`."""
    return types.intp(like), lambda context, builder, signature, args: context.get_constant(
        types.intp, _full(like).dtype.bitwidth // 8
    )


@intrinsic
def numbered(typingctx: Any, vector: Any) -> Any:
    """The lanes of integers with 0, 1, 2, ... added."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.add(args[0], _numbers(vector.lanes, vector.dtype.bitwidth))

    return vector(vector), codegen


@intrinsic
def evens(typingctx: Any, a: Any, b: Any) -> Any:
    """Every other lane of a and b, one behind the other, from the first on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _shuffled(builder, *args, list(range(0, 2 * a.lanes, 2)))

    return a(a, a), codegen


@intrinsic
def thirds(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Every third lane of a, b and c, one behind the other, from the first on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wanted, n = range(0, 3 * a.lanes, 3), a.lanes
        most = _shuffled(builder, args[0], args[1], [lane if lane < 2 * n else 0 for lane in wanted])
        rest = [i if lane < 2 * n else lane - n for i, lane in enumerate(wanted)]
        return _shuffled(builder, most, args[2], rest)

    return a(a, a, a), codegen


@intrinsic
def select(typingctx: Any, mask: Any, a: Any, b: Any) -> Any:
    """``a`` (a vector or a number) where the mask is set, else the vector ``b``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = args[1] if isinstance(a, Vector) else context.cast(builder, args[1], a, b.dtype)
        return builder.select(args[0], _spread(builder, number, b.lanes), args[2])

    return b(mask, a, b), codegen


@intrinsic
def wide(typingctx: Any, vector: Any) -> Any:
    """Integers as 64-bit ones."""
    kind = Vector(types.int64, vector.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0] if vector.dtype.bitwidth == 64 else builder.sext(args[0], _llvm(kind))

    return kind(vector), codegen


@intrinsic
def bits(typingctx: Any, vector: Any) -> Any:
    """The bits of floats as signed integers."""
    kind = Vector(types.Integer.from_bitwidth(vector.dtype.bitwidth), vector.lanes)
    return kind(vector), lambda context, builder, signature, args: builder.bitcast(args[0], _llvm(kind))


@intrinsic
def from_bits(typingctx: Any, vector: Any) -> Any:
    """Floats of these bits."""
    kind = Vector(types.float32 if vector.dtype.bitwidth == 32 else types.float64, vector.lanes)
    return kind(vector), lambda context, builder, signature, args: builder.bitcast(args[0], _llvm(kind))


@intrinsic
def any_lane(typingctx: Any, mask: Any) -> Any:
    """Whether the mask is set anywhere."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return context.cast(builder, builder.icmp_unsigned("!=", word, word.type(0)), types.boolean, types.boolean)

    return types.boolean(mask), codegen


@intrinsic
def alike(typingctx: Any, a: Any, b: Any) -> Any:
    """Where lanes are equal, or one of them is NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(a.dtype, types.Float):
            return builder.fcmp_unordered("==", *args)
        return builder.icmp_unsigned("==", *args)

    return Vector(BOOLEAN, a.lanes)(a, a), codegen


@intrinsic
def minus_zero(typingctx: Any, vector: Any) -> Any:
    """Where lanes are -0.0."""
    kind = Vector(BOOLEAN, vector.lanes)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not isinstance(vector.dtype, types.Float):
            return ir.Constant(_llvm(kind), [0] * vector.lanes)
        width = vector.dtype.bitwidth
        bits = ir.VectorType(ir.IntType(width), vector.lanes)
        sign = ir.Constant(bits, [1 << (width - 1)] * vector.lanes)
        return builder.icmp_unsigned("==", builder.bitcast(args[0], bits), sign)

    return kind(vector), codegen


# ---------------------------------------------------------------- operators, lane by lane

OPERATORS: dict[Any, Any] = {}  # an intrinsic for each


def _operator(function: Any, emit: Callable[..., Any], compares: bool = False) -> None:
    """Let `function` of two vectors, or of a vector and a number, do what ``emit(builder, dtype, a, b)`` emits."""

    @intrinsic
    def apply(typingctx: Any, a: Any, b: Any) -> Any:
        kind = a if isinstance(a, Vector) else b
        result = Vector(BOOLEAN, kind.lanes) if compares else kind

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            both = [
                arg
                if isinstance(typ, Vector)
                else _spread(builder, context.cast(builder, arg, typ, kind.dtype), kind.lanes)
                for arg, typ in zip(args, (a, b), strict=True)
            ]
            return emit(builder, kind.dtype, *both)

        return result(a, b), codegen

    OPERATORS[function] = apply

    @overload(function)
    def choose(a, b):
        return (lambda a, b: apply(a, b)) if isinstance(a, Vector) or isinstance(b, Vector) else None


def _arithmetic(name: str) -> Callable[..., Any]:
    def emit(builder: Any, dtype: Any, a: Any, b: Any) -> Any:
        if isinstance(dtype, types.Float):
            return getattr(builder, f"f{name}")(a, b, flags=("contract",))
        return getattr(builder, name)(a, b)

    return emit


def _comparison(sign: str) -> Callable[..., Any]:
    def emit(builder: Any, dtype: Any, a: Any, b: Any) -> Any:
        if isinstance(dtype, types.Float):
            return (builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered)(sign, a, b)
        return (builder.icmp_signed if dtype.signed else builder.icmp_unsigned)(sign, a, b)

    return emit


for _function, _name in ((operator.add, "add"), (operator.sub, "sub"), (operator.mul, "mul")):
    _operator(_function, _arithmetic(_name))
_operator(operator.truediv, lambda builder, dtype, a, b: builder.fdiv(a, b))
for _function, _sign in (
    *((operator.gt, ">"), (operator.lt, "<"), (operator.le, "<=")),
    *((operator.eq, "=="), (operator.ne, "!=")),
):
    _operator(_function, _comparison(_sign), compares=True)
_operator(operator.or_, lambda builder, dtype, a, b: builder.or_(a, b))
_operator(operator.and_, lambda builder, dtype, a, b: builder.and_(a, b))
_operator(operator.xor, lambda builder, dtype, a, b: builder.xor(a, b))
_operator(operator.lshift, lambda builder, dtype, a, b: builder.shl(a, b))
_operator(operator.rshift, lambda builder, dtype, a, b: builder.ashr(a, b))


def polynomial(*coefficients: float) -> Any:
    """A function of a vector of floats, ``coefficients[0] * x ** n + ... + coefficients[n]``, by Horner's rule."""

    @intrinsic
    def evaluate(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _horner(builder, _constants(x, coefficients), args[0])

        return x(x), codegen

    return evaluate


def paired_polynomial(*coefficients: float) -> Any:
    """The same of a vector and its square, whose coefficients are pairs ``coefficients[k] * x + coefficients[k + 1]``:
    each multiply-add waits for half as many others."""

    @intrinsic
    def evaluate(typingctx: Any, x: Any, square: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            numbers = _constants(x, coefficients)
            odd = len(numbers) % 2
            twos = zip(numbers[odd::2], numbers[odd + 1 :: 2], strict=True)
            pairs = [_times_plus(builder, a, args[0], b) for a, b in twos]
            return _horner(builder, numbers[:odd] + pairs, args[1])

        return x(x, x), codegen

    return evaluate


def _constants(kind: Vector, numbers: tuple[float, ...]) -> list[Any]:
    return [ir.Constant(_llvm(kind), [number] * kind.lanes) for number in numbers]


def _horner(builder: Any, coefficients: list[Any], x: Any) -> Any:
    return reduce(lambda total, one: _times_plus(builder, total, x, one), coefficients)


def _times_plus(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` of vectors (b may be a number), rounded once where the processor can."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        factor = args[1] if isinstance(b, Vector) else context.cast(builder, args[1], b, a.dtype)
        vectors = [args[0], _spread(builder, factor, a.lanes), args[2]]
        return _call(builder, f"llvm.fmuladd.{_suffix(a)}", _llvm(a), vectors)

    return a(a, b, c), codegen


@intrinsic
def absolute(typingctx: Any, x: Any) -> Any:
    """Floats without their signs."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, f"llvm.fabs.{_suffix(x)}", _llvm(x), list(args))

    return x(x), codegen


@intrinsic
def square_root(typingctx: Any, x: Any) -> Any:
    """Square roots of floats."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, f"llvm.sqrt.{_suffix(x)}", _llvm(x), list(args))

    return x(x), codegen


@intrinsic
def with_sign(typingctx: Any, x: Any, sign: Any) -> Any:
    """The sizes of floats x with the signs of `sign`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, f"llvm.copysign.{_suffix(x)}", _llvm(x), list(args))

    return x(x, sign), codegen


@kernel
def load_some(place, count, fill):
    """A register's numbers, or only the first `count`, unless that is None."""
    return load_all(place, fill) if count is None else load(place, count, fill)


@kernel
def store_some(place, value, count):
    """Write a register's numbers, or only the first `count`, unless that is None."""
    if count is None:
        store_all(place, value)
    else:
        store(place, value, count)


@kernel
def larger(a, b):
    """The larger of each two lanes, NaN before all, of equal ones `a`."""
    return select(b != b, b, select(b > a, b, a))


@kernel
def every(place, step, count, like):
    """`count` numbers of the type of `like`, `step` elements apart, of a buffer with 4 vectors' slack behind it."""
    width = lanes(like) * size(like)
    if step == 1:
        return load_all(place, like)
    if step == 2:
        return _every_other(place, like)
    if step == 3:
        return thirds(load_all(place, like), load_all(place + width, like), load_all(place + 2 * width, like))
    if step == 4:
        return evens(_every_other(place, like), _every_other(place + 2 * width, like))
    return gather(apart(place, step * size(like), like), count, like)


@kernel
def _every_other(place, like):
    return evens(load_all(place, like), load_all(place + lanes(like) * size(like), like))


@kernel
def apart(place, step, like):
    """The addresses of numbers `step` bytes apart, for each lane of a vector of the type of `like`."""
    return numbered(splat(like, place - place)) * step + place


# ---------------------------------------------------------------- all lanes of a vector


def _folded(combine: Callable[..., Any]) -> Any:
    @intrinsic
    def fold(typingctx: Any, vector: Any) -> Any:
        """All lanes combined, in a fixed order: halves, quarters, and so on."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (value,), count = args, vector.lanes
            while count > 1:
                count //= 2
                low, high = (_shuffled(builder, value, value, list(range(at, at + count))) for at in (0, count))
                value = combine(builder, vector.dtype, low, high)
            return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

        return vector.dtype(vector), codegen

    return fold


def _larger(builder: Any, dtype: Any, a: Any, b: Any) -> Any:
    better = _comparison(">")(builder, dtype, b, a)
    if isinstance(dtype, types.Float):
        better = builder.or_(better, builder.fcmp_unordered("uno", b, b))
    return builder.select(better, b, a)


sum_lanes = _folded(lambda builder, dtype, a, b: builder.fadd(a, b))
largest = _folded(_larger)
smallest = _folded(lambda builder, dtype, a, b: builder.select(_comparison("<")(builder, dtype, b, a), b, a))


@intrinsic
def sums_of(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The sums of the lanes of four vectors, as a vector of four float64: halves are added for several at once."""
    kind = Vector(types.float64, 4)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors, parts = list(args), a.lanes  # of each of the four there are so many partial sums, side by side
        while parts > 1:
            if len(vectors) == 1:
                vectors *= 2
                halves = [[k * parts + i for k in range(4) for i in range(parts // 2)]]
            else:
                sources = range(2 * a.lanes // parts)
                halves = [[k * parts + i for k in sources for i in range(parts // 2)]]
            halves.append([lane + parts // 2 for lane in halves[0]])
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [builder.fadd(*(_shuffled(builder, *pair, half) for half in halves)) for pair in pairs]
            parts //= 2
        (sums,) = vectors if len(vectors) == 1 else [_shuffled(builder, *vectors, [0, 1, 2, 3])]
        return sums if a.dtype == types.float64 else builder.fpext(sums, _llvm(kind))

    return kind(a, a, a, a), codegen


@intrinsic
def lane(typingctx: Any, vector: Any, index: Any) -> Any:
    """One of the numbers of a vector."""
    return vector.dtype(vector, index), lambda context, builder, signature, args: builder.extract_element(*args)
