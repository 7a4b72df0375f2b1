"""How many threads the CPU rooms use, and the one pool that runs them.

A kernel is compiled to release the GIL and computes the work items ``start`` to ``stop``; :func:`run` cuts the items
into ranges, which the caller and its helpers take one after another until none is left. Every item is computed by one
thread in one order, so results do not depend on who takes it, nor on the number of threads. A helper that wakes late
(up to milliseconds, in a virtual machine whose processor was idle) takes less of the work, and nobody waits for it.

A helper that has nothing to do looks out for work for `AWAKE` seconds, as those of OpenMP do, and then sleeps.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from ctypes import addressof, c_int64
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cnnkit.geometry import integer

GRAIN = 40_000  # nanoseconds of work that are worth waking a thread for
ROUNDS = 4  # at most, in each of which the threads share half of what is left; in the last one, all
AWAKE = 2e-3  # seconds
QUOTA = "/sys/fs/cgroup/cpu.max"  # of a container on Linux: microseconds of work in each period of so many
SETTLE = 1e-5  # seconds after which who gave a sign needs the GIL no more: to wait for it is to sleep

_lock = threading.Lock()
_pool: "_Pool | None" = None
_threads = 0  # 0: not asked for yet


def get_num_threads() -> int:
    """The number of threads that CPU kernels may use.

    At first ``CNNKIT_NUM_THREADS`` if it is set, else the number of processors that this process may run on, or that
    the quota of its container is worth.

    Returns
    -------
    int

    Examples
    --------
    >>> import cnnkit
    >>> cnnkit.get_num_threads() >= 1
    True
    """
    return _threads or _default()


def set_num_threads(n: int) -> None:
    """Let CPU kernels use `n` threads, in the whole process; results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1. More than there are processors is allowed, and slower.

    Raises
    ------
    ValueError, TypeError
        If `n` is less than 1, or no int.

    Examples
    --------
    >>> import cnnkit
    >>> before = cnnkit.get_num_threads()
    >>> cnnkit.set_num_threads(1)
    >>> cnnkit.get_num_threads()
    1
    >>> cnnkit.set_num_threads(before)
    """
    global _threads, _pool
    n = integer(n, "n")
    with _lock:
        if _pool:
            _pool.dismiss()
        _threads, _pool = n, None


def many(nanoseconds: float) -> bool:
    """Whether work is worth more than one thread."""
    return nanoseconds >= 2 * GRAIN and get_num_threads() > 1


def run(kernel: Callable[..., Any], items: int, nanoseconds: float, *args: Any, keep: Any = None) -> None:
    """Call ``kernel(start, stop, *args)`` for ranges that cover `items`, on as many threads as the work is worth.

    `nanoseconds` is a rough guess of what all of it takes one core. `keep` is what must live as long as any part runs,
    beside `args`: arrays whose addresses are among them.
    """
    if items < 2 or not many(nanoseconds):
        kernel(0, items, *args)
        return
    grains = int(nanoseconds // GRAIN)
    n = min(get_num_threads(), items, grains)
    try:
        pool = _started()
    except RuntimeError:  # the interpreter is shutting down, and starts no more threads
        kernel(0, items, *args)
        return
    job = _Job(kernel, deque(_ranges(items, n, min(ROUNDS, grains // n))), args, keep)
    try:
        pool.call(job, n - 1)
        job.work()
    finally:
        job.finish(pool)


@lru_cache(1024)
def _ranges(items: int, n: int, rounds: int) -> tuple[tuple[int, int], ...]:
    """Ranges that cover the items: n large ones, n smaller ones, and so on, that all threads may end together."""
    bounds = [0]
    for left in range(rounds - 1, -1, -1):
        first, part = bounds[-1], (items - bounds[-1]) / (2 * n if left else n)
        bounds += [first + round(part * (i + 1)) for i in range(n)]
    return tuple((start, stop) for start, stop in pairwise(bounds) if start < stop)


class _Job:
    """A kernel and the ranges of items that nobody has taken yet."""

    def __init__(self, kernel: Callable[..., Any], ranges: deque[tuple[int, int]], args: tuple, keep: Any) -> None:
        self.kernel, self.args, self.keep = kernel, args, keep
        self.ranges = ranges
        self.lock = threading.Lock()
        self.helpers = 0  # that compute
        self.ends = c_int64()  # how often the last of them ended
        self.sleeper: Any = None  # the lock at which the caller waits for it, asleep
        self.error: BaseException | None = None

    def work(self) -> None:
        """Compute ranges until none is left."""
        while self.ranges:
            try:
                start, stop = self.ranges.popleft()
            except IndexError:  # another thread took the last one
                return
            self.kernel(start, stop, *self.args)

    def help(self) -> None:
        """The same on another thread than the caller's, which hears of an error in `finish`."""
        with self.lock:
            if not self.ranges:
                return
            self.helpers += 1
        try:
            self.work()
        except BaseException as error:
            self.error = error
            self.ranges.clear()
        with self.lock:
            self.helpers -= 1
            if not self.helpers:
                self.ends.value += 1
                if self.sleeper:
                    self.sleeper.release()
                    self.sleeper = None

    def finish(self, pool: "_Pool") -> None:
        """Wait for all helpers, Ctrl-C or not: they write to the caller's memory."""
        interrupt: BaseException | None = None
        while True:
            try:
                self.ranges.clear()
                if not self.helpers:
                    break
                self._wait(pool)
            except BaseException as raised:
                interrupt = raised
        self.args, self.keep = (), None
        error = interrupt or self.error
        if error:
            raise error

    def _wait(self, pool: "_Pool") -> None:
        """Wait until the last helper ends, awake at first."""
        with self.lock:
            if not self.helpers:
                return
            ends = self.ends.value
        if pool.spin(addressof(self.ends), ends, pool.awake, pool.settle):
            return
        with self.lock:
            if not self.helpers:
                return
            self.sleeper = sleeper = threading.Lock()
            sleeper.acquire()
        sleeper.acquire()


