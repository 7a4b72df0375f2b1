"""Training: the same bits again, interrupts and checkpoints, and every argument that is refused."""

import copy
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from cnnkit import nn, optim

rng = np.random.default_rng(11)
LABELS = rng.integers(0, 3, 50)
X = (rng.normal(size=(50, 1, 6, 6)) + LABELS[:, None, None, None]).astype("float32")  # class 2 is the brightest
DATA, VALIDATION = (X[:40], LABELS[:40]), (X[40:], LABELS[40:])
BATCH, STEPS = 16, 3  # 40 examples: two batches of 16, one of 8


def make_model(dropout=0.2):
    generator = np.random.default_rng(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, rng=generator),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Dense(16, 3, rng=generator),
    )


def make_optimizer():
    return optim.Adam(optim.cosine(0.03, warmup=0.1))


def train(model=None, data=DATA, **settings):
    """Train, for 4 epochs unless told; the history and the model."""
    model = make_model() if model is None else model
    defaults = {"epochs": 4, "batch_size": BATCH, "optimizer": make_optimizer(), "progress": False}
    return nn.fit(model, data, **(defaults | settings)), model


def assert_same_parameters(model, expected):
    for name, array in model.parameters().items():
        np.testing.assert_array_equal(array, expected.parameters()[name])


def press_ctrl_c(state=None):
    signal.raise_signal(signal.SIGINT)


class ScriptedRate:
    """A learning rate of 0.1 that calls `act` at some steps, counted from 1; it notes the progress it is told."""

    def __init__(self, act=None, at=()):
        self.act, self.at, self.told = act, at, []

    def __call__(self, progress):
        self.told.append(progress)
        if len(self.told) in self.at:
            self.act()
        return 0.1


# ---------------------------------------------------------------- learning


def test_it_learns():
    history, model = train(epochs=30, validation=VALIDATION)
    assert history.loss[-1] < 0.5 * history.loss[0]
    loss, accuracy = nn.evaluate(model, VALIDATION)
    assert accuracy > 0.85
    assert (history.val_loss[-1], history.val_accuracy[-1]) == pytest.approx((loss, accuracy))


def test_against_pytorch():
    """The same batches through PyTorch: the same losses and the same parameters."""
    torch = pytest.importorskip("torch", reason="PyTorch is the peer")
    x, labels = X[:40].astype("float64"), LABELS[:40]
    model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0, dtype="float64"), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*model, nn.Dense(32, 3, rng=1, dtype="float64"))
    parts = torch.nn
    peer = parts.Sequential(parts.Conv2d(1, 2, 3), parts.ReLU(), parts.Flatten(), parts.Linear(32, 3)).double()
    peer.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    descent = torch.optim.AdamW(peer.parameters(), lr=0.01, weight_decay=0.1)
    losses = []
    for epoch in range(3):
        total = 0.0
        for chosen in np.split(np.random.default_rng([5, epoch]).permutation(40), [16, 32]):
            loss = parts.functional.cross_entropy(peer(torch.tensor(x[chosen])), torch.tensor(labels[chosen]))
            descent.zero_grad()
            loss.backward()
            descent.step()
            total += loss.item() * len(chosen)
        losses.append(total / 40)
    history, _ = train(model, (x, labels), epochs=3, optimizer=optim.AdamW(0.01, weight_decay=0.1), seed=5)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-10)
    for name, parameter in peer.named_parameters():
        np.testing.assert_allclose(model.parameters()[name], parameter.detach().numpy(), rtol=1e-8, atol=1e-10)


def test_a_schedule_is_told_the_progress():
    rate = ScriptedRate()
    train(epochs=2, optimizer=optim.SGD(rate))
    np.testing.assert_allclose(rate.told, np.arange(6) / 6, rtol=1e-12)


def test_history_has_the_whole_epochs():
    history, _ = train(epochs=3, validation=VALIDATION)
    figures = history.to_dict()
    assert figures.pop("interrupted") is False
    assert {name: len(values) for name, values in figures.items()} == dict.fromkeys(figures, 3)
    assert nn.History(**history.to_dict()) == history
    assert train(epochs=1)[0].val_loss == []


