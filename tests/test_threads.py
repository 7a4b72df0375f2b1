"""The thread pool: every item once, whatever the number of threads; exceptions, nesting, late helpers, new counts."""

import _thread
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cnnkit
from cnnkit.rooms import threads
from cnnkit.rooms.numba.spin import spin, turns


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
    """Three threads compute at the same time: each waits in its first range until the others are there."""
    cnnkit.set_num_threads(3)
    together = threading.Barrier(3, timeout=60)
    seen = set()

    def kernel(start, stop):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            together.wait()

    threads.run(kernel, 1000, 1e12)
    assert len(seen) == 3


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("items", [1, 2, 3, 20, 1001])
def test_ranges_cover_the_items_once_and_become_smaller(items, n):
    for rounds in (1, 2, 4):
        ranges = threads._ranges(items, n, rounds)
        sizes = [stop - start for start, stop in ranges]
        assert [i for start, stop in ranges for i in range(start, stop)] == list(range(items))
        assert len(ranges) <= rounds * n
        assert min(sizes) > 0
        assert max(sizes) - sizes[-1] <= items / n


def test_a_caller_does_alone_what_helpers_come_too_late_for(monkeypatch):
    """Nobody waits for a helper that has not begun."""
    cnnkit.set_num_threads(2)
    monkeypatch.setattr(threads._Job, "help", lambda job: None)
    seen = set()
    threads.run(lambda start, stop: seen.add(threading.get_ident()), 100, 1e12)
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_the_caller_waits_for_a_slow_helper_awake_or_asleep(seconds):
    cnnkit.set_num_threads(2)
    caller = threading.get_ident()
    begun, ended = threading.Event(), []

    def kernel(start, stop):
        if threading.get_ident() == caller:
            begun.wait(60)
        else:
            begun.set()
            time.sleep(seconds)
            ended.append((start, stop))

    for _ in range(5):
        begun.clear()
        ended.clear()
        threads.run(kernel, 100, 1e12)
        assert ended


def _raise_in(who, kernel_ended):
    caller = threading.get_ident()
    begun = threading.Barrier(2, timeout=60)
    waited = set()

    def kernel(start, stop):
        here = "caller" if threading.get_ident() == caller else "helper"
        if here not in waited:
            waited.add(here)
            begun.wait()
        if here == who:
            raise MemoryError(here)
        time.sleep(0.02)
        kernel_ended.append(here)

    return kernel


@pytest.mark.parametrize("who", ["caller", "helper"])
def test_an_exception_of_any_thread_comes_out_after_all_have_ended(who):
    cnnkit.set_num_threads(2)
    ended = []
    with pytest.raises(MemoryError, match=who):
        threads.run(_raise_in(who, ended), 100, 1e12)
    count = len(ended)
    time.sleep(0.05)
    assert len(ended) == count >= 1  # the other one ended the range that it was at, and nothing goes on


def test_ctrl_c_waits_for_the_helpers():
    cnnkit.set_num_threads(2)
    caller = threading.get_ident()
    begun, ended = threading.Event(), []

    def kernel(start, stop):
        if threading.get_ident() == caller:
            begun.wait(60)
            _thread.interrupt_main()
        else:
            begun.set()
            time.sleep(0.05)
            ended.append(start)

    with pytest.raises(KeyboardInterrupt):
        threads.run(kernel, 2, 1e12)
    assert len(ended) == 1


def test_nothing_is_kept_when_all_is_done():
    cnnkit.set_num_threads(3)
    array = np.zeros(10)
    alive = weakref.ref(array)
    threads.run(lambda start, stop, array: None, 100, 1e12, array, keep=(array,))
    del array
    assert alive() is None


def test_many_callers_at_once_each_get_all_their_items():
    cnnkit.set_num_threads(3)

    def call(number):
        done = np.zeros(50, int)

        def kernel(start, stop):
            done[start:stop] += number

        for _ in range(100):
            threads.run(kernel, 50, 1e12)
        return (done == 100 * number).all()

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(call, range(1, 9)))


def test_a_kernel_may_run_kernels():
    cnnkit.set_num_threads(2)
    done = np.zeros((10, 10), int)

    def outer(start, stop):
        for i in range(start, stop):

            def inner(first, last, i=i):
                done[i, first:last] += 1

            threads.run(inner, 10, 1e12)

    threads.run(outer, 10, 1e12)
    assert (done == 1).all()


def test_helpers_end_when_the_number_changes():
    cnnkit.set_num_threads(4)
    threads.run(lambda start, stop: None, 100, 1e12)
    helpers = threads._pool.threads
    assert len(helpers) == 3
    cnnkit.set_num_threads(1)
    for helper in helpers:
        helper.join(60)
        assert not helper.is_alive()


def test_a_word_that_changes_is_seen_and_one_that_does_not_is_given_up():
    word = np.zeros(1, np.int64)
    assert not spin(word.ctypes.data, 0, 1000, 0)
    assert spin(word.ctypes.data, 1, 1, 10)
    threading.Timer(0.05, lambda: word.__setitem__(0, 7)).start()
    assert spin(word.ctypes.data, 0, turns(60), 0)


def test_the_environment_sets_the_number():
    def ask(value):
        code = "import cnnkit; print(cnnkit.get_num_threads())"
        environment = os.environ | {"CNNKIT_NUM_THREADS": value}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert ask("5").stdout.strip() == "5"
    assert "CNNKIT_NUM_THREADS is 'many', but must be a whole number of at least 1" in ask("many").stderr
    assert "CNNKIT_NUM_THREADS is '0'" in ask("0").stderr


@pytest.mark.parametrize(("quota", "number"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("", 8)])
def test_a_container_s_quota_is_kept(quota, number, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "QUOTA", str(tmp_path / "cpu.max"))
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert threads._processors() == number
