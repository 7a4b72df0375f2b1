"""The command line, run as a user runs it; on small images in files where the accuracies do not matter."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cnnkit
from cnnkit import nn
from cnnkit.cli import main
from cnnkit.cli.compare.comparison import shifted_accuracy
from cnnkit.cli.compare.networks import NETWORKS, multiply_adds, parameters
from cnnkit.cli.compare.training import Task
from cnnkit.datasets import Images

NAMES = ["CNN, dense head", "CNN, global pooling", "dense network"]
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def start(*arguments):
    """The command in a process of its own."""
    command = [sys.executable, "-c", "import sys; from cnnkit.cli import main; sys.exit(main())", *arguments]
    home = {**os.environ, "PYTHONPATH": str(Path(cnnkit.__file__).parent.parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home)


def read(folder, experiment="comparison"):
    return json.loads((folder / f"{experiment}.json").read_text(encoding="utf-8"))


# compare on the built-in digits


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return main(["compare", "--quiet", "--output", str(folder)]), folder


def test_compare_writes_its_table_and_files(digits_run):
    code, folder = digits_run
    found = read(folder)
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.json", "comparison.png"]
    assert (folder / "comparison.png").read_bytes()[:8] == PNG_MAGIC
    assert found["data"] == {"name": "built-in digits", "shape": [1, 16, 16], "train": 1438, "test": 359}
    assert [network["name"] for network in found["networks"]] == NAMES
    assert [network["parameters"] for network in found["networks"]] == [10186, 10262, 10156]
    assert [network["multiply_adds"] for network in found["networks"]] == [402432, 2535704, 10108]
    assert all(len(network["history"]["val_accuracy"]) == 20 for network in found["networks"])
    assert list(found["seconds"]) == NAMES
    assert min(found["seconds"].values()) > 0


def test_convolution_and_global_pooling_stand_shifts_that_a_dense_network_does_not(digits_run):
    dense_head, global_pooling, dense = (network["shifted_accuracy"] for network in read(digits_run[1])["networks"])
    assert max(dense_head["0"], global_pooling["0"]) >= 0.98
    assert min(dense_head["0"], global_pooling["0"]) > 0.96
    assert dense["0"] > 0.9
    assert min(global_pooling.values()) > 0.9
    assert dense["1"] < 0.65
    assert dense["2"] < 0.3
    assert dense["2"] < dense_head["2"] < global_pooling["2"]


# compare on files


def test_compare_prints_a_row_for_each_network(compare, capsys):
    code, folder = compare("--epochs", "2")
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[:3] == ["network", "parameters", "multiply-adds"]
    costs, accuracies = lines[2:5], lines[8:]
    assert [line[:19].strip() for line in costs] == [line[:19].strip() for line in accuracies] == NAMES
    for cost, accuracy, network in zip(costs, accuracies, read(folder)["networks"], strict=True):
        assert cost.split()[-1] == network["backend"]
        assert f" {network['parameters']:,} " in cost
        assert f" {100 * network['test_accuracy']:.1f} " in accuracy


def test_compare_is_reproducible_to_the_bit(compare):
    found = [read(compare("--epochs", "2", "--no-plot", "--seed", "3", output=name)[1]) for name in ("one", "two")]
    other = read(compare("--epochs", "2", "--no-plot", "--seed", "4", output="three")[1])
    for each in (*found, other):
        del each["seconds"]
    assert found[0] == found[1]
    assert found[0]["networks"] != other["networks"]


def test_compare_gives_the_same_for_any_number_of_threads(compare):
    options = ["--epochs", "2", "--no-plot", "--threads"]
    one, three = (read(compare(*options, n, output=n)[1])["networks"] for n in ("1", "3"))
    assert one == three


def test_compare_with_options(compare):
    options = "--epochs 1 --backend numpy --threads 1 --placement random --batch-size 7 --no-plot"
    code, folder = compare(*options.split())
    found = read(folder)
    assert code == 0
    assert not (folder / "comparison.png").exists()
    assert found["options"] | {"data": None} == {
        **{"experiment": "comparison", "epochs": 1, "batch_size": 7, "seed": 0, "placement": "random"},
        **{"data": None, "backend": "numpy", "threads": 1},
    }
    assert {network["backend"] for network in found["networks"]} == {"numpy"}


def test_compare_shows_its_progress_unless_told_not_to(tmp_path, small_data, compare, capsys):
    compare("--epochs", "1", "--no-plot")
    assert capsys.readouterr().err == ""
    main(["compare", "--data", str(small_data), "--output", str(tmp_path), "--epochs", "1", "--no-plot"])
    shown = capsys.readouterr().err
    assert all(f"\n{name}\n" in shown for name in NAMES)
    assert "accuracy=" in shown
    assert "data (1 x 8 x 8): trained on 40 centred images, tested on 12" in shown
    assert f"wrote {tmp_path / 'comparison.json'}" in shown


def test_compare_on_colour_images(tmp_path):
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
        records = rng.integers(0, 256, (4, 3073), np.uint8)
        records[:, 0] = [0, 1, 2, 9]
        (tmp_path / name).write_bytes(records.tobytes())
    assert main(["compare", "--data", str(tmp_path), "--output", str(tmp_path), "--epochs", "1", "--quiet"]) == 0
    assert (tmp_path / "comparison.png").read_bytes()[:8] == PNG_MAGIC
    assert read(tmp_path)["data"]["shape"] == [3, 32, 32]


# Ctrl-C


def interrupt_while(name, monkeypatch, after_epochs):
    """Let Ctrl-C come while the network of that name trains, after so many of its epochs."""
    fit, trained = nn.fit, iter(NAMES)

    def interrupted_fit(*arguments, **options):
        def press(state):
            if state.epoch == after_epochs:
                signal.raise_signal(signal.SIGINT)

        pressing = [press] if next(trained) == name else []
        return fit(*arguments, **options | {"callbacks": [*options["callbacks"], *pressing]})

    monkeypatch.setattr(nn, "fit", interrupted_fit)


def test_ctrl_c_in_training_keeps_the_epochs_so_far(compare, monkeypatch, capsys):
    interrupt_while("CNN, global pooling", monkeypatch, after_epochs=2)
    code, folder = compare("--epochs", "5")
    networks = read(folder)["networks"]
    assert code == 130
    assert [network["name"] for network in networks] == NAMES[:2]
    assert [len(network["history"]["loss"]) for network in networks] == [5, 2]
    assert [network["history"]["interrupted"] for network in networks] == [False, True]
    assert (folder / "comparison.png").exists()
    assert capsys.readouterr().out.splitlines()[-2:] == ["", "CNN, global pooling: interrupted after 2 of 5 epochs"]


def test_ctrl_c_in_testing_keeps_the_networks_so_far(compare, monkeypatch):
    evaluate, calls = nn.evaluate, iter(range(1000))

    def interrupted_evaluate(*arguments):
        if next(calls) == 25:  # a network takes 1 + 1 + 4 * 4 of them
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(nn, "evaluate", interrupted_evaluate)
    code, folder = compare("--epochs", "1")
    assert code == 130
    assert [network["name"] for network in read(folder)["networks"]] == NAMES[:1]


def test_ctrl_c_before_anything_is_learned_writes_nothing(compare, monkeypatch, capsys):
    def interrupted_fit(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(nn, "fit", interrupted_fit)
    code, folder = compare()
    assert code == 130
    assert list(folder.iterdir()) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one process only")
def test_ctrl_c_from_a_keyboard(tmp_path, small_data):
    options = ["--data", str(small_data), "--output", str(tmp_path / "results"), "--epochs", "1000000", "--no-plot"]
    with start("compare", *options) as process:
        shown = b""
        while b"epoch=2" not in shown:
            assert process.poll() is None, shown
            shown += os.read(process.stderr.fileno(), 1000)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"interrupted: testing what has been learned so far" in err
    assert b"\nCNN, dense head: interrupted after " in out
    assert read(tmp_path / "results")["networks"][0]["history"]["interrupted"]


# What goes wrong


@pytest.fixture
def no_training(monkeypatch):
    def fit(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(nn, "fit", fit)


def test_missing_matplotlib_is_told_before_training(compare, monkeypatch, capsys, no_training):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "cnnkit.cli.compare.figure", raising=False)
    code, folder = compare()
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert 'pip install "cnnkit[plot]"' in error
    assert "--no-plot" in error
    assert not folder.exists()


def test_without_matplotlib_no_plot_works(compare, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "cnnkit.cli.compare.figure", raising=False)
    assert compare("--epochs", "1", "--no-plot")[0] == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "cnnkit compare: nowhere: "),
        (".", "cnnkit compare: .: found neither MNIST's files"),
    ],
)
def test_wrong_data_is_one_sentence(tmp_path, monkeypatch, capsys, no_training, data, message):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--data", data, "--no-plot"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_a_file_is_told_before_training(tmp_path, compare, capsys, no_training):
    (tmp_path / "results").write_text("precious")
    assert compare("--no-plot")[0] == 2
    assert "results: " in capsys.readouterr().err
    assert (tmp_path / "results").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "'0' is given, but a whole number of at least 1 is needed"),
        (["--batch-size", "many"], "'many' is given, but a whole number of at least 1 is needed"),
        (["--threads", "-1"], "'-1' is given, but a whole number of at least 1 is needed"),
        (["--seed", "1.5"], "'1.5' is given, but a whole number of at least 0 is needed"),
        (["--backend", "abacus"], "invalid choice: 'abacus'"),
        (["--experiment", "abacus"], "invalid choice: 'abacus'"),
    ],
)
def test_wrong_options(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        main(["compare", *arguments])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("cnnkit compare: argument --")
    assert error.count("\n") == 1


def test_no_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


# The parts of compare


@pytest.mark.parametrize(
    ("name", "shape", "counted", "multiplied"),
    [
        # 5*5*16 + 16, 3*3*16*32 + 32, 32*4*4*10 + 10
        ("CNN, dense head", (1, 16, 16), 10186, 256 * 25 * 16 + 64 * 9 * 16 * 32 + 512 * 10),
        # 5*5*3*16 + 16, 3*3*16*24 + 24, 3*3*24*28 + 28, 28*10 + 10
        ("CNN, global pooling", (3, 32, 32), 11062, 1024 * (75 * 16 + 144 * 24 + 216 * 28) + 280),
        # 784*26 + 26, 26*10 + 10
        ("dense network", (1, 28, 28), 20680, 784 * 26 + 260),
    ],
)
def test_networks_cost_what_pencil_and_paper_say(name, shape, counted, multiplied):
    model = NETWORKS[name](shape, 10, np.random.default_rng(0))
    assert parameters(model) == counted
    assert multiply_adds(model, np.zeros((1, *shape), np.float32)) == multiplied


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 32, 32), (1, 9, 13)])
def test_the_dense_network_is_as_large_as_the_cnn(shape):
    sizes = [parameters(NETWORKS[name](shape, 10, np.random.default_rng(0))) for name in NAMES]
    assert abs(sizes[2] - sizes[0]) <= (np.prod(shape) + 11) / 2  # half a neuron's weights


def test_shifted_accuracy_moves_in_four_directions():
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 2, 2] = 1
    images = Images(x, np.array([13]))  # found at index 13 only after a step to the right
    assert [shifted_accuracy(nn.Flatten(), images, pixels) for pixels in (0, 1, 2)] == [0, 0.25, 0]


def test_task_describes_itself():
    images = Images(np.zeros((2000, 1, 4, 5), np.float32), np.arange(2000) % 7)
    task = Task("noise", "random", images, images)
    assert str(task) == "noise (1 x 4 x 5): trained on 2,000 randomly shifted images, tested on 2,000"
    assert (task.shape, task.classes) == ((1, 4, 5), 7)


# info


def test_info_tells_what_a_bug_report_needs(capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for needed in ("cnnkit", "numpy", "numba", "threads"):
        assert needed in shown.lower()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no broken pipes")
def test_a_reader_that_has_seen_enough_is_no_error():
    with start("info") as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"cnnkit {cnnkit.__version__}\n"
