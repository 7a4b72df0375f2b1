"""Kernels of whole numbers, compiled straight from their source.

Numba takes seconds for a large kernel, most of them to find out what its variables are. Here there is nothing to find
out: all that changes is a 64-bit integer, often an address. `straight` emits the LLVM code of a kernel as it stands in
its source, and of what that calls, in this much of Python:

    x = ...   a, b = ...   x += ...   if   while   for ... in range(...)   break   continue   return
    + - * // % << >> & | ^   comparisons   and, or, not   ... if ... else ...   min   max   divmod   abs
    a[i], a[i] = ...         the i-th 64-bit integer behind the address a
    f(...)                   another function of these, which becomes a part of the kernel, an intrinsic, a NamedTuple

Tuples and NamedTuples are names for several numbers, and cost nothing. What is known when it is compiled, such as a
number of the module's, is decided then.
"""

import ast
import inspect
import operator
import textwrap
from collections.abc import Callable
from functools import lru_cache, reduce
from types import FunctionType
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils

from cnnkit.rooms.numba.emit import NUMBER
from cnnkit.rooms.numba.machine import kernel
from cnnkit.rooms.numba.vectors import intrinsic

INTEGER, BOOLEAN = types.intp, types.boolean


class Value(NamedTuple):
    """What is known when the kernel runs: a Numba type, and the LLVM value."""

    kind: Any
    value: Any


class Slot(NamedTuple):
    """Where a variable stands. LLVM makes registers of these."""

    kind: Any
    pointer: Any


