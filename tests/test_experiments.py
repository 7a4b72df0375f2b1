"""``cnnkit compare --experiment``, run as a user runs it; on small images in files where accuracies do not matter."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from cnnkit import nn
from cnnkit.cli.compare import EXPERIMENTS, data_size, shift, training, zero_one
from cnnkit.cli.compare.networks import FROM_SCRATCH, NETWORKS, OF_LIKE_SIZE
from cnnkit.datasets import Images

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
KINDS = EXPERIMENTS[1:]  # the first has its tests in test_cli
TRAININGS = {"shift": 9, "data-size": 18, "zero-one": 15}
COMMITTED = Path(__file__).parents[1] / "docs" / "experiments"


@pytest.fixture(autouse=True)
def less(monkeypatch):
    """40 images are there, and the smaller the map the sooner it is drawn."""
    monkeypatch.setattr(data_size, "SIZES", (12, 50))
    monkeypatch.setattr(shift, "FARTHEST", 2)


def read(folder, experiment):
    return json.loads((folder / f"{experiment}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_prints_its_table_and_writes_its_files(kind, compare, capsys):
    code, folder = compare("--experiment", kind, "--epochs", "1")
    out, err = capsys.readouterr()
    found = read(folder, kind)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert sorted(path.name for path in folder.iterdir()) == [f"{kind}.json", f"{kind}.png"]
    assert (folder / f"{kind}.png").read_bytes()[:8] == PNG_MAGIC
    assert len(found["networks"]) == len(found["seconds"]) == TRAININGS[kind]
    assert found["options"]["experiment"] == kind
    for name in dict.fromkeys(network["name"] for network in found["networks"]):
        several = [network for network in found["networks"] if network["name"] == name]
        row = next(line for line in out.splitlines() if line.startswith(name))
        if kind != "data-size":
            assert f" {100 * np.mean([network['train_accuracy'] for network in several]):.1f} " in row
            assert f" {100 * np.mean([network['test_accuracy'] for network in several]):.1f}" in row


def test_the_table_of_data_sizes(compare, capsys):
    _, folder = compare("--experiment", "data-size", "--epochs", "1", "--no-plot")
    header, _, *lines = capsys.readouterr().out.splitlines()[2:]
    assert header.split()[-2:] == ["12", "40"]
    assert len(lines) == 9
    networks = read(folder, "data-size")["networks"]
    for name in OF_LIKE_SIZE:
        known, others, gap = (line for line in lines if line.startswith(name))
        for column, size in ((-2, 12), (-1, 40)):
            part = [one for one in networks if one["name"] == name and one["images"] == size]
            means = [100 * np.mean([one[which] for one in part]) for which in ("train_accuracy", "test_accuracy")]
            assert len(part) == 3
            shown = [float(line.split()[column]) for line in (known, others, gap)]
            assert shown == pytest.approx([*means, means[0] - means[1]], abs=0.051)


@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_is_reproducible_to_the_bit_with_any_number_of_threads(kind, compare):
    runs = [("--threads", "1"), ("--threads", "3"), ("--threads", "1", "--seed", "7")]
    options = "--experiment", kind, "--epochs", "1", "--no-plot"
    one, again, other = (read(compare(*options, *run, output=str(k))[1], kind) for k, run in enumerate(runs))
    assert one["networks"] == again["networks"]
    assert one["networks"] != other["networks"]


def test_many_trainings_have_one_bar(tmp_path, small_data, capsys):
    from cnnkit.cli import main

    options = ["--experiment", "zero-one", "--data", str(small_data), "--output", str(tmp_path), "--no-plot"]
    assert main(["compare", *options, "--epochs", "2"]) == 0
    shown = capsys.readouterr().err
    assert "data, classes 0 and 1 (1 x 8 x 8): trained on 20 centred images, tested on 6" in shown
    assert "one dense layer, split 4: 100%" in shown
    assert shown.count("100%") == 1


# Ctrl-C


def interrupt(monkeypatch, training_number, after_epochs):
    """Let Ctrl-C come in the training of that number, from 1, after so many of its epochs."""
    fit, numbers = nn.fit, iter(range(1, 1000))

    def interrupted_fit(*arguments, **options):
        def press(state):
            if state.epoch == after_epochs:
                signal.raise_signal(signal.SIGINT)

        pressing = [press] if next(numbers) == training_number else []
        return fit(*arguments, **options | {"callbacks": [*options["callbacks"], *pressing]})

    monkeypatch.setattr(nn, "fit", interrupted_fit)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 5])
def test_ctrl_c_keeps_the_trainings_so_far(kind, number, compare, monkeypatch, capsys):
    interrupt(monkeypatch, number, after_epochs=1)
    code, folder = compare("--experiment", kind, "--epochs", "3")
    networks = read(folder, kind)["networks"]
    assert code == 130
    assert [network["interrupted"] for network in networks] == [False] * (number - 1) + [True]
    assert networks[-1]["epochs"] == 1
    assert (folder / f"{kind}.png").read_bytes()[:8] == PNG_MAGIC
    assert re.search(r": interrupted after 1 of \d+ epochs$", capsys.readouterr().out.strip())


@pytest.mark.parametrize(("times", "kept"), [(1, 3), (2, 2)])
def test_ctrl_c_in_testing_waits_for_its_end_and_twice_does_not(times, kept, compare, monkeypatch):
    measure, numbers = zero_one.measure, iter(range(1, 1000))

    def interrupted(*arguments):
        if next(numbers) == 3:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return measure(*arguments)

    monkeypatch.setattr(zero_one, "measure", interrupted)
    code, folder = compare("--experiment", "zero-one", "--epochs", "1")
    assert code == 130
    assert [network["name"] for network in read(folder, "zero-one")["networks"]] == list(FROM_SCRATCH)[:kept]


# The parts


def test_a_map_has_a_row_for_each_step_down(monkeypatch):
    monkeypatch.setattr(shift, "FARTHEST", 1)
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 2, 2] = 1
    images = Images(x, np.array([8]))  # found at index 8 only after a step up and one to the right
    found = shift.measure(nn.Flatten(), training.Trial("", "", 0, 1, images, images))
    np.testing.assert_array_equal(found, [[0, 0, 1], [0, 0, 0], [0, 0, 0]])


def test_the_curve_of_a_map():
    maps = np.array(
        [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15], [16, 17, 18, 19, 20], [21, 22, 23, 24, 25]]
    )
    np.testing.assert_array_equal(shift.curve(maps), [13, (8 + 12 + 14 + 18) / 4, (3 + 11 + 15 + 23) / 4])
    np.testing.assert_array_equal(shift.curve(np.stack([maps, 2 * maps]))[1], 2 * shift.curve(maps))


def options(**settings):
    import argparse

    defaults = {"data": None, "seed": 0, "epochs": 4, "batch_size": 32, "placement": "random"}
    return argparse.Namespace(**defaults | settings)


def test_few_images_are_learned_in_as_many_steps_as_all(monkeypatch):
    monkeypatch.setattr(data_size, "SIZES", (50, 400, 2000))
    given = options()
    made = data_size.trials(data_size.load(given), given)
    assert [len(trial.train.x) for trial in made[:9:3]] == [50, 400, 1438]
    steps = {len(trial.train.x): trial.epochs * -(-len(trial.train.x) // 32) for trial in made}
    assert steps == {50: 180, 400: 182, 1438: 180}
    small, large = made[0].train, made[3].train  # each set holds the smaller ones
    np.testing.assert_array_equal(small.x, large.x[:50])
    assert not np.array_equal(made[0].train.labels, made[9].train.labels)  # other images the next time


@pytest.mark.parametrize(("experiment", "tested_elsewhere"), [(data_size, True), (zero_one, True), (shift, False)])
def test_random_placement(experiment, tested_elsewhere):
    still, moved = (experiment.load(options(placement=where)) for where in ("centre", "random"))
    assert (still.placement, moved.placement) == ("centre", "random")
    assert not np.array_equal(still.train.x, moved.train.x)
    assert np.array_equal(still.test.x, moved.test.x) is not tested_elsewhere
    np.testing.assert_array_equal(still.train.x.sum((1, 2, 3)), moved.train.x.sum((1, 2, 3)))  # none left the canvas


def test_each_split_tests_on_other_images():
    given = options(placement="centre")
    made = zero_one.trials(zero_one.load(given), given)
    assert {(len(trial.train.x), len(trial.test.x)) for trial in made} == {(288, 72)}
    assert len({trial.test.x.tobytes() for trial in made}) == 5


def test_classes_that_are_missing_are_told(tmp_path, small_data, capsys):
    from cnnkit.cli import main

    labels = small_data / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[8:] = bytes(label or 2 for label in content[8:])
    labels.write_bytes(content)
    options = ["--experiment", "zero-one", "--data", str(small_data), "--output", str(tmp_path / "out"), "--no-plot"]
    assert main(["compare", *options]) == 2
    assert capsys.readouterr().err == "cnnkit compare: data has classes [1] of 0 and 1, but both are needed\n"
    assert not (tmp_path / "out").exists()


def test_networks_cost_what_pencil_and_paper_say():
    sizes = {name: NETWORKS[name]((1, 14, 14), 2, np.random.default_rng(0)) for name in FROM_SCRATCH}
    counted = [sum(array.size for array in model.parameters().values()) for model in sizes.values()]
    # 3*3*8 + 8, 3*3*8*8 + 8, 8*10*10*2 + 2; 196*11 + 11, 11*2 + 2; 196*2 + 2
    assert counted == [80 + 584 + 1602, 2156 + 11 + 24, 394]


def test_two_convolutions_from_scratch_tell_0_from_1(tmp_path):
    from cnnkit.cli import main

    assert main(["compare", "--experiment", "zero-one", "--quiet", "--no-plot", "--output", str(tmp_path)]) == 0
    networks = read(tmp_path, "zero-one")["networks"]
    convolutions = [network["test_accuracy"] for network in networks if network["name"] == "two convolutions"]
    assert np.mean(convolutions) >= 0.99


# What the documents show


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_results_are_of_these_networks(kind):
    """The gallery draws them; they are to be made again when an experiment changes."""
    found = read(COMMITTED, kind)
    experiment = {"shift": shift, "data-size": data_size, "zero-one": zero_one}[kind]
    given = options(placement=experiment.PLACEMENT, epochs=experiment.EPOCHS)
    task = experiment.load(given)
    assert found["options"]["epochs"] == experiment.EPOCHS
    assert found["options"]["placement"] == experiment.PLACEMENT
    assert tuple(found["data"]["shape"]) == task.shape
    for network in found["networks"]:
        model = NETWORKS[network["name"]](task.shape, task.classes, np.random.default_rng(0))
        assert network["layers"] == [repr(layer) for layer in model]
        assert not network["interrupted"]
    assert len(found["networks"]) > training.FEW


def committed(kind, name, which="test_accuracy"):
    return np.array([network[which] for network in read(COMMITTED, kind)["networks"] if network["name"] == name])


def test_the_gallery_says_what_the_committed_results_say():
    head, pooled, dense = (shift.curve(committed("shift", name)).mean(axis=0) for name in OF_LIKE_SIZE)
    assert pooled.min() > 0.96
    assert dense[0] > 0.9
    assert dense[1] < 0.6 * dense[0]
    assert dense[2:].max() < 0.16
    assert dense[2] < head[2] < pooled[2]
    sizes = committed("data-size", "dense network", "images")
    gaps = {
        name: committed("data-size", name, "train_accuracy") - committed("data-size", name) for name in OF_LIKE_SIZE
    }
    for size in set(sizes):
        head, pooled, dense = (gap[sizes == size].mean() for gap in gaps.values())
        assert pooled < head < dense
    assert committed("data-size", "dense network")[sizes == 100].mean() < 0.3
    assert committed("data-size", "CNN, global pooling")[sizes == 100].mean() > 0.88
    assert [committed("zero-one", name).mean() > 0.99 for name in FROM_SCRATCH] == [True] * 3
