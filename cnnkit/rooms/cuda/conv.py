"""Convolution, its transpose and its input gradient by two kernels; depthwise weights' gradient by a third."""

from cnnkit.arrays import Array
from cnnkit.geometry import ConvPlan, input_gradient, volume
from cnnkit.rooms import array
from cnnkit.rooms.cuda import compiler, convolve, launch, problems


def conv(
    x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: tuple[str, float] | None, out: Array
) -> None:
    if not problems.fits(x, weight, bias, out):
        array.conv(x, weight, bias, plan, activation, out)
        return
    relu = activation is not None and activation[0] == "relu"
    _convolve(x, weight, bias, plan, relu, out)
    if activation is not None and not relu:
        array.activate(activation, out, out)


def conv_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    plan: ConvPlan,
    grad_x: Array | None,
    grad_weight: Array | None,
    grad_bias: Array | None,
) -> None:
    if grad_x is not None:
        conv_transpose(grad_output, weight, None, plan, grad_x)
    if grad_weight is not None and plan.groups == plan.in_channels and problems.fits(grad_output, x, grad_weight):
        problem = problems.conv(x, grad_weight, plan, grad_output, False, False)
        shape, (xs, ws, gs) = problem[:3], problem[3:]
        launch.run("weight_gradient", x.dtype, (weight.size, 1, 1), grad_output, x, grad_weight, *shape, gs, xs, ws)
        grad_weight = None
    array.conv_backward(grad_output, x, weight, plan, None, grad_weight, grad_bias)


def conv_transpose(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, out: Array) -> None:
    if not problems.fits(x, weight, bias, out):
        array.conv_transpose(x, weight, bias, plan, out)
        return
    for phase in input_gradient(plan):
        if phase.plan is None:
            out[...] = 0 if bias is None else bias.reshape(-1, *(1,) * (out.ndim - 2))
        else:
            kernel = problems.turned(weight[phase.kernel], plan.groups)
            _convolve(x, kernel, bias, phase.plan, False, out[phase.of])


def _convolve(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, relu: bool, out: Array) -> None:
    """`direct` where a group has too few channels for a matrix product, else `product`."""
    if not out.size:
        return
    problem = problems.conv(x, weight, plan, out, bias is not None, relu)
    given = x, weight, x if bias is None else bias.ravel(), out  # kernels know no step of a bias
    channels, outputs, images = problem[0][:3]
    if max(channels, outputs) < convolve.FEW or plan.groups > problems.BLOCKS:
        shape = (plan.out_channels, *problem[1][6:])
        grid = (problems.blocks(out.size, compiler.ELEMENTWISE), 1, 1)
        launch.run("direct", x.dtype, grid, *given, out.size, shape, *problem)
    else:
        across = problems.blocks(images * volume(plan.output_size), convolve.COLUMNS)
        down = problems.blocks(outputs, convolve.DOWN * compiler.TALL[x.dtype.name])
        launch.run("product", x.dtype, (across, down, plan.groups), *given, *problem)
