"""The machine code of the tiles: their loops hold all sums in registers, on every kind of processor.

The kernels are compiled for each processor, and need not run here: run as a program, this file prints the assembly for
the one that its environment asks of Numba, or for ARM.
"""

import os
import platform
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

pytest.importorskip("numba", reason="the CPU kernels need Numba")

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.caching import NullCache
from processors import PROCESSORS

from cnnkit.rooms.numba import emit, machine, tile

ASSEMBLY = {  # of each processor: the instructions of a term
    "avx512": (r"vfn?madd\d+p[sd]",),
    "avx2": (r"vfn?madd\d+p[sd]",),
    "sse": (r"mulp[sd]", r"addp[sd]"),
    "neon": (r"fmla",),
}
REGISTER = {64: r"%zmm\d+", 32: r"%ymm\d+", 16: r"%xmm\d+|\bv\d+\.[24][sd]"}  # by its bytes
ON_STACK = re.compile(r"\(%rsp|\[sp\b")  # nothing is compiled with a frame pointer: %rbp and x29 point anywhere
NUMBERS = {"outer": 10, "inner": 9, "gather": 12}  # arguments of the loops


def every(kind):
    return [one for dtype in ("float32", "float64") for one in tile.tiles(kind, np.dtype(dtype))]


# ---------------------------------------------------------------- the program: assembly of all tiles


def compiled_by_numba(kind):
    for one in every(kind):
        kernel = machine.kernel(getattr(tile, f"_{kind}_address").py_func)
        kernel._cache = NullCache()  # what comes from a cache has no assembly
        kernel.compile((one._numba_type_,))
        yield kernel.inspect_asm((one._numba_type_,))


def compiled_for_arm(kind):
    """What the tiles emit, by LLVM itself: Numba compiles for the kind of machine it runs on alone."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    arm = target.create_target_machine(cpu=PROCESSORS["neon"].name, features=PROCESSORS["neon"].features, opt=3)
    for one in every(kind):
        module, name = ir.Module("tile"), f"{kind}.{one.rows}x{one.vectors}"
        made = emit.function(module, name, one._numba_type_.unit, NUMBERS[kind], emitted_loop(kind, one._numba_type_))
        made.linkage = "external"  # nobody calls it here, and yet it is wanted
        parsed = llvm.parse_assembly(str(module))
        parsed.triple, parsed.data_layout = arm.triple, str(arm.target_data)
        passes = llvm.create_pass_builder(arm, llvm.create_pipeline_tuning_options(speed_level=3))
        passes.getModulePassManager().run(parsed, passes)
        yield arm.emit_assembly(parsed)


def emitted_loop(kind, one):
    return lambda emitter, *numbers: getattr(tile, f"_emit_{kind}")(emitter, one, *numbers)


def main(processor):
    print(f"# {machine.VECTOR_BYTES} {machine.REGISTERS}")
    for kind in NUMBERS:
        for assembly in compiled_for_arm(kind) if processor == "neon" else compiled_by_numba(kind):
            print(assembly)


# ---------------------------------------------------------------- reading it


@cache
def functions(processor):
    """The vector unit that the tiles were made for, and the lines of every tile's function, under its name."""
    environment = os.environ | PROCESSORS[processor].environment
    program = [sys.executable, __file__, processor]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def read(text):
    made_for = tuple(map(int, text.split("\n", 1)[0].split()[1:]))
    found = {}
    for name, body in re.findall(
        r'^_?"?(cnnkit\.[\w.]+)"?:(.*?)^\s*\.(?:L?func_end|size|cfi_endproc)', text, re.M | re.S
    ):
        lines = [re.split(r"#+\s|//", line)[0].strip() for line in body.splitlines()]
        found[name] = [line for line in lines if line and (line.endswith(":") or not line.startswith("."))]
    return made_for, found


def loops(lines, term):
    """The loops in which a term's first instruction stands: what it leads to and what leads back to it."""
    labels = {line[:-1]: n for n, line in enumerate(lines) if line.endswith(":")}
    after = [following(n, line, labels) for n, line in enumerate(lines)]
    before = [[] for _ in lines]
    for m, n in ((m, n) for m, ns in enumerate(after) for n in ns if n < len(lines)):
        before[n].append(m)
    found, seen = [], set()
    for start in (n for n, line in enumerate(lines) if re.match(term, line)):
        if start not in seen and start in reached(after[start], after):
            numbers = reached([start], after) & reached([start], before)
            seen |= numbers
            found.append([lines[n] for n in sorted(numbers) if not lines[n].endswith(":")])
    return found


