"""Kernels of `rooms/cuda` run in Python, from their own sources: no GPU, no numba-cuda.

Every thread of a block is a generator that stops at each barrier (`cuda.syncthreads()` is read as ``yield``); all must
come to it, or none. Shared memory begins as NaN and knows who touched what since the last barrier: a number that one
thread writes and another reads or writes in between is a race. Pointers look up what they point to in one array, in
which all that is not to be read is NaN, and note what is written.

Of `rooms/cuda/instructions.py` there are models. What a warp does together is read as a ``yield`` too, of the
instruction and its arguments, at which all of its threads must meet. Copies that were begun may not be touched before
the thread that began them has waited for them, nor by others before the next barrier.
"""

import ast
import types
from contextlib import suppress
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

import cnnkit

try:
    from ml_dtypes import bfloat16
except ImportError:  # then nobody has such arrays
    bfloat16 = np.float16

FOLDER = Path(cnnkit.__file__).parent / "rooms" / "cuda"


class RaceError(AssertionError):
    """Two threads met in shared memory without a barrier between them."""


class Shared:
    """Shared memory of one block."""

    def __init__(self, size, real):
        empty = real(np.nan) if issubclass(real, np.floating) else None  # which no arithmetic takes
        self.numbers, self.readers, self.writers = [empty] * size, {}, {}

    def barrier(self):
        self.readers.clear()
        self.writers.clear()

    def __getitem__(self, i):
        thread = CUDA.threadIdx.x
        if self.writers.get(i, thread) != thread:
            raise RaceError(f"thread {thread} reads {i}, which thread {self.writers[i]} wrote")
        self.readers.setdefault(i, set()).add(thread)
        assert self.numbers[i] is not None, f"{i} holds nothing yet"
        return self.numbers[i]

    def __setitem__(self, i, value):
        thread = CUDA.threadIdx.x
        if self.writers.get(i, thread) != thread or self.readers.get(i, {thread}) != {thread}:
            raise RaceError(f"thread {thread} writes {i}, which another one touched")
        self.writers[i] = thread
        self.numbers[i] = value


class Words(Shared):
    """Shared memory of words of 32 bits, known by their bytes; begins as NaN in all dtypes."""

    def __init__(self, size):
        super().__init__(1, np.float32)
        self.numbers, self.flying = [np.uint32(0x7FC07FC0)] * size, {}
        self.begun, self.groups = {}, {}

    def _landed(self, i):
        if i in self.flying:
            raise RaceError(f"word {i} is touched before its copy has arrived")
        return i

    def __getitem__(self, i):
        return super().__getitem__(self._landed(i))

    def __setitem__(self, i, value):
        super().__setitem__(self._landed(i), value)

    def begin(self, word, values):
        for i, value in enumerate(values, word):
            assert 0 <= i < len(self.numbers), f"word {i} lies outside of shared memory"
            self[i] = np.uint32(0x7FC07FC0)
            self.flying[i] = value
        self.begun.setdefault(CUDA.threadIdx.x, []).extend(range(word, word + len(values)))

    def commit(self):
        self.groups.setdefault(CUDA.threadIdx.x, []).append(self.begun.pop(CUDA.threadIdx.x, []))

    def wait(self, left):
        groups = self.groups.setdefault(CUDA.threadIdx.x, [])
        while len(groups) > left:
            for i in groups.pop(0):
                self.numbers[i], self.writers[i] = self.flying.pop(i), CUDA.threadIdx.x


class Together:
    """An instruction of a whole warp: a function of its threads' arguments, a list with a row for each."""

    def __init__(self, run):
        self.run = run


def place_of(place):
    assert not place % 4, f"{place} is not the place of a word"
    return int(place) // 4


