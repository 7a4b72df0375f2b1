"""Activations and softmax in the array library's own words."""

from cnnkit.arrays import Array, namespace


def relu(x: Array, out: Array) -> None:
    out[...] = namespace(x).maximum(x, 0)


def relu_backward(grad_output: Array, x: Array, out: Array) -> None:
    out[...] = namespace(x).where(x <= 0, 0, grad_output)


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
