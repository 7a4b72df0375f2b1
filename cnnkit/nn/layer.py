"""What every layer is: a forward pass that returns its own way back, and named parameters."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any, Self

import numpy as np

from cnnkit import dispatch
from cnnkit.arrays import Array, beside, family, kind
from cnnkit.nn.arguments import floating

# grad_x, grads = pullback(grad_y, needs_x=True); without needs_x, grad_x may be None
Pullback = Callable[..., tuple[Array, dict[str, Array]]]


class Layer(ABC):
    """The base of all layers, and of your own.

    A subclass stores its constructor arguments under their names and gives ``__call__`` and `forward`; one with
    parameters also gives `parameters`, one that learns more than these, as `BatchNorm2d` does, `state_dict`, one that
    is made of layers `children`. Nothing else about a call is remembered on the layer: what the way back needs lives in
    the pullback.

    ``copy.deepcopy(layer)`` shares no array with `layer`. A layer can be pickled, which is how ``multiprocessing``
    sends it; into files use `save`, for reading a pickle can run code.

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

    def children(self) -> dict[str, "Layer"]:
        """Return the layers that this one is made of, by the names that stand before those of their parameters.

        Returns
        -------
        dict of str to Layer

        Examples
        --------
        >>> from cnnkit import nn
        >>> nn.Residual(nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)).children()
        {'body': Conv2d(4, 8, 1), 'shortcut': Conv2d(4, 8, 1)}
        """
        return {}

    def parameters(self) -> dict[str, Array]:
        """Return the live arrays that training changes, by name; of a layer made of layers, those of its children.

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> from cnnkit import nn
        >>> sum(array.size for array in nn.Conv2d(1, 8, 3).parameters().values())
        80
        """
        return prefixed({place: child.parameters() for place, child in self.children().items()})

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

    @classmethod
    def from_config(cls, **config: Any) -> Self:
        """Make the layer that `config` describes, with new parameters.

        Parameters
        ----------
        **config
            What `config` returned.

        Returns
        -------
        Layer

        Examples
        --------
        >>> from cnnkit import nn
        >>> nn.Dense.from_config(**nn.Dense(784, 10).config())
        Dense(784, 10)
        """
        return cls(**config)

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
        return prefixed({place: child.state_dict() for place, child in self.children().items()}) | self.parameters()

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
            If a dtype differs, or something is no array. Nothing is changed then.

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
            array[...] = beside(state[name], array)

    def astype(self, dtype: Any) -> Self:
        """Return a copy of the layer that computes in another dtype; this one stays as it is.

        Parameters
        ----------
        dtype : {"float32", "float64"}

        Returns
        -------
        Layer
            It shares no array with this one.

        Raises
        ------
        TypeError
            If there is no layer of this dtype.

        Examples
        --------
        >>> from cnnkit import nn
        >>> nn.Sequential(nn.Dense(4, 3), nn.ReLU()).astype("float64")
        Sequential(Dense(4, 3, dtype='float64'), ReLU())
        """
        wanted = floating(dtype)
        twin = self._copy(lambda array: array.copy() if array.dtype.kind in "iub" else array.astype(wanted))
        for layer in twin._family():
            if "dtype" in vars(layer):  # constructor arguments are stored under their names
                vars(layer)["dtype"] = wanted.name
        return twin

    def to(self, device: str) -> Self:
        """Return a copy of the layer on a device; this one stays where it is.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            ``"cpu"`` makes its arrays NumPy arrays, ``"cuda"`` CuPy arrays on CuPy's current device. Give the layer
            arrays of the same library then.

        Returns
        -------
        Layer
            It shares no array with this one, wherever that is.

        Raises
        ------
        ValueError
            If there is no device of this name.
        ImportError
            If CuPy cannot run here, with the reason.

        Examples
        --------
        >>> from cnnkit import nn
        >>> nn.Dense(4, 3).to("cpu")
        Dense(4, 3)
        """
        return self._copy(dispatch.mover(device))

    def _copy(self, change: Callable[[Array], Array]) -> Self:
        """A deep copy, but for the arrays that the layer has learnt: there stands what `change` makes of them."""
        return copy.deepcopy(self, {id(array): change(array) for array in self.state_dict().values()})

    def _family(self) -> Iterator["Layer"]:
        """This layer and all that it is made of."""
        yield self
        for child in self.children().values():
            yield from child._family()

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

    def summary(self, input_shape: tuple[int, ...]) -> Any:
        """Tabulate the layer or model: output shapes, parameters, multiply-adds, memory and receptive fields.

        Parameters
        ----------
        input_shape : tuple of int
            What it takes, with the batch: (N, C, H, W).

        Returns
        -------
        cnnkit.analysis.Summary
            Print it; its `rows` hold the numbers.

        Raises
        ------
        ValueError
            If it cannot take this shape.
        TypeError
            If `input_shape` has something else than ints.

        Examples
        --------
        >>> from cnnkit import nn
        >>> nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()).summary((1, 1, 8, 8)).multiply_adds
        2592
        """
        from cnnkit.analysis import summary  # which looks at layers of all kinds

        return summary(self, input_shape)


def check_state(live: Mapping[str, Array], state: Mapping[str, Array]) -> None:
    """Complain unless `state` has the names, shapes and dtypes of the `live` arrays."""
    differing = sorted(live.keys() ^ state.keys())
    if differing:
        raise ValueError(f"state and model must have the same names, but differ in {', '.join(differing)}")
    for name, array in live.items():
        given = state[name]
        if family(given) is None:
            raise TypeError(f"{name!r} is a {kind(given)} in state, but a numpy or cupy array is needed")
        if given.shape != array.shape:
            raise ValueError(f"{name!r} has shape {given.shape} in state, but {array.shape} in the model")
        if given.dtype != array.dtype:
            raise TypeError(f"{name!r} is {given.dtype} in state, but {array.dtype} in the model")


def prefixed(parts: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Several dicts as one: ``{"0": {"weight": w}}`` as ``{"0.weight": w}``."""
    return {f"{place}.{name}": array for place, part in parts.items() for name, array in part.items()}


@contextmanager
def located(place: str, layer: Layer, x: Array) -> Iterator[None]:
    """Add to an error in which of several layers it arose."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.add_note(f"in {place}, {layer!r}, given x of shape {getattr(x, 'shape', None)}")
        raise
