"""float16 and bfloat16 to float32 and back by their bits, in vectors: NumPy takes float16 one number at a time.

bfloat16 is the upper half of a float32. Of float16, the constants are exponents of float32 as its bits; 112 lies
between the biases of the two formats (after F. Giesen,
"Half to float done quick", https://fgiesen.wordpress.com/2012/03/28/half-to-float-done-quic/).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkit.arrays import Array, rounded
from cnnkit.rooms import threads
from cnnkit.rooms.numba.machine import kernel

U = np.uint32
INFINITE, NAN = U(0x7C00), U(0x7E00)  # float16's bits


def widen(x: Array, out: Array) -> None:
    """Halves as float32."""
    if not _by_bits(_widen_float16 if x.dtype == np.float16 else _widen_bfloat16, x, out):
        out[...] = x


def narrow(x: Array, out: Array) -> None:
    """float32 as halves, to the nearest, ties to even."""
    if not _by_bits(_narrow_float16 if out.dtype == np.float16 else _narrow_bfloat16, x, out):
        out[...] = rounded(x, out.dtype)


def _by_bits(convert: Callable[..., Any], x: Array, out: Array) -> bool:
    """Convert what lies without gaps, in the same order on both sides."""
    axes = np.argsort([-step for step in out.strides], kind="stable")
    x, out = x.transpose(axes), out.transpose(axes)
    if not (x.flags.c_contiguous and out.flags.c_contiguous):
        return False
    flat = [a.reshape(-1) for a in (x, out)]
    threads.run(convert, x.size, x.size / 5, *(a.view(np.uint16) if a.itemsize == 2 else a for a in flat))
    return True


@kernel
def _widen_bfloat16(start, stop, x, out):
    """A work item is a number: 2 bytes in, 4 out."""
    x, out = x[start:stop], out[start:stop]
    for i in range(x.size):
        out[i] = U(U(x[i]) << U(16)).view(np.float32)


@kernel
def _narrow_bfloat16(start, stop, x, out):
    """A work item is a number: 4 bytes in, 2 out."""
    x, out = x[start:stop], out[start:stop]
    for i in range(x.size):
        bits = np.float32(x[i]).view(np.uint32)
        odd = U(U(bits >> U(16)) & U(1))
        number = U(U(bits + U(U(0x7FFF) + odd)) >> U(16))
        quiet = U(U(bits >> U(16)) | U(1 << 6))
        out[i] = np.uint16(quiet if U(bits << U(1)) > U(255 << 24) else number)


@kernel
def _widen_float16(start, stop, x, out):
    """A work item is a number: 2 bytes in, 4 out."""
    x, out = x[start:stop], out[start:stop]
    for i in range(x.size):
        half = U(x[i])
        digits = U((half & U(0x7FFF)) << U(13))
        exponent = U(digits & U(31 << 23))
        normal = U(digits + U(112 << 23))
        infinite = U(normal + U(112 << 23))
        small = np.float32(U(normal + U(1 << 23)).view(np.float32) - np.float32(2.0**-14)).view(np.uint32)
        bits = infinite if exponent == U(31 << 23) else normal
        bits = small if exponent == U(0) else bits
        out[i] = U(bits | U((half & U(0x8000)) << U(16))).view(np.float32)


@kernel
def _narrow_float16(start, stop, x, out):
    """A work item is a number: 4 bytes in, 2 out."""
    x, out = x[start:stop], out[start:stop]
    for i in range(x.size):
        bits = np.float32(x[i]).view(np.uint32)
        sign = U(bits & U(1 << 31))
        size = U(bits ^ sign)
        odd = U(U(size >> U(13)) & U(1))
        normal = U(U(size + U(U((1 << 32) - (112 << 23) + 0xFFF) + odd)) >> U(13))
        small = U(np.float32(size.view(np.float32) + np.float32(0.5)).view(np.uint32) - U(126 << 23))
        large = NAN if size > U(255 << 23) else INFINITE
        half = small if size < U(113 << 23) else normal
        half = large if size >= U(143 << 23) else half
        out[i] = np.uint16(half | U(sign >> U(16)))
