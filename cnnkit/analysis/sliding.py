"""The kernel slides: every step of a small convolution, with its sum written out."""

from typing import Any, NamedTuple

import numpy as np

from cnnkit import geometry
from cnnkit.arrays import Array


class Step(NamedTuple):
    """One position of the kernel.

    Attributes
    ----------
    position : (int, int)
        Row and column of the output.
    window : numpy.ndarray, shape (kH, kW)
        What lies under the kernel; zeros in the padding.
    products : numpy.ndarray, shape (kH, kW)
        Window times kernel, number by number.
    text : str
        The sum written out: ``(1 x -1) + (2 x 0) + ... = 2``.
    total : float
        The output.
    """

    position: tuple[int, int]
    window: Array
    products: Array
    text: str
    total: float


def slide(image: Array, kernel: Array, stride: Any = 1, padding: Any = 0) -> list[Step]:
    """Slide a kernel over an image of one channel, as `cnnkit.conv2d` does, and write down every sum.

    ::

        output[i, j] = sum over m, n of  image[i * stride + m, j * stride + n] * kernel[m, n]

    Parameters
    ----------
    image : numpy.ndarray, shape (H, W)
    kernel : numpy.ndarray, shape (kH, kW)
    stride, padding
        As in `cnnkit.conv2d`.

    Returns
    -------
    list of Step
        Row by row.

    Raises
    ------
    ValueError
        If shapes or numbers do not fit.
    TypeError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit.analysis import slide
    >>> for step in slide(np.array([[1, 2, 4]]), np.array([[-1, 1]])):
    ...     print(step.position, step.text)
    (0, 0) (1 x -1) + (2 x 1) = 1
    (0, 1) (2 x -1) + (4 x 1) = 2
    """
    plan = _plan(image, kernel, stride, padding)
    image, kernel = image.astype(np.float64), kernel.astype(np.float64)  # sums of small integers would wrap around
    padded = np.pad(image, list(zip(plan.before, plan.after, strict=True)))
    steps = []
    for i, j in np.ndindex(plan.output_size):
        top, left = i * plan.stride[0], j * plan.stride[1]
        window = padded[top : top + plan.kernel_size[0], left : left + plan.kernel_size[1]]
        products = window * kernel
        terms = [f"({_plain(a)} x {_plain(b)})" for a, b in zip(window.flat, kernel.flat, strict=True)]
        total = products.sum()
        steps.append(Step((i, j), window, products, f"{' + '.join(terms)} = {_plain(total)}", float(total)))
    return steps


def _plan(image: Any, kernel: Any, stride: Any, padding: Any) -> geometry.ConvPlan:
    for name, array in (("image", image), ("kernel", kernel)):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is a {type(array).__name__}, but a numpy array is needed")
        if array.ndim != 2:
            raise ValueError(f"{name} has shape {array.shape}, but slide needs one channel of two axes")
    return geometry.conv(2, (1, *image.shape), (1, 1, *kernel.shape), stride, padding, 1, 1)


def _plain(number: Any) -> str:
    return f"{float(number):g}"


def plot_slide(image: Array, kernel: Array, stride: Any = 1, padding: Any = 0, *, step: int = 0, ax: Any = None) -> Any:
    """Draw one step of `slide`: the image with the window on it, the kernel, the outputs so far, and the sum.

    Parameters
    ----------
    image, kernel, stride, padding
        As in `slide`.
    step : int
        Which step; -1 is the last.
    ax : matplotlib.axes.Axes, optional
        Where to draw, about twice as wide as high; a new figure unless given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError, TypeError
        As in `slide`; or if there is no such step.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from cnnkit.analysis import plot_slide, sobel
    >>> ax = plot_slide(np.ones((5, 5)), sobel(1), step=4, ax=Figure().add_subplot())
    """
    from cnnkit.analysis.drawing import draw_slide

    steps = slide(image, kernel, stride, padding)
    at = geometry.integer(step, "step", -len(steps))
    if at >= len(steps):
        raise ValueError(f"step is {at}, but there are {len(steps)}")
    return draw_slide(image, kernel, steps, _plan(image, kernel, stride, padding), at % len(steps), ax)


def animate_slide(image: Array, kernel: Array, stride: Any = 1, padding: Any = 0, *, seconds: float = 1.0) -> Any:
    """Make the animation of `slide`, step by step.

    Parameters
    ----------
    image, kernel, stride, padding
        As in `slide`.
    seconds : float
        How long each step is shown.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        ``.save("slide.gif", writer="pillow")`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError, TypeError
        As in `slide`.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from cnnkit.analysis import animate_slide, sobel
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     animate_slide(np.ones((3, 4)), sobel(1)).save(os.path.join(folder, "slide.gif"), writer="pillow")
    ...     os.listdir(folder)
    ['slide.gif']
    """
    from cnnkit.analysis.drawing import animation

    steps = len(slide(image, kernel, stride, padding))

    def draw(step: int, ax: Any) -> Any:
        return plot_slide(image, kernel, stride, padding, step=step, ax=ax)

    return animation(draw, steps, seconds)