def copy_async(place, memory, index, count):
    assert not place % 16, f"{place} is not the place of 16 bytes"
    assert count in (0, 16)
    values = [np.uint32(0)] * 4
    if count:
        size = memory.numbers.itemsize
        first, last = memory._place(index), memory._place(index + 16 // size - 1)
        assert not (memory.numbers.ctypes.data + first * size) % 16, f"{index} is not at 16 bytes"
        values = list(memory.numbers[first : last + 1].copy().view(np.uint32))
    CUDA.block[0].begin(place_of(place), values)


def matrices(turned):
    """ldmatrix: four matrices of 8 lines of 16 bytes, whose places 8 threads give each."""

    def run(places):
        found, first = [[] for _ in range(32)], CUDA.threadIdx.x
        for i in range(4):
            lines = []
            for row in range(8):
                (place,) = places[8 * i + row]
                assert not place % 16, f"{place} is not the place of 16 bytes"
                lines.append([])
                for column in range(4):
                    CUDA.threadIdx.x = first + 4 * row + column
                    lines[-1].append(CUDA.block[0][place_of(place) + column])
            matrix = np.array(lines, np.uint32)
            if turned:
                matrix = np.ascontiguousarray(matrix.view(np.uint16).T).view(np.uint32)
            for lane in range(32):
                found[lane].append(matrix[lane // 4, lane % 4])
        return found

    return Together(run)


def multiply(real):
    """mma.sync: sums (16, 8) and the product of (16, k) and (k, 8), spread over the threads as the manual has it."""
    each = 1 if real is np.float32 else 2

    def values(words):
        words = np.array(words, np.uint32)
        assert each == 2 or not (words & 0x1FFF).any(), "more bits than tf32 has"
        return words.view(real).astype(np.float64).reshape(8, 4, each)

    def run(given):
        a0, a1, a2, a3, b0, b1 = (values([row[k] for row in given]).reshape(8, -1) for k in range(6))
        left, right = np.block([[a0, a2], [a1, a3]]), np.hstack([b0, b1])
        c = np.array([row[6:] for row in given], np.float64).reshape(8, 4, 2, 2)
        with np.errstate(invalid="ignore", over="ignore"):
            total = (c.transpose(2, 0, 1, 3).reshape(16, 8) + left @ right.T).astype(np.float32)
        return list(total.reshape(2, 8, 4, 2).transpose(1, 2, 0, 3).reshape(32, 4))

    return Together(run)


def rounded_to_tf32(word):
    return np.uint32((int(word) + 0x1000) & 0xFFFFE000)


INSTRUCTIONS = {
    "address": lambda shared: 0,
    "copy_async": copy_async,
    "commit": lambda: CUDA.block[0].commit(),
    "wait": lambda: CUDA.block[0].wait(1),
    "wait_for_all": lambda: CUDA.block[0].wait(0),
    "rows_of_words": matrices(False),
    "columns_of_words": matrices(True),
    "word": lambda place: CUDA.block[0][place_of(place)],
    "put": lambda place, value: CUDA.block[0].__setitem__(place_of(place), np.float32(value).view(np.uint32)),
    "get": lambda place: CUDA.block[0][place_of(place)].view(np.float32),
    "MULTIPLY": {"float16": multiply(np.float16), "bfloat16": multiply(bfloat16), "float32": multiply(np.float32)},
    "rounded_to_tf32": rounded_to_tf32,
    "NARROW": {"float16": np.float16, "bfloat16": bfloat16},
    "WIDEN": {"float16": np.float32, "bfloat16": np.float32},
}
TOGETHER = ("words", "multiply")  # what kernels call the instructions of a whole warp


class Local(dict):
    """Numbers of one thread, which hold nothing yet."""


class Memory:
    """What a pointer points to: an array in a larger one, and how far it may go."""

    def __init__(self, array):
        low = sum(min(0, (n - 1) * step) for n, step in zip(array.shape, array.strides, strict=True))
        high = sum(max(0, (n - 1) * step) for n, step in zip(array.shape, array.strides, strict=True))
        self.low, self.count = low // array.itemsize, (high - low) // array.itemsize + 1 if array.size else 0
        whole = np.lib.stride_tricks.as_strided
        start = (
            array[tuple(slice(-1, None) if step < 0 else slice(0, 1) for step in array.strides)]
            if array.ndim
            else array
        )
        self.numbers = whole(start.reshape(-1)[:1], (self.count,), (array.itemsize,)) if self.count else np.empty(0)
        self.written = set()

    def __getitem__(self, i):
        return self.numbers[self._place(i)]

    def __setitem__(self, i, value):
        place = self._place(i)
        assert place not in self.written, f"{place} is written twice"
        self.written.add(place)
        self.numbers[place] = value

    def _place(self, i):
        place = int(i) - self.low
        assert 0 <= place < self.count, f"{int(i)} lies outside of the array"
        return place


class _Cuda:
    """What kernels use of `numba.cuda`."""

    def __init__(self):
        self.threadIdx, self.blockIdx, self.blockDim = (types.SimpleNamespace(x=0, y=0, z=0) for _ in range(3))
        self.shared = types.SimpleNamespace(array=self._share)
        self.local = types.SimpleNamespace(array=lambda shape, real: Local())
        self.block = []

    def jit(self, **_):
        return lambda function: function

    def _share(self, size, real, alignment=None):
        """Memory that instructions know by its bytes has an alignment."""
        if not self.block:
            self.block.append(Words(size) if alignment else Shared(size, real))
        return self.block[0]


CUDA = _Cuda()
TYPES = types.SimpleNamespace(float32=np.float32, int32=np.int32, int64=np.int64)


class Stops(ast.NodeTransformer):
    """``cuda.syncthreads()`` and what a warp does together become ``yield``; imports of what is simulated are noted."""

    def __init__(self):
        self.imported = {}

    def visit_Call(self, node):
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name == "cuda.syncthreads":
            return ast.Yield()
        if name in TOGETHER:
            return ast.Yield(ast.Tuple([node.func, ast.Tuple(node.args, ast.Load())], ast.Load()))
        return node

    def visit_ImportFrom(self, node):
        if node.module.startswith("cnnkit.rooms.cuda."):
            self.imported |= {alias.name: node.module.rpartition(".")[2] for alias in node.names}
            return None
        return None if node.module.startswith("numba") else node


@lru_cache
def source(name, *changes):
    """The functions of a file of the room, after `changes` of its text: pairs of what is there and what shall be."""
    text = (FOLDER / f"{name}.py").read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    stops = Stops()
    tree = ast.fix_missing_locations(stops.visit(ast.parse(text)))
    space = {"cuda": CUDA, "types": TYPES, "__name__": name}
    files = {file: source(file) for file in {*stops.imported.values()} - {"instructions"}}
    for imported, file in stops.imported.items():
        space[imported] = INSTRUCTIONS[imported] if file == "instructions" else getattr(files[file], imported)
    exec(compile(tree, str(FOLDER / f"{name}.py"), "exec"), space)
    return types.SimpleNamespace(**space)


def launch(kernel, grid, threads, *args):
    """Run all threads of all blocks; arrays as pointers to their first number."""
    args = [Memory(one) if isinstance(one, np.ndarray) else one for one in args]
    CUDA.blockDim.x = threads
    for block in product(*map(range, grid)):
        CUDA.blockIdx.x, CUDA.blockIdx.y, CUDA.blockIdx.z = block
        CUDA.block.clear()
        alive = {t: thread for t in range(threads) if (thread := _thread(kernel, t, args)) is not None}
        while alive:
            stopped = {}
            for first in range(0, threads, 32):
                stopped |= _to_barrier(first, {t: alive[t] for t in range(first, first + 32) if t in alive})
            assert len(stopped) in (0, len(alive)), "a barrier that not all threads come to"
            alive = stopped
            for shared in CUDA.block:
                shared.barrier()
        assert not any(getattr(shared, "flying", ()) for shared in CUDA.block), "a copy that nobody waited for"


def _thread(kernel, t, args):
    CUDA.threadIdx.x = t
    return kernel(*args)


def _to_barrier(first, warp):
    """Run the threads of a warp to their next barrier; those that came to one."""
    answers = dict.fromkeys(warp)
    while True:
        stops = {}
        for t, thread in warp.items():
            CUDA.threadIdx.x = t
            with suppress(StopIteration):
                stops[t] = thread.send(answers[t])
        met = [stop for stop in stops.values() if stop is not None]
        if not met:
            return {t: warp[t] for t in stops}
        assert len(met) == 32, "an instruction that not all threads of a warp come to"
        assert all(stop[0] is met[0][0] for stop in met), "threads of a warp at different instructions"
        CUDA.threadIdx.x = first
        answers = dict(zip(stops, met[0][0].run([stop[1] for stop in met]), strict=True))