def test_the_images_gradient_is_not_computed(monkeypatch):
    """It would be half of the first layer's way back, and nobody asks for it."""
    asked, backward = [], nn.Conv2d._conv_backward
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Dense(8, 3))

    def noted(*arguments, needs):
        asked.append(needs)
        return backward(*arguments, needs=needs)

    monkeypatch.setattr(nn.Conv2d, "_conv_backward", staticmethod(noted))
    train(model, epochs=1, batch_size=40)
    assert asked == [("x", "weight", "bias"), ("weight", "bias")]


# ---------------------------------------------------------------- the same again


def test_the_seed_decides_everything():
    first, other = train(seed=3)[1], train(seed=4)[1]
    assert_same_parameters(train(seed=3)[1], first)
    assert (first.parameters()["0.weight"] != other.parameters()["0.weight"]).any()


@pytest.mark.parametrize("progress", [False, True])
def test_validation_progress_and_callbacks_change_nothing(progress, capsys):
    plain = train()[1]
    assert_same_parameters(train(validation=VALIDATION, callbacks=[lambda state: None], progress=progress)[1], plain)


@pytest.mark.parametrize(
    "make",
    [make_optimizer, lambda: optim.SGD(0.05, momentum=0.9), lambda: optim.SGD(optim.step_decay(0.1, 0.1, [0.5]))],
    ids=["adam", "momentum", "sgd"],
)
def test_resumed_is_uninterrupted_to_the_bit(tmp_path, make):
    path = tmp_path / "check.safetensors"
    history, whole = train(epochs=5, validation=VALIDATION, optimizer=make())
    stop = nn.Checkpoint(path), lambda state: "stop" if state.epoch == 2 else None
    train(epochs=5, validation=VALIDATION, optimizer=make(), callbacks=stop)
    again, model = train(epochs=5, validation=VALIDATION, optimizer=make(), resume=path)
    assert_same_parameters(model, whole)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert getattr(again, name) == getattr(history, name)
    assert len(again.seconds) == 5


def test_resume_after_the_last_epoch_only_loads(tmp_path):
    path = tmp_path / "check.safetensors"
    history, whole = train(epochs=2, callbacks=[nn.Checkpoint(path)])
    again, model = train(epochs=2, resume=path)
    assert_same_parameters(model, whole)
    assert again == history


def test_checkpoint_every_third_epoch(tmp_path):
    path, seen = tmp_path / "check.safetensors", []
    train(epochs=7, callbacks=[nn.Checkpoint(path, every=3), lambda state: seen.append(path.exists())])
    assert seen == [False, False, True, True, True, True, True]
    assert len(train(epochs=6, resume=path)[0].loss) == 6


# ---------------------------------------------------------------- Ctrl-C


@pytest.fixture
def handler():
    """A SIGINT handler of the caller's; it must be back after training."""
    before = signal.getsignal(signal.SIGINT)

    def own(signum, frame):
        raise AssertionError("the caller's handler ran while fit was to handle Ctrl-C")

    signal.signal(signal.SIGINT, own)
    yield own
    assert signal.getsignal(signal.SIGINT) is own
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_after_an_epoch(handler):
    press = [lambda state: press_ctrl_c() if state.epoch == 2 else None]
    history, model = train(optimizer=optim.SGD(0.1), callbacks=press)
    assert history.interrupted
    assert len(history.loss) == len(history.seconds) == 2
    assert_same_parameters(model, steps_by_hand(2 * STEPS))


def test_ctrl_c_in_the_middle_of_an_epoch(handler):
    """The step that is running is finished, the whole epochs are listed."""
    rate = ScriptedRate(press_ctrl_c, at=[STEPS + 2])
    history, model = train(optimizer=optim.SGD(rate), validation=VALIDATION)
    assert history.interrupted
    assert len(history.loss) == len(history.val_loss) == 1
    assert len(rate.told) == STEPS + 2
    assert_same_parameters(model, steps_by_hand(STEPS + 2))