class _Pool:
    """Threads that help with jobs."""

    def __init__(self, size: int) -> None:
        from cnnkit.rooms.numba.spin import spin, turns  # Numba is imported when it is needed

        self.spin = spin
        self.awake, self.settle = (turns(AWAKE), turns(SETTLE)) if size < _processors() else (0, 0)
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.calls = c_int64()
        self.threads = [threading.Thread(target=self._serve, name=f"cnnkit-{i}", daemon=True) for i in range(size)]
        for thread in self.threads:
            thread.start()

    def call(self, job: _Job, helpers: int) -> None:
        """Ask so many threads for help."""
        for _ in range(helpers):
            self.jobs.put(job)
        self.calls.value += 1

    def dismiss(self) -> None:
        """Let the threads end when they have done what they were called for."""
        for _ in self.threads:
            self.jobs.put(None)
        self.calls.value += 1

    def _serve(self) -> None:
        while True:
            calls = self.calls.value
            if self.jobs.empty():
                self.spin(addressof(self.calls), calls, self.awake, self.settle)
            job = self.jobs.get()
            if job is None:
                return
            job.help()
            del job  # and the arrays that it keeps


def _started() -> _Pool:
    global _pool
    with _lock:
        if _pool is None:
            _pool = _Pool(get_num_threads() - 1)
        return _pool


@lru_cache
def _default() -> int:
    asked = os.environ.get("CNNKIT_NUM_THREADS")
    if not asked:
        return _processors()
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"CNNKIT_NUM_THREADS is {asked!r}, but must be a whole number of at least 1")
    return int(asked)


def _processors() -> int:
    """How many processors this process may keep busy: those it may run on, or what a container's quota is worth."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no quota ("max"), or another system
        microseconds, period = map(int, Path(QUOTA).read_text().split())
        here = min(here, -(-microseconds // period))
    return here


def _after_fork() -> None:
    """A forked child has none of its parent's threads: it starts a pool of its own."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
