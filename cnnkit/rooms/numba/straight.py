"""Kernels compiled straight from their source, without Numba's type inference.

Numba takes seconds for a large kernel, most of them to find out what its variables are. Here a variable is what is
first assigned to it, and `straight` emits the LLVM code of a kernel as it stands in its source, and of the functions
that it calls, which become a part of it. They are written in this much of Python:

    x = ...   a, b = ...   x += ...   if   while   for ... in range(...)   break   continue   return
    + - * / // % << >> & | ^   comparisons   is   and, or, not   ... if ... else ...
    min   max   divmod   len   math.sqrt   math.log
    np.empty, np.zeros, np.full     memory until the function ends; x[i, j], x[i:], x.size, x.shape, x.ctypes.data
    a[i], a[i] = ..., a[2:4]        of an integer: 64-bit integers behind the address a; the last one is a tuple
    f(...)                          a function, an intrinsic, a NamedTuple

Tuples and NamedTuples are names for several values, and cost nothing. What is known when a kernel is compiled, such as
None or a constant of the module, is decided then. A variable keeps its type; a kernel that changes it is an error.
"""

import ast
import inspect
import math
import operator
import textwrap
from collections.abc import Callable
from functools import lru_cache, reduce
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np.numpy_support import from_dtype

from cnnkit.rooms.numba.emit import NUMBER
from cnnkit.rooms.numba.machine import kernel
from cnnkit.rooms.numba.vectors import OPERATORS, Vector, intrinsic

INTEGER, BOOLEAN = types.intp, types.boolean


class Value(NamedTuple):
    """What is known when the kernel runs: a Numba type, and the LLVM value."""

    kind: Any
    value: Any


class Slot(NamedTuple):
    """Where a variable stands. LLVM makes registers of these."""

    kind: Any
    pointer: Any


class Memory(NamedTuple):
    """An array: the Numba type of its numbers, its address, its shape, and its strides in bytes."""

    dtype: Any
    data: Any
    shape: tuple[Any, ...]
    strides: tuple[Any, ...]

    @property
    def size(self) -> Any:
        """Of one axis."""
        (length,) = self.shape
        return length

    @property
    def ctypes(self) -> "Memory":
        return self


