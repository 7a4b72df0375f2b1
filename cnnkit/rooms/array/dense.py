"""Dense layers as matrix products."""

from cnnkit.arrays import Array, namespace


def dense(x: Array, weight: Array, bias: Array | None, activation: str | None, out: Array) -> None:
    out[...] = x @ weight.T
    if bias is not None:
        out += bias
    if activation == "relu":
        out[...] = namespace(out).maximum(out, 0)


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
