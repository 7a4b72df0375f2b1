"""The thread pool: every item once, whatever the number of threads; exceptions, nesting and new counts."""

import os
import subprocess
import sys
import threading

import pytest

import cnnkit
from cnnkit.rooms import threads


@pytest.fixture(autouse=True)
def _same_number_afterwards():
    before = cnnkit.get_num_threads()
    yield
    cnnkit.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("items", [0, 1, 2, 5, 100])
def test_every_item_is_done_once(n, items):
    cnnkit.set_num_threads(n)
    done = [0] * items

    def kernel(start, stop):
        for i in range(start, stop):
            done[i] += 1

    threads.run(kernel, items, 1e12)
    assert done == [1] * items


def test_small_work_stays_on_the_calling_thread():
    cnnkit.set_num_threads(4)
    seen = set()
    threads.run(lambda start, stop: seen.add(threading.get_ident()), 100, threads.GRAIN * 1.5)
    assert seen == {threading.get_ident()}


def test_large_work_is_shared():
    cnnkit.set_num_threads(3)
    ranges = []
    threads.run(lambda start, stop: ranges.append((start, stop)), 10, 1e12)
    assert sorted(ranges) == [(0, 3), (3, 6), (6, 10)]


@pytest.mark.parametrize("where", [0, 9])
def test_an_exception_of_any_part_comes_out_after_all_parts_ended(where):
    cnnkit.set_num_threads(3)
    ended = []

    def kernel(start, stop):
        ended.append(start)
        if start <= where < stop:
            raise MemoryError(f"part {start}")

    with pytest.raises(MemoryError, match="part"):
        threads.run(kernel, 10, 1e12)
    assert len(ended) == 3


def test_the_environment_sets_the_number():
    def ask(value):
        code = "import cnnkit; print(cnnkit.get_num_threads())"
        environment = os.environ | {"CNNKIT_NUM_THREADS": value}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert ask("5").stdout.strip() == "5"
    assert "CNNKIT_NUM_THREADS is 'many', but must be a whole number of at least 1" in ask("many").stderr
    assert "CNNKIT_NUM_THREADS is '0'" in ask("0").stderr
