"""`options` and `use_backend` hold in their block: nested, after errors, in threads, tasks and generators."""

import asyncio
import contextvars
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

import cnnkit
from cnnkit import dispatch, settings

USUAL = settings.Settings()


def now():
    """What holds here: the backend, the algorithm and the workspace."""
    return dispatch.current_backend(), *settings.current()[:2]


def chosen(**options):
    """Both kinds of choice at once."""
    with ExitStack() as stack:
        stack.enter_context(cnnkit.use_backend("numpy"))
        stack.enter_context(cnnkit.options(**options))
        return stack.pop_all()


@pytest.fixture(autouse=True)
def outside():
    """Whatever a test does, nothing stays chosen."""
    before = now()
    assert settings.current() == USUAL
    assert before[1:] == USUAL[:2]
    yield before
    assert now() == before


def test_what_is_not_given_stays():
    with cnnkit.options(max_workspace=5):
        with cnnkit.options(algorithm="direct"):
            assert settings.current()[:2] == ("direct", 5)
            with cnnkit.options(max_workspace=0):
                assert settings.current()[:2] == ("direct", 0)
            with cnnkit.options(algorithm="auto"):
                assert settings.current()[:2] == ("auto", 5)
            with cnnkit.options():
                assert settings.current()[:2] == ("direct", 5)
            assert settings.current()[:2] == ("direct", 5)
        assert settings.current()[:2] == ("auto", 5)


def test_tf32_stays_too():
    with cnnkit.options(tf32=True), cnnkit.options(algorithm="direct"):
        assert settings.current().tf32
        with cnnkit.options(tf32=False):
            assert not settings.current().tf32
        assert settings.current().tf32


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_error_ends_the_choice(error):
    with pytest.raises(error), chosen(algorithm="direct"):
        raise error


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"algorithm": "fft"}, ValueError, "algorithm is 'fft', but the algorithms are 'auto', 'direct', 'winograd'"),
        ({"algorithm": 3}, ValueError, "algorithm is 3, but the algorithms are 'auto', 'direct', 'winograd'"),
        ({"max_workspace": -1}, ValueError, "max_workspace is -1, but must be at least 0"),
        ({"max_workspace": 1.5}, TypeError, "max_workspace is 1.5, but an int is needed"),
        ({"max_workspace": True}, TypeError, "max_workspace is True, but an int is needed"),
        ({"tf32": 1}, TypeError, "tf32 is 1, but True or False is needed"),
    ],
)
def test_a_mistake_changes_nothing(options, error, sentence):
    with cnnkit.options(algorithm="direct", max_workspace=7):
        with pytest.raises(error, match=f"^{sentence}$"), cnnkit.options(**options):
            pytest.fail("the block ran")
        assert settings.current()[:2] == ("direct", 7)


def test_a_choice_decorates_a_function(outside):
    @cnnkit.options(algorithm="direct")
    @cnnkit.use_backend("numpy")
    def work(depth):
        return (now(), *work(depth - 1)) if depth else ()

    assert work(2) == (("numpy", "direct", USUAL.max_workspace),) * 2


# --- threads -------------------------------------------------------------------------------------


def test_a_thread_begins_with_the_usual(outside):
    """Each thread has a context of its own, also one of a pool that is started inside the block."""
    if getattr(sys.flags, "thread_inherit_context", False):
        pytest.skip("this Python lets threads inherit the context")
    with chosen(algorithm="direct"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(now).result() == outside


def test_a_context_goes_along_to_a_thread(outside):
    with ThreadPoolExecutor(1) as pool:
        with chosen(algorithm="direct", max_workspace=1):
            inside = pool.submit(contextvars.copy_context().run, now)
        assert inside.result() == ("numpy", "direct", 1)
        if not getattr(sys.flags, "thread_inherit_context", False):
            assert pool.submit(now).result() == outside  # the worker itself has not changed


def test_a_choice_in_a_thread_stays_there(outside):
    def work():
        with chosen(algorithm="direct"):
            return now()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result()[:2] == ("numpy", "direct")
        assert now() == outside
        assert pool.submit(now).result() == outside


def test_the_threads_of_a_kernel_need_no_choice_of_their_own(threads):
    """What was chosen is read before work is split."""
    if not cnnkit.backends()["numba"][0]:
        pytest.skip(cnnkit.backends()["numba"][1])
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in ((2, 64, 56, 56), (64, 64, 3, 3)))
    results = {}
    for count in (1, 3):
        threads(count)
        for algorithm in ("direct", "winograd"):
            with cnnkit.options(algorithm=algorithm):
                results[algorithm, count] = cnnkit.conv2d(x, weight)
    for algorithm in ("direct", "winograd"):
        np.testing.assert_array_equal(results[algorithm, 1], results[algorithm, 3])
    assert (results["direct", 1] != results["winograd", 1]).any()


# --- asyncio -------------------------------------------------------------------------------------


def test_tasks_do_not_disturb_each_other(outside):
    async def work(algorithm, barrier):
        with cnnkit.options(algorithm=algorithm):
            await barrier.wait()  # all are in their blocks
            found = settings.current().algorithm
            await barrier.wait()
            return found

    async def run():
        barrier, names = asyncio.Barrier(3), ["direct", "winograd", "auto"]
        found = await asyncio.gather(*(work(name, barrier) for name in names))
        assert found == names
        assert now() == outside

    asyncio.run(run())


def test_a_task_begins_with_what_holds_where_it_is_made(outside):
    async def look():
        return now()

    async def run():
        with chosen(algorithm="direct", max_workspace=1):
            task = asyncio.create_task(look())
            thread = asyncio.to_thread(now)
            assert await thread == ("numpy", "direct", 1)  # asyncio takes the context along
        assert await task == ("numpy", "direct", 1)
        assert now() == outside

    asyncio.run(run())


# --- generators ----------------------------------------------------------------------------------


def test_a_generator_has_no_context_of_its_own(outside):
    """What it chose around a yield holds for its caller too, until it goes on: the documents say so."""

    def careless():
        with cnnkit.options(algorithm="direct"):
            yield now()

    def careful():
        with cnnkit.options(algorithm="direct"):
            found = now()
        yield found

    for work in (careless, careful):
        steps = work()
        assert next(steps)[1] == "direct"
        assert now()[1] == ("direct" if work is careless else "auto")
        steps.close()
        assert now() == outside
