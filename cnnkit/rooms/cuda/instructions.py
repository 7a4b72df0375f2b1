"""Instructions of the GPU that Numba has no words for, as inline assembly: all that knows PTX by name.

A *word* is 32 bits: one tf32, or two halves. `rows_of_words`, `columns_of_words` (both ldmatrix) and MULTIPLY
(mma.sync) are done by the 32 threads of a warp together: all of them must come to the same one. All are there from
compute capability 8.0 on.
"""

from inspect import Parameter, Signature
from typing import Any

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic

REAL, WORD, HALF = types.float32, types.int32, types.int16
FOUR_WORDS, FOUR_REALS = types.UniTuple(WORD, 4), types.UniTuple(REAL, 4)


def _emit(builder: Any, result: Any, text: str, constraints: str, values: Any, stays: bool) -> Any:
    """One piece of assembly. One that `stays` is not moved across loads, stores and barriers.

    None is moved under a condition that threads may differ in: some are done by a warp together.
    """
    constraints += ",~{memory}" if stays else ""
    form = ir.FunctionType(result, [value.type for value in values])
    code = ir.InlineAsm(form, text, constraints.lstrip(","), side_effect=stays)
    return builder.call(code, values, attrs=("convergent",))


def _instruction(result: Any, taken: tuple[Any, ...], text: str, constraints: str, stays: bool = False) -> Any:
    """An instruction that makes nothing, one number or four of the numbers `taken`."""

    def instruction(typingctx, *args):
        def generate(context, builder, signature, values):
            cast = [context.cast(builder, *each) for each in zip(values, signature.args, taken, strict=True)]
            if result is types.void:
                _emit(builder, ir.VoidType(), text, constraints, cast, stays)
                return context.get_dummy_value()
            if not isinstance(result, types.UniTuple):
                return _emit(builder, context.get_value_type(result), text, constraints, cast, stays)
            several = ir.LiteralStructType([context.get_value_type(result.dtype)] * result.count)
            found = _emit(builder, several, text, constraints, cast, stays)
            return context.make_tuple(builder, result, [builder.extract_value(found, i) for i in range(result.count)])

        return result(*args), generate

    definition: Any = instruction
    names = ("typingctx", *(f"number{i}" for i in range(len(taken))))  # Numba counts parameters by their names
    definition.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
    return intrinsic(definition)


@intrinsic
def address(typingctx, shared):
    """Where an array in shared memory begins: what the instructions below call a place."""

    def generate(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        pointer = builder.ptrtoint(data, ir.IntType(64))
        text = "{ .reg .u64 a; cvta.to.shared.u64 a, $1; cvt.u32.u64 $0, a; }"
        return _emit(builder, ir.IntType(32), text, "=r,l", [pointer], False)

    return types.int32(shared), generate


@intrinsic
def copy_async(typingctx, place, pointer, index, count):
    """Begin to copy 16 bytes from ``pointer[index]`` to a place: the first `count` of them, and zeros."""

    def generate(context, builder, signature, values):
        place, pointer, index, count = values
        place = context.cast(builder, place, signature.args[0], types.int32)
        index = context.cast(builder, index, signature.args[2], types.int64)
        count = context.cast(builder, count, signature.args[3], types.int32)
        source = builder.ptrtoint(builder.gep(pointer, [index]), ir.IntType(64))
        text = "cp.async.cg.shared.global [$0], [$1], 16, $2;"
        _emit(builder, ir.VoidType(), text, "r,l,r", [place, source, count], True)
        return context.get_dummy_value()

    return types.void(place, pointer, index, count), generate


commit = _instruction(types.void, (), "cp.async.commit_group;", "", True)  # what was begun since the last is a group
wait = _instruction(types.void, (), "cp.async.wait_group 1;", "", True)  # for all groups of this thread but the last
wait_for_all = _instruction(types.void, (), "cp.async.wait_all;", "", True)

_MATRICES = "ldmatrix.sync.aligned.m8n8.x4{}.shared.b16 {{$0, $1, $2, $3}}, [$4];"
rows_of_words = _instruction(FOUR_WORDS, (WORD,), _MATRICES.format(""), "=r,=r,=r,=r,r", True)
columns_of_words = _instruction(FOUR_WORDS, (WORD,), _MATRICES.format(".trans"), "=r,=r,=r,=r,r", True)
put = _instruction(types.void, (WORD, REAL), "st.shared.f32 [$0], $1;", "r,f", True)
get = _instruction(REAL, (WORD,), "ld.shared.f32 $0, [$1];", "=f,r", True)
word = _instruction(WORD, (WORD,), "ld.shared.b32 $0, [$1];", "=r,r", True)

_SUM = "mma.sync.aligned.{}.f32 {{$0, $1, $2, $3}}, {{$4, $5, $6, $7}}, {{$8, $9}}, {{$10, $11, $12, $13}};"
_SUM_TAKES = ((WORD,) * 6 + (REAL,) * 4, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f")
MULTIPLY = {
    "float16": _instruction(FOUR_REALS, _SUM_TAKES[0], _SUM.format("m16n8k16.row.col.f32.f16.f16"), _SUM_TAKES[1]),
    "bfloat16": _instruction(FOUR_REALS, _SUM_TAKES[0], _SUM.format("m16n8k16.row.col.f32.bf16.bf16"), _SUM_TAKES[1]),
    "float32": _instruction(FOUR_REALS, _SUM_TAKES[0], _SUM.format("m16n8k8.row.col.f32.tf32.tf32"), _SUM_TAKES[1]),
}
rounded_to_tf32 = _instruction(WORD, (WORD,), "cvt.rna.tf32.f32 $0, $1;", "=r,r")
NARROW: dict[str, Any] = {  # from float32 to what is stored, as bits
    "float16": _instruction(HALF, (REAL,), "cvt.rn.f16.f32 $0, $1;", "=h,f"),
    "bfloat16": _instruction(HALF, (REAL,), "cvt.rn.bf16.f32 $0, $1;", "=h,f"),
}
WIDEN: dict[str, Any] = {
    "float16": _instruction(REAL, (HALF,), "cvt.f32.f16 $0, $1;", "=f,h"),
    "bfloat16": _instruction(REAL, (HALF,), "{ .reg .b16 z; mov.b16 z, 0; mov.b32 $0, {z, $1}; }", "=f,h"),
}
