"""Backends, threads and processes: who runs a call, and that the answer does not depend on it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import CONV, Conv, normal, over
from closeness import assert_same
from conftest import CPU_BACKENDS, GPU_BACKENDS

import cnnkit
from cnnkit import dispatch

NAMES = ("numba", "numpy", "cuda", "cupy")


# --- choosing and asking -------------------------------------------------------------------------


def test_each_backend_says_whether_it_runs_here_or_why_not():
    rows = cnnkit.backends()
    assert tuple(rows) == NAMES
    assert rows["numpy"] == (True, "")
    for available, why_not in rows.values():
        assert isinstance(available, bool)
        assert bool(why_not) is not available


def test_the_public_name_is_the_function_before_and_after_a_backend_ran():
    code = (
        "import cnnkit, numpy; before = cnnkit.backends();"
        "cnnkit.relu(numpy.ones(3)); print(before == cnnkit.backends())"
    )
    assert run_python(code) == "True"


@pytest.mark.parametrize("name", NAMES)
def test_the_tests_run_on_this_backend(name):
    available, why_not = cnnkit.backends()[name]
    if not available:
        pytest.skip(f"nothing is tested on {name!r}: {why_not}")
    assert name in CPU_BACKENDS + GPU_BACKENDS


def test_numba_comes_first_where_it_runs():
    first = next(name for name in ("numba", "numpy") if cnnkit.backends()[name][0])
    assert dispatch.current_backend() == first


def test_a_choice_ends_with_its_block():
    usual = dispatch.current_backend()
    with cnnkit.use_backend("numpy"):
        assert dispatch.current_backend() == "numpy"
        with cnnkit.use_backend(usual):
            assert dispatch.current_backend() == usual
        assert dispatch.current_backend() == "numpy"
    with pytest.raises(ZeroDivisionError), cnnkit.use_backend("numpy"):
        raise ZeroDivisionError
    assert dispatch.current_backend() == usual


def test_a_choice_holds_in_its_own_thread_alone():
    usual = dispatch.current_backend()
    with cnnkit.use_backend("numpy"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(dispatch.current_backend).result() == usual


@pytest.fixture
def numba_without_activations(monkeypatch):
    """The numba backend as if nobody had written its activations yet."""
    room = pytest.importorskip(dispatch.BACKENDS["numba"].module, reason="there is no second CPU backend")
    monkeypatch.delattr(room, "activate")
    dispatch._find.cache_clear()
    yield
    dispatch._find.cache_clear()


def test_a_missing_function_is_run_by_the_next_backend(numba_without_activations):
    np.testing.assert_array_equal(cnnkit.relu(np.array([-1.0, 2.0])), [0, 2])


def test_a_chosen_backend_has_no_fallback(numba_without_activations):
    sentence = "^activate is not made for the backend 'numba', but for: numpy$"
    with cnnkit.use_backend("numba"), pytest.raises(NotImplementedError, match=sentence):
        cnnkit.relu(np.array([-1.0, 2.0]))


def test_a_backend_that_fails_is_no_missing_one(monkeypatch):
    room = pytest.importorskip(dispatch.BACKENDS["numba"].module, reason="there is no second CPU backend")
    monkeypatch.setattr(room, "activate", lambda activation, x, out: 1 / 0)
    dispatch._find.cache_clear()
    with pytest.raises(ZeroDivisionError):
        cnnkit.relu(np.array([-1.0, 2.0]))
    with cnnkit.use_backend("numpy"):  # the others are not asked
        np.testing.assert_array_equal(cnnkit.relu(np.array([-1.0, 2.0])), [0, 2])
    dispatch._find.cache_clear()


def run_python(code, **environment):
    """What a fresh interpreter prints; of an error, its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return (done.stdout or done.stderr).strip().splitlines()[-1]


SHOW = "from cnnkit import dispatch; print(dispatch.current_backend())"


def test_the_environment_chooses_for_a_whole_process():
    assert run_python(SHOW, CNNKIT_BACKEND="numpy") == "numpy"
    assert run_python(SHOW, CNNKIT_BACKEND="") == dispatch.current_backend()


def test_a_mistake_in_the_environment_is_named():
    code = "import cnnkit, numpy; cnnkit.relu(numpy.ones(3))"
    assert run_python(code, CNNKIT_BACKEND="nunba") == (
        "ValueError: CNNKIT_BACKEND is 'nunba', but the backends are 'numba', 'numpy', 'cuda', 'cupy'"
    )


# --- threads -------------------------------------------------------------------------------------

LAYERS = [
    CONV[name] for name in ("3x3", "17 channels", "stem", "1x1, 100 to 70", "depthwise", "2 wide groups", "1d", "3d")
]
LAYERS += [  # enough work for many threads
    Conv((3, 20, 31, 29), (24, 20, 3, 3), 1, 1),
    Conv((3, 20, 31, 29), (26, 10, 3, 3), 1, 1, 1, 2),
    Conv((1, 12, 61, 59), (12, 3, 3, 3), 2, 1, 1, 4),
    Conv((3, 64, 31, 29), (64, 1, 3, 3), 1, 1, 1, 64),
]
X = normal((3, 20, 61, 59), "float32", 7)
DENSE = [normal(shape, "float32", 8) for shape in ((170, 90), (50, 90), (170, 50))]


