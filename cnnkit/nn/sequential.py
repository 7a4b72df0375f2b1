"""Layers one after the other."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from cnnkit.arrays import Array
from cnnkit.nn.activation import ReLU, Sigmoid, SiLU, Tanh
from cnnkit.nn.conv import Conv1d, Conv2d, Conv3d
from cnnkit.nn.dense import Dense
from cnnkit.nn.layer import Layer, Pullback, located, prefixed

ACTIVATED = (Conv1d, Conv2d, Conv3d, Dense)  # these very classes, as a subclass may compute something else
IN_THE_SAME_PASS: Any = {ReLU: "relu", Sigmoid: "sigmoid", SiLU: "silu", Tanh: "tanh"}


class Sequential(Layer):
    """A model whose layers run one after the other.

    Parameters are named after their layer's place: ``"0.weight"``, ``"0.bias"``, ``"3.weight"``. Layers are reached by
    index, a slice is a `Sequential` of the same layers, and a `Sequential` may hold others. An error that a layer
    raises says in which one it arose. Inference computes a convolution or dense layer and a `ReLU`, `Sigmoid`, `SiLU`
    or `Tanh` behind it in one pass; `fuse` makes batch norms part of convolutions.

    Parameters
    ----------
    *layers : Layer

    Raises
    ------
    TypeError
        If something else than a layer is given.
    ValueError
        If a layer that has parameters is given twice.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.ReLU(), nn.Flatten(), nn.Dense(144, 10, rng=1))
    >>> model(np.zeros((2, 1, 8, 8), dtype="float32")).shape
    (2, 10)
    >>> list(model.parameters())
    ['0.weight', '0.bias', '3.weight', '3.bias']
    >>> model[-1]
    Dense(144, 10)
    """

    def __init__(self, *layers: Layer) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {i} is {layer!r}, but Sequential needs layers: Sequential(layer, layer, ...)")
            if layer.state_dict() and any(layer is other for other in layers[:i]):
                raise ValueError(f"layer {i} is given twice, but {layer!r} has parameters of its own: make another one")
        self.layers = layers

    def __call__(self, x: Array) -> Array:
        done = 0
        layer: Any
        while done < len(self.layers):
            layer, then = self.layers[done], self._activation(done)
            with located(f"layer {done}", layer, x):
                x = layer._activated(x, then) if then else layer(x)
            done += 2 if then else 1
        return x

    def _activation(self, i: int) -> str | None:
        """What layer `i` can do in its pass of the layer after it."""
        if type(self.layers[i]) not in ACTIVATED or i + 1 == len(self.layers):
            return None
        return IN_THE_SAME_PASS.get(type(self.layers[i + 1]))

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        pullbacks: list[Pullback] = []
        for i, layer in enumerate(self.layers):
            with located(f"layer {i}", layer, x):
                x, back = layer.forward(x, rng)
            pullbacks.append(back)
        first = next((i for i, layer in enumerate(self.layers) if layer.parameters()), len(self.layers))

        def pullback(grad: Array, *, needs_x: bool = True) -> tuple[Array, dict[str, Array]]:
            grads: dict[str, dict[str, Array]] = {}
            last = 0 if needs_x else first  # below it lies nothing that anyone asks for
            for i in range(len(pullbacks) - 1, last - 1, -1):
                grad, own = pullbacks[i](grad, needs_x=needs_x or i > last)
                grads = {str(i): own} | grads
            return grad if needs_x else None, prefixed(grads)

        return x, pullback

    def children(self) -> dict[str, Layer]:
        return {str(i): layer for i, layer in enumerate(self.layers)}

    @classmethod
    def from_config(cls, **config: Any) -> Self:
        return cls(*tuple(config.pop("layers", ())), **config)

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    def __getitem__(self, index: int | slice) -> Layer:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)
