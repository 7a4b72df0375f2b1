"""The functions as differentiable torch operators, to be dropped in where torch's own are.

They take and return tensors, in the CPU's memory or CUDA's, without a copy, and remember what the way back needs:

    import cnnkit.interop.torch as F

    loss = F.cross_entropy(F.dense(F.relu(F.conv2d(x, weight, bias, 2, 1)).flatten(1), last), labels)
    loss.backward()

Arguments are those of the function of this name in cnnkit, but for `out` and `activation`. Gradients have no gradients:
a second derivative (``create_graph=True``, and what follows from it) is refused where it would be needed.

An operator is a line at the end of this file. It finds ``NAME`` and ``NAME_backward`` in cnnkit; the latter is given
what its parameters are called: arguments of the forward by their names, `grad_output`, `input_shape` (of the first
argument), as `needs` the names of the tensors whose gradients are wanted, and under any other name, such as `indices`,
what the forward returns behind its result. It returns a NamedTuple of gradients under these names, or the first's.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch

import cnnkit

NOT_HERE = ("out", "activation")
STATE = ("running_mean", "running_var")  # what training changes in place
KNOWN = ("grad_output", "input_shape", "needs")  # what a way back may want besides arguments of the forward


class _Operator(NamedTuple):
    """A function, its way back, the names of what that is given, and of these what stands `behind` the result."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    wants: tuple[str, ...]
    behind: tuple[str, ...]


class _Call(torch.autograd.Function):
    """One call of an operator: tensors under their names, and the other arguments."""

    @staticmethod
    def forward(ctx: Any, op: _Operator, others: dict[str, Any], names: tuple[str, ...], *tensors: torch.Tensor) -> Any:
        indexed = {"return_indices": True} if "indices" in op.behind else {}
        result = op.forward(**_plain(names, tensors), **(others | indexed))
        changed = STATE if others.get("training") else ()  # and so no part of the way back
        wants = [name for name in op.wants if name not in changed]
        keep = {name: tensor for name, tensor in zip(names, tensors, strict=True) if name in wants}
        if op.behind:
            keep |= zip(op.behind, result[1:], strict=True)
            ctx.mark_non_differentiable(*result[1:])
        ctx.save_for_backward(*keep.values())
        ctx.op, ctx.names, ctx.kept = op, names, tuple(keep)
        ctx.others = others | {"input_shape": tuple(tensors[0].shape)}
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor, *_: Any) -> Any:
        wanted = ctx.needs_input_grad[3:]
        needs = tuple(name for name, need in zip(ctx.names, wanted, strict=True) if need)
        known = (
            dict.fromkeys(STATE)
            | ctx.others
            | _plain(ctx.kept, ctx.saved_tensors)
            | {"grad_output": grad_output.detach(), "needs": needs}
        )
        computed: Any = ctx.op.backward(**{name: known[name] for name in ctx.op.wants})
        grads = computed._asdict() if hasattr(computed, "_asdict") else {ctx.names[0]: computed}
        for name in needs:
            if name not in grads:
                raise NotImplementedError(f"{name} requires grad, but gradients are known of {', '.join(grads)} alone")
        if (
            torch.is_grad_enabled()
        ):  # for a second derivative: gradients that are cut off would silently count as constant
            grads = {name: _Last.apply(grad.requires_grad_()) for name, grad in grads.items() if grad is not None}
        return None, None, None, *(grads.get(name) for name in ctx.names)


class _Last(torch.autograd.Function):
    """A gradient as it is, which refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError("a second derivative is asked for, but cnnkit knows first derivatives alone")


def _plain(names: tuple[str, ...], tensors: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    """The tensors without their graph."""
    return {name: tensor.detach() for name, tensor in zip(names, tensors, strict=True)}


def _operator(name: str) -> Callable[..., Any]:
    """The function of this name as an operator."""
    forward, backward = getattr(cnnkit, name), getattr(cnnkit, f"{name}_backward")
    signature, wants = inspect.signature(forward), tuple(inspect.signature(backward).parameters)
    behind = tuple(want for want in wants if want not in (*signature.parameters, *KNOWN))
    op = _Operator(forward, backward, wants, behind)
    signature = signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in NOT_HERE])
    first = next(iter(signature.parameters))

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        if not isinstance(given[first], torch.Tensor):
            kind = type(given[first]).__name__
            raise TypeError(f"{first} is a {kind}, but a torch.Tensor is needed: cnnkit.{name} takes other arrays")
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors.values()):
            return forward(**given | _plain(tuple(tensors), tuple(tensors.values())))
        others = {name: value for name, value in given.items() if name not in tensors}
        result = _Call.apply(op, others, tuple(tensors), *tensors.values())
        return result if given.get("return_indices", True) or not isinstance(result, tuple) else result[0]

    summary = (inspect.getdoc(forward) or "").partition("\n")[0]
    call.__module__, call.__qualname__ = __name__, name
    call.__doc__ = f"{summary}\n\nAs :func:`cnnkit.{name}`, for torch tensors, and differentiable."
    vars(call)["__signature__"] = signature
    return call


conv1d, conv2d, conv3d = (_operator(f"conv{n}d") for n in (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = (_operator(f"conv_transpose{n}d") for n in (1, 2, 3))
max_pool1d, max_pool2d, max_pool3d = (_operator(f"max_pool{n}d") for n in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (_operator(f"avg_pool{n}d") for n in (1, 2, 3))
lp_pool1d, lp_pool2d, lp_pool3d = (_operator(f"lp_pool{n}d") for n in (1, 2, 3))
max_unpool1d, max_unpool2d, max_unpool3d = (_operator(f"max_unpool{n}d") for n in (1, 2, 3))
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (_operator(f"adaptive_max_pool{n}d") for n in (1, 2, 3))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (_operator(f"adaptive_avg_pool{n}d") for n in (1, 2, 3))
dense = _operator("dense")
relu, leaky_relu, elu, gelu = map(_operator, ("relu", "leaky_relu", "elu", "gelu"))
silu, sigmoid, tanh = map(_operator, ("silu", "sigmoid", "tanh"))
softmax, log_softmax = map(_operator, ("softmax", "log_softmax"))
batch_norm, layer_norm, group_norm = map(_operator, ("batch_norm", "layer_norm", "group_norm"))
dropout = _operator("dropout")
cross_entropy, mse_loss = map(_operator, ("cross_entropy", "mse_loss"))
