"""What no kernel on this machine can beat for long: how fast it multiplies and adds, how fast it copies."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cnnkit.cli.bench import peak

COPIED, TRIES = 128 << 20, 7  # bytes that each thread copies: far more than its share of any cache


class Roofs(NamedTuple):
    """For one number of threads: floating-point operations a second, and bytes a second read or written."""

    flops: float
    bandwidth: float

    def bound(self, flops: int, moved: int) -> tuple[str, float]:
        """Which roof is the nearer for this work, and the seconds that it takes there."""
        computing, copying = flops / self.flops, moved / self.bandwidth
        return ("compute", computing) if computing > copying else ("memory", copying)


def measure(threads: int) -> Roofs:
    """The roofs for float32."""
    return Roofs(peak.flops_per_second("float32"), _copied_per_second(threads))


def _copied_per_second(threads: int) -> float:
    """Every thread copies an array of its own; a byte copied is one read and one written."""
    sources = [np.ones(COPIED, np.uint8) for _ in range(threads)]
    targets = [np.ones(COPIED, np.uint8) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def seconds() -> float:
            start = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            return time.perf_counter() - start

        return 2 * threads * COPIED / min(seconds() for _ in range(TRIES))