def conv_results(case):
    x, weight = normal(case.x, "float32", 1), normal(case.weight, "float32", 2)
    y = getattr(cnnkit, f"conv{case.count}d")(x, weight, None, *case.params)
    backward = getattr(cnnkit, f"conv{case.count}d_backward")
    return [y, *backward(y, x, weight, *case.params)]


def pool_results():
    y, indices = cnnkit.max_pool2d(X, 3, 2, 1, return_indices=True)
    mean = cnnkit.avg_pool2d(X, 3, 2, 1)
    return [
        *(y, indices, mean),
        cnnkit.max_pool2d_backward(y, indices, X.shape),
        cnnkit.avg_pool2d_backward(mean, X.shape, 3, 2, 1),
    ]


def other_results():
    x, weight, grad = DENSE
    labels = np.arange(170) % 90
    return [
        cnnkit.dense(x, weight),
        *cnnkit.dense_backward(grad, x, weight),
        cnnkit.relu(X),
        cnnkit.relu_backward(X, X),
        cnnkit.gelu(X),
        cnnkit.gelu_backward(X, X),
        cnnkit.conv2d(X, np.ones((4, X.shape[1], 3, 3), X.dtype), activation="silu"),
        cnnkit.dropout_backward(X, X > 0, 0.5),
        cnnkit.mse_loss(X, X[::-1]),
        cnnkit.softmax(X, 1),
        cnnkit.log_softmax_backward(X, X, 1),
        cnnkit.cross_entropy(x, labels),
        cnnkit.cross_entropy_backward(1.0, x, labels),
    ]


def everything():
    """The results of every function, on layers that differ in kind and in size."""
    results = [r for case in LAYERS for r in conv_results(case)]
    return results + pool_results() + other_results()


def assert_all_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert_same(a, b)


def test_results_do_not_depend_on_the_number_of_threads(backend, threads):
    threads(1)
    expected = everything()
    for count in (2, 3, 7):
        threads(count)
        assert cnnkit.get_num_threads() == count
        assert_all_same(everything(), expected)


@over(CONV)
def test_work_may_be_split_anywhere(case, threads, monkeypatch):
    """Also where it is too little to be worth it: with so many threads, cuts fall between any two tiles."""
    monkeypatch.setattr("cnnkit.rooms.threads.GRAIN", 1e-3)
    with cnnkit.use_backend("numba"):
        threads(1)
        expected = conv_results(case)
        for count in (2, 3, 4, 5, 7):
            threads(count)
            assert_all_same(conv_results(case), expected)


def test_results_do_not_depend_on_the_run(backend):
    expected = everything()
    for _ in range(3):
        assert_all_same(everything(), expected)


def test_results_do_not_depend_on_what_memory_held_before(backend):
    """Scratch memory that was not cleared would show."""
    expected = everything()
    for rubbish in (np.nan, 1e30):
        junk = [np.full(10**k, rubbish, np.float32) for k in range(2, 7)]
        del junk
        assert_all_same(everything(), expected)


@pytest.mark.parametrize("count", [0, -2, 2.5, "2", None, True])
def test_a_number_of_threads_is_a_positive_int(count, threads):
    with pytest.raises((TypeError, ValueError), match=r"is .*, but (must be|an int)"):
        threads(count)
    assert cnnkit.get_num_threads() >= 1


def test_many_threads_may_call_at_once(backend):
    expected = everything()
    start = threading.Barrier(6)

    def work(_):
        start.wait()  # all at the same time
        with cnnkit.use_backend(backend):
            return everything()

    with ThreadPoolExecutor(6) as pool:
        for results in pool.map(work, range(6)):
            assert_all_same(results, expected)


def test_threads_may_be_counted_anew_while_others_compute(backend, threads):
    expected = everything()
    done = threading.Event()

    def recount():
        count = 1
        while not done.is_set():
            count = count % 4 + 1
            threads(count)

    counter = threading.Thread(target=recount)
    counter.start()
    try:
        for _ in range(3):
            assert_all_same(everything(), expected)
    finally:
        done.set()
        counter.join()


# --- processes -----------------------------------------------------------------------------------


def in_a_fork(work):
    """The exit code of a forked child that does `work`; it is killed if it hangs."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of threads and fork
        child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that waits for threads it does not have
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_computes_the_same(backend, threads):
    if backend in ("cuda", "cupy"):
        pytest.skip("CUDA itself does not survive a fork")
    threads(2)
    expected = everything()  # the parent's threads are running now; the child has none of them
    assert in_a_fork(lambda: assert_all_same(everything(), expected)) == 0
    assert_all_same(everything(), expected)  # and the parent goes on


def test_a_child_forked_while_threads_compute_computes_the_same(backend, threads):
    if backend != "numba":
        pytest.skip("what NumPy calls for a matrix product (OpenBLAS) can itself hang in such a child")
    threads(2)
    expected = everything()
    stop = threading.Event()

    def work():
        with cnnkit.use_backend(backend):
            while not stop.is_set():
                everything()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        codes = [in_a_fork(lambda: assert_all_same(everything(), expected)) for _ in range(3)]
    finally:
        stop.set()
        worker.join()
    assert codes == [0, 0, 0]


def _sent_back(queue, name):
    with cnnkit.use_backend(name):
        queue.put(conv_results(CONV["3x3"]))


def test_a_spawned_process_computes_the_same(backend):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_sent_back, args=(queue, backend))
    process.start()
    results = queue.get(timeout=100)
    process.join(timeout=100)
    assert process.exitcode == 0
    assert_all_same(results, conv_results(CONV["3x3"]))
