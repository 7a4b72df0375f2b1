"""``python -m benchmarks.gpu_check``: on a machine with CUDA, are the GPU backends right, and how fast beside cuDNN?

First all kernels are loaded, then the tests of tests/ run on every GPU backend that runs here, then compute-sanitizer
watches each kind of kernel once, where it is installed. Then the named layers, with batches for a GPU, race against
PyTorch and its cuDNN: pooling and depthwise layers beside the bandwidth of a copy, convolutions in strict float32, tf32
and halves, timed with the device's own events. Whatever fails is a row of the report and ends nothing else. The report,
gpu_check.json and gpu_check.md, is written anew after every step, so that it is there whenever time runs out.

No network is needed. Kernels are taken from benchmarks/cubins if they were built beforehand (by the second line below),
else compiled by numba-cuda where it is installed; without either, CuPy's backend alone is checked.

    python -m benchmarks.gpu_check --minutes 9 --output FOLDER
    .ci/cuda /tmp/cuda -m cnnkit warmup --backend cuda --compute-capability 9.0 --output benchmarks/cubins

On a machine without CUDA it says so and is content. ``--dry-run`` goes through it all on a stand-in, with tiny shapes.
"""

import argparse
import importlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import cases, gpu_race, setting

ROOT = Path(__file__).parents[1]
RESULTS, CUBINS = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "cubins"
TESTS = (  # in order of what they are worth
    *("conv", "pool", "depthwise", "dense", "conv_transpose", "adaptive_pool", "unpool", "lp_pool", "softmax", "loss"),
    *("mse_loss", "activation", "norm", "fused", "dropout", "arrays", "halves"),
)
ENDS = {"tests": 0.45, "sanitizer": 0.6, "race": 1.0}  # of the time, when a step must have ended
TOOLS = ("memcheck", "racecheck")
LEAST = 5  # seconds that are worth beginning anything
HERE = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
WORKER = [sys.executable, "-m", "benchmarks.gpu_race"]
FP32 = 67e12  # operations a second of an H200, by its datasheet
BANDWIDTH = ("depthwise", "pool")  # cases whose goal is the bandwidth of a copy


