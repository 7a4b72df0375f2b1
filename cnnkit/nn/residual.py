"""A layer and a way past it."""

import numpy as np

from cnnkit import arrays
from cnnkit.arrays import Array
from cnnkit.nn.layer import Layer, Pullback, located, prefixed


class Residual(Layer):
    """A layer and a way past it: ``y = body(x) + shortcut(x)``.

    Without a `shortcut` the way past is `x` itself, so that `body` learns what is to be changed of `x` (He et al.
    2016, arXiv 1512.03385). Parameters are named ``"body.0.weight"`` and ``"shortcut.weight"``.

    Parameters
    ----------
    body : Layer
        What makes a `y`; usually a `Sequential`.
    shortcut : Layer, optional
        What makes a `y` of the same shape, where `body` changes the shape of `x`: usually a convolution of 1x1.

    Raises
    ------
    TypeError
        If something else than a layer is given.
    ValueError
        If one layer that has parameters is given twice; if what is to be added has different shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> body = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    >>> block = nn.Residual(body, nn.Conv2d(4, 8, 1, stride=2, bias=False))
    >>> block(np.zeros((2, 4, 6, 6), dtype="float32")).shape
    (2, 8, 3, 3)
    >>> list(block.parameters())
    ['body.0.weight', 'body.0.bias', 'body.2.weight', 'body.2.bias', 'shortcut.weight']
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        self.body, self.shortcut = body, shortcut
        for name, layer in self.children().items():
            if not isinstance(layer, Layer):
                raise TypeError(f"{name} is {layer!r}, but a layer is needed, such as nn.Sequential(...)")
        if shortcut is body and body.state_dict():
            raise ValueError(f"shortcut is body, but {body!r} has parameters of its own: make another one")

    def children(self) -> dict[str, Layer]:
        return {"body": self.body} if self.shortcut is None else {"body": self.body, "shortcut": self.shortcut}

    def __call__(self, x: Array) -> Array:
        arrays.check(x=x)
        ys: dict[str, Array] = {}
        for place, layer in self.children().items():
            with located(place, layer, x):
                ys[place] = layer(x)
        return _sum(x, **ys)

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        arrays.check(x=x)
        ys: dict[str, Array] = {}
        pullbacks: dict[str, Pullback] = {}
        for place, layer in self.children().items():
            with located(place, layer, x):
                ys[place], pullbacks[place] = layer.forward(x, rng)

        def pullback(grad_y: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            grad_xs: dict[str, Array] = {}
            grads: dict[str, dict[str, Array]] = {}
            for place, back in pullbacks.items():
                grad_xs[place], grads[place] = back(grad_y, needs_x=needs_x)
            grad_x = grad_xs["body"] + grad_xs.get("shortcut", grad_y) if needs_x else None
            return grad_x, prefixed(grads)

        return _sum(x, **ys), pullback


def _sum(x: Array, body: Array, shortcut: Array | None = None) -> Array:
    """A new array: `body` may be `x` itself, and a pullback may still need it."""
    other = x if shortcut is None else shortcut
    if body.shape != other.shape:
        way = "x has shape" if shortcut is None else "shortcut makes"
        need = "a shortcut that makes the same shape" if shortcut is None else "the same shape"
        raise ValueError(f"body makes y of shape {body.shape}, but {way} {other.shape}: {need} is needed")
    return body + other