def steps_by_hand(steps):
    """A model after so many steps of SGD, as fit should make them."""
    from cnnkit import cross_entropy_backward

    model, optimizer = make_model(), optim.SGD(0.1)
    for step in range(steps):
        if step % STEPS == 0:
            generator = np.random.default_rng([0, step // STEPS])
            batches = np.split(generator.permutation(40), [16, 32])
        chosen = batches[step % STEPS]
        logits, pullback = model.forward(DATA[0][chosen], generator)
        _, grads = pullback(cross_entropy_backward(1.0, logits, DATA[1][chosen]))
        optimizer.step(model.parameters(), grads)
    return model


def test_a_second_ctrl_c_ends_at_once(handler):
    rate = ScriptedRate(lambda: (press_ctrl_c(), press_ctrl_c()), at=[2])
    with pytest.raises(KeyboardInterrupt):
        train(optimizer=optim.SGD(rate))
    assert len(rate.told) == 2


def test_an_error_brings_the_handler_back(handler):
    with pytest.raises(ZeroDivisionError):
        train(callbacks=[lambda state: 1 / 0])


def test_after_ctrl_c_a_checkpoint_goes_on(tmp_path, handler):
    path = tmp_path / "check.safetensors"
    whole = train(optimizer=optim.SGD(0.1))[1]
    rate = ScriptedRate(press_ctrl_c, at=[2 * STEPS + 1])
    assert train(optimizer=optim.SGD(rate), callbacks=[nn.Checkpoint(path)])[0].interrupted
    history, model = train(optimizer=optim.SGD(0.1), resume=path)
    assert not history.interrupted
    assert_same_parameters(model, whole)


def test_a_program_that_ignores_ctrl_c_goes_on():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        history, _ = train(epochs=2, callbacks=[press_ctrl_c])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert not history.interrupted
    assert len(history.loss) == 2


def test_other_threads_train_too(handler):
    results = []
    thread = threading.Thread(target=lambda: results.append(train()))
    thread.start()
    thread.join()
    assert_same_parameters(results[0][1], train()[1])


# ---------------------------------------------------------------- callbacks and the progress bar


def test_callbacks_see_where_training_stands():
    states, optimizer = [], make_optimizer()
    model = make_model()
    history, _ = train(model, epochs=2, optimizer=optimizer, callbacks=[lambda state: states.append(state)])
    assert [state.epoch for state in states] == [1, 2]
    assert all(s.model is model and s.optimizer is optimizer and s.history is history for s in states)


def test_a_stop_lets_the_other_callbacks_run():
    seen = []
    history, _ = train(callbacks=[lambda state: "stop", lambda state: seen.append(state.epoch)])
    assert seen == [1]
    assert len(history.loss) == 1
    assert not history.interrupted


@pytest.mark.parametrize(
    ("monitor", "figures", "stops"),
    [
        ("val_loss", [0.5, 0.4, 0.4, 0.41], True),  # a tie is no improvement
        ("val_loss", [0.5, 0.4, 0.41], False),
        ("loss", [0.5, 0.6, 0.49], False),
        ("val_accuracy", [0.5, 0.4, 0.4], True),
        ("accuracy", [0.5, 0.6, 0.7], False),
        ("loss", [float("nan"), 0.5, 0.4], False),
        ("loss", [0.5, float("nan"), float("nan")], True),
    ],
)
def test_early_stopping(monitor, figures, stops):
    history = nn.History(**{monitor: figures})
    answer = nn.EarlyStopping(2, monitor)(nn.TrainingState(len(figures), None, None, history))
    assert answer == ("stop" if stops else None)


def test_early_stopping_in_training():
    history, _ = train(epochs=50, optimizer=optim.SGD(lr=0.0), validation=VALIDATION, callbacks=[nn.EarlyStopping(3)])
    assert len(history.loss) == 4  # the first is the best, three are no better


def test_the_progress_bar(capsys):
    train(epochs=2, progress=True)
    shown = capsys.readouterr().err
    assert f"{2 * STEPS}/{2 * STEPS}" in shown
    assert "epoch=2" in shown
    assert "loss=" in shown
    assert "accuracy=" in shown


def test_no_progress_bar(capsys):
    train(epochs=1, progress=False)
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------- evaluate, predict, plot


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_evaluate_by_hand(batch_size):
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [0.5, 0.25, 0.25]]))
    loss, accuracy = nn.evaluate(nn.Flatten(), (logits, np.array([0, 1, 0, 0])), batch_size)
    assert loss == pytest.approx((3 * np.log(2) + np.log(4)) / 4, rel=1e-12)
    assert accuracy == 0.75