class Check:
    """A check under way: what was asked for, what is known, and how much time is left."""

    def __init__(self, options: argparse.Namespace, rooms: list[str]) -> None:
        self.options, self.rooms = options, rooms
        self.begun = time.monotonic()
        self.report: dict[str, Any] = {"device": "", "versions": {}, "tests": {}, "sanitizer": {}, "races": []}

    def left(self, until: float = 1.0) -> float:
        """Seconds until a part of all the time is over."""
        return self.begun + 60 * self.options.minutes * until - time.monotonic()

    def take(self, step: str, work: Any) -> None:
        """One step; what it raises is told, and the report written."""
        print(f"== {step}: {self.left():.0f} s left", flush=True)
        try:
            work(self)
        except Exception as error:
            self.report.setdefault("failed", {})[step] = f"{type(error).__name__}: {error}"[:500]
        self.write()

    def write(self) -> None:
        folder = self.options.output
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu_check.json").write_text(json.dumps(self.report, indent=1) + "\n")
        (folder / "gpu_check.md").write_text(markdown(self.report))


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 if all is right, or there is no GPU to ask."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for the report (default: benchmarks/results)")
    parser.add_argument("--minutes", type=float, default=9, help="how long it may take (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="REGEX", help="race these cases")
    parser.add_argument("--skip", nargs="+", default=(), choices=("tests", "sanitizer", "race"))
    parser.add_argument("--dry-run", action="store_true", help="go through it without a GPU, on a stand-in")
    options = parser.parse_args(arguments)
    options.output = options.output or (Path(tempfile.mkdtemp()) if options.dry_run else RESULTS)
    if CUBINS.is_dir():
        os.environ.setdefault("CNNKIT_CUBINS", str(CUBINS))
    rooms, reason = (["cuda", "cupy"], "") if options.dry_run else available()
    if not rooms:
        print(f"no GPU backend runs here, so nothing was checked: {reason}")
        return 0
    check = Check(options, rooms)
    if reason:
        check.report["absent"] = reason
    for step, work in (("what there is", describe), ("kernels", load)):
        check.take(step, work)
    for step, work in (("tests", correct), ("sanitizer", sanitize), ("race", race)):
        if step not in options.skip:
            check.take(step, work)
    print(markdown(check.report))
    return 0 if right(check.report) else 1


def available() -> tuple[list[str], str]:
    """The GPU backends that can run here, and why the others cannot."""
    found = importlib.import_module("cnnkit").backends()
    reasons = [f"{name}: {found[name][1]}" for name in setting.ON_GPU if not found[name][0]]
    return [name for name in setting.ON_GPU if found[name][0]], "; ".join(reasons)


def right(report: dict[str, Any]) -> bool:
    """Whether nothing failed, and no answer was wrong."""
    tests = [each for room in report["tests"].values() for each in room.values()]
    wrong = [each for each in tests if each.get("failed") or each.get("errors")]
    unclean = [each for each in report["sanitizer"].values() if each.get("errors")]
    return not (report.get("failed") or wrong or unclean or report.get("kernels", {}).get("refused"))


# ---------------------------------------------------------------- steps


def describe(check: Check) -> None:
    """Versions of everything that takes part, and the GPU's own name."""
    names = ("cnnkit", "numpy", "numba", "numba_cuda", "cupy", "torch")
    for name in names:
        if importlib.util.find_spec(name):
            check.report["versions"][name] = str(getattr(importlib.import_module(name), "__version__", "?"))
    if check.options.dry_run:
        check.report["device"] = "no GPU: a dry run"
        return
    cupy = importlib.import_module("cupy")
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    check.report["device"] = properties["name"].decode()
    check.report["versions"]["driver"] = str(cupy.cuda.runtime.driverGetVersion())


def load(check: Check) -> None:
    """Every kernel of the CUDA room, onto the device."""
    if "cuda" in check.rooms:
        (check.report["kernels"],) = rows(check, [{"kind": "kernels"}], ENDS["tests"])


def correct(check: Check) -> None:
    """The tests that have a backend's name in their parameters, file by file."""
    dry = check.options.dry_run
    for name in TESTS[:1] if dry else TESTS:
        for room in ("numpy",) if dry else check.rooms:
            if (seconds := check.left(ENDS["tests"])) > LEAST:
                check.report["tests"].setdefault(room, {})[name] = tested(name, room, seconds, dry)
                check.write()


def tested(name: str, room: str, seconds: float, quick: bool) -> dict[str, Any]:
    """What pytest says of one file on one backend."""
    several = ["-n", "4"] if importlib.util.find_spec("xdist") and not quick else []
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "--tb=line", "-rf"]
    command += [*several, "-k", f"{room} and 3x3" if quick else room, str(ROOT / "tests" / f"test_{name}.py")]
    started = time.monotonic()
    code, said = ended(command, seconds)
    if code is None:
        return {"unfinished": f"after {seconds:.0f} s"}
    counts: dict[str, Any] = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped)\b", said)}
    counts["seconds"] = round(time.monotonic() - started, 1)
    if names := re.findall(r"^FAILED \S*::(\S+)", said, re.MULTILINE):
        counts["names"] = names[:20]
    if code not in (0, 1, 5):  # 5: there was nothing to run
        counts["errors"] = 1
        counts["said"] = said.strip()[-500:]
    return counts


def ended(command: list[str], seconds: float) -> tuple[int | None, str]:
    """The exit code of a command, and all that it printed; None, and nothing of it is left, if it takes too long."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # with all that it starts itself
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, said


def sanitize(check: Check) -> None:
    """Each kind of kernel once under compute-sanitizer's tools."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        check.report["sanitizer"] = {"none": {"said": "compute-sanitizer is not installed"}}
        return
    dry = ["--dry-run"] if check.options.dry_run else []
    for name in TOOLS:
        if (seconds := check.left(ENDS["sanitizer"])) > LEAST:
            command = [tool, "--tool", name, *WORKER, "--subset", *dry]
            check.report["sanitizer"][name] = watched(command, seconds)
            check.write()


def watched(command: list[str], seconds: float) -> dict[str, Any]:
    """What a tool of compute-sanitizer counted; what it said last, where it counted nothing."""
    code, said = ended(command, seconds)
    if code is None:
        return {"said": f"unfinished after {seconds:.0f} s"}
    found = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?)", said)
    if found is None or re.search("Device not supported", said):
        return {"said": said.strip()[-500:]}
    return {"errors": int(found[1]), "said": said.strip()[-2000:] if int(found[1]) else ""}


