"""Pooling and its way back."""

from cnnkit import arrays, halves
from cnnkit.arrays import Array, channels_last
from cnnkit.geometry import AdaptivePlan, Ints, PoolPlan, lift, volume
from cnnkit.rooms import array
from cnnkit.rooms.cuda import compiler, launch, problems, windows


@halves.taken
def max_pool(x: Array, plan: PoolPlan | AdaptivePlan, out: Array, indices: Array | None) -> None:
    if not problems.fits(x, out, indices):
        halves.widely("max_pool", array.max_pool, array, x)(x, plan, out, indices)
    elif out.size:
        table, _ = launch.tables(plan, False, None)
        places = out if indices is None else indices
        moves = lift(plan).dilation if isinstance(plan, PoolPlan) else (1, 1, 1)
        shape = (out.shape[1], *lift(plan).output_size)
        how = shape, lift(plan).input_size, int(indices is not None), int(channels_last(out)), moves
        given = x, table, out, places, out.size
        launch.run("maxima", x.dtype, _grid(out), *given, *how, *map(problems.steps, (x, out, places)))


@halves.taken
def max_pool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    shape, extents = (arrays.lift(one).shape[2:] for one in (grad_output, grad_x))
    parts = problems.blocks(volume(extents), windows.PART)
    small = 2 * (sum(shape) + sum(extents)) <= windows.TABLE and parts <= problems.BLOCKS
    if not small or not problems.fits(grad_output, indices, grad_x):
        halves.widely("max_pool_backward", array.max_pool_backward, array, grad_x)(grad_output, indices, grad_x)
    elif grad_x.size:
        how = grad_x.shape[1], shape, extents, *map(problems.steps, (grad_output, indices, grad_x))
        grid = (grad_x.shape[0] * grad_x.shape[1], parts, 1)
        launch.run("maxima_back", grad_x.dtype, grid, grad_output, indices, grad_x, *how)


@halves.taken
def avg_pool(x: Array, plan: PoolPlan | AdaptivePlan, divisors: tuple[Ints, ...], out: Array) -> None:
    if problems.fits(x, out):
        _averages("averages", x, plan, divisors, out)
    else:
        halves.widely("avg_pool", array.avg_pool, array, x)(x, plan, divisors, out)


@halves.taken
def avg_pool_backward(
    grad_output: Array, plan: PoolPlan | AdaptivePlan, divisors: tuple[Ints, ...], grad_x: Array
) -> None:
    if problems.fits(grad_output, grad_x):
        _averages("averages_back", grad_output, plan, divisors, grad_x)
    else:
        run = halves.widely("avg_pool_backward", array.avg_pool_backward, array, grad_x)
        run(grad_output, plan, divisors, grad_x)


def _averages(name: str, x: Array, plan: PoolPlan | AdaptivePlan, divisors: tuple[Ints, ...], out: Array) -> None:
    if out.size:
        back = name == "averages_back"
        table, factors = launch.tables(plan, back, divisors)
        small, large = lift(plan).output_size, lift(plan).input_size
        shape, extents = ((out.shape[1], *large), small) if back else ((out.shape[1], *small), large)
        how = shape, extents, int(channels_last(out)), problems.steps(x), problems.steps(out)
        launch.run(name, x.dtype, _grid(out), x, table, factors, out, out.size, *how)


def _grid(out: Array) -> tuple[int, int, int]:
    return problems.blocks(out.size, compiler.ELEMENTWISE), 1, 1
