"""What a user may choose of how results come about: the algorithm of a convolution, and how much memory it may take."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from cnnkit.geometry import boolean, integer

ALGORITHMS = ("auto", "direct", "winograd")


class Settings(NamedTuple):
    """The choices that hold for a call."""

    algorithm: str = "auto"
    max_workspace: int = 64 << 20
    tf32: bool = False


_current: ContextVar[Settings] = ContextVar("settings", default=Settings())  # noqa: B039


def current() -> Settings:
    """The choices that hold for the current thread (and asyncio task)."""
    return _current.get()


@contextmanager
def options(
    *, algorithm: str | None = None, max_workspace: int | None = None, tf32: bool | None = None
) -> Iterator[None]:
    """Choose, inside the ``with`` block, the algorithm of convolutions and the memory that they may take besides.

    The choice holds for the current thread (and asyncio task); what is not given stays as it is around the block. The
    CPU kernels (backend "numba") follow `algorithm`; other backends have one each.

    Parameters
    ----------
    algorithm : {"auto", "direct", "winograd"}, optional
        ``"auto"``, the default of the library, takes the faster one. ``"direct"`` sums the products of the definition:
        it is the most accurate. ``"winograd"`` saves two to three of four multiplications of convolutions of float32
        whose kernels are 3 to 5 high and wide, and a third to a half of those with taps along one of these axes (lines,
        1x7; in 3d, of any depth), without stride, at an error about twice as large, and of their gradients
        (five times as large for the weights', whose direct sum is very exact); all others are computed directly.
    max_workspace : int, optional
        Bytes, at least 0; 64 MiB if never set. A Winograd convolution for which they are not enough is computed
        directly, and a direct one packs its weights in parts that fit. A direct one also has, for each thread, up to
        one and a half megabytes of its input at hand, more with thousands of channels.
    tf32 : bool, optional
        Whether CUDA kernels (backend "cuda") may round what is multiplied in float32 convolutions and dense layers to
        11 significant bits, for tensor cores; sums stay float32. A product is then off by a part in 1023 at most. False
        if never set: float32 means float32.

    Raises
    ------
    ValueError, TypeError
        If there is no algorithm of this name, `max_workspace` is negative or no int, or `tf32` is no bool.

    Notes
    -----
    Threads: a thread that is started inside the block begins with the usual choices, not with those of the block (as
    Python's own ``decimal`` contexts do); choose in the function that it runs, or send the choice along by
    ``pool.submit(contextvars.copy_context().run, function, ...)``. The threads that one call works with need none.
    asyncio: a task begins with what holds where it is made, and so does ``asyncio.to_thread``; what it then chooses is
    its own. Generators have no context of their own: do not yield inside the block.

    With ``|x| <= X`` in the inputs (of every channel) that a tile of outputs reads, and W the sum of the absolute
    weights of a filter over ``n`` channels, depths and blocks of taps, a Winograd result is off by at most
    ``(n + 26) * eps * 88 * X * W`` (20 in place of 88 if one axis has taps), and the direct sum of t products by
    ``(t + 4) * eps / 2 * X * W``. Typical errors are 1.2 to 2.5 times those of the direct sum. A gradient of a weight
    is off by at most ``(n + 26) * eps * 88 * X * G``, where X is the largest ``|x|``, G the sum of the absolute output
    gradients of a channel, and n the tiles that are summed together (64, or 128 if one axis has taps) and the number of
    these sums. Where a number between them overflows, or an input is not finite, outputs are summed directly:
    NaN and infinity arise where the direct sum has them.

    Examples
    --------
    >>> import numpy as np
    >>> import cnnkit
    >>> x = np.ones((1, 64, 8, 8), np.float32)
    >>> weight = np.full((64, 64, 3, 3), 1 / 512, np.float32)
    >>> with cnnkit.options(algorithm="direct"):
    ...     y = cnnkit.conv2d(x, weight)
    >>> float(y[0, 0, 0, 0])
    1.125
    """
    now = current()
    token = _current.set(
        Settings(
            now.algorithm if algorithm is None else _known(algorithm),
            now.max_workspace if max_workspace is None else integer(max_workspace, "max_workspace", 0),
            now.tf32 if tf32 is None else boolean(tf32, "tf32"),
        )
    )
    try:
        yield
    finally:
        _current.reset(token)


def _known(algorithm: Any) -> str:
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm is {algorithm!r}, but the algorithms are {', '.join(map(repr, ALGORITHMS))}")
    return algorithm