def race(check: Check) -> None:
    """All jobs, the most telling first, until the time is up."""
    for row in rows(check, [*jobs(check.options.only)], ENDS["race"]):
        if row["kind"] == "race":
            check.report["races"].append(row)
        else:
            check.report[row["kind"]] = row
        check.write()


def jobs(only: str) -> Iterator[dict[str, Any]]:
    """What is raced: roofs first, then forms and layouts in turn; layers of followed nets before others."""
    yield {"kind": "roofs"}
    yield {"kind": "host"}
    names = sorted(cases.CASES, key=lambda name: (name not in cases.FOLLOWED, not is_bandwidth(name)))
    for form, layout, which in (
        *(("float32", "channels first", ""), ("bfloat16", "channels last", "conv"), ("tf32", "channels last", "conv")),
        *(("float32", "channels last", "bandwidth"), ("bfloat16", "channels first", "conv")),
        *(("tf32", "channels first", "conv"), ("float16", "channels last", "conv")),
        *(("float32", "channels last", "conv"), ("bfloat16", "channels first", "bandwidth")),
    ):
        for name in names:
            kinds = {"": True, "conv": name in cases.CONV | cases.DENSE, "bandwidth": is_bandwidth(name)}
            if re.search(only, name) and kinds[which] and (layout == "channels first" or _four(name)):
                for direction in ("forward", "backward"):
                    job = {"case": name, "direction": direction, "form": form, "layout": layout}
                    yield {"kind": "race", **job}


def is_bandwidth(name: str) -> bool:
    """Whether a case's goal is the bandwidth of memory."""
    return any(word in name for word in BANDWIDTH)


def _four(name: str) -> bool:
    return len(cases.CASES[name].x) == 4


def rows(check: Check, todo: list[dict[str, Any]], until: float) -> Iterator[dict[str, Any]]:
    """What came of jobs that another process does: after a crash a new one goes on, until the time is up."""
    command = [*WORKER, *(["--dry-run"] if check.options.dry_run else [])]
    while todo and check.left(until) > LEAST:
        finished, said = 0, ""
        process: Any = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        late = threading.Timer(check.left(until), process.kill)
        late.start()
        process.stdin.write(json.dumps(todo))
        process.stdin.close()
        for line in process.stdout:
            told = json.loads(line) if line.startswith('{"') else {}
            if "row" in told:
                finished += 1
                yield told["row"]
            elif not told:
                said = line.strip() or said
        late.cancel()
        if process.wait() not in (0, gpu_race.BROKEN) and check.left(until) > 0:
            yield todo[finished] | {"error": f"the process ended with {process.returncode}: {said[-300:]}"}
            finished += 1
        todo = todo[finished:]


# ---------------------------------------------------------------- the report


def markdown(report: dict[str, Any]) -> str:
    """The report to read."""
    known = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"# {report['device']}", "", f"{known}.", ""]
    lines += [f"Not checked: {report['absent']}.", ""] if "absent" in report else []
    lines += [f"**{step} failed**: {said}" for step, said in report.get("failed", {}).items()]
    lines += [*_kernels(report.get("kernels")), *_tests(report["tests"]), *_sanitizer(report["sanitizer"])]
    lines += [*_roofs(report), *_scores(report), *_races(report)]
    return "\n".join(lines) + "\n"


def _kernels(found: dict[str, Any] | None) -> Iterator[str]:
    if found:
        refused = "; ".join(f"{name}: {said}" for name, said in found.get("refused", {}).items())
        yield f"Kernels: {found.get('loaded', 0)} loaded in {found.get('seconds', 0):.1f} s. {refused}{_error(found)}"
        yield ""


def _tests(rooms: dict[str, Any]) -> Iterator[str]:
    for room, files in rooms.items():
        words = ("passed", "failed", "skipped", "errors")
        counts = ", ".join(f"{sum(each.get(word, 0) for each in files.values())} {word}" for word in words)
        yield f"Tests on {room}: {counts} ({', '.join(files)})."
        for name, each in files.items():
            for told in (*each.get("names", ()), each.get("unfinished"), each.get("said")):
                if told:
                    yield f"- {name}: {told}"
        yield ""


def _sanitizer(tools: dict[str, Any]) -> Iterator[str]:
    for tool, found in tools.items():
        yield f"compute-sanitizer, {tool}: {found.get('errors', 'no result')} errors. {found.get('said', '')}"
        yield ""


