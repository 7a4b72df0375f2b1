"""What every layer is: a forward pass that returns its own way back, and named parameters."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import numpy as np

from cnnkit.arrays import Array

# grad_x, grads = pullback(grad_y, needs_x=True); without needs_x, grad_x may be None
Pullback = Callable[..., tuple[Array, dict[str, Array]]]


class Layer(ABC):
    """The base of all layers, and of your own.

    A subclass stores its constructor arguments under their names and gives ``__call__`` and `forward`; one with
    parameters also gives `parameters`, one that learns more than these, as `BatchNorm2d` does, `state_dict`. Nothing
    else about a call is remembered on the layer: what the way back needs lives in the pullback.

    Examples
    --------
    >>> import numpy as np
    >>> from cnnkit import nn
    >>> class Double(nn.Layer):
    ...     def __call__(self, x):
    ...         return 2 * x
    ...
    ...     def forward(self, x, rng=None):
    ...         return 2 * x, lambda grad_y, needs_x=True: (2 * grad_y, {})
    >>> model = nn.Sequential(Double(), nn.ReLU())
    >>> y, pullback = model.forward(np.array([-1.0, 3.0]))
    >>> pullback(np.ones(2))
    (array([0., 2.]), {})
    """

    @abstractmethod
    def __call__(self, x: Array) -> Array:
        """Infer: `x` to `y`, with nothing kept for the way back."""

    @abstractmethod
    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Pullback]:
        """Run the training pass.

        Parameters
        ----------
        x : array
        rng : numpy.random.Generator, optional
            What `Dropout` draws from; the other layers draw nothing.

        Returns
        -------
        y : array
        pullback : callable
            ``grad_x, grads = pullback(grad_y)``: the gradient with respect to `x`, and a dict of those with respect to
            the parameters, with the keys of `parameters`. With ``needs_x=False`` the first need not be computed.

        Examples
        --------
        >>> import numpy as np
        >>> from cnnkit import nn
        >>> y, pullback = nn.Dense(3, 2, dtype="float64").forward(np.ones((4, 3)))
        >>> grad_x, grads = pullback(np.ones((4, 2)))
        >>> grad_x.shape, grads["weight"].shape, grads["bias"]
        ((4, 3), (2, 3), array([4., 4.]))
        """

    def parameters(self) -> dict[str, Array]:
        """Return the live arrays that training changes, by name.

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> from cnnkit import nn
        >>> sum(array.size for array in nn.Conv2d(1, 8, 3).parameters().values())
        80
        """
        return {}

    def config(self) -> dict[str, Any]:
        """Return the constructor arguments that make this layer again, by name.

        Returns
        -------
        dict of str to object
            What `repr` shows and what a saved model holds. The generator of the first weights is no part of it.

        Examples
        --------
        >>> from cnnkit import nn
        >>> nn.Dense(784, 10).config()
        {'in_features': 784, 'out_features': 10, 'bias': True, 'dtype': 'float32'}
        """
        names = [name for name in inspect.signature(type(self)).parameters if name != "rng"]
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        given = []
        for name, value in self.config().items():
            default = inspect.signature(type(self)).parameters[name].default
            if default is inspect.Parameter.empty:
                given.append(repr(value))
            elif value != default:
                given.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"

    def state_dict(self) -> dict[str, Array]:
        """Return all that the layer has learnt, by name: the live arrays of `parameters`, and running statistics.

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> from cnnkit import nn
        >>> list(nn.Sequential(nn.Dense(4, 3), nn.ReLU(), nn.Dense(3, 2, bias=False)).state_dict())
        ['0.weight', '0.bias', '2.weight']
        """
        return self.parameters()

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy `state` into the live arrays.

        Parameters
        ----------
        state : dict of str to array
            The names, shapes and dtypes of `state_dict`.

        Raises
        ------
        ValueError
            If names or shapes differ. Nothing is changed then.
        TypeError
            If a dtype differs. Nothing is changed then.

        Examples
        --------
        >>> from cnnkit import nn
        >>> first, second = nn.Dense(4, 3, rng=0), nn.Dense(4, 3, rng=1)
        >>> second.load_state_dict(first.state_dict())
        >>> bool((first.weight == second.weight).all())
        True
        """
        live = self.state_dict()
        check_state(live, state)
        for name, array in live.items():
            array[...] = state[name]

    def save(self, path: str | PathLike[str]) -> None:
        """Write architecture and parameters into one safetensors file, which `cnnkit.nn.load` reads.

        The file is replaced as a whole: whatever goes wrong, `path` holds the old model or the new one.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        TypeError
            If the model has a layer that is not cnnkit's own, which `load` could not make again.

        Examples
        --------
        >>> import os, tempfile
        >>> from cnnkit import nn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nn.Dense(4, 3).save(os.path.join(folder, "model.safetensors"))
        ...     os.listdir(folder)
        ['model.safetensors']
        """
        from cnnkit.nn.saving import save_model  # which knows all layer classes, and they know this one

        save_model(self, path)


def check_state(live: Mapping[str, Array], state: Mapping[str, Array]) -> None:
    """Complain unless `state` has the names, shapes and dtypes of the `live` arrays."""
    differing = sorted(live.keys() ^ state.keys())
    if differing:
        raise ValueError(f"state and model must have the same names, but differ in {', '.join(differing)}")
    for name, array in live.items():
        given = state[name]
        if given.shape != array.shape:
            raise ValueError(f"{name!r} has shape {given.shape} in state, but {array.shape} in the model")
        if given.dtype != array.dtype:
            raise TypeError(f"{name!r} is {given.dtype} in state, but {array.dtype} in the model")