def straight(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel, as `machine.kernel` has them, of a function of integers and tuples of them that returns nothing."""

    @intrinsic
    def emit(typingctx: Any, given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _Call(context, builder, function).run(_unpacked(context, builder, given, args[0]))
            return context.get_dummy_value()

        return types.void(given), codegen

    whole = FunctionType(_whole.__code__, {"emit": emit}, function.__name__)
    whole.__qualname__, whole.__module__, whole.__doc__ = function.__qualname__, function.__module__, function.__doc__
    compiled: Any = kernel(whole)
    compiled.source = function
    return compiled


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns nothing and is called, not copied to where it is called."""
    function.apart = True  # type: ignore[attr-defined]
    return function


def _whole(*args):
    emit(args)  # type: ignore[name-defined]  # noqa: F821


def _unpacked(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """An argument as a kernel's source has it."""
    if isinstance(kind, types.BaseTuple):
        kinds: Any = kind
        parts = zip(kinds, cgutils.unpack_tuple(builder, value), strict=True)
        return tuple(_unpacked(context, builder, *part) for part in parts)
    if isinstance(kind, types.Integer | types.Boolean):
        return Value(INTEGER, context.cast(builder, value, kind, INTEGER))
    return Value(kind, value)


@lru_cache
def _tree(function: Callable[..., Any]) -> tuple[list[str], list[ast.stmt], set[str]]:
    """The names of a function's arguments, its body, and the names that it assigns to."""
    tree: Any = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return [one.arg for one in tree.args.args], tree.body, assigned


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """A change of a number, or of all numbers of a tuple."""
    if not isinstance(value, tuple) or isinstance(value, Value | Slot):
        return change(value)
    parts = [_each(change, part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


class _Call(ast.NodeVisitor):
    """A call of a function: its variables, and the code that it becomes."""

    def __init__(self, context: Any, builder: Any, function: Any) -> None:
        self.context, self.builder, self.function = context, builder, function
        self.names: dict[str, Any] = {}
        self.result: Any = None
        self.loops: list[tuple[Any, Any]] = []  # where `continue` and `break` go

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
            for one, part in zip(target.elts, value, strict=True):
                self.store(one, part)
        elif isinstance(target, ast.Subscript):
            self.builder.store(self.number(value).value, self.pointer(target))
        else:
            self.assign(target.id, value)

    def assign(self, name: str, value: Any) -> None:
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
            if isinstance(one, int):
                one = self.number(one)
            if not isinstance(one, Value):
                return one
            return Slot(one.kind, cgutils.alloca_once(self.builder, self.context.get_value_type(one.kind)))

        return _each(room, value)

    def put(self, place: Any, value: Any) -> None:
        if isinstance(place, Slot):
            self.builder.store(self.cast(value, place.kind), place.pointer)
        elif isinstance(place, tuple):
            for slot, part in zip(place, value, strict=True):
                self.put(slot, part)

    def read(self, place: Any) -> Any:
        return _each(
            lambda one: Value(one.kind, self.builder.load(one.pointer)) if isinstance(one, Slot) else one, place
        )

    def cast(self, value: Any, kind: Any) -> Any:
        value = self.number(value) if isinstance(value, int) else value
        return self.context.cast(self.builder, value.value, value.kind, kind)

    def number(self, value: Any) -> Value:
        """A value as a 64-bit integer."""
        if isinstance(value, int):
            return Value(INTEGER, ir.Constant(NUMBER, int(value)))
        return Value(INTEGER, self.builder.zext(value.value, NUMBER)) if value.kind == BOOLEAN else value

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
        known = self.function.__globals__
        return known[node.id] if node.id in known else known["__builtins__"][node.id]

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        return getattr(self.visit(node.value), node.attr)

    def visit_Tuple(self, node: ast.Tuple) -> Any:
        return tuple(self.visit(one) for one in node.elts)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        base = self.visit(node.value)
        if not isinstance(base, Value):
            return base[self.visit(node.slice)]
        return Value(INTEGER, self.builder.load(self.pointer(node)))

    def pointer(self, node: ast.Subscript) -> Any:
        base = self.builder.inttoptr(self.visit(node.value).value, NUMBER.as_pointer())
        return self.builder.gep(base, [self.number(self.visit(node.slice)).value])

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        return self.arithmetic(node.op, self.visit(node.left), self.visit(node.right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.visit(node.operand)
        if not isinstance(value, Value):
            return UNARY[type(node.op)](value)
        if isinstance(node.op, ast.Not):
            return Value(BOOLEAN, self.builder.not_(self.truth(value)))
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

        def look() -> Value:
            return Value(BOOLEAN, self.truth(self.visit(other)))

        def known() -> Value:
            return Value(BOOLEAN, ir.Constant(ir.IntType(1), not wanted))

        return self.either(value, *((look, known) if wanted else (known, look)))

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
        if isinstance(a, tuple) and not isinstance(a, Value):
            return reduce(self.and_, (self.compare(sign, *pair) for pair in zip(a, b, strict=True)))
        symbol, known = COMPARISONS[type(sign)]
        if not (isinstance(a, Value) or isinstance(b, Value)):
            return known(a, b)
        return Value(BOOLEAN, self.builder.icmp_signed(symbol, self.number(a).value, self.number(b).value))

    def and_(self, a: Any, b: Any) -> Any:
        if not (isinstance(a, Value) and isinstance(b, Value)):
            return (b if a else False) if not isinstance(a, Value) else (a if b else False)
        return Value(BOOLEAN, self.builder.and_(a.value, b.value))

    def arithmetic(self, sign: ast.operator, a: Any, b: Any) -> Any:
        emitted, known = ARITHMETIC[type(sign)]
        if not (isinstance(a, Value) or isinstance(b, Value)):
            return known(a, b)
        if isinstance(sign, ast.FloorDiv | ast.Mod):
            return self.divided(a, b)[isinstance(sign, ast.Mod)]
        return Value(INTEGER, getattr(self.builder, emitted)(self.number(a).value, self.number(b).value))

    def divided(self, a: Any, b: Any) -> tuple[Value, Value]:
        """Quotient and remainder, rounded down."""
        builder, zero = self.builder, ir.Constant(NUMBER, 0)
        a, b = self.number(a).value, self.number(b).value
        if isinstance(b, ir.Constant) and b.constant > 0 and not b.constant & (b.constant - 1):
            shift = ir.Constant(NUMBER, b.constant.bit_length() - 1)
            mask = ir.Constant(NUMBER, b.constant - 1)
            return Value(INTEGER, builder.ashr(a, shift)), Value(INTEGER, builder.and_(a, mask))
        quotient = builder.sdiv(a, b)
        rest = builder.sub(a, builder.mul(quotient, b))
        unlike = builder.icmp_signed("<", builder.xor(rest, b), zero)
        over = builder.and_(unlike, builder.icmp_signed("!=", rest, zero))
        quotient = builder.sub(quotient, builder.zext(over, NUMBER))
        return Value(INTEGER, quotient), Value(INTEGER, builder.add(rest, builder.select(over, b, zero)))

    def visit_Call(self, node: ast.Call) -> Any:
        function: Any = self.visit(node.func)
        args: list[Any] = []
        for arg in node.args:
            args += self.visit(arg.value) if isinstance(arg, ast.Starred) else [self.visit(arg)]
        source = getattr(function, "source", None) or getattr(function, "py_func", function)
        if hasattr(source, "apart"):
            return self.called(source, args)
        if isinstance(source, FunctionType):
            return _Call(self.context, self.builder, source).run(args)
        if hasattr(function, "_defn"):
            return self.emitted(function, args)
        named = {str(word.arg): self.visit(word.value) for word in node.keywords}
        return self.built_in(function, args) if function in BUILT_IN else function(*args, **named)

    def called(self, function: Any, args: list[Any]) -> None:
        """Call a function of its own, which is emitted when it is called first."""
        numbers: list[Any] = []
        kinds: list[str] = []

        def given(one: Any) -> Any:
            one = self.number(one) if isinstance(one, int) else one
            if one.kind != INTEGER:
                kinds.append(str(one.kind))
            else:
                numbers.append(one.value)
            return one

        args = [_each(given, arg) for arg in args]
        name, module = ".".join(("cnnkit", function.__name__, *kinds)), self.builder.module
        if name not in module.globals:
            made = ir.Function(module, ir.FunctionType(ir.VoidType(), [NUMBER] * len(numbers)), name)
            made.linkage = "internal"
            left = iter(made.args)
            inside = ir.IRBuilder(made.append_basic_block("entry"))
            taken = [_each(lambda one: Value(INTEGER, next(left)) if one.kind == INTEGER else one, arg) for arg in args]
            _Call(self.context, inside, function).run(taken)
            inside.ret_void()
        self.builder.call(module.globals[name], numbers)

    def built_in(self, function: Any, args: list[Any]) -> Any:
        if not any(isinstance(arg, Value) for arg in args):
            return function(*args)
        if function is divmod:
            return self.divided(*args)
        return reduce(lambda a, b: self.either_of(function, a, b), args)

    def either_of(self, function: Any, a: Any, b: Any) -> Value:
        a, b = self.number(a).value, self.number(b).value
        first = self.builder.icmp_signed("<" if function is min else ">", a, b)
        return Value(INTEGER, self.builder.select(first, a, b))

    def emitted(self, function: Any, args: list[Any]) -> Any:
        """What an intrinsic emits."""
        args = [self.number(arg) if isinstance(arg, int) else arg for arg in args]
        signature, codegen = function._defn(None, *(arg.kind for arg in args))
        values = [self.cast(arg, kind) for arg, kind in zip(args, signature.args, strict=True)]
        result = codegen(self.context, self.builder, signature, values)
        return None if signature.return_type == types.void else Value(signature.return_type, result)


@intrinsic
def allocate(typingctx: Any, size: Any) -> Any:
    """The address of so many bytes, which begin a cache line; they are ours until `release`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.Constant(NUMBER, 8)
        memory = context.nrt.allocate(builder, builder.add(args[0], ir.Constant(NUMBER, 72)))
        with cgutils.if_unlikely(builder, cgutils.is_null(builder, memory)):
            context.call_conv.return_user_exc(builder, MemoryError, ("no memory for a kernel",))
        start = builder.ptrtoint(memory, NUMBER)
        first = builder.and_(builder.add(start, ir.Constant(NUMBER, 71)), ir.Constant(NUMBER, -64))
        builder.store(start, builder.inttoptr(builder.sub(first, word), NUMBER.as_pointer()))
        return first

    return types.intp(types.intp), codegen


@intrinsic
def release(typingctx: Any, address: Any) -> Any:
    """Give memory back that `allocate` gave."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        before = builder.sub(args[0], ir.Constant(NUMBER, 8))
        start = builder.load(builder.inttoptr(before, NUMBER.as_pointer()))
        context.nrt.free(builder, builder.inttoptr(start, cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def _range(start: Any, stop: Any = None, step: Any = 1) -> tuple[Any, Any, Any]:
    return (0, start, step) if stop is None else (start, stop, step)


def _loaded(target: Any) -> ast.expr:
    """What stands where something is assigned."""
    kind: Any = type(target)
    return kind(**{**{name: getattr(target, name) for name in target._fields}, "ctx": ast.Load()})


BUILT_IN = (min, max, divmod)
UNARY = {ast.Not: operator.not_, ast.USub: operator.neg}
COMPARISONS: dict[type, tuple[str, Any]] = {
    ast.Lt: ("<", operator.lt), ast.LtE: ("<=", operator.le), ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge), ast.Eq: ("==", operator.eq), ast.NotEq: ("!=", operator.ne),
}  # fmt: skip
ARITHMETIC: dict[type, tuple[str, Any]] = {
    ast.Add: ("add", operator.add), ast.Sub: ("sub", operator.sub), ast.Mult: ("mul", operator.mul),
    ast.FloorDiv: ("", operator.floordiv), ast.Mod: ("", operator.mod), ast.LShift: ("shl", operator.lshift),
    ast.RShift: ("ashr", operator.rshift), ast.BitAnd: ("and_", operator.and_), ast.BitOr: ("or_", operator.or_),
    ast.BitXor: ("xor", operator.xor),
}  # fmt: skip