def _roofs(report: dict[str, Any]) -> Iterator[str]:
    roofs, host = report.get("roofs", {}), report.get("host", {}).get("microseconds", {})
    if roofs:
        peaks = ", ".join(
            f"{form} {roofs[form] / 1e12:.0f}" for form in ("float32", "tf32", "bfloat16") if form in roofs
        )
        copied = f"{roofs['bandwidth'] / 1e12:.2f} TB/s" if "bandwidth" in roofs else "not measured"
        yield f"A copy: {copied}. PyTorch's matrix products, TFLOP/s: {peaks}.{_error(roofs)}"
        yield ""
    if host:
        yield "Microseconds of the processor for a small convolution: " + _listed(host, "{:.1f}") + "."
        yield ""


def _scores(report: dict[str, Any]) -> Iterator[str]:
    """What the goals speak of."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in report["races"]:
        if {"cuda", "PyTorch"} <= row.get("milliseconds", {}).keys():
            what = (
                "pooling and depthwise" if is_bandwidth(row["case"]) else "dense" if row["case"] in cases.DENSE else ""
            )
            what = what or ("convolution" if row["case"] in cases.CONV else "others")
            groups.setdefault(f"{what}, {row['form']}, {row['layout']}, {row['direction']}", []).append(row)
    if groups:
        yield "Goals: strict float32 convolution at 60 % of the FP32 peak; tf32 and bfloat16 at half of cuDNN's speed;"
        yield "pooling and depthwise layers at 80 % of a copy's bandwidth and not slower than cuDNN."
        yield ""
        yield "| what | raced | PyTorch / cuda, geometric mean | worst | best share of the roof | its mean |"
        yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name, group in groups.items():
        ratios = {row["case"]: row["milliseconds"]["PyTorch"] / row["milliseconds"]["cuda"] for row in group}
        mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        worst = min(ratios, key=lambda case: ratios[case])
        shares = [share(row, report, "cuda") for row in group]
        average = sum(shares) / len(shares)
        told = f"{mean:.2f} | {ratios[worst]:.2f} ({worst}) | {100 * max(shares):.0f} % | {100 * average:.0f} %"
        yield f"| {name} | {len(group)} | {told} |"
    if groups:
        yield ""


def share(row: dict[str, Any], report: dict[str, Any], who: str) -> float:
    """Of the roof that a case is under: a copy's bandwidth, or the arithmetic of its form."""
    roofs, seconds = report.get("roofs", {}), 1e-3 * row["milliseconds"][who]
    if is_bandwidth(row["case"]) or row["case"] not in cases.CONV | cases.DENSE:
        return row["bytes"] / seconds / roofs.get("bandwidth", math.inf)
    form = "bfloat16" if row["form"] == "float16" else row["form"]
    peak = FP32 if form == "float32" else roofs.get(form, math.inf)
    return row["flops"] / seconds / peak


def _races(report: dict[str, Any]) -> Iterator[str]:
    names = ("cuda", "cupy", "PyTorch")
    yield f"Milliseconds, the median of {gpu_race.ROUNDS}; of what PyTorch says in float64, the relative error."
    yield ""
    yield f"| case | x | direction | form | layout | {' | '.join(names)} | of the roof | {' | '.join(names)} |"
    yield "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in report["races"]:
        took, wrong, refused = (row.get(key, {}) for key in ("milliseconds", "errors", "refused"))
        times = [f"{took[name]:.3f}" if name in took else "" for name in names]
        errors = [_digits(wrong[name]) if name in wrong else refused.get(name, "") for name in names]
        roof = f"{100 * share(row, report, 'cuda'):.0f} %" if "cuda" in took else ""
        size = "x".join(map(str, row.get("x", ())))
        cells = [row["case"], size, row["direction"], row["form"], row["layout"], *times, roof, *errors]
        yield f"| {' | '.join(cells)} |{_error(row)}"


def _digits(error: float | str) -> str:
    return error if isinstance(error, str) else f"{error:.1e}"


def _listed(numbers: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(number)}" for name, number in numbers.items())


def _error(row: dict[str, Any]) -> str:
    return f" **{row['error']}**" if "error" in row else ""


if __name__ == "__main__":
    sys.exit(main())
