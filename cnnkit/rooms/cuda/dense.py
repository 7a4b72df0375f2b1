"""Dense layers on tensor cores, as convolutions of images of one pixel; others are CuPy's matrix products."""

from cnnkit import halves
from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan
from cnnkit.rooms import array
from cnnkit.rooms.cuda import operands
from cnnkit.rooms.cuda.conv import conv, conv_backward


@halves.taken
def dense(x: Array, weight: Array, bias: Array | None, activation: tuple[str, float] | None, out: Array) -> None:
    if operands.wanted(x) and weight.size:
        conv(x[:, :, None], weight[:, :, None], bias, _plan(x, weight), activation, out[:, :, None])
    else:
        halves.widely("dense", array.dense, array, x)(x, weight, bias, activation, out)


@halves.taken
def dense_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    grad_x: Array | None,
    grad_weight: Array | None,
    grad_bias: Array | None,
) -> None:
    if operands.wanted(x) and weight.size:
        to = (None if one is None else one[:, :, None] for one in (grad_x, grad_weight))
        given = (one[:, :, None] for one in (grad_output, x, weight))
        conv_backward(*given, _plan(x, weight), *to, grad_bias)
    else:
        run = halves.widely("dense_backward", array.dense_backward, array, x)
        run(grad_output, x, weight, grad_x, grad_weight, grad_bias)


def _plan(x: Array, weight: Array) -> ConvPlan:
    outputs, features = weight.shape
    return ConvPlan(len(x), features, outputs, 1, (1,), (1,), (1,), (1,), (0,), (0,), (1,))
