"""The race: the same arrays, answers that agree, then turn by turn in one process, and medians."""

import importlib
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cnnkit.cli.bench import cases
from cnnkit.cli.bench.cases import AdaptivePool, Case, Pool, Unpool
from cnnkit.cli.bench.roofs import Roofs

DIRECTIONS = ("forward", "backward")
LEAST, MOST = 5, 50  # turns
TURN = 1e-3  # seconds that a turn takes at least: short calls are repeated
PAUSE = 0.01  # seconds before each turn, in which the threads of the one before stop spinning
LONG = 0.1  # seconds of a call that needs none before it to have its memory and caches as in a loop
OURS = "cnnkit"


class Result(NamedTuple):
    """One case, one direction, one number of threads; `seconds` are each contestant's median."""

    case: str
    direction: str
    threads: int
    flops: int
    moved: int  # bytes
    seconds: dict[str, float]


def run(names: list[str], threads: int, seconds: float, backend: str | None) -> tuple[Roofs, list[Result]]:
    """Race all contestants over the cases in a process of its own, whose environment says how many threads."""
    before = dict(os.environ)
    os.environ.update(environment(threads, backend))
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(_run_here, names, threads, seconds).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def environment(threads: int, backend: str | None) -> dict[str, str]:
    """What libraries read when they are imported."""
    chosen = {"CNNKIT_BACKEND": backend} if backend else {}
    xla = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={threads}"
    return {"OMP_NUM_THREADS": str(threads), "XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", **chosen}


def _run_here(names: list[str], threads: int, seconds: float) -> tuple[Roofs, list[Result]]:
    ours = importlib.import_module("cnnkit.cli.bench.peers.ours")
    contestants = [ours, *importlib.import_module("cnnkit.cli.bench.peers").installed()]
    for contestant in contestants:
        contestant.use_threads(threads)
    roofs = importlib.import_module("cnnkit.cli.bench.roofs").measure(threads)
    results = []
    for name, direction in product(names, DIRECTIONS):
        results.append(_race(name, direction, threads, contestants, seconds))
        _say(results[-1])
    return roofs, results


def _say(result: Result) -> None:
    times = ", ".join(f"{name} {1e3 * each:.3f} ms" for name, each in result.seconds.items())
    print(f"threads {result.threads}, {result.case} {result.direction}: {times}", file=sys.stderr, flush=True)


def _race(name: str, direction: str, threads: int, contestants: list[ModuleType], seconds: float) -> Result:
    case = cases.CASES[name]
    arrays = cases.arrays(case)
    y = _work(contestants[0], case, arrays, "forward")()[0]
    arrays["grad"] = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    works = {each.NAME: work for each in contestants if (work := _work(each, case, arrays, direction))}
    flops = cases.flops(case, y.shape, direction)
    answers = {each.NAME: each.numpy_arrays(works[each.NAME]()) for each in contestants if each.NAME in works}
    check_agreement(f"{name} {direction}", answers, flops)
    moved = moved_bytes(case, arrays, direction, y) + sum(answer.nbytes for answer in answers[OURS])
    return Result(name, direction, threads, flops, moved, medians(works, seconds))


def _work(contestant: ModuleType, case: Case, arrays: dict[str, np.ndarray], direction: str) -> Any:
    return getattr(contestant, type(case).__name__.lower())(case, arrays, direction)


def moved_bytes(case: Case, arrays: dict[str, np.ndarray], direction: str, y: np.ndarray) -> int:
    """Bytes that must be read, each once: a maximum's way back reads an int64 index for each gradient."""
    forward = ("x", "weight", "bias", "gamma", "beta", "indices")
    back = "" if isinstance(case, Pool | AdaptivePool | Unpool) else "x"
    names = forward if direction == "forward" else ("grad", back, "weight", "gamma", "indices")
    indices = 8 * y.size if direction == "backward" and getattr(case, "kind", "") == "max" else 0
    return indices + sum(arrays[name].nbytes for name in names if name in arrays)


def check_agreement(what: str, answers: dict[str, list[np.ndarray]], flops: int) -> None:
    """ValueError if somebody's answer is farther from cnnkit's than float32 sums of so many terms explain.

    Rounding errors of a sum of n terms grow like the square root of n times eps, in any order of adding.
    """
    ours = answers[OURS]
    for name, theirs in answers.items():
        for here, there in zip(ours, theirs, strict=True):
            terms = max(1, flops / (2 * len([each for each in ours if each.ndim > 1]) * here.size))
            allowed = 4 * np.finfo(np.float32).eps * np.sqrt(terms) * np.abs(here).max()
            error = np.abs(here - there).max() if here.shape == there.shape else np.inf
            if not error <= allowed:
                raise ValueError(f"{name} and cnnkit differ by {error:.2g} in {what}, but {allowed:.2g} is allowed")


def medians(works: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """The median seconds of a call of each, measured in turns of some calls, for about so many seconds in all.

    Who takes all that time for a single call is timed by two.
    """
    once = {name: min(_turn(work, 1, True), _turn(work, 1, False)) for name, work in works.items()}
    quick = [name for name in works if once[name] < seconds]
    calls = {name: int(TURN / once[name]) + 1 for name in quick}
    first = {name: once[name] < LONG for name in quick}
    spent = sum((calls[name] + first[name]) * once[name] + PAUSE for name in quick)
    rounds = min(MOST, max(LEAST, int(seconds / spent))) if quick else 0
    times: dict[str, list[float]] = {name: [] if name in quick else [once[name]] for name in works}
    for name in _in_turn(quick, rounds):
        times[name].append(_turn(works[name], calls[name], first[name]))
    return {name: statistics.median(each) for name, each in times.items()}


def _in_turn(names: list[str], rounds: int) -> Iterator[str]:
    """A B C, B C A, C A B, ...: nobody always follows the same one."""
    for number in range(rounds):
        first = number % len(names)
        yield from names[first:] + names[:first]


def _turn(work: Callable[[], Any], calls: int, one_first: bool) -> float:
    """Seconds of a call, after a pause and, if asked for, one more call that is not timed."""
    time.sleep(PAUSE)
    if one_first:
        work()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls
