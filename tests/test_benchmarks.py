"""The race, the suites that asv runs, the GPU check and the dashboard."""

import functools
import http.server
import importlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import cnnkit
from cnnkit.cli import main
from cnnkit.cli.bench import cases, peers, race, report
from cnnkit.cli.bench.roofs import Roofs
from cnnkit.dispatch import current_backend

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
pytestmark = pytest.mark.skipif(not (ROOT / "asv.conf.json").is_file(), reason="the benchmarks are in the source tree")
SUITES = ("conv", "conv_transpose", "pool", "dense", "elementwise", "norm", "networks", "training", "startup")
KINDS = ("time_", "timeraw_", "peakmem_", "track_")


@pytest.fixture(autouse=True)
def source_tree(monkeypatch):
    """`benchmarks` is importable, as it is in the root of the source tree."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def setting():
    """The suites' shared part; the backend that they chose is given back."""
    module = importlib.import_module("benchmarks.setting")
    yield module
    module._chosen.close()


def suites():
    """The classes that asv finds."""
    sys.path.insert(0, str(ROOT))
    try:
        modules = [importlib.import_module(f"benchmarks.{name}") for name in SUITES]
    finally:
        sys.path.remove(str(ROOT))
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return [each for each in classes if each.__module__.split(".")[-1] in SUITES]


def methods(suite):
    return [getattr(suite, name) for name in dir(suite) if name.startswith(KINDS)]


# ---------------------------------------------------------------- the cases