def following(n, line, labels):
    """Where it goes on after a line."""
    to = [labels[word] for word in re.findall(r"\.?L\w+$", line) if word in labels and not line.endswith(":")]
    return to if re.match(r"(jmp|b)\s", line) else [] if line.startswith("ret") else [*to, n + 1]


def reached(todo, steps):
    """All that the steps lead to, those that are given among it."""
    seen, todo = set(), [*todo]
    while todo:
        n = todo.pop()
        if n not in seen and n < len(steps):
            seen.add(n)
            todo += steps[n]
    return seen


# ---------------------------------------------------------------- what must hold


def needs_a_compiler_for(processor):
    if processor != "neon" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"Numba on {platform.machine()} does not compile for x86")
    if processor == "neon":
        llvm.initialize_all_targets()
        try:
            llvm.Target.from_triple("aarch64-unknown-linux-gnu")
        except RuntimeError as error:
            pytest.skip(f"this llvmlite does not compile for ARM: {error}")


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("processor", ASSEMBLY)
def test_sums_stay_in_registers(processor, kind):
    needs_a_compiler_for(processor)
    unit, operations = PROCESSORS[processor].unit, ASSEMBLY[processor]
    made_for, found = functions(processor)
    assert made_for == unit
    tiles = {name: lines for name, lines in found.items() if name.startswith(f"cnnkit.{kind}.")}
    assert len(tiles) >= 2 * 3
    for name, lines in tiles.items():
        rows, vectors, lanes = map(int, re.match(r"cnnkit\.\w+\.(\d+)x(\d+)\.float\d+x(\d+)$", name).groups())
        width = lanes * (4 if "float32" in name else 8)
        assert unit[0] // width in ((1, 2, 4) if kind == "gather" else (1,))
        check_loops(name, loops(lines, operations[0]), operations, REGISTER[width], rows, vectors)


def check_loops(name, bodies, operations, register, rows, vectors):
    """A loop for all vectors, maybe others for fewer; one instruction for each sum and term, and no memory for it."""
    sizes = []
    for body in bodies:
        for operation in operations:
            terms = [line for line in body if re.match(operation, line)]
            assert all(re.search(register, line) for line in terms), (name, terms)
            sizes.append(len(terms))
        assert not [line for line in body if ON_STACK.search(line)], (name, body)
    assert set(sizes) <= {rows * count for count in range(1, vectors + 1)}, name
    assert max(sizes) == rows * vectors, name


def test_this_processor_has_its_sums_in_registers_too():
    """As the kernels are compiled when they run, with the features that this very processor has."""
    operation = r"v?(fn?madd\d+|mul)p[sd]|fmla"
    for kind in NUMBERS:
        for one, assembly in zip(every(kind), compiled_by_numba(kind), strict=True):
            _, found = read(f"# 0 0\n{assembly}")
            ((name, lines),) = ((name, lines) for name, lines in found.items() if name.startswith(f"cnnkit.{kind}."))
            check_loops(name, loops(lines, operation), [operation], "", one.rows, one.vectors)


SPILLS = """
.LBB0_1:
\tmovups\t(%rdi), %xmm1
\ttestb\t$1, %al
\tjne\t.LBB0_3
.LBB0_2:
\tmulps\t%xmm0, %xmm1
\taddps\t%xmm1, %xmm2
\tincq\t%rcx
\tjne\t.LBB0_1
\tmovaps\t%xmm2, 8(%rsp)
\tretq
.LBB0_3:
\tmovaps\t%xmm2, -24(%rsp)
\tjmp\t.LBB0_2
"""


def test_a_loop_is_what_leads_back_to_itself():
    """Also the block that stands behind the end; what follows the loop does not belong to it."""
    text = f"# 16 16\ncnnkit.outer.1x1.float32x4:{SPILLS}.Lfunc_end0:\n\t.size\tx\n"
    made_for, found = read(text)
    assert made_for == (16, 16)
    (body,) = loops(found["cnnkit.outer.1x1.float32x4"], "mulps")
    assert "movaps\t%xmm2, -24(%rsp)" in body
    assert "movaps\t%xmm2, 8(%rsp)" not in body
    assert len(body) == 3 + 4 + 2
    assert [line for line in body if ON_STACK.search(line)] == ["movaps\t%xmm2, -24(%rsp)"]


if __name__ == "__main__":
    main(sys.argv[1])
