"""Dense layers as matrix products."""

from cnnkit.arrays import Array
from cnnkit.rooms.array.activation import activate


def dense(x: Array, weight: Array, bias: Array | None, activation: tuple[str, float] | None, out: Array) -> None:
    out[...] = x @ weight.T
    if bias is not None:
        out += bias
    if activation is not None:
        activate(activation, out, out)


def dense_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    grad_x: Array | None,
    grad_weight: Array | None,
    grad_bias: Array | None,
) -> None:
    if grad_x is not None:
        grad_x[...] = grad_output @ weight
    if grad_weight is not None:
        grad_weight[...] = grad_output.T @ x
    if grad_bias is not None:
        grad_bias[...] = grad_output.sum(0)
