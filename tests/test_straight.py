"""Kernels that are compiled straight from their source do what Python does with it."""

from typing import NamedTuple

import numpy as np
import pytest

straight = pytest.importorskip("cnnkit.rooms.numba.straight", exc_type=ImportError)

KNOWN = 3


class Pair(NamedTuple):
    first: int
    second: int

    def turned(self):
        return self._replace(first=self.second, second=self.first)


def divisions(start, stop, out, a, b):
    out[0], out[1] = a // b, a % b
    out[2], out[3] = divmod(a, b)
    out[4], out[5], out[6] = a // 8, a % 8, a // 6 + a % 7
    out[7] = (a >> 1) ^ (a & b) | (a << 2)
    out[8] = -a + min(a, b, 2) * max(a, b) - (not a)


def choices(start, stop, out, a, b):
    out[0] = a > 0 and out[100 * (a <= 0)] > 0 and b > 1
    out[1] = a > 0 or b > 1
    out[2] = 1 if KNOWN == 3 and a < b <= 5 else 2
    pair, x = Pair(a, b), a
    if (a, b) == (2, 5):
        pair, x = pair.turned(), pair.second
    elif not a:
        pair = Pair(*(7, 8))
    out[3], out[4], out[5] = pair.first, pair.second, x
    a, b = b, a
    out[6] += a - b
    out[7] = _first_above(out, a)
    out[8] = KNOWN if KNOWN > 3 else -KNOWN


def _first_above(numbers, bound):
    """Where a number is larger than a bound; 6 if there is none."""
    for i in range(6):
        if numbers[i] > bound:
            return i
    return 6


def loops(start, stop, out, a, b):
    for i in range(start, stop):
        _count(out, i, (a, b))
    _count(out, 8, (b, a))
    k = 10
    for k in range(10, a, -3):
        if k == b:
            break
    out[7] = k


@straight.apart
def _count(out, at, ends):
    i = total = 0
    while True:
        i += 1
        if i % 2:
            continue
        if i > ends[0] + 20:
            break
        for j in range(ends[1]):
            total += i * j
    out[at] = total


@pytest.mark.parametrize("function", [divisions, choices, loops])
def test_a_kernel_does_what_python_does(function):
    kernel = straight.straight(function)
    for a in (-9, -1, 0, 2, 3, 17):
        for b in (-5, 1, 5, 8):
            out, given = np.arange(9), [a, b]
            kernel(1, 6, out.ctypes.data, *given)
            expected = list(range(9))
            function(1, 6, expected, *given)
            assert out.tolist() == expected, (a, b)


def test_what_is_not_known_is_said():
    def kernel(start, stop, out):
        out[0] = [start]

    with pytest.raises(Exception, match="kernel, line 2: a straight kernel has no List"):
        straight.straight(kernel)(0, 1, 0)


def memory(start, stop, out, size):
    near = np.zeros((size, 8), np.float64)
    if size:
        near[-1, 7] = near[size // 2, 3] + 1.5
        out[1] = 2 * near[size - 1, 7] > 2
    out[0] = near.ctypes.data % 64


def test_memory_begins_a_cache_line_and_none_is_an_error():
    kernel, out = straight.straight(memory), np.ones(2, np.int64)
    for size in range(0, 500, 7):
        kernel(0, 1, out.ctypes.data, size)
        assert out.tolist() == [0, 1]
    with pytest.raises(MemoryError):
        kernel(0, 1, out.ctypes.data, 1 << 50)


def test_nothing_stops_at_a_division_by_zero():
    def kernel(start, stop, out, a, b):
        out[0], out[1] = a // b, a % b

    out = np.ones(2, np.int64)
    straight.straight(kernel)(0, 1, out.ctypes.data, 7, 0)
    assert out.tolist() == [7, 0]


def test_a_source_that_cannot_be_read_is_named():
    names: dict = {}
    exec(compile("def kernel(start, stop):\n    return", "frozen.py", "exec"), names)
    with pytest.raises(Exception, match=r"kernel is compiled from its source, but frozen\.py cannot be read"):
        straight.straight(names["kernel"])(0, 1)
