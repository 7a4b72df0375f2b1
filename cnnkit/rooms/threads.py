"""How many threads the CPU rooms use, and the one pool that runs them.

A kernel is compiled to release the GIL and computes the work items ``start`` to ``stop``; :func:`run` splits the items
over threads. Every item is computed by one thread in one order, so results do not depend on the number of threads.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import pairwise
from typing import Any

from cnnkit.geometry import integer

GRAIN = 60_000  # nanoseconds of work that are worth waking a thread for

_lock = threading.Lock()
_pool: Executor | None = None
_threads = 0  # 0: not asked for yet


def get_num_threads() -> int:
    """The number of threads that CPU kernels may use.

    At first ``CNNKIT_NUM_THREADS`` if it is set, else the number of processors that this process may run on.

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
    with _lock:
        _threads = integer(n, "n")
        _pool = None  # who still runs on the old one keeps it alive; its threads end with it


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
    n = min(get_num_threads(), items, int(nanoseconds // GRAIN))
    bounds = [items * i // n for i in range(n + 1)]
    pool, others = _started(), []
    try:
        for start, stop in pairwise(bounds[1:]):
            try:
                others.append(pool.submit(_part, kernel, start, stop, args, keep))
            except RuntimeError:  # the interpreter is shutting down, and starts no more threads
                kernel(start, stop, *args)
        kernel(0, bounds[1], *args)
    finally:
        _finish(others)


def _part(kernel: Callable[..., Any], start: int, stop: int, args: tuple, keep: Any) -> None:
    kernel(start, stop, *args)


def _finish(others: list[Future]) -> None:
    """Wait for all parts, Ctrl-C or not: they write to the caller's memory."""
    interrupt: BaseException | None = None
    while not all(other.done() for other in others):
        try:
            wait(others)
        except BaseException as error:
            interrupt = error
    if interrupt:
        raise interrupt
    for other in others:
        other.result()


def _started() -> Executor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, get_num_threads() - 1), thread_name_prefix="cnnkit")
        return _pool


@lru_cache
def _default() -> int:
    asked = os.environ.get("CNNKIT_NUM_THREADS")
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"CNNKIT_NUM_THREADS is {asked!r}, but must be a whole number of at least 1")
    return int(asked)


def _after_fork() -> None:
    """A forked child has none of its parent's threads: it starts a pool of its own."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
