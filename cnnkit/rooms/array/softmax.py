"""Softmax and its logarithm in the array library's own words."""

from cnnkit.arrays import Array, namespace


def softmax(x: Array, axis: int, out: Array) -> None:
    xp = namespace(x)
    out[...] = xp.exp(x - x.max(axis, keepdims=True))
    out /= out.sum(axis, keepdims=True)


def softmax_backward(grad_output: Array, x: Array, axis: int, out: Array) -> None:
    softmax(x, axis, out)
    out *= grad_output - (grad_output * out).sum(axis, keepdims=True)


def log_softmax(x: Array, axis: int, out: Array) -> None:
    xp = namespace(x)
    shifted = x - x.max(axis, keepdims=True)
    out[...] = shifted - xp.log(xp.exp(shifted).sum(axis, keepdims=True))


def log_softmax_backward(grad_output: Array, x: Array, axis: int, out: Array) -> None:
    softmax(x, axis, out)
    out *= -grad_output.sum(axis, keepdims=True)
    out += grad_output
