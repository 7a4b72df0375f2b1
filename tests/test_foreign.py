"""Arrays of other libraries: computed with where they lie, and answered in kind."""

import functools
import inspect
import subprocess
import sys

import numpy as np
import pytest
import test_arrays
from closeness import assert_same
from test_arrays import EVERY, INDICES, KEPT, LABELS, as_list, whole

import cnnkit
from cnnkit import dispatch


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="its tensors are the commonest foreign arrays")


@pytest.fixture
def seen(monkeypatch):
    """Where the arrays lie that rooms are given, under their names in the contract."""
    find, addresses = dispatch._find, {}

    def noting(*args):
        @functools.wraps(find(*args))
        def room(*arrays):
            names = inspect.signature(find(*args)).parameters
            addresses.update({n: a.ctypes.data for n, a in zip(names, arrays, strict=True) if hasattr(a, "ctypes")})
            find(*args)(*arrays)

        return room

    monkeypatch.setattr(dispatch, "_find", noting)
    return addresses


def tensors(torch, shapes, kind="float32"):
    """Small integers, as arrays of NumPy and as tensors of memory of their own."""
    numbers = [whole(shape, "float32", seed) for seed, shape in enumerate(shapes)]
    return numbers, [torch.tensor(n, dtype=getattr(torch, kind)) for n in numbers]


@pytest.fixture
def told(monkeypatch):
    """A call of `test_arrays` with its indices and labels as another library's too."""

    def tell(call, make, given):
        with monkeypatch.context() as patch:
            patch.setattr(test_arrays, "INDICES", make(INDICES))
            patch.setattr(test_arrays, "LABELS", make(LABELS))
            patch.setattr(test_arrays, "KEPT", make(KEPT))
            return call(*given)

    return tell


# --- torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("name", EVERY)
def test_every_function_answers_tensors_with_tensors(name, kind, torch, told, backend):
    shapes, call, _ = EVERY[name]
    numbers, given = tensors(torch, shapes, kind)
    results = told(call, torch.tensor, given)
    expected = call(*(n.astype(kind) for n in numbers))
    assert type(results) is type(expected) or not isinstance(expected, tuple)
    for got, want in zip(as_list(results), as_list(expected), strict=True):
        assert type(got) is torch.Tensor
        assert_same(got.numpy(), want)


@pytest.mark.parametrize("name", EVERY)
def test_every_function_takes_tensors_of_halves(name, torch, told):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 is a dtype of ml_dtypes")
    shapes, call, _ = EVERY[name]
    for kind in ("float16", "bfloat16"):
        numbers, given = tensors(torch, shapes, kind)
        expected = call(*(n.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind) for n in numbers))
        results = told(call, torch.tensor, given)
        for got, want in zip(as_list(results), as_list(expected), strict=True):
            assert got.dtype == (torch.int64 if want.dtype == np.int64 else getattr(torch, kind))
            np.testing.assert_array_equal(got.to(torch.float64).numpy(), want.astype(np.float64))


def test_rooms_work_in_the_tensors_own_memory(torch, seen):
    _, (x, weight, bias) = tensors(torch, [(2, 3, 6, 5), (4, 3, 3, 3), (4,)])
    y = cnnkit.conv2d(x, weight, bias)
    assert seen == {"x": x.data_ptr(), "weight": weight.data_ptr(), "bias": bias.data_ptr(), "out": y.data_ptr()}
    grads = cnnkit.conv2d_backward(y, x, weight)
    assert seen["grad_output"] == y.data_ptr()
    assert [seen[f"grad_{name}"] for name in grads._fields] == [grad.data_ptr() for grad in grads]
    pooled, indices = cnnkit.max_pool2d(x, 2, return_indices=True)
    assert (seen["out"], seen["indices"]) == (pooled.data_ptr(), indices.data_ptr())
    cnnkit.max_pool2d_backward(pooled, indices, x.shape)
    assert (seen["grad_output"], seen["indices"]) == (pooled.data_ptr(), indices.data_ptr())
    labels = torch.zeros(2, 6, 5, dtype=torch.uint8)
    losses = cnnkit.cross_entropy(x, labels, reduction="none")
    assert (seen["labels"], seen["out"]) == (labels.data_ptr(), losses.data_ptr())


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_tensors_of_halves_are_not_copied_on_the_way(kind, torch, monkeypatch):
    """Rooms get float32 copies; what these are made of, and what results are rounded into, is the tensors' memory."""
    pytest.importorskip("ml_dtypes", reason="bfloat16 is a dtype of ml_dtypes")
    addresses = []

    def noting(op, array):
        def room(*arrays):
            addresses.extend(array.ctypes.data for array in arrays if hasattr(array, "ctypes"))
            found(op, array)(*arrays)

        return room

    found = dispatch.implementation
    monkeypatch.setattr(dispatch, "implementation", noting)
    _, (grad, x) = tensors(torch, [(2, 3), (2, 3)], kind)
    y = cnnkit.relu_backward(grad, x)
    assert addresses == [grad.data_ptr(), x.data_ptr(), y.data_ptr()]


