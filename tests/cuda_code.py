"""What kernels of `rooms/cuda` become on a GPU, without one: registers, memory, occupancy, and what their loops hold.

``python tests/cuda_code.py`` prints the table of docs/kernels.md; it takes numba-cuda, nvJitLink and nvdisasm, and with
``--check`` only tells whether they are there. Words limit it to kernels that begin so.
"""

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

TARGETS = ((8, 0), (9, 0), (12, 0))
ARITHMETIC = ("FFMA", "DFMA", "HMMA", "HGMMA", "DMMA")
LOADS = ("LDG", "LDS")
SHOWN = (*ARITHMETIC, "LDGSTS", "LDSM", *LOADS)


class Multiprocessor(NamedTuple):
    """What one has room for, by CUDA's table of compute capabilities; each has 65536 registers."""

    warps: int
    blocks: int
    shared: int


MULTIPROCESSORS = {
    (8, 0): Multiprocessor(64, 32, 164 << 10),
    (9, 0): Multiprocessor(64, 32, 228 << 10),
    (12, 0): Multiprocessor(48, 24, 100 << 10),
}
REGISTERS, UNIT, RESERVED = 65536, 256, 1 << 10  # a warp takes registers by 256, a block 1 KiB of shared memory


class Examined(NamedTuple):
    """What the linker and the disassembler say of a kernel."""

    registers: int
    stack: int
    spilled: int
    shared: int
    threads: int
    loop: Counter

    def warps(self, capability):
        """How many are at work on a multiprocessor at once."""
        most = MULTIPROCESSORS[capability]
        each = self.threads // 32
        registers = -(-self.registers * 32 // UNIT) * UNIT * each
        blocks = min(most.blocks, most.warps // each, REGISTERS // registers, most.shared // (self.shared + RESERVED))
        return blocks * each


def missing():
    """What there is not here to examine kernels with, in a sentence."""
    try:
        importlib.import_module("numba_cuda")
        compiler = importlib.import_module("cnnkit.rooms.cuda.compiler")
    except ImportError as error:
        return str(error)
    if compiler.linker() is None:
        return "nvJitLink is not installed"
    return "" if disassembler() else "nvdisasm is not installed"


def disassembler():
    """nvdisasm of its wheel."""
    nvidia = importlib.util.find_spec("nvidia")
    for folder in nvidia.submodule_search_locations if nvidia else ():
        for found in Path(folder).glob("*/bin/nvdisasm"):
            return found
    return None


def examine(name, ptx, capability):
    """Link and take apart one kernel."""
    compiler = importlib.import_module("cnnkit.rooms.cuda.compiler")
    kernel = compiler.KERNELS[name]
    cubin, said = compiler.link(ptx, capability)
    numbers = {
        what: int(re.search(pattern, said)[1])
        for what, pattern in {
            "registers": r"[Uu]sed (\d+) registers",
            "stack": r"(\d+) bytes stack frame",
            "stores": r"(\d+) bytes spill stores",
            "loads": r"(\d+) bytes spill loads",
        }.items()
    }
    declared = re.search(r"(\d+) bytes smem", said)
    declared = int(declared[1]) if declared else 0
    if capability == (9, 0):  # where the reserve is counted too
        declared = max(0, declared - RESERVED)
    return Examined(
        numbers["registers"],
        numbers["stack"],
        numbers["stores"] + numbers["loads"],
        declared + kernel.shared,
        kernel.threads,
        hot_loop(listing(cubin)),
    )


def listing(cubin):
    """The machine code in words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = disassembler()
        os.chmod(tool, 0o755)
        return subprocess.run([tool, "-c", path], capture_output=True, text=True, check=True).stdout


def hot_loop(text):
    """The instructions of the innermost loop that does most on tensor cores, or with what it loads, counted."""
    found = [Counter(word.split(".")[0] for word in lines[first:last]) for first, last, lines in loops(text)]
    best = max(found, key=_weight, default=Counter())
    return best if any(best[word] for word in ARITHMETIC) else Counter()


def _weight(loop):
    """Loops that store results may have many multiply-adds, for activations, but load little."""
    computed = sum(loop[word] for word in ARITHMETIC)
    return loop["HMMA"] + loop["HGMMA"], min(computed, sum(loop[word] for word in LOADS)), computed


def loops(text):
    """Where innermost loops begin and end: at a label, and at the last jump back to it."""
    lines, labels, spans = [], {}, {}
    for line in text.splitlines():
        if label := re.match(r"\.(L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif instruction := re.match(r"\s*/\*\w+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)", line):
            lines.append(instruction[1])
            jump = re.search(r"\(\.(L_x_\d+)\)", instruction[2])
            if instruction[1].startswith("BRA") and jump and jump[1] in labels:
                spans[labels[jump[1]]] = len(lines)
    for first, last in spans.items():
        if last - first > 2 and not any(
            first <= other and end <= last for other, end in spans.items() if other != first
        ):
            yield first, last, lines


def table(beginnings):
    """The table of docs/kernels.md, line by line."""
    devices = ", ".join(f"{major}.{minor}" for major, minor in TARGETS)
    yield f"| kernel | threads | registers ({devices}) | shared | warps | hot loop, 9.0 |"
    yield "|---|---:|---:|---:|---:|---|"
    compiler = importlib.import_module("cnnkit.rooms.cuda.compiler")
    for name, kernel in compiler.KERNELS.items():
        for dtype in kernel.dtypes if name.startswith(beginnings) else ():
            if dtype == "bfloat16":  # what holds of float16
                continue
            found = {one: examine(name, compiler.compile_ptx(name, dtype, one), one) for one in TARGETS}
            registers = ", ".join(str(one.registers) + "!" * bool(one.stack or one.spilled) for one in found.values())
            warps = ", ".join(str(one.warps(capability)) for capability, one in found.items())
            shared, loop = found[9, 0].shared, found[9, 0].loop
            held = f"{shared / 1024:.3g} KiB" if shared else ""
            counts = ", ".join(f"{loop[word]} {word}" for word in SHOWN if loop[word])
            counts = f"{counts} of {loop.total()}" if counts else ""
            yield f"| {name}, {dtype} | {kernel.threads} | {registers} | {held} | {warps} | {counts} |"


if __name__ == "__main__":
    if reason := missing():
        sys.exit(f"no kernel was examined: {reason}")
    for row in () if "--check" in sys.argv else table(tuple(sys.argv[1:]) or ("",)):
        print(row, flush=True)