def test_cases_are_the_layers_that_they_are_named_after():
    assert cases.CONV["resnet_7x7_stem"] == cases.Conv((4, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3)
    assert cases.CONV["mobilenet_depthwise_144_stride2"].groups == 144
    assert cases.CONV["audio_1d_3_dilated"].op == "conv1d"
    assert cases.CONV["volume_3d_3x3x3_256"].op == "conv3d"
    kinds = cases.CONV, cases.CONV_TRANSPOSE, cases.POOL, cases.DENSE, cases.ELEMENTWISE, cases.NORM, cases.NETWORK
    assert len(cases.CASES) == sum(map(len, kinds))


def test_flops_are_counted():
    layer = cases.CONV["resnet_3x3_64"]
    assert cases.flops(layer, (4, 64, 56, 56), "forward") == 924_844_032  # 2 * 4 * 64 * 56 * 56 * 64 * 9
    assert cases.flops(layer, (4, 64, 56, 56), "backward") == 2 * 924_844_032
    layer = cases.CONV_TRANSPOSE["unet_transposed_2x2_64"]
    assert cases.flops(layer, (4, 64, 56, 56), "forward") == 205_520_896  # 2 * 4 * 64 * 56 * 56 * 128
    assert cases.flops(cases.POOL["vgg_max_pool_2x2"], (2, 128, 56, 56), "backward") == 2 * 128 * 112 * 112


def test_suites_read_the_same_cases():
    theirs = importlib.import_module("benchmarks.cases")
    assert {name: tuple(case) for name, case in theirs.CASES.items()} == {
        name: tuple(case) for name, case in cases.CASES.items()
    }
    assert set(theirs.FOLLOWED) <= set(cases.CONV)


# ---------------------------------------------------------------- the suites


@pytest.mark.parametrize("suite", suites(), ids=lambda suite: suite.__name__)
def test_parameters_are_the_same_on_every_machine(suite):
    if "backend" in getattr(suite, "param_names", ()):
        backends = suite.params[suite.param_names.index("backend")]
        assert backends == (["numba"] if suite.__name__ == "Threads" else ["numba", "numpy", "cuda", "cupy"])
    assert methods(suite)
    for method in methods(suite):
        assert getattr(method, "version", getattr(suite, "version", "")).isdecimal(), (
            method
        )  # not asv's digest of the code


def test_no_benchmark_sleeps_or_skips():
    for path in BENCHMARKS.glob("*.py"):
        assert not re.search(r"\bsleep\(|skip_benchmark|NotImplementedError", path.read_text()), path


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_the_chosen_backend_is_the_one_that_runs(name, setting):
    setting.choose(name)
    assert current_backend() == name


def test_a_backend_that_cannot_run_fails(setting):
    absent = [name for name, (able, _) in cnnkit.backends().items() if not able]
    if not absent:
        pytest.skip("every backend can run here")
    with pytest.raises(ImportError, match="is not available"):
        setting.choose(absent[0])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("suite", suites(), ids=lambda suite: suite.__name__)
def test_every_benchmark_runs(suite, backend, setting, threads):
    threads(2)
    if suite.__name__ in ("Processes", "FirstCalls", "Learning"):
        pytest.skip("a process of its own, or a training run: asv's to do")
    params = tuple(dict(zip(suite.param_names, map(first, suite.params), strict=True), backend=backend).values())
    if suite.__name__ == "Threads" and backend == "numpy":
        pytest.skip("the threads are the numba room's")
    for method in methods(suite):
        benchmark = suite()
        if hasattr(benchmark, "setup"):
            benchmark.setup(*params)
        value = method(benchmark, *params)
        if method.__name__.startswith("track_"):
            assert 0 <= value < math.inf


def first(values):
    return "lenet_5x5_16" if "lenet_5x5_16" in values else values[0]


def test_the_error_that_is_tracked_is_that_of_the_dtype(setting):
    conv = importlib.import_module("benchmarks.conv")
    for backend in ("numpy", "numba"):
        assert 0 < conv.Accuracy().track_error("lenet_5x5_16", "float32", backend) < 1e-4


def test_workspace_is_what_is_allocated_besides_results():
    conv = importlib.import_module("benchmarks.conv")
    if not conv.REFERENCES.exists():
        pytest.skip("only Linux tells what a process takes at most")

    def work():
        scratch = np.ones(32 << 20, np.uint8)
        return scratch[: 8 << 20].copy()

    assert abs(conv._scratch("numpy", work) - (32 << 20)) < 4 << 20


@pytest.mark.parametrize("method", ["timeraw_cold", "timeraw_warm"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_first_calls_are_code_that_runs(backend, method):
    startup = importlib.import_module("benchmarks.startup")
    for op in startup.FIRST if backend == "numpy" else ["relu"]:
        code, prepare = getattr(startup.FirstCalls(), method)(op, backend)
        assert not re.search(r'\n|"""', code + prepare)  # asv puts them between such quotes
        subprocess.run([sys.executable, "-c", f"{prepare}\n{code}"], cwd=ROOT, check=True)


def test_a_first_call_is_timed_without_the_start_of_numba():
    """Not one module of Numba or SciPy is left to import, but those of other rooms' kernels."""
    startup = importlib.import_module("benchmarks.startup")
    code, prepare = startup.FirstCalls().timeraw_warm("conv2d", "numba")
    watch = "import sys; before = set(sys.modules)"
    told = "print(*(name for name in set(sys.modules) - before if name.startswith(('numba.', 'scipy.', 'llvmlite.'))))"
    lines = f"{prepare}\n{watch}\n{code}\n{told}"
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


# ---------------------------------------------------------------- the race


def test_turns_rotate():
    assert "".join(race._in_turn(["A", "B", "C"], 4)) == "ABCBCACABABC"


def test_medians_are_seconds_of_a_call():
    array = np.ones(1000)
    found = race.medians({"one": lambda: array.sum(), "hundred": lambda: [array.sum() for _ in range(100)]}, 0.05)
    assert 1e-7 < found["one"] < 1e-3
    assert found["hundred"] > 20 * found["one"]


def test_answers_must_agree():
    ours = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    race.check_agreement("a layer", {"cnnkit": [ours], "PyTorch": [ours * np.float32(1 + 1e-7)]}, flops=2 * 20 * 9)
    with pytest.raises(ValueError, match=r"^PyTorch and cnnkit differ by .* in a layer, but .* is allowed$"):
        race.check_agreement("a layer", {"cnnkit": [ours], "PyTorch": [ours * np.float32(1.01)]}, flops=2 * 20 * 9)
    with pytest.raises(ValueError, match="differ by inf"):
        race.check_agreement("a layer", {"cnnkit": [ours], "PyTorch": [ours.T]}, flops=360)


def test_a_nan_does_not_agree():
    ours = np.ones((2, 2), "float32")
    with pytest.raises(ValueError, match="differ by nan"):
        race.check_agreement("a layer", {"cnnkit": [ours], "JAX": [ours * np.float32(np.nan)]}, flops=8)


def test_the_nearer_roof_is_the_bound():
    roofs = Roofs(flops=100e9, bandwidth=10e9)
    assert roofs.bound(flops=100, moved=1) == ("compute", pytest.approx(1e-9))
    assert roofs.bound(flops=100, moved=100) == ("memory", pytest.approx(1e-8))


def result(case, ours, theirs, **more):
    given = {"direction": "forward", "threads": 1, "flops": 2_000_000, "moved": 1000, **more}
    return race.Result(case, seconds={"cnnkit": ours, "PyTorch": theirs}, **given)


def test_scores_are_geometric_means_worst_cases_and_losses():
    measured = {1: (Roofs(1e12, 1e11), [result("a", 1e-3, 4e-3), result("b", 1e-3, 0.25e-3), result("c", 1e-3, 8e-3)])}
    (score,) = report.scores(measured)
    assert score.mean == pytest.approx(2)  # the cube root of 4 * 1/4 * 8
    assert (score.worst, score.worst_case, score.losses, score.races) == (pytest.approx(0.25), "b", 1, 3)
    assert "geometric mean 2.00, worst 0.25 (b), 1 of 3 lost" in report.text(measured)


def test_tables_have_speed_and_fraction_of_the_roof():
    measured = {1: (Roofs(4e9, 1e11), [result("a", 1e-3, 2e-3)])}
    row = next(line for line in report.markdown(measured).splitlines() if line.startswith("| a "))
    assert row == "| a | 1 ms | 2 ms | 2.00 | 2.0 GFLOP/s | 50 % |"


FEW = "lenet_5x5_16|transposed_2x2|digits_max_pool|inception_avg_pool|digits_dense|softmax|audio"


def test_bench_races_and_writes(tmp_path, capsys):
    code = main(["bench", "--only", FEW, "--threads", "1", "--seconds", "0.01", "--output", str(tmp_path)])
    out, err = capsys.readouterr()
    assert code == 0, err
    content = json.loads((tmp_path / "race.json").read_text())
    raced = [(each["case"], each["direction"]) for each in content["results"]]
    names = [name for name in cases.CASES if re.search(FEW, name)]
    assert raced == [(name, direction) for name in names for direction in ("forward", "backward")]
    assert len(names) == 7
    expected = {"cnnkit", *(peer.NAME for peer in peers.installed())}
    assert {name for each in content["results"] for name in each["seconds"]} == expected
    assert content["roofs"]["1"]["flops"] > 1e9
    assert content["roofs"]["1"]["bandwidth"] > 1e8
    assert all(line in out for line in ("1 thread, forward", "1 thread, backward", "of the roof"))
    assert (tmp_path / "race.md").read_text().startswith("# cnnkit")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    assert socket.gethostname() not in json.dumps(content["versions"]) + content["processor"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--only", "no such layer"), "--only is 'no such layer', but the cases are lenet_5x5_6, "),
        (("--only", "("), "--only is '(', which is no regular expression: "),
    ],
)
def test_bench_says_what_is_wrong(arguments, sentence, tmp_path, capsys):
    assert main(["bench", *arguments, "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"cnnkit bench: {sentence}")


def test_a_missing_peer_is_named(monkeypatch):
    monkeypatch.setattr(peers, "FILES", {"pytorch": ("torch_that_nobody_has", "json")})
    assert peers.installed() == []
    assert peers.missing() == ["pytorch, for lack of torch_that_nobody_has"]


# ---------------------------------------------------------------- the GPU check


def test_gpu_check_is_content_without_a_gpu():
    if any(cnnkit.backends()[name][0] for name in ("cuda", "cupy")):
        pytest.skip("there is a GPU here")
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"no GPU backend runs here, so nothing was checked: .+\n", done.stdout)


@pytest.fixture
def check():
    return importlib.import_module("benchmarks.gpu_check")


def test_gpu_check_goes_through_its_steps_on_a_stand_in(tmp_path):
    """Kernels, every kind of job, and a report of them."""
    pytest.importorskip("numba.cuda", reason="this Numba has no cuda module", exc_type=ImportError)
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--dry-run", "--minutes", "3", "--output", str(tmp_path)]
    only = ["--skip", "tests", "sanitizer", "--only", "digits_(max|dense)"]
    done = subprocess.run([*command, *only], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert report["device"] == "no GPU: a dry run"
    assert report["kernels"]["loaded"] >= 12
    assert report["host"]["microseconds"].keys() >= {"cuda", "cupy"}
    assert not [row for row in report["races"] if "error" in row]
    assert all(row["form"] == "tf32" or row["milliseconds"]["cuda"] > 0 for row in report["races"])
    plain = [row for row in report["races"] if row["form"] == "float32" and row["layout"] == "channels first"]
    assert len(plain) == 4
    if importlib.util.find_spec("torch"):
        assert all(row["errors"]["cupy"] < 1e-6 for row in plain)
    assert (tmp_path / "gpu_check.md").read_text().startswith("# no GPU: a dry run")


def test_gpu_check_brings_kernels_along(check, monkeypatch):
    """The archive in the source tree is whole; kernels of other sources in it are not asked for."""
    monkeypatch.setenv("CNNKIT_CUBINS", "")  # given back afterwards
    del os.environ["CNNKIT_CUBINS"]
    check.unpack()
    found = sorted(Path(os.environ["CNNKIT_CUBINS"]).iterdir())
    assert len(found) >= 12
    assert all(path.name.endswith(".cubin") and "-sm_90a-" in path.name for path in found)
    assert all(path.read_bytes().startswith(b"cnnkit cubin ") for path in found)


def test_gpu_check_runs_a_file_of_tests(check):
    assert check.tested("kernels", "numpy", 60, True)["seconds"] > 0  # of which none has both words in its name
    assert check.tested("no_such_file", "numpy", 60, True)["errors"] == 1
    assert check.tested("conv", "numpy", 0.1, True) == {"unfinished": "after 0 s"}


def test_gpu_check_watches_every_kind_of_kernel(check, monkeypatch, capsys):
    pytest.importorskip("numba.cuda", reason="this Numba has no cuda module", exc_type=ImportError)
    assert check.gpu_race.main(["--subset", "--dry-run"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert len([name for name in names if name.startswith("convolution")]) == 24


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("========= ERROR SUMMARY: 0 errors", {"errors": 0, "said": ""}),
        ("========= Invalid __global__ write\n========= ERROR SUMMARY: 3 errors", 3),
        ("========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)", 2),
        ("========= Error: Device not supported\n========= ERROR SUMMARY: 1 error", "Device not supported"),
        ("Segmentation fault", "Segmentation fault"),
    ],
)
def test_gpu_check_reads_what_the_sanitizer_counted(said, found, check):
    got = check.watched([sys.executable, "-c", f"print({said!r})"], 30)
    if isinstance(found, dict):
        assert got == found
    else:
        assert found == got["errors"] if isinstance(found, int) else "errors" not in got and found in got["said"]


def test_gpu_check_reports_a_table(check):
    row = {
        "case": "vgg_max_pool_2x2",
        "direction": "forward",
        "form": "float32",
        "layout": "channels first",
        "x": [1, 2],
    }
    good = row | {"milliseconds": {"cuda": 1.25, "PyTorch": 2.5}, "errors": {"cuda": 1e-7}, "bytes": 3e9, "flops": 1}
    bad = row | {"direction": "backward", "error": "the process ended with -11: Segmentation fault"}
    tests = {
        "cuda": {"conv": {"passed": 5, "failed": 1, "names": ["test_a[cuda]"]}, "pool": {"unfinished": "after 9 s"}}
    }
    report = {"device": "GPU", "versions": {"cnnkit": "1"}, "tests": tests, "races": [good, bad]}
    report |= {"roofs": {"bandwidth": 4e12, "float32": 5e13}, "failed": {"sanitizer": "OSError: no"}, "sanitizer": {}}
    text = check.markdown(report)
    assert (
        "| vgg_max_pool_2x2 | 1x2 | forward | float32 | channels first | 1.250 |  | 2.500 | 60 % | 1.0e-07 |  |  |"
        in text
    )
    assert "| **the process ended with -11: Segmentation fault**" in text
    assert (
        "| pooling and depthwise, float32, channels first, forward | 1 | 2.00 | 2.00 (vgg_max_pool_2x2) | 60 % |"
        in text
    )
    assert "Tests on cuda: 5 passed, 1 failed, 0 skipped, 0 errors (conv, pool)." in text
    assert "- conv: test_a[cuda]" in text
    assert "**sanitizer failed**: OSError: no" in text
    assert not check.right(report)


WORKER = """
import json, os, sys
for number, job in enumerate(json.load(sys.stdin)):
    print(json.dumps({"begin": number}), flush=True)
    if job["kind"] == "crash":
        print("Segmentation fault", flush=True)
        os._exit(11)
    print(json.dumps({"row": job}), flush=True)
    if job["kind"] == "break":
        sys.exit(3)
"""


def test_gpu_check_goes_on_after_a_crash(check, monkeypatch, tmp_path):
    monkeypatch.setattr(check, "WORKER", [sys.executable, "-c", WORKER])
    options = type("Options", (), {"minutes": 1, "dry_run": False, "output": tmp_path})
    kinds = ["one", "crash", "two", "break", "three", "crash"]
    found = list(check.rows(check.Check(options, ["cuda"]), [{"kind": kind} for kind in kinds], 1.0))
    assert [row["kind"] for row in found] == kinds
    assert [row.get("error", "") for row in found] == [
        *("", "the process ended with 11: Segmentation fault", "", "", ""),
        "the process ended with 11: Segmentation fault",
    ]


def test_gpu_check_leaves_nothing_running(check):
    """Neither a command that takes too long, nor what it started."""
    started = time.monotonic()
    code, said = check.ended(["sh", "-c", "echo begun; sleep 60 & sleep 60"], 0.3)
    assert (code, said) == (None, "begun\n")
    assert time.monotonic() - started < 20


def test_gpu_check_keeps_to_its_time(check, monkeypatch, tmp_path):
    monkeypatch.setattr(check, "WORKER", [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(check, "LEAST", 0.1)
    options = type("Options", (), {"minutes": 0.01, "dry_run": False, "output": tmp_path})
    started = time.monotonic()
    assert list(check.rows(check.Check(options, ["cuda"]), [{"kind": "one"}], 1.0)) == []
    assert time.monotonic() - started < 20


def test_gpu_check_tells_a_step_that_fails(check, tmp_path):
    options = type("Options", (), {"minutes": 1, "dry_run": False, "output": tmp_path})
    one = check.Check(options, ["cuda"])
    one.take("a step", lambda check: 1 / 0)
    assert "**a step failed**: ZeroDivisionError" in (tmp_path / "gpu_check.md").read_text()


# ---------------------------------------------------------------- committed results


def machines():
    return sorted(path.parent for path in RESULTS.glob("*/machine.json"))


def committed(machine):
    return [json.loads(path.read_text()) for path in machine.glob("*.json") if path.name != "machine.json"]


def test_a_machine_has_results_of_eight_commits():
    assert max(len({each["commit_hash"] for each in committed(machine)}) for machine in machines()) >= 8


@pytest.mark.parametrize("machine", machines(), ids=lambda path: path.name)
def test_results_name_a_machine_and_no_place(machine):
    assert json.loads((machine / "machine.json").read_text())["machine"] == machine.name
    for path in machine.glob("*.json"):
        text = path.read_text()
        assert not re.search(r"/(tmp|root|home|work|Users)/|https?://", text), path
        assert path.name == "machine.json" or json.loads(text)["params"]["machine"] == machine.name


# ---------------------------------------------------------------- the dashboard


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """The committed results, published."""
    pytest.importorskip("asv", reason="asv makes the dashboard: pip install cnnkit[bench]")
    if not (ROOT / ".git").exists():
        pytest.skip("asv publish reads the commits of a clone")
    folder = tmp_path_factory.mktemp("dashboard")
    command = [sys.executable, "-m", "asv", "publish", "--no-pull", "--html-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if "NODE_PATH" in os.environ:
        bring_scripts(folder, Path(os.environ["NODE_PATH"]))
    return folder


def bring_scripts(folder, packages):
    """Let the page take jQuery and the like from these npm packages, not from the network."""

    def brought(tag):
        name = re.sub(r"-[\d.]+\d", "", tag[1].rsplit("/", 1)[1])  # jquery-3.3.1.min.js is jquery.min.js there
        found = [*packages.rglob(name), *packages.rglob(name.replace(".min", ""))]
        shutil.copy(found[0], folder / name)
        return f'<link rel="stylesheet" href="{name}">' if name.endswith(".css") else f'<script src="{name}">'

    page = folder / "index.html"
    page.write_text(re.sub(r'<(?:script|link)[^>]*(?:src|href)="(https://[^"]+)"[^>]*>', brought, page.read_text()))


def test_published_is_what_was_measured(dashboard):
    index = json.loads((dashboard / "index.json").read_text())
    suites_methods = {method.__name__ for suite in suites() for method in methods(suite)}
    assert {name.split(".")[-1] for name in index["benchmarks"]} == suites_methods
    for benchmark in index["benchmarks"].values():  # only an upward step is a regression: nothing where more is better
        assert benchmark["unit"] in ("seconds", "bytes", "of the largest", "fraction")


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver", reason="a browser is driven by Selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("the dashboard is looked at with chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-quic", *quiet, "window-size=1400,1000"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path}")
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield running
    running.quit()


@pytest.fixture
def address(dashboard, browser):
    """The dashboard, served to this machine alone, if its scripts can be had."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(dashboard))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = f"http://127.0.0.1:{server.server_port}/"
        browser.get(found)
        if not browser.execute_script("return Boolean(window.jQuery && jQuery.plot)"):
            pytest.skip("the page's scripts are on the network; NODE_PATH may name a folder that has them")
        yield found
        server.shutdown()


def wait_for(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 30).until(condition)


def test_the_grid_has_all_benchmarks_and_a_graph_its_points(browser, address, dashboard):
    browser.get(f"{address}#/")
    benchmarks = set(json.loads((dashboard / "index.json").read_text())["benchmarks"])
    count = "return $('#summarygrid-display .benchmark-plot').length"
    assert wait_for(browser, lambda b: b.execute_script(count)) == len(benchmarks)
    browser.get(f"{address}#conv.Forward.time_forward")
    points = """
        const plot = $('#main-graph').data('plot');
        return plot ? plot.getData().map(graph => graph.data.filter(point => point[1] !== null).length) : [];
    """
    assert wait_for(browser, lambda b: max(b.execute_script(points), default=0)) >= 8


def test_regressions_are_upward_steps(browser, address, dashboard):
    listed = json.loads((dashboard / "regressions.json").read_text())["regressions"]
    assert all(latest > best for _, _, _, _, latest, best, _ in listed)
    browser.get(f"{address}#regressions")
    rows = "return $('#regressions-body table tbody tr').length"
    text = wait_for(browser, lambda b: b.execute_script("return $('#regressions-body').text()"))
    assert not listed or wait_for(browser, lambda b: b.execute_script(rows) > 0), text