def straight(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel, as `machine.kernel` has them, of a function that returns nothing."""

    @intrinsic
    def emit(typingctx: Any, given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _Call(context, builder, function).run(_unpacked(context, builder, given, args[0]))
            return context.get_dummy_value()

        return types.void(given), codegen

    made, code = {"emit": emit, "__name__": function.__module__}, function.__code__
    names = ", ".join(code.co_varnames[: code.co_argcount])
    whole = f"def {function.__name__}({names}): emit(({names},))"  # what is compiled as Numba has it, and kept by name
    exec(compile("\n" * (code.co_firstlineno - 1) + whole, code.co_filename, "exec"), made)
    compiled: Any = kernel(made[function.__name__])
    compiled.source = function
    return compiled


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns nothing and is called, not copied to where it is called."""
    function.apart = True  # type: ignore[attr-defined]
    return function


def _unpacked(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """An argument as a kernel's source has it."""
    if isinstance(kind, types.BaseTuple):
        kinds: Any = kind
        parts = zip(kinds, cgutils.unpack_tuple(builder, value), strict=True)
        values = [_unpacked(context, builder, *part) for part in parts]
        made: Any = getattr(kind, "instance_class", None)  # of a NamedTuple
        return made(*values) if made else tuple(values)
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        numbers = [cgutils.unpack_tuple(builder, each) for each in (array.shape, array.strides)]
        shape, strides = (tuple(Value(INTEGER, number) for number in each) for each in numbers)
        return Memory(kind.dtype, Value(INTEGER, builder.ptrtoint(array.data, NUMBER)), shape, strides)
    return None if kind == types.none else Value(kind, value)


@lru_cache
def _tree(function: Callable[..., Any]) -> tuple[list[str], list[ast.stmt], set[str]]:
    """The names of a function's arguments, its body, and the names that it assigns to."""
    try:
        source = inspect.getsource(function)
    except OSError as error:  # an application that was frozen without sources
        sentence = (
            f"{function.__name__} is compiled from its source, but {function.__code__.co_filename} cannot be read"
        )
        raise OSError(sentence) from error
    tree: Any = ast.parse(textwrap.dedent(source)).body[0]
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return [one.arg for one in tree.args.args], tree.body, assigned


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """A change of a number, or of all numbers of a tuple."""
    if not isinstance(value, tuple) or isinstance(value, Value | Slot):
        return change(value)
    parts = [_each(change, part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


def emit_call(context: Any, builder: Any, function: Callable[..., Any], like: Any, numbers: Any) -> None:
    """Emit a function of a zero of type `like` and of 64-bit integers."""
    _Call(context, builder, function).run(
        [Value(like, context.get_constant(like, 0)), *(Value(INTEGER, number) for number in numbers)]
    )


class _Call(ast.NodeVisitor):
    """A call of a function: its variables, and the code that it becomes."""

    def __init__(self, context: Any, builder: Any, function: Any) -> None:
        self.context, self.builder, self.function = context, builder, function
        self.names: dict[str, Any] = {}
        self.result: Any = None
        self.loops: list[tuple[Any, Any]] = []  # where `continue` and `break` go
        self.memory: list[Slot] = []  # what is given back at the end

    def run(self, args: list[Any]) -> Any:
        """Emit the body; what it returns."""
        names, body, assigned = _tree(self.function)
        for name, value in zip(names, args, strict=True):
            if name in assigned:
                self.assign(name, value)
            else:
                self.names[name] = value
        self.end = self.builder.append_basic_block(f"{self.function.__name__}.end")
        self.all(body)
        self.go(self.end)
        for slot in self.memory:
            self.context.nrt.free(self.builder, self.builder.load(slot.pointer))
            self.builder.store(cgutils.voidptr_t(None), slot.pointer)
        return self.read(self.result)

    # ------------------------------------------------------------ statements

    def all(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if self.builder.block.is_terminated:
                return
            self.visit(statement)

    def generic_visit(self, node: ast.AST) -> Any:
        where = f"{self.function.__name__}, line {getattr(node, 'lineno', 0)}"
        raise NotImplementedError(f"{where}: a straight kernel has no {type(node).__name__}")

    def visit_Expr(self, node: ast.Expr) -> None:
        self.visit(node.value)

    def visit_Pass(self, node: ast.Pass) -> None:
        pass

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.visit(node.value)
        for target in node.targets:
            self.store(target, value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.store(node.target, self.visit(node.value or ast.Constant(None)))

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        value = self.arithmetic(node.op, self.visit(_loaded(node.target)), self.visit(node.value))
        self.store(node.target, value)

    def visit_If(self, node: ast.If) -> None:
        self.branch(self.visit(node.test), lambda: self.all(node.body), lambda: self.all(node.orelse))

    def visit_While(self, node: ast.While) -> None:
        self.loop(lambda: self.visit(node.test), lambda: self.all(node.body), lambda: None)

    def visit_For(self, node: ast.For) -> None:
        call: Any = node.iter
        start, stop, step = _range(*(self.visit(arg) for arg in call.args))
        here = self.place(self.number(start))
        stop = self.number(stop)
        self.put(here, start)

        def more() -> Value:
            return self.compare(ast.Lt() if isinstance(step, Value) or step > 0 else ast.Gt(), self.read(here), stop)

        def body() -> None:
            self.store(node.target, self.read(here))
            self.all(node.body)

        self.loop(more, body, lambda: self.put(here, self.arithmetic(ast.Add(), self.read(here), step)))

    def visit_Continue(self, node: ast.Continue) -> None:
        self.builder.branch(self.loops[-1][0])

    def visit_Break(self, node: ast.Break) -> None:
        self.builder.branch(self.loops[-1][1])

    def visit_Return(self, node: ast.Return) -> None:
        value = self.visit(node.value) if node.value else None
        self.result = self.result or self.place(value)
        self.put(self.result, value)
        self.builder.branch(self.end)

    def store(self, target: Any, value: Any) -> None:
        """Assign to a name, to several, or to memory."""
        if isinstance(target, ast.Tuple):
            if isinstance(value, Memory):
                value = [self.item(value, i) for i in range(len(target.elts))]
            for one, part in zip(target.elts, value, strict=True):
                self.store(one, part)
        elif isinstance(target, ast.Subscript):
            self.fill(self.view(self.visit(target.value), self.visit(target.slice)), value)
        else:
            self.assign(target.id, value)

    def assign(self, name: str, value: Any) -> None:
        if name == "_":
            return
        if name not in self.names:
            self.names[name] = self.place(value)
        self.put(self.names[name], value)

    def loop(self, more: Callable[[], Any], body: Callable[[], None], following: Callable[[], None]) -> None:
        blocks = [self.builder.append_basic_block(name) for name in ("more", "body", "following", "after")]
        test, inside, then, after = blocks
        self.go(test)
        self.builder.cbranch(self.truth(more()), inside, after)
        self.builder.position_at_end(inside)
        self.loops.append((then, after))
        body()
        self.loops.pop()
        self.go(then)
        following()
        self.builder.branch(test)
        self.builder.position_at_end(after)

    def branch(self, test: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> None:
        """Either way; only one if it is known which."""
        if not isinstance(test, Value):
            (yes if test else no)()
            return
        ways = [self.builder.append_basic_block(name) for name in ("yes", "no")]
        after = self.builder.append_basic_block("after")
        self.builder.cbranch(self.truth(test), *ways)
        for block, way in zip(ways, (yes, no), strict=True):
            self.builder.position_at_end(block)
            way()
            if not self.builder.block.is_terminated:
                self.builder.branch(after)
        self.builder.position_at_end(after)

    def go(self, block: Any) -> None:
        """Go on in a block, from here too unless this has ended."""
        if not self.builder.block.is_terminated:
            self.builder.branch(block)
        self.builder.position_at_end(block)

    # ------------------------------------------------------------ variables

    def place(self, value: Any) -> Any:
        """Room for a value; what is no number stays what it is."""

        def room(one: Any) -> Any:
            one = self.number(one)
            if not isinstance(one, Value):
                return one
            return Slot(one.kind, cgutils.alloca_once(self.builder, self.context.get_value_type(one.kind)))

        return _each(room, value)

    def put(self, place: Any, value: Any) -> None:
        if isinstance(place, Slot):
            value = self.number(value)
            if value.kind != place.kind:
                raise TypeError(f"{self.function.__name__}: a variable of {place.kind} becomes one of {value.kind}")
            self.builder.store(value.value, place.pointer)
        elif isinstance(place, tuple):
            for slot, part in zip(place, value, strict=True):
                self.put(slot, part)

    def read(self, place: Any) -> Any:
        return _each(
            lambda one: Value(one.kind, self.builder.load(one.pointer)) if isinstance(one, Slot) else one, place
        )

    def constant(self, value: Any) -> Any:
        """A number that is known as a value; any other thing itself."""
        if isinstance(value, int):
            return Value(INTEGER, ir.Constant(NUMBER, int(value)))
        return Value(types.float64, ir.Constant(ir.DoubleType(), value)) if isinstance(value, float) else value

    def cast(self, value: Any, kind: Any) -> Any:
        value = self.constant(value)
        return self.context.cast(self.builder, value.value, value.kind, kind)

    def number(self, value: Any) -> Any:
        """A value as a 64-bit integer, if it is an integer or a boolean."""
        value = self.constant(value)
        if isinstance(value, Value) and isinstance(value.kind, types.Integer | types.Boolean):
            return Value(INTEGER, self.cast(value, INTEGER))
        return value

    def truth(self, value: Any) -> Any:
        value = value if isinstance(value, Value) else self.number(value)
        if value.kind == BOOLEAN:
            return value.value
        return self.builder.icmp_signed("!=", value.value, ir.Constant(NUMBER, 0))

    # ------------------------------------------------------------ expressions

    def visit_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return self.read(self.names[node.id])
        around = zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=True)
        known = self.function.__globals__ | {name: cell.cell_contents for name, cell in around}
        return known[node.id] if node.id in known else known["__builtins__"][node.id]

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        return getattr(self.visit(node.value), node.attr)

    def visit_Tuple(self, node: ast.Tuple) -> Any:
        return tuple(self.several(node.elts))

    def several(self, nodes: list[ast.expr]) -> list[Any]:
        """Values one after the other, some of them tuples that are taken apart."""
        found: list[Any] = []
        for node in nodes:
            found += self.visit(node.value) if isinstance(node, ast.Starred) else [self.visit(node)]
        return found

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        base, index = self.visit(node.value), self.visit(node.slice)
        if isinstance(base, Value) and isinstance(index, slice):
            return tuple(self.item(base, i) for i in range(index.start or 0, index.stop))
        if isinstance(base, Value | Memory):
            return self.item(base, index)
        if not isinstance(index, Value):
            return base[index]
        found = base[0]
        for i, other in enumerate(base):
            found = self.either(self.compare(ast.Eq(), index, i), lambda one=other: one, lambda one=found: one)
        return found

    def visit_Slice(self, node: ast.Slice) -> slice:
        return slice(*(part and self.visit(part) for part in (node.lower, node.upper, node.step)))

    def item(self, base: Any, index: Any) -> Any:
        """A number in memory, or a part of an array."""
        found = self.view(base, index)
        if found.shape:
            return found
        return Value(found.dtype, self.context.unpack_value(self.builder, found.dtype, self.pointer(found)))

    def view(self, base: Any, index: Any) -> Memory:
        """A part of an array, by whole numbers, and slices without an end and a step."""
        if isinstance(base, Value):
            base = Memory(INTEGER, base, (None,), (8,))
        indices = index if type(index) is tuple else (index,)
        place, shape, strides = base.data, [], []
        for i, size, step in zip(indices, base.shape, base.strides, strict=False):
            if isinstance(i, slice):
                i = i.start or 0
                shape.append(self.arithmetic(ast.Sub(), size, i))
                strides.append(step)
            elif isinstance(i, int) and i < 0:
                i = self.arithmetic(ast.Add(), size, i)
            place = self.arithmetic(ast.Add(), place, self.arithmetic(ast.Mult(), i, step))
        rest = len(indices)
        return Memory(base.dtype, place, (*shape, *base.shape[rest:]), (*strides, *base.strides[rest:]))

    def pointer(self, memory: Memory) -> Any:
        kind = self.context.get_data_type(memory.dtype)
        return self.builder.inttoptr(memory.data.value, kind.as_pointer())

    def fill(self, memory: Memory, value: Any) -> None:
        """Write a number to all of an array."""
        if not memory.shape:
            self.context.pack_value(self.builder, memory.dtype, self.cast(value, memory.dtype), self.pointer(memory))
            return
        with cgutils.for_range(self.builder, self.number(memory.shape[0]).value) as loop:
            self.fill(self.view(memory, Value(INTEGER, loop.index)), value)

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        return self.arithmetic(node.op, self.visit(node.left), self.visit(node.right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.visit(node.operand)
        if not isinstance(value, Value):
            return UNARY[type(node.op)](value)
        if isinstance(node.op, ast.Not):
            return Value(BOOLEAN, self.builder.not_(self.truth(value)))
        if isinstance(node.op, ast.Invert):
            return self.arithmetic(ast.BitXor(), value, -1)
        if isinstance(value.kind, types.Float):
            return Value(value.kind, self.builder.fneg(value.value))
        return self.arithmetic(ast.Sub(), 0, value)

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        first, *others = node.values
        value = self.visit(first)
        for other in others:
            value = self.both(isinstance(node.op, ast.And), value, other)
        return value

    def both(self, wanted: bool, value: Any, other: ast.expr) -> Any:
        """`value and other`, or if not `wanted` `value or other`, which is only looked at if that decides."""
        if not isinstance(value, Value):
            return self.visit(other) if bool(value) == wanted else value

        found: list[Any] = []

        def look() -> Value:
            found.append(self.visit(other))
            return Value(BOOLEAN, self.truth(found[0]))

        def known() -> Value:
            return Value(BOOLEAN, ir.Constant(ir.IntType(1), not wanted))

        result = self.either(value, *((look, known) if wanted else (known, look)))
        decided = not isinstance(found[0], Value) and bool(found[0]) != wanted
        return found[0] if decided else result

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return self.either(self.visit(node.test), lambda: self.visit(node.body), lambda: self.visit(node.orelse))

    def either(self, test: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        """One of two values."""
        found: list[Any] = []

        def keep(value: Any) -> None:
            if not found:
                found.append(self.place(value))
            self.put(found[0], value)

        if not isinstance(test, Value):
            return yes() if test else no()
        self.branch(test, lambda: keep(yes()), lambda: keep(no()))
        return self.read(found[0])

    def visit_Compare(self, node: ast.Compare) -> Any:
        values = [self.visit(one) for one in (node.left, *node.comparators)]
        return reduce(self.and_, map(self.compare, node.ops, values, values[1:]))

    def compare(self, sign: ast.cmpop, a: Any, b: Any) -> Any:
        symbol, known = COMPARISONS[type(sign)]
        if symbol == "is":
            return known(a, b)
        if isinstance(a, tuple) and not isinstance(a, Value):
            return reduce(self.and_, (self.compare(sign, *pair) for pair in zip(a, b, strict=True)))
        if not (isinstance(a, Value) or isinstance(b, Value)):
            return known(a, b)
        if self.vectors(a, b):
            return self.emitted(OPERATORS[known], [a, b])
        kind, a, b = self.alike(a, b)
        if kind == INTEGER:
            return Value(BOOLEAN, self.builder.icmp_signed(symbol, a, b))
        compare = self.builder.fcmp_unordered if symbol == "!=" else self.builder.fcmp_ordered
        return Value(BOOLEAN, compare(symbol, a, b))

    def and_(self, a: Any, b: Any) -> Any:
        if not (isinstance(a, Value) and isinstance(b, Value)):
            return (b if a else False) if not isinstance(a, Value) else (a if b else False)
        return Value(BOOLEAN, self.builder.and_(a.value, b.value))

    def arithmetic(self, sign: ast.operator, a: Any, b: Any) -> Any:
        emitted, known = ARITHMETIC[type(sign)]
        if not (isinstance(a, Value) or isinstance(b, Value)):
            return known(a, b)
        if self.vectors(a, b):
            return self.emitted(OPERATORS[known], [a, b])
        if isinstance(sign, ast.FloorDiv | ast.Mod):
            return self.divided(a, b)[isinstance(sign, ast.Mod)]
        kind, a, b = self.alike(a, b, exact=not isinstance(sign, ast.Div))
        if kind == INTEGER:
            return Value(kind, getattr(self.builder, emitted)(a, b))
        return Value(kind, getattr(self.builder, f"f{emitted}")(a, b, flags=("contract",)))

    def vectors(self, *values: Any) -> bool:
        return any(isinstance(value, Value) and isinstance(value.kind, Vector) for value in values)

    def alike(self, *values: Any, exact: bool = True) -> tuple[Any, Any, Any]:
        """Two numbers as Numba takes them to calculate: 64-bit integers if `exact`, floats, or both float64."""
        a, b = (self.number(value) for value in values)
        kind = a.kind if a.kind == b.kind and (exact or a.kind != INTEGER) else types.float64
        return kind, self.cast(a, kind), self.cast(b, kind)

    def divided(self, a: Any, b: Any) -> tuple[Value, Value]:
        """Quotient and remainder, rounded down. A number divided by zero is itself, as a processor would stop there."""
        builder, zero, one = self.builder, ir.Constant(NUMBER, 0), ir.Constant(NUMBER, 1)
        a, b = self.number(a).value, self.number(b).value
        if isinstance(b, ir.Constant) and b.constant > 0 and not b.constant & (b.constant - 1):
            shift = ir.Constant(NUMBER, b.constant.bit_length() - 1)
            mask = ir.Constant(NUMBER, b.constant - 1)
            return Value(INTEGER, builder.ashr(a, shift)), Value(INTEGER, builder.and_(a, mask))
        b = builder.select(builder.icmp_signed("==", b, zero), one, b)
        quotient = builder.sdiv(a, b)
        rest = builder.sub(a, builder.mul(quotient, b))
        unlike = builder.icmp_signed("<", builder.xor(rest, b), zero)
        over = builder.and_(unlike, builder.icmp_signed("!=", rest, zero))
        quotient = builder.sub(quotient, builder.zext(over, NUMBER))
        return Value(INTEGER, quotient), Value(INTEGER, builder.add(rest, builder.select(over, b, zero)))

    def visit_Call(self, node: ast.Call) -> Any:
        function: Any = self.visit(node.func)
        args = self.several(node.args)
        if function in MEMORY:
            return self.allocated(function, *args)
        source = getattr(function, "source", None) or getattr(function, "py_func", function)
        if hasattr(source, "apart"):
            return self.called(source, args)
        if isinstance(source, FunctionType):
            return _Call(self.context, self.builder, source).run(args)
        if hasattr(function, "_defn"):
            return self.emitted(function, args)
        if isinstance(function, type) and issubclass(function, np.generic):
            kind = from_dtype(np.dtype(function))
            return Value(kind, self.cast(args[0], kind))
        named = {str(word.arg): self.visit(word.value) for word in node.keywords}
        return self.built_in(function, args) if function in BUILT_IN else function(*args, **named)

    def called(self, function: Any, args: list[Any]) -> None:
        """Call a function of its own, which is emitted when it is called first."""
        given: list[Value] = []

        def take(one: Any) -> Any:
            one = self.constant(one)
            if isinstance(one, Value):
                given.append(one)
            return one

        args = [_each(take, arg) for arg in args]
        kinds = (str(one.kind) for one in given if one.kind != INTEGER)
        name, module = ".".join(("cnnkit", function.__name__, *kinds)), self.builder.module
        if name not in module.globals:
            kind = ir.FunctionType(ir.VoidType(), [one.value.type for one in given])
            made = ir.Function(module, kind, name)
            made.linkage = "internal"
            left = iter(made.args)
            inside = ir.IRBuilder(made.append_basic_block("entry"))
            taken = [
                _each(lambda one: Value(one.kind, next(left)) if isinstance(one, Value) else one, arg) for arg in args
            ]
            _Call(self.context, inside, function).run(taken)
            inside.ret_void()
        self.builder.call(module.globals[name], [one.value for one in given])

    def built_in(self, function: Any, args: list[Any]) -> Any:
        if function is len:
            return args[0].shape[0] if isinstance(args[0], Memory) else len(args[0])
        if not any(isinstance(arg, Value) for arg in args):
            return function(*args)
        if function in MATHS:
            given = self.constant(args[0])
            emit = self.context.get_function(function, given.kind(given.kind))
            return Value(given.kind, emit(self.builder, [given.value]))
        if function is divmod:
            return self.divided(*args)
        return reduce(lambda a, b: self.either_of(function, a, b), args)

    def either_of(self, function: Any, a: Any, b: Any) -> Value:
        first = self.compare(ast.Lt() if function is min else ast.Gt(), a, b)
        kind, a, b = self.alike(a, b)
        return Value(kind, self.builder.select(first.value, a, b))

    def emitted(self, function: Any, args: list[Any]) -> Any:
        """What an intrinsic emits."""
        args = [self.constant(arg) for arg in args]
        signature, codegen = function._defn(None, *(arg.kind for arg in args))
        values = [self.cast(arg, kind) for arg, kind in zip(args, signature.args, strict=True)]
        result = codegen(self.context, self.builder, signature, values)
        if signature.return_type == INTEGER and isinstance(result, ir.Constant):
            return result.constant
        return None if signature.return_type == types.void else Value(signature.return_type, result)

    def allocated(self, function: Any, shape: Any, like: Any) -> Memory:
        """Memory of a shape until the function ends: it begins a cache line."""
        builder, shape = self.builder, shape if isinstance(shape, tuple) and not isinstance(shape, Value) else (shape,)
        dtype = like.kind if isinstance(like, Value) else from_dtype(np.dtype(like)) if isinstance(like, type) else like
        steps: list[Any] = [self.context.get_abi_sizeof(self.context.get_data_type(dtype))]
        for length in shape[::-1]:
            steps.insert(0, self.arithmetic(ast.Mult(), steps[0], length))
        size, *strides = steps
        whole = self.number(self.arithmetic(ast.Add(), size, LINE)).value
        memory = self.context.nrt.allocate(builder, whole)
        with cgutils.if_unlikely(builder, cgutils.is_null(builder, memory)):
            self.context.call_conv.return_user_exc(builder, MemoryError, ("no memory for a kernel",))
        slot = Slot(None, cgutils.alloca_once(builder, cgutils.voidptr_t))
        self.context.nrt.free(builder, builder.load(slot.pointer))  # of the last time, in a loop
        builder.store(memory, slot.pointer)
        self.memory.append(slot)
        first = builder.add(builder.ptrtoint(memory, NUMBER), ir.Constant(NUMBER, LINE - 1))
        first = builder.and_(first, ir.Constant(NUMBER, -LINE))
        if function is np.zeros:
            cgutils.memset(builder, builder.inttoptr(first, cgutils.voidptr_t), self.number(size).value, 0)
        made = Memory(dtype, Value(INTEGER, first), shape, tuple(strides))
        if function is np.full:
            self.fill(made, like)
        return made


def _range(start: Any, stop: Any = None, step: Any = 1) -> tuple[Any, Any, Any]:
    return (0, start, step) if stop is None else (start, stop, step)


def _loaded(target: Any) -> ast.expr:
    """What stands where something is assigned."""
    kind: Any = type(target)
    return kind(**{**{name: getattr(target, name) for name in target._fields}, "ctx": ast.Load()})


LINE = 64  # bytes of a line of the cache
MATHS = (math.sqrt, math.log)
BUILT_IN = (min, max, divmod, len, *MATHS)
MEMORY = (np.empty, np.zeros, np.full)
UNARY: dict[type, Any] = {ast.Not: operator.not_, ast.USub: operator.neg, ast.Invert: operator.invert}
COMPARISONS: dict[type, tuple[str, Any]] = {
    ast.Lt: ("<", operator.lt), ast.LtE: ("<=", operator.le), ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge), ast.Eq: ("==", operator.eq), ast.NotEq: ("!=", operator.ne),
    ast.Is: ("is", operator.is_), ast.IsNot: ("is", operator.is_not),
}  # fmt: skip
ARITHMETIC: dict[type, tuple[str, Any]] = {
    ast.Add: ("add", operator.add), ast.Sub: ("sub", operator.sub), ast.Mult: ("mul", operator.mul),
    ast.Div: ("div", operator.truediv), ast.FloorDiv: ("", operator.floordiv),
    ast.Mod: ("", operator.mod), ast.LShift: ("shl", operator.lshift),
    ast.RShift: ("ashr", operator.rshift), ast.BitAnd: ("and_", operator.and_), ast.BitOr: ("or_", operator.or_),
    ast.BitXor: ("xor", operator.xor), ast.Pow: ("", operator.pow),
}  # fmt: skip