def test_out_is_the_tensor_that_was_given(torch, seen):
    _, (x, weight) = tensors(torch, [(2, 3, 6, 5), (4, 3, 3, 3)])
    out = torch.empty(2, 4, 4, 3)
    assert cnnkit.conv2d(x, weight, out=out) is out
    assert seen["out"] == out.data_ptr()
    assert torch.equal(out, cnnkit.conv2d(x, weight))
    out = torch.empty(3, 5).T
    assert cnnkit.dense(torch.ones(5, 2), torch.ones(3, 2), out=out) is out
    assert (out == 2).all()
    with pytest.raises(ValueError, match=r"^out shares memory with an input"):
        cnnkit.dense(torch.ones(3, 3), weight=out[:3], out=out[:3])


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_channels_last_tensors_stay_so(kind, torch, seen):
    if kind == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 is a dtype of ml_dtypes")
    _, (x, weight) = tensors(torch, [(2, 4, 6, 6), (5, 4, 3, 3)], kind)
    x = x.to(memory_format=torch.channels_last)
    y = cnnkit.conv2d(x, weight)
    for result in (y, cnnkit.conv2d_backward(y, x, weight).x, cnnkit.max_pool2d(x, 2), cnnkit.relu(x)):
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert not result.is_contiguous()


def test_tensors_may_lie_anyhow(torch, backend):
    x = torch.arange(-12.0, 12.0).reshape(2, 3, 4)
    forms = [
        x.transpose(1, 2),
        x[:, ::2],
        x.expand(4, 2, 3, 4),
        x[..., 1],
        x[:0],
        x[1, 1, 1],
        torch.complex(x, -x).conj().imag,
    ]
    for form in forms:
        assert torch.equal(cnnkit.relu(form), torch.relu(form)), form
    assert torch.equal(cnnkit.relu(torch._neg_view(x)), torch.relu(-x))


def test_a_subclass_and_a_parameter_without_grad_are_tensors(torch):
    class Tagged(torch.Tensor):
        pass

    assert torch.equal(cnnkit.relu(torch.tensor([-1.0, 2.0]).as_subclass(Tagged)), torch.tensor([0.0, 2.0]))
    frozen = torch.nn.Parameter(torch.eye(2), requires_grad=False)
    assert torch.equal(cnnkit.dense(torch.eye(2), frozen), torch.eye(2))


def test_arguments_may_have_names_and_places(torch):
    x, weight = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    assert torch.equal(cnnkit.conv2d(weight=weight, x=x, stride=2), cnnkit.conv2d(x, weight, None, 2))
    assert cnnkit.conv2d_backward(torch.ones(1, 1, 3, 3), x, weight, needs=("bias",)).weight is None
    assert float(cnnkit.cross_entropy_backward(2.0, torch.zeros(1, 2), torch.tensor([0]))[0, 1]) == 1
    loss = cnnkit.cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
    assert loss.shape == ()
    assert torch.equal(
        cnnkit.cross_entropy_backward(loss, torch.zeros(1, 2), torch.tensor([0])) > 0, torch.tensor([[False, True]])
    )


# --- JAX -----------------------------------------------------------------------------------------


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax", reason="its arrays are foreign too")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", EVERY)
def test_every_function_answers_jax_with_jax(name, kind, jax, told):
    shapes, call, _ = EVERY[name]
    given = [jax.numpy.asarray(whole(shape, "float32", seed), kind) for seed, shape in enumerate(shapes)]
    expected = call(*map(np.array, given))
    results = told(call, jax.numpy.asarray, given)
    for got, want in zip(as_list(results), as_list(expected), strict=True):
        assert isinstance(got, jax.Array)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(np.asarray(got), want)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_what_jax_holds_is_not_copied(kind, jax, monkeypatch):
    def noting(op, array):
        addresses.append(array.ctypes.data)
        return found(op, array)

    addresses, found = [], dispatch.implementation
    monkeypatch.setattr(dispatch, "implementation", noting)
    x = jax.numpy.arange(-3, 3, dtype=kind)
    assert cnnkit.relu(x).tolist() == [0, 0, 0, 0, 1, 2]
    assert addresses == [x.unsafe_buffer_pointer()]


def test_what_jax_only_traces_is_refused(jax):
    with pytest.raises(TypeError, match=r"^x is a jax.*Tracer.* that DLPack cannot hand over: "):
        jax.jit(cnnkit.relu)(jax.numpy.ones(3))
    with pytest.raises(ValueError, match=r"^out is read-only"):
        cnnkit.dense(jax.numpy.ones((2, 2)), jax.numpy.ones((2, 2)), out=jax.numpy.ones((2, 2)))


# --- mistakes ------------------------------------------------------------------------------------


