"""Convolution, its transpose and its gradients: on tensor cores, or with fused multiply-adds, or by the definition."""

from typing import Any

from cnnkit import arrays, geometry, halves
from cnnkit.arrays import Array, is_half, namespace
from cnnkit.geometry import ConvPlan, input_gradient, volume
from cnnkit.rooms import array
from cnnkit.rooms.cuda import compiler, convolve, launch, matrix, operands, problems
from cnnkit.rooms.cuda.activations import CODES

Activation = tuple[str, float] | None


@halves.taken
def conv(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: Activation, out: Array) -> None:
    if not (problems.fits(x, weight, bias, out) and operands.fit(x, weight)):
        halves.widely("conv", array.conv, array, x)(x, weight, bias, plan, activation, out)
    elif operands.wanted(x) and not _few(plan):
        for part in operands.batches(plan.groups, x):
            some = plan._replace(batch=part.stop - part.start)
            _product(operands.channels_last(x[part], plan.groups), weight, bias, some, activation, out[part])
    else:
        _convolve(x, weight, bias, plan, activation, out)


@halves.taken
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
    if grad_bias is not None:
        halves.widely("sum_channels", array.sum_channels, array, x)(grad_output, grad_bias)
    if grad_weight is None:
        return
    given = grad_output, x, weight, plan, None, grad_weight, None
    small = problems.fits(grad_output, x, grad_weight) and operands.fit(x, grad_weight)
    if not (small and operands.fit(grad_output, grad_weight)) or not grad_output.size:
        halves.widely("conv_backward", array.conv_backward, array, x)(*given)
    elif operands.wanted(x) and not _few(plan):
        _matrix_back(grad_output, x, plan, grad_weight)
    elif plan.groups == plan.in_channels:
        _depthwise_back(grad_output, x, plan, grad_weight)
    elif is_half(x.dtype):
        halves.widely("conv_backward", conv_backward, array, x)(*given)
    else:
        _product_back(grad_output, x, plan, grad_weight)


@halves.taken
def conv_transpose(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, out: Array) -> None:
    if not (problems.fits(x, weight, bias, out) and operands.fit(x, weight)):
        halves.widely("conv_transpose", array.conv_transpose, array, x)(x, weight, bias, plan, out)
    elif operands.wanted(x) and not _few(plan):
        for part in operands.batches(plan.groups, x):
            _phases(_product, operands.channels_last(x[part], plan.groups), weight, bias, plan, out[part])
    else:
        _phases(_convolve, x, weight, bias, plan, out)


def _few(plan: ConvPlan) -> bool:
    """Whether a tile would be mostly empty, or there are too many groups for a grid of them."""
    return max(plan.in_channels, plan.out_channels) < convolve.FEW * plan.groups or plan.groups > problems.BLOCKS


def _phases(convolve_: Any, x: Array, weight: Array, bias: Array | None, plan: ConvPlan, out: Array) -> None:
    """A transposed convolution as plain ones."""
    for phase in input_gradient(plan._replace(batch=len(out))):
        if phase.plan is None:
            out[...] = 0 if bias is None else bias.reshape(-1, *(1,) * (out.ndim - 2))
        else:
            kernel = problems.turned(weight[phase.kernel], plan.groups)
            convolve_(x, kernel, bias, phase.plan, None, out[phase.of])


def _applied(activation: Activation, dtype: Any) -> tuple[int, Any]:
    """The code of an activation, and its parameter as a number that kernels take."""
    name, parameter = activation or (None, 0.0)
    return CODES[name], arrays.accumulator(dtype).type(parameter)


