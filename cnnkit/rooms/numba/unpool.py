"""What goes by indices: the way back of max pooling, unpooling, and the way back of that.

A thread owns whole planes or, where channels lie closest together, images in so many parts of their channels. Every
kernel reads its values and their int64 indices once, in the order of memory, and keeps what it fills near.
"""

from typing import Any

from cnnkit import geometry
from cnnkit.arrays import Array
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import address_of
from cnnkit.rooms.numba.moves import AHEAD
from cnnkit.rooms.numba.planes import channels_together, dense, fill, gapless
from cnnkit.rooms.numba.straight import straight
from cnnkit.rooms.numba.vectors import at, fetch, put, size

NEAR = 16 << 10  # bytes of planes that are filled with zeros at a time: they still are in the L1 cache afterwards


def max_pool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    _scatter(True, grad_output, indices, grad_x)


def max_unpool(x: Array, indices: Array, out: Array) -> None:
    _scatter(None, x, indices, out)


def max_unpool_backward(grad_output: Array, indices: Array, grad_x: Array) -> None:
    by_channels, like = channels_together(grad_x, grad_output), grad_x.dtype.type(0)
    result = dense(grad_x, by_channels)
    sources = gapless(grad_output, by_channels), gapless(indices, by_channels)
    places = [address_of(each) for each in (*sources, result)]
    batch, channels = grad_x.shape[:2]
    sizes = geometry.volume(grad_output.shape[2:]), geometry.volume(grad_x.shape[2:])
    images, together = (batch, channels) if by_channels else (batch * channels, 1)
    threads.run(_gather, images, 2 * grad_x.size, like, *places, *sizes, together, keep=sources)
    if result is not grad_x:
        grad_x[...] = result


def _scatter(adding: Any, values: Array, indices: Array, out: Array) -> None:
    by_channels, zero = channels_together(out, values), out.dtype.type(0)
    result = dense(out, by_channels)
    sources = gapless(values, by_channels), gapless(indices, by_channels)
    places = [address_of(each) for each in (*sources, result)]
    batch, channels = out.shape[:2]
    shape = channels, geometry.volume(out.shape[2:]), geometry.volume(values.shape[2:])
    work = out.size / 8 + values.size
    if by_channels:
        parts = min(channels, -(-threads.get_num_threads() // max(1, batch)))
        threads.run(_scatter_pixels, batch * parts, work, adding, zero, *places, *shape, parts, keep=sources)
    else:
        threads.run(_scatter_planes, batch * channels, work, adding, zero, *places, *shape[1:], keep=sources)
    if result is not out:
        out[...] = result


@straight
def _scatter_planes(start, stop, adding, zero, values, indices, out, pixels, outputs):
    """Planes: filled with zeros, and every value added to or, if `adding` is None, put in its place."""
    values, indices = values + start * outputs * size(zero), indices + start * outputs * 8
    to = out + start * pixels * size(zero)
    near = max(1, NEAR // (pixels * size(zero)))
    for plane in range(start, stop):
        if (plane - start) % near == 0:
            fill(zero, to, min(near, stop - plane) * pixels)
        for o in range(outputs):
            place = at(indices, o, outputs)
            value = at(values, o, zero)
            put(to, place, value if adding is None else at(to, place, zero) + value, zero)
        values, indices, to = values + outputs * size(zero), indices + outputs * 8, to + pixels * size(zero)


@straight
def _scatter_pixels(start, stop, adding, zero, values, indices, out, channels, pixels, outputs, parts):
    """The same, where channels lie together: images, in so many parts of their channels."""
    item = size(zero)
    for piece in range(start, stop):
        n, part = divmod(piece, parts)
        c = part * channels // parts
        width = (part + 1) * channels // parts - c
        to = out + (n * pixels * channels + c) * item
        for p in range(pixels):
            fill(zero, to + p * channels * item, width)
        for o in range(n * outputs * channels + c, (n + 1) * outputs * channels + c, channels):
            places, given = indices + o * 8, values + o * item
            for lane in range(width):
                place = at(places, lane, channels) * channels + lane
                value = at(given, lane, zero)
                put(to, place, value if adding is None else at(to, place, zero) + value, zero)


@straight
def _gather(start, stop, like, source, indices, out, pixels, outputs, channels):
    """Images of `channels` that lie together, or planes: every result read from where its index says."""
    each, c = outputs * channels, 0
    base = source + start * pixels * channels * size(like)
    for image in range(start, stop):
        o, end = image * each, (image + 1) * each
        while channels == 1 and o + 4 <= end:  # planes, where neighbours' places are near each other, mostly
            p0, p1 = at(indices, o, outputs), at(indices, o + 1, outputs)
            p2, p3 = at(indices, o + 2, outputs), at(indices, o + 3, outputs)
            fetch(base + p0 * size(like) + AHEAD)
            put(out, o, at(base, p0, like), like)
            put(out, o + 1, at(base, p1, like), like)
            put(out, o + 2, at(base, p2, like), like)
            put(out, o + 3, at(base, p3, like), like)
            o += 4
        while o < end:
            put(out, o, at(base, at(indices, o, outputs) * channels + c, like), like)
            c = c + 1 if c + 1 < channels else 0
            o += 1
        base += pixels * channels * size(like)