@pytest.mark.parametrize("batch_size", [1, 7, 40, 100])
def test_predict_in_batches(batch_size):
    model = make_model()
    np.testing.assert_allclose(nn.predict(model, X, batch_size), model(X), rtol=1e-5, atol=1e-6)


def test_predict_of_nothing():
    assert nn.predict(make_model(), X[:0]).shape == (0, 3)


def test_plot():
    pytest.importorskip("matplotlib", reason="the plot is matplotlib's").use("agg")
    import matplotlib.pyplot as plt

    history = nn.History([0.9, 0.5], [0.6, 0.8], [1.0, 0.7], [0.5, 0.75], [1.0, 1.0])
    ax = history.plot()
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.9, 0.5], [1.0, 0.7]]
    assert list(ax.lines[0].get_xdata()) == [1, 2]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "val_loss", "accuracy", "val_accuracy"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    own = plt.figure().add_subplot()
    assert nn.History([0.9], [0.5]).plot(own) is own
    plt.close("all")


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'needs matplotlib: pip install "cnnkit\[plot\]"'):
        nn.History().plot()


def test_importing_is_light():
    program = "import sys, cnnkit.nn, cnnkit.optim; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numba", "cupy", "scipy", "matplotlib", "tqdm", "safetensors"} & set(loaded)


