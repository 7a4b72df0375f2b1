"""The public contract: names, and the order, kinds and defaults of arguments, as users were promised them."""

import importlib
import inspect

import pytest

import cnnkit

# Exactly these arguments, but for more that must be named and need not be given, such as pooling's `out` (that much the
# contract leaves free). {n} stands for 1, 2 and 3.
EXACT = """
conv{n}d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, activation=None, out=None)
conv{n}d_backward(grad_output, x, weight, stride=1, padding=0, dilation=1, groups=1, *, needs=("x", "weight", "bias"))
conv_transpose{n}d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
conv_transpose{n}d_backward(grad_output, x, weight, stride=1, padding=0, output_padding=0, groups=1, dilation=1, *, \
needs=("x", "weight", "bias"))

max_pool{n}d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False)
max_pool{n}d_backward(grad_output, indices, input_shape)
max_unpool{n}d(x, indices, kernel_size, stride=None, padding=0, output_size=None)
avg_pool{n}d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None)
avg_pool{n}d_backward(grad_output, input_shape, kernel_size, stride=None, padding=0, ceil_mode=False, \
count_include_pad=True, divisor_override=None)
lp_pool{n}d(x, norm_type, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False)
lp_pool{n}d_backward(grad_output, x, norm_type, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False)
adaptive_max_pool{n}d(x, output_size, return_indices=False)
adaptive_avg_pool{n}d(x, output_size)

dense(x, weight, bias=None, *, activation=None, out=None)
dense_backward(grad_output, x, weight, *, needs=("x", "weight", "bias"))

relu(x)
relu_backward(grad_output, x)
leaky_relu(x, negative_slope=0.01)
leaky_relu_backward(grad_output, x, negative_slope=0.01)
elu(x, alpha=1.0)
elu_backward(grad_output, x, alpha=1.0)
gelu(x, approximate="none")
gelu_backward(grad_output, x, approximate="none")
silu(x)
silu_backward(grad_output, x)
sigmoid(x)
sigmoid_backward(grad_output, x)
tanh(x)
tanh_backward(grad_output, x)
softmax(x, axis=-1)
softmax_backward(grad_output, x, axis=-1)
log_softmax(x, axis=-1)
log_softmax_backward(grad_output, x, axis=-1)

batch_norm(x, gamma, beta, running_mean, running_var, *, training, momentum=0.1, eps=1e-5)
dropout(x, rate, *, rng)
cross_entropy(logits, labels, *, label_smoothing=0.0, reduction="mean")
cross_entropy_backward(grad_output, logits, labels, *, label_smoothing=0.0, reduction="mean")
mse_loss(y, target, *, reduction="mean")
mse_loss_backward(grad_output, y, target, *, reduction="mean")

use_backend(name)
backends()
set_num_threads(n)
get_num_threads()
show_config()
nn.load(path)
nn.Layer.parameters(self)
nn.Layer.state_dict(self)
nn.Layer.save(self, path)
nn.Layer.to(self, device)
"""

# These arguments come first, in this order and with these defaults; others that need not be given may follow. Where
# `**more` stands, the contract leaves open what follows.
AT_LEAST = """
adaptive_max_pool{n}d_backward(grad_output, **more)
adaptive_avg_pool{n}d_backward(grad_output, **more)
batch_norm_backward(grad_output, x, **more)
layer_norm(x, **more)
layer_norm_backward(grad_output, x, **more)
group_norm(x, **more)
group_norm_backward(grad_output, x, **more)
dropout_backward(grad_output, **more)
options(*, algorithm, max_workspace, tf32)
warmup()

nn.Conv{n}d(in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1)
nn.ConvTranspose{n}d(in_channels, out_channels, kernel_size, stride=1)
nn.Dense(in_features, out_features)
nn.MaxPool{n}d(kernel_size, stride=None, padding=0)
nn.AvgPool{n}d(kernel_size, stride=None, padding=0)
nn.AdaptiveMaxPool{n}d(output_size)
nn.AdaptiveAvgPool{n}d(output_size)
nn.BatchNorm{n}d(num_features)
nn.ReLU()
nn.LeakyReLU(negative_slope=0.01)
nn.ELU(alpha=1.0)
nn.GELU()
nn.SiLU()
nn.Sigmoid()
nn.Tanh()
nn.Dropout(rate)
nn.Flatten()
nn.Sequential(*layers)
nn.Residual(body)
nn.Layer.forward(self, x)
nn.Layer.__call__(self, x)
nn.fit(model, data, *, epochs, batch_size, optimizer, validation=None, callbacks=(), progress=True, seed=0)
nn.History.plot(self)
optim.SGD(lr, momentum, nesterov, weight_decay)
optim.Adam(lr)
optim.AdamW(lr)

analysis.conv_parameters(in_channels, out_channels, kernel_size, *, bias=True, groups=1)
analysis.dense_parameters(in_features, out_features, *, bias=True)
analysis.parameter_savings(**more)
analysis.receptive_field(layers)
analysis.conv_matrix(weight, input_shape)
analysis.equivariance_error(fn, x, shift)
analysis.invariance_error(fn, x, shift)
analysis.neighbour_correlation(image, distance)
analysis.training_examples_needed(parameters, per_parameter=(5, 10))
analysis.sobel(axis)
analysis.summary(model, input_shape)
analysis.feature_maps(model, x)
"""