def _convolve(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: Activation, out: Array) -> None:
    """`direct` where a group has too few channels for a matrix product, else `product`."""
    if not out.size:
        return
    code, parameter = _applied(activation, x.dtype)
    problem = problems.conv(x, weight, plan, out, bias is not None, code)
    given = x, weight, x if bias is None else bias.ravel(), out  # kernels know no step of a bias
    if _few(plan):
        depth, height, width = problem[1][6:]
        shape = (plan.out_channels, depth, problems.blocks(height, convolve.ROWS), width)
        count = plan.batch * volume(shape)
        grid = (problems.blocks(count, compiler.ELEMENTWISE), 1, 1)
        launch.run("direct", x.dtype, grid, *given, count, shape, parameter, *problem)
    else:
        across = problems.blocks(plan.batch * volume(plan.output_size), convolve.COLUMNS)
        down = problems.blocks(plan.out_channels // plan.groups, convolve.DOWN * compiler.TALL[x.dtype.name])
        launch.run("product", x.dtype, (across, down, plan.groups), *given, parameter, *problem)


def _product_back(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """The gradient of a weight as a convolution of x by the output gradient, its long sums split."""
    outputs, channels, *kernel = grad_weight.shape
    across = problems.blocks(channels * volume(tuple(kernel)), convolve.COLUMNS)
    down = problems.blocks(outputs // plan.groups, convolve.DOWN * compiler.TALL[x.dtype.name])
    count = plan.batch * volume(plan.output_size)
    splits, terms = problems.split(count, convolve.DEPTH, across * down * plan.groups, grad_weight.nbytes)
    parts = namespace(x).empty((splits, *grad_weight.shape), x.dtype)
    problem = problems.weight_gradient(x, grad_output, plan, parts, terms)
    grid = (across, down, plan.groups * splits)
    launch.run("product", x.dtype, grid, x, grad_output, x, parts, x.dtype.type(0), *problem)
    _add_up(parts, problems.steps(parts[0]), grad_weight)


def _depthwise_back(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """The gradient of a depthwise weight, its long sums split."""
    blocks = plan.out_channels, problems.blocks(volume(plan.kernel_size), convolve.TAPS)
    dtype = arrays.accumulator(x.dtype)
    count = plan.batch * volume(plan.output_size)
    splits, terms = problems.split(count, convolve.REDUCERS, volume(blocks), grad_weight.size * dtype.itemsize)
    parts = namespace(x).empty((splits, *grad_weight.shape), dtype)
    counts, sizes, moves, xs, ps, gs, _ = problems.conv(x, parts[0], plan, grad_output)
    how = counts, sizes, moves, problems.radix(sizes[6:]), terms, gs, xs, ps, problems.Steps((grad_weight.size,))
    launch.run("weight_gradient", x.dtype, (*blocks, splits), grad_output, x, parts, *how)
    _add_up(parts, ps, grad_weight)


def _product(x: Array, weight: Array, bias: Array | None, plan: ConvPlan, activation: Activation, out: Array) -> None:
    """A convolution of what `operands.channels_last` made of x, on tensor cores."""
    if not out.size:
        return
    kernel = operands.channels_last(weight, 1)
    plan = geometry.lift(plan)
    problem = operands.forward(x, kernel, plan, out, bias is not None, *_applied(activation, x.dtype))
    tile = _tile("matrix", x.dtype, problem.counts[2])
    grid = (*_tiles(tile, problem.counts[0], problem.counts[2]), plan.groups)
    launch.run(tile, x.dtype, grid, x, kernel, x if bias is None else bias.ravel(), out, *problem)


def _matrix_back(grad_output: Array, x: Array, plan: ConvPlan, grad_weight: Array) -> None:
    """The gradient of a weight on tensor cores: batches and splits each have their part of the sum."""
    plan, outputs = geometry.lift(plan), plan.out_channels // plan.groups
    features = volume(plan.kernel_size) * operands.whole_pieces(plan.in_channels // plan.groups, x)
    tile = _tile("matrix_back", x.dtype, outputs)
    across, down = _tiles(tile, features, outputs)
    each, bytes_ = volume(plan.output_size), 4 * plan.out_channels * features
    depth = matrix.LINE // x.itemsize
    pieces = []
    for batch in operands.batches(plan.groups, x, grad_output):
        images = batch.stop - batch.start
        pieces.append((batch, images, *problems.split(images * each, depth, across * down * plan.groups, bytes_)))
    parts = namespace(x).empty((sum(splits for _, _, splits, _ in pieces), plan.out_channels * features), "float32")
    first = 0
    for batch, images, splits, terms in pieces:
        pixels, grads = (operands.channels_last(one[batch], plan.groups) for one in (x, grad_output))
        problem = operands.back(pixels, grads, plan._replace(batch=images), terms, parts.dtype.type(0))
        launch.run(tile, x.dtype, (across, down, plan.groups * splits), pixels, grads, pixels, parts[first:], *problem)
        first += splits
    _, height, width = plan.kernel_size
    wide = features // volume(plan.kernel_size)
    taps = (height * width * wide, width * wide, wide)
    _add_up(parts, problems.Steps((features, 1, *taps)), grad_weight)


def _add_up(parts: Array, steps: problems.Steps, grad_weight: Array) -> None:
    """The parts of each number of a weight's gradient, added in order."""
    shape, step = arrays.lift(grad_weight).shape[1:], problems.Steps((parts.strides[0] // parts.itemsize,))
    grid = (problems.blocks(grad_weight.size, compiler.ELEMENTWISE), 1, 1)
    given = parts, grad_weight, grad_weight.size, len(parts), shape, int(arrays.channels_last(grad_weight))
    launch.run("totals", grad_weight.dtype, grid, *given, step, steps, problems.steps(grad_weight))


def _tile(name: str, dtype: Any, outputs: int) -> str:
    """The tile that is filled best; of tf32 gradients the wide one would not live in registers."""
    slim = outputs <= matrix.SLIM.columns or dtype.name not in compiler.KERNELS[name].dtypes
    return f"{name}_slim" if slim else name


def _tiles(name: str, rows: int, outputs: int) -> tuple[int, int]:
    tile = matrix.SLIM if name.endswith("slim") else matrix.WIDE
    return problems.blocks(rows, tile.rows), problems.blocks(outputs, tile.columns)
