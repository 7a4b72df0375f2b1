"""Kernels of `rooms/cuda` run in Python, from their own sources: no GPU, no numba-cuda.

Every thread of a block is a generator that stops at each barrier (`cuda.syncthreads()` is read as ``yield``); all must
come to it, or none. Shared memory begins as NaN and knows who touched what since the last barrier: a number that one
thread writes and another reads or writes in between is a race. Pointers look up what they point to in one array, in
which all that is not to be read is NaN, and note what is written.
"""

import ast
import types
from itertools import product
from pathlib import Path

import numpy as np

import cnnkit

FOLDER = Path(cnnkit.__file__).parent / "rooms" / "cuda"


class RaceError(AssertionError):
    """Two threads met in shared memory without a barrier between them."""


class Shared:
    """Shared memory of one block."""

    def __init__(self, size, real):
        self.numbers, self.readers, self.writers = [real(np.nan)] * size, {}, {}

    def barrier(self):
        self.readers.clear()
        self.writers.clear()

    def __getitem__(self, i):
        thread = CUDA.threadIdx.x
        if self.writers.get(i, thread) != thread:
            raise RaceError(f"thread {thread} reads {i}, which thread {self.writers[i]} wrote")
        self.readers.setdefault(i, set()).add(thread)
        return self.numbers[i]

    def __setitem__(self, i, value):
        thread = CUDA.threadIdx.x
        if self.writers.get(i, thread) != thread or self.readers.get(i, {thread}) != {thread}:
            raise RaceError(f"thread {thread} writes {i}, which another one touched")
        self.writers[i] = thread
        self.numbers[i] = value


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

    def _share(self, size, real):
        if not self.block:
            self.block.append(Shared(size, real))
        return self.block[0]


CUDA = _Cuda()


class Barriers(ast.NodeTransformer):
    """``cuda.syncthreads()`` becomes ``yield``; imports of what is simulated go."""

    def visit_Expr(self, node):
        return ast.Expr(ast.Yield()) if ast.unparse(node) == "cuda.syncthreads()" else node

    def visit_ImportFrom(self, node):
        return None if node.module.startswith(("numba", "cnnkit.rooms.cuda")) else node


def source(name, *changes):
    """The functions of a file of the room, after `changes` of its text: pairs of what is there and what shall be."""
    text = (FOLDER / f"{name}.py").read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    tree = ast.fix_missing_locations(Barriers().visit(ast.parse(text)))
    space = {"cuda": CUDA} | ({"place": source("places").place} if name != "places" else {})
    exec(compile(tree, str(FOLDER / f"{name}.py"), "exec"), space)
    return types.SimpleNamespace(**space)


def launch(kernel, grid, threads, *args):
    """Run all threads of all blocks; arrays as pointers to their first number."""
    args = [Memory(one) if isinstance(one, np.ndarray) else one for one in args]
    CUDA.blockDim.x = threads
    for block in product(*map(range, grid)):
        CUDA.blockIdx.x, CUDA.blockIdx.y, CUDA.blockIdx.z = block
        CUDA.block.clear()
        alive = dict(enumerate(_thread(kernel, t, args) for t in range(threads)))
        while alive:
            stopped = {t: thread for t, thread in alive.items() if _goes_on(t, thread)}
            assert len(stopped) in (0, len(alive)), "a barrier that not all threads come to"
            alive = stopped
            for shared in CUDA.block:
                shared.barrier()


def _thread(kernel, t, args):
    CUDA.threadIdx.x = t
    return kernel(*args)


def _goes_on(t, thread):
    """Run one thread to its next barrier; False at its end."""
    CUDA.threadIdx.x = t
    return thread is not None and next(thread, thread) is not thread