COMMANDS = ("compare", "explain", "summary", "info", "bench", "warmup")


def rows(table):
    """``(name, its template, promised signature)`` of each line, for each number of spatial axes."""
    found = []
    for line in filter(None, table.splitlines()):
        name, _, arguments = line.partition("(")
        promised = signature(f"({arguments}")
        found += [(name.format(n=n), name, promised) for n in ((1, 2, 3) if "{n}" in name else ("",))]
    return found


def signature(arguments):
    namespace = {}
    exec(f"def promised{arguments}: ...", namespace)
    return inspect.signature(namespace["promised"])


def test_the_table_is_read_right():
    assert {name for name, *_ in rows("f{n}d(a, *, b=(1, 2))\ng()\n")} == {"f1d", "f2d", "f3d", "g"}
    a, b = rows("f(a, *, b=(1, 2))")[0][2].parameters.values()
    assert (a.kind, a.default) == (a.POSITIONAL_OR_KEYWORD, a.empty)
    assert (b.kind, b.default) == (b.KEYWORD_ONLY, (1, 2))


def public(name):
    """What a user finds under this name, or None."""
    found = cnnkit
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def given(name):
    return list(inspect.signature(public(name)).parameters.values())


def over(table):
    """What is there of a table; a test of its own tells what is not."""
    found = {name: promised for name, _, promised in rows(table) if public(name) is not None}
    return pytest.mark.parametrize(("name", "promised"), found.items(), ids=found)


def commands():
    from cnnkit.cli import COMMANDS

    return {command.__name__.rpartition(".")[2] for command in COMMANDS}


def test_all_is_there():
    missing = {template for name, template, _ in rows(EXACT) + rows(AT_LEAST) if public(name) is None}
    assert missing | {f"cnnkit {name}" for name in set(COMMANDS) - commands()} == set()


def test_nothing_is_half_there():
    """A function over one, two and three axes comes with all of them."""
    for template in {template for _, template, _ in rows(EXACT) + rows(AT_LEAST) if "{n}" in template}:
        there = [public(template.format(n=n)) is not None for n in (1, 2, 3)]
        assert len(set(there)) == 1, template


@over(EXACT)
def test_arguments_are_what_was_promised(name, promised):
    more = [p for p in given(name) if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
    free = {p.name for p in more} - set(promised.parameters)
    actual = [(p.name, p.kind, p.default) for p in given(name) if p.name not in free]
    assert actual == [(p.name, p.kind, p.default) for p in promised.parameters.values()]


@over(AT_LEAST)
def test_arguments_begin_with_what_was_promised(name, promised):
    actual, wanted = given(name), [p for p in promised.parameters.values() if p.name != "more"]
    for is_, should in zip(actual, wanted, strict=False):
        assert (is_.name, is_.kind) == (should.name, should.kind)
        assert should.default in (is_.default, should.empty)
    assert len(actual) >= len(wanted)
    if "more" not in promised.parameters:
        assert all(one.default is not one.empty for one in actual[len(wanted) :])


@pytest.mark.parametrize(
    ("module", "name", "fields"),
    [("cnnkit.ops.conv", "ConvGrads", "x weight bias"), ("cnnkit.ops.dense", "DenseGrads", "x weight bias")],
)
def test_gradients_have_their_names(module, name, fields):
    assert getattr(importlib.import_module(module), name)._fields == tuple(fields.split())


def test_what_is_public_is_promised_or_known():
    """A function that users see without anybody having promised it is a promise too."""
    promised = {name for name, *_ in rows(EXACT) + rows(AT_LEAST)} | {"__version__", "datasets", "nn", "optim"}
    beyond = {name for name in cnnkit.__all__ if name not in promised}
    assert beyond <= {"analysis", "interop", *(f"max_unpool{n}d_backward" for n in (1, 2, 3))}