def refused(error, sentence, call):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_libraries_are_not_mixed(torch):
    x, weight = np.ones((1, 1, 3, 3), "float32"), torch.ones(1, 1, 3, 3)
    mixed = "is a {} array, but {} is a {} array: one library a call"
    refused(TypeError, "weight " + mixed.format("torch", "x", "numpy"), lambda: cnnkit.conv2d(x, weight))
    refused(TypeError, "weight " + mixed.format("numpy", "x", "torch"), lambda: cnnkit.conv2d(weight, x))
    refused(TypeError, "out " + mixed.format("numpy", "x", "torch"), lambda: cnnkit.conv2d(weight, weight, out=x))
    refused(TypeError, "out " + mixed.format("torch", "x", "numpy"), lambda: cnnkit.conv2d(x, x, out=weight))
    labels = np.zeros(2, int)
    sentence = "labels " + mixed.format("numpy", "logits", "torch")
    refused(TypeError, sentence, lambda: cnnkit.cross_entropy(torch.ones(2, 2), labels))
    sentence = "weight " + mixed.format("numpy", "x", "torch")
    refused(TypeError, sentence, lambda: cnnkit.nn.Conv2d(1, 1, 3)(weight))


def test_a_tensor_that_requires_grad_is_told_what_to_do(torch):
    x, weight = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3, requires_grad=True)
    end = "give weight.detach(), or call cnnkit.interop.torch.conv2d"
    sentence = f"weight is a torch.Tensor that requires grad, but no graph is kept here: {end}"
    refused(TypeError, sentence, lambda: cnnkit.conv2d(x, weight))
    refused(TypeError, sentence, lambda: cnnkit.conv2d_backward(x[..., 1:, 1:], x, weight))


def test_tensors_that_cannot_be_read_are_refused(torch):
    what = "x is a torch.Tensor of torch.float32 that DLPack cannot hand over: "
    refused(TypeError, what, lambda: cnnkit.relu(torch.ones(2, device="meta")))
    refused(TypeError, what, lambda: cnnkit.relu(torch.ones(2).to_sparse()))
    needed = "but float16, bfloat16, float32 or float64 is needed"
    refused(TypeError, f"x is int32, {needed}", lambda: cnnkit.relu(torch.ones(2, dtype=torch.int32)))
    what = "x is a torch.Tensor of torch.float8_e5m2 that DLPack cannot hand over: "
    refused(TypeError, what, lambda: cnnkit.relu(torch.ones(2).to(torch.float8_e5m2)))
    refused(
        TypeError,
        "weight is float64, but x is float32: one dtype",
        lambda: cnnkit.dense(torch.eye(2), torch.eye(2).double()),
    )


class Elsewhere:
    """An array of a library with DLPack, in the memory of some device."""

    dtype, device = np.dtype("float32"), "metal:0"

    def __init__(self, place):
        self.place = place

    def __array_namespace__(self):
        return np

    def __dlpack_device__(self):
        return self.place, 0

    def __dlpack__(self):
        raise BufferError


def test_memory_elsewhere_is_refused():
    kind = "x is a test_foreign.Elsewhere"
    refused(
        TypeError, f"{kind} on metal:0, but memory of the CPU or of CUDA is needed", lambda: cnnkit.relu(Elsewhere(8))
    )
    if not cnnkit.backends()["cupy"][0]:
        why_not = cnnkit.backends()["cupy"][1]
        sentence = f"{kind} in CUDA memory, which CuPy must compute with: {why_not}"
        refused(ImportError, sentence, lambda: cnnkit.relu(Elsewhere(2)))


def test_an_array_that_no_result_could_become_is_refused():
    class Alone:
        def __dlpack__(self):
            raise BufferError

    sentence = "but a numpy or cupy array is needed: numpy.from_dlpack(x) makes one"
    with pytest.raises(TypeError, match=sentence.replace("(", "\\(").replace(")", "\\)")):
        cnnkit.relu(Alone())


def test_bfloat16_tensors_need_ml_dtypes(torch):
    code = (
        "import sys; sys.modules['ml_dtypes'] = None; import cnnkit, torch\n"
        "print(cnnkit.relu(torch.ones(1).half()))\n"
        "try: cnnkit.relu(torch.ones(1).bfloat16())\n"
        "except ImportError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert ran[0] == "tensor([1.], dtype=torch.float16)"
    assert ran[1].startswith('NumPy has no bfloat16 by itself: pip install "cnnkit[bfloat16]"')


# --- the door ------------------------------------------------------------------------------------


def of_arrays():
    """The public functions that take arrays."""
    found = [getattr(cnnkit, name) for name in cnnkit.__all__]
    return [
        function for function in found if inspect.isfunction(function) and function.__module__.startswith("cnnkit.ops.")
    ]


@pytest.mark.parametrize("function", of_arrays(), ids=lambda function: function.__name__)
def test_every_function_is_let_take_any_library(function):
    """A new public function needs `any_library`; `documented` has it."""
    assert hasattr(function, "__wrapped__")
    assert inspect.signature(function) == inspect.signature(function.__wrapped__)
    assert function.__doc__ == function.__wrapped__.__doc__


def test_functions_can_be_pickled():
    import pickle

    assert pickle.loads(pickle.dumps(cnnkit.conv2d)) is cnnkit.conv2d