# ---------------------------------------------------------------- what is refused, before anything changes


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"data": (X, LABELS[:-1])}, ValueError, r"x of data has shape \(50, 1, 6, 6\), but 49 labels need \(49,"),
        ({"data": (X[:0], LABELS[:0])}, ValueError, "data has no examples, but at least 1 is needed"),
        ({"data": (X, LABELS + 0.0)}, TypeError, "labels of data are float64, but integers are needed"),
        ({"data": (X, np.eye(3, dtype=int)[LABELS])}, ValueError, r"labels of data have shape \(50, 3\), but \(N,\)"),
        ({"data": (X, LABELS + 1)}, ValueError, "data go from 1 to 3, but the model's outputs stand for 0 to 2"),
        ({"data": (X, LABELS - 1)}, ValueError, "data go from -1 to 1, but the model's outputs stand for 0 to 2"),
        ({"data": (X, list(LABELS))}, TypeError, "labels of data is a list, but a numpy or cupy array is needed"),
        ({"data": X}, TypeError, r"data is a ndarray, but a pair \(x, labels\) is needed"),
        ({"data": (X.astype("float64"), LABELS)}, TypeError, "float64"),
        ({"data": (X[:, :, :4], LABELS)}, ValueError, "features"),
        ({"validation": (X, LABELS[:3])}, ValueError, "x of validation has shape"),
        ({"validation": (X[:0], LABELS[:0])}, ValueError, "validation has no examples"),
        ({"validation": (X, LABELS + 1)}, ValueError, "labels of validation go from 1 to 3"),
        ({"model": make_model()[:1]}, ValueError, r"the model makes \(1, 4, 4, 4\) of one example of data, but logits"),
        ({"model": "CNN"}, TypeError, r"model is 'CNN', but a layer is needed, such as nn\.Sequential"),
        ({"epochs": 0}, ValueError, "epochs is 0, but must be at least 1"),
        ({"epochs": 1.5}, TypeError, r"epochs is 1\.5, but an int is needed"),
        ({"batch_size": 0}, ValueError, "batch_size is 0, but must be at least 1"),
        ({"seed": -1}, ValueError, "seed is -1, but must be at least 0"),
        ({"seed": None}, TypeError, "seed is None, but an int is needed"),
        ({"optimizer": "adam"}, TypeError, r"optimizer is 'adam', but one of cnnkit\.optim is needed"),
        ({"optimizer": optim.Adam}, TypeError, r"optimizer is .*, but one of cnnkit\.optim is needed"),
        ({"callbacks": ["stop"]}, TypeError, r"callbacks is \['stop'\], but an iterable of callables is needed"),
        ({"callbacks": nn.EarlyStopping(3)}, TypeError, "but an iterable of callables is needed"),
        ({"resume": "nowhere.safetensors"}, FileNotFoundError, "nowhere"),
    ],
)
def test_refused_arguments_change_nothing(change, error, sentence):
    model, optimizer = change.get("model", make_model()), change.get("optimizer", make_optimizer())
    before = copy.deepcopy(model)
    with pytest.raises(error, match=sentence):
        train(**({"model": model, "optimizer": optimizer} | change))
    if isinstance(model, nn.Layer):
        assert_same_parameters(model, before)
    if isinstance(optimizer, optim.Optimizer):
        assert optimizer.state_dict() == {}


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: nn.evaluate(make_model(), DATA, 0), ValueError, "batch_size is 0, but must be at least 1"),
        (lambda: nn.evaluate(make_model(), (X, LABELS[1:])), ValueError, "49 labels need"),
        (lambda: nn.predict(make_model(), X, -1), ValueError, "batch_size is -1, but must be at least 1"),
        (lambda: nn.EarlyStopping(0), ValueError, "patience is 0, but must be at least 1"),
        (lambda: nn.EarlyStopping(1, "time"), ValueError, "monitor is 'time', but the figures are 'loss', 'accuracy'"),
        (lambda: nn.Checkpoint("a", every=0), ValueError, "every is 0, but must be at least 1"),
        (lambda: nn.Checkpoint(3), TypeError, "str, bytes or os.PathLike"),
        (lambda: train(callbacks=[nn.EarlyStopping(1)]), ValueError, "val_loss, but fit was given no validation data"),
    ],
)
def test_other_refusals(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "check.safetensors"
    train(epochs=1, callbacks=[nn.Checkpoint(path)])
    return path


def rewrite(path, change):
    """Change what a checkpoint says, checksum included."""
    from cnnkit.files import read_tensors, write_tensors

    tensors, metadata = read_tensors(path, "a cnnkit checkpoint")
    change(tensors, metadata)
    write_tensors(path, metadata.pop("cnnkit.kind"), tensors, metadata)


@pytest.mark.parametrize(
    ("change", "settings", "sentence"),
    [
        (None, {"model": make_model(dropout=0.5)}, r"does not fit: its model is .* but fit was given"),
        (None, {"optimizer": optim.AdamW()}, "does not fit: its optimizer is Adam, but fit was given AdamW"),
        (lambda t, m: m.update(history="[]"), {}, r"its history is \[\], but lists of loss, accuracy"),
        (lambda t, m: m.update(history=m["history"].replace("seconds", "minutes")), {}, "minutes"),
        (lambda t, m: t.update({"model.5.bias": np.zeros(4, "f4")}), {}, r"'5\.bias' has shape \(4,\) in state"),
        (lambda t, m: t.update({"optimizer.5.bias.velocity": np.zeros(3, "f4")}), {}, "but this Adam keeps steps"),
        (lambda t, m: t.pop("optimizer.5.bias.mean"), {}, r"state lacks mean of '5\.bias', but Adam needs them"),
    ],
)
def test_checkpoints_that_do_not_fit_change_nothing(checkpoint, change, settings, sentence):
    if change:
        rewrite(checkpoint, change)
    model = settings.get("model", make_model())
    optimizer = settings.get("optimizer", make_optimizer())
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"check\.safetensors .*" + sentence):
        train(model, optimizer=optimizer, resume=checkpoint)
    assert_same_parameters(model, before)
    assert optimizer.state_dict() == {}


def test_models_and_checkpoints_are_told_apart(checkpoint):
    with pytest.raises(ValueError, match="holds a cnnkit checkpoint, but a cnnkit model is needed"):
        nn.load(checkpoint)
    make_model().save(checkpoint)
    with pytest.raises(ValueError, match="holds a cnnkit model, but a cnnkit checkpoint is needed"):
        train(resume=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"check\.safetensors is damaged"):
        train(resume=checkpoint)
