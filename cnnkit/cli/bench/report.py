"""The race as text: tables to read, Markdown, and JSON with everything behind them."""

import importlib.metadata
import json
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnkit._version import __version__
from cnnkit.cli.bench.race import DIRECTIONS, OURS, Result
from cnnkit.cli.bench.roofs import Roofs
from cnnkit.config import config
from cnnkit.files import write_atomically

PACKAGES = ("numpy", "numba", "torch", "onnxruntime", "jax")
Measured = dict[int, tuple[Roofs, list[Result]]]  # by the number of threads


class Score(NamedTuple):
    """How cnnkit did against one peer, as ratios of the peer's time to ours: above 1 we are faster."""

    threads: int
    direction: str
    peer: str
    mean: float  # geometric
    worst: float
    worst_case: str
    losses: int
    races: int

    def __str__(self) -> str:
        return (
            f"{_threads(self.threads)}, {self.direction}, against {self.peer}: geometric mean {self.mean:.2f}, "
            f"worst {self.worst:.2f} ({self.worst_case}), {self.losses} of {self.races} lost"
        )


def scores(measured: Measured) -> list[Score]:
    """One for each number of threads, direction and peer."""
    found = []
    for threads, (_, results) in measured.items():
        for direction in DIRECTIONS:
            part = [result for result in results if result.direction == direction]
            found += [_score(threads, direction, peer, part) for peer in _peers(part)]
    return found


def _score(threads: int, direction: str, peer: str, results: Sequence[Result]) -> Score:
    ratios = {each.case: ratio(each, peer) for each in results if peer in each.seconds}
    worst = min(ratios, key=lambda case: ratios[case])
    mean = float(np.exp(np.mean(np.log(list(ratios.values())))))
    losses = sum(value < 1 for value in ratios.values())
    return Score(threads, direction, peer, mean, ratios[worst], worst, losses, len(ratios))


def ratio(result: Result, peer: str) -> float:
    """How many times faster than the peer cnnkit is."""
    return result.seconds[peer] / result.seconds[OURS]


def of_roof(result: Result, roofs: Roofs) -> float:
    """The fraction of what the nearer roof allows; above 1 where the data stay in a cache."""
    return roofs.bound(result.flops, result.moved)[1] / result.seconds[OURS]


def _peers(results: Sequence[Result]) -> list[str]:
    return [name for name in dict.fromkeys(name for each in results for name in each.seconds) if name != OURS]


def text(measured: Measured) -> str:
    """Everything for the terminal."""
    return "\n\n".join([*_tables(measured, _plain), _scores(measured)])


def markdown(measured: Measured, load: float | None = None) -> str:
    """The same as Markdown, with the load that there was before."""
    head = f"# cnnkit {__version__} beside its peers\n\n{_about(load)}"
    return "\n\n".join([head, *_tables(measured, _markdown), _scores(measured)]) + "\n"


def _about(load: float | None) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    busy = "" if load is None else f"; load average before the race {load:.1f}"
    return f"{_processor()}; {versions}{busy}. Median of a call; a ratio above 1 says that cnnkit is faster."


def _scores(measured: Measured) -> str:
    return "\n".join(f"- {score}" for score in scores(measured)) or "no peer is installed, so nobody was raced"


def _tables(measured: Measured, form: Any) -> Iterator[str]:
    for threads, (roofs, results) in measured.items():
        limits = f"multiply-adds {roofs.flops / 1e9:.0f} GFLOP/s, copying {roofs.bandwidth / 1e9:.1f} GB/s"
        for direction in DIRECTIONS:
            part = [result for result in results if result.direction == direction]
            title = f"{_threads(threads)}, {direction} ({limits})"
            yield f"{title}\n\n{form(_rows(part, roofs))}"


def _rows(results: Sequence[Result], roofs: Roofs) -> list[list[str]]:
    peers = _peers(results)
    header = ["case", "cnnkit", *(cell for peer in peers for cell in (peer, "ratio")), "speed", "of the roof"]
    return [header, *(_row(result, peers, roofs) for result in results)]


def _row(result: Result, peers: Sequence[str], roofs: Roofs) -> list[str]:
    cells = [result.case, _milliseconds(result.seconds[OURS])]
    for peer in peers:
        there = peer in result.seconds
        cells += [_milliseconds(result.seconds[peer]), f"{ratio(result, peer):.2f}"] if there else ["", ""]
    kind, least = roofs.bound(result.flops, result.moved)
    amount, unit = (result.flops, "GFLOP/s") if kind == "compute" else (result.moved, "GB/s")
    cells.append(f"{amount / result.seconds[OURS] / 1e9:.1f} {unit}")
    return [*cells, f"{100 * least / result.seconds[OURS]:.0f} %"]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.9995 else f"{1e3 * seconds:.0f} ms"


def _plain(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in [["", *row[1:]] for row in rows]]
    names = [row[0].ljust(widths[0]) for row in rows]
    return "\n".join(name + line[widths[0] :] for name, line in zip(names, lines, strict=True))


def _markdown(rows: list[list[str]]) -> str:
    marks = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], marks, *rows[1:]])


def as_dict(measured: Measured, load: float | None) -> dict[str, Any]:
    """Everything in the tables and behind them."""
    return {
        "versions": _versions(),
        "processor": _processor(),
        "load": load,
        "roofs": {threads: roofs._asdict() for threads, (roofs, _) in measured.items()},
        "results": [result._asdict() for _, results in measured.values() for result in results],
        "scores": [score._asdict() for score in scores(measured)],
    }


def write(folder: Path, measured: Measured, load: float | None, picture: bytes | None) -> str:
    """Write race.json, race.md and, if there is a picture, roofline.png, each whole or not at all; say which."""
    content = {
        "race.json": (json.dumps(as_dict(measured, load), indent=1, allow_nan=False) + "\n").encode(),
        "race.md": markdown(measured, load).encode(),
        **({"roofline.png": picture} if picture else {}),
    }
    for name, each in content.items():
        write_atomically(folder / name, each)
    return "wrote " + ", ".join(str(folder / name) for name in content)


def _versions() -> dict[str, str]:
    installed = {dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name in PACKAGES}
    ordered = {name: installed[name] for name in PACKAGES if name in installed}
    return {"cnnkit": __version__, "python": platform.python_version(), **ordered}


def _processor() -> str:
    kernels = config()["kernels"]
    return f"{kernels['processor']} ({kernels['vectors']})" if kernels else platform.machine()


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"
