"""A stand-in for CuPy on a machine without a GPU: NumPy underneath, and no more than what CuPy has and allows.

Its arrays refuse to meet NumPy's, as CuPy's do; NumPy's functions do not take them (CuPy's they would, through
protocols that cnnkit does not depend on). What makes the host wait for the GPU, or copies between the two, is counted.
Like CuPy, it takes indices modulo the size and looks at none of them. `test_cupy_room` compares its names with CuPy's.
"""

import functools
import sys
import types
from collections import Counter

import numpy as np

COUNTED = Counter()  # "waits": numbers that the host wanted to see; "uploads": host memory taken to the GPU

ATTRIBUTES = ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides")
METHODS = ("all", "any", "argmax", "astype", "clip", "copy", "max", "mean", "min", "ravel", "reshape", "sum")
METHODS += ("swapaxes", "transpose", "view")
FUNCTIONS = ("arange", "concatenate", "empty", "empty_like", "full", "ix_", "may_share_memory", "ones", "where")
FUNCTIONS += ("zeros", "zeros_like")
UFUNCS = ("add", "exp", "expm1", "log", "maximum", "minimum", "multiply", "sqrt", "subtract", "tanh")
AT = {  # the dtypes whose atomic operations CuPy has
    "add": ("float16", "float32", "float64", "int32", "uint32", "uint64"),
    "maximum": ("float32", "float64", "int32", "uint32", "uint64"),
}
DTYPES = ("bool_", "float16", "float32", "float64", "int32", "int64", "uint8", "uint64")
OPERATORS = ("add", "sub", "mul", "truediv", "pow", "matmul", "floordiv", "mod", "and", "or")


class Flags:
    """What CuPy says of an array's memory: nothing of alignment, nothing of being writeable."""

    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata


class ndarray:  # noqa: N801
    """An array that only its own kind and numbers may meet."""

    __array_ufunc__ = None  # NumPy's operators leave their turn to ours, its functions are refused

    def __init__(self, array):
        self._array = array

    @property
    def flags(self):
        return Flags(self._array.flags)

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._array.ctypes.data)

    @property
    def T(self):  # noqa: N802
        return ndarray(self._array.T)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_function__(self, function, *_):
        raise TypeError(f"numpy.{function.__name__} was given an array of CuPy's")

    def __getitem__(self, key):
        if isinstance(key, ndarray) and key.dtype == bool:
            COUNTED["waits"] += 1  # the size of the result is known to the GPU alone
        return wrap(self._array[self._places(key)])

    def __setitem__(self, key, value):
        self._array[self._places(key)] = bare(value)

    def _places(self, key):
        """An index as NumPy has it, modulo the sizes where it is an array."""
        if not isinstance(key, tuple):
            return self._modulo(key, len(self._array)) if isinstance(key, ndarray) else bare(key)
        sizes = iter(self.shape)
        found = []
        for one in key:
            if one is Ellipsis:
                return tuple(map(bare, key))
            n = None if one is None else next(sizes)
            found.append(self._modulo(one, n) if isinstance(one, ndarray) else bare(one))
        return tuple(found)

    @staticmethod
    def _modulo(key, n):
        return key._array if key.dtype == bool else key._array % max(n, 1)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return map(wrap, self._array)

    def __neg__(self):
        return wrap(-self._array)

    def __abs__(self):
        return wrap(abs(self._array))

    def __invert__(self):
        return wrap(~self._array)

    def get(self):
        COUNTED["waits"] += 1
        return self._array.copy()

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    __index__ = __int__

    def __bool__(self):
        return bool(self.get())


class Ufunc:
    """One of CuPy's elementwise functions."""

    def __init__(self, name):
        self._name, self._ufunc = name, getattr(np, name)
        self.outer = function(self._ufunc.outer)

    def __call__(self, *args, **kwargs):
        return function(self._ufunc)(*args, **kwargs)

    def at(self, a, indices, b):
        if a.dtype.name not in AT.get(self._name, ()):
            raise TypeError(f"cupy.{self._name}.at does not take {a.dtype}")
        self._ufunc.at(a._array, a._places(indices), bare(b))


def bare(value):
    """What NumPy is given of an argument; its own arrays are no arguments."""
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(map(bare, value))
    return value._array if isinstance(value, ndarray) else value


def wrap(value):
    """What NumPy gives, as CuPy would: a single number is an array too."""
    if isinstance(value, tuple | list):
        return tuple(map(wrap, value))
    return ndarray(np.asarray(value)) if isinstance(value, np.ndarray | np.generic) else value


def function(numpys):
    @functools.wraps(numpys)
    def call(*args, **kwargs):
        result = numpys(*map(bare, args), **{name: bare(value) for name, value in kwargs.items()})
        return kwargs["out"] if kwargs.get("out") is not None else wrap(result)

    return call


def method(name):
    def call(self, *args, **kwargs):
        return function(getattr(self._array, name))(*args, **kwargs)

    return call


def operator(name):
    def call(self, other):
        if not isinstance(other, ndarray | np.generic | int | float):
            raise TypeError(f"Unsupported type {type(other)}")
        return wrap(getattr(self._array, name)(bare(other)))

    def in_place(self, other):
        getattr(self._array, name)(bare(other))
        return self

    return in_place if name.startswith("__i") else call


def poisoned(numpys):
    """New memory, in which every float is NaN."""

    def call(*args, **kwargs):
        made = function(numpys)(*args, **kwargs)
        if made.dtype.kind == "f" or made.dtype.name == "bfloat16":
            made._array.fill(np.nan)
        return made

    return call


def take_along_axis(a, indices, axis):
    """The indices modulo the size, as CuPy has it."""
    return wrap(np.take_along_axis(a._array, indices._array % max(a.shape[axis], 1), axis))


def asarray(value, dtype=None):
    """An array of the GPU as it is; whatever the host has is copied there."""
    if isinstance(value, ndarray):
        return value if dtype is None else value.astype(dtype, copy=False)
    COUNTED["uploads"] += 1
    return ndarray(np.array(value, dtype))


def array(value, dtype=None):
    return asarray(value, dtype).copy() if isinstance(value, ndarray) else asarray(value, dtype)


class Stream:
    """A stream of a GPU; what other streams it waits for is noted."""

    def __init__(self, ptr=0):
        self.ptr, self.waited_for, self.is_capturing = ptr, [], False

    def synchronize(self):
        COUNTED["waits"] += 1

    def record(self):
        return types.SimpleNamespace(done=False, stream=self)

    def wait_event(self, event):
        self.waited_for.append(event.stream)


class Generator:
    """Random numbers as NumPy draws them; CuPy's own differ."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    def random(self, size=None, dtype=np.float64):
        if dtype not in (np.float32, np.float64):  # a name is none of them
            raise TypeError(f"Unsupported dtype {dtype!r} for random")
        return wrap(self._rng.random(size, dtype))


for _name in ATTRIBUTES:
    setattr(ndarray, _name, property(lambda self, name=_name: getattr(self._array, name)))
for _name in METHODS:
    setattr(ndarray, _name, method(_name))
for _name in OPERATORS:
    for _form in ("__{}__", "__r{}__", "__i{}__"):
        if hasattr(np.ndarray, _form.format(_name)):
            setattr(ndarray, _form.format(_name), operator(_form.format(_name)))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(ndarray, f"__{_name}__", operator(f"__{_name}__"))
ndarray.__module__ = "cupy"
ndarray.__hash__ = None


def module():
    """The stand-in as a module of the name that it stands in for."""
    cupy = types.ModuleType("cupy")
    for name in FUNCTIONS:
        setattr(cupy, name, function(getattr(np, name)))
    for name in UFUNCS:
        setattr(cupy, name, Ufunc(name))
    for name in DTYPES:
        setattr(cupy, name, getattr(np, name))
    cupy.ndarray, cupy.array, cupy.asarray, cupy.take_along_axis = ndarray, array, asarray, take_along_axis
    cupy.asnumpy = lambda value: value.get() if isinstance(value, ndarray) else np.asarray(value)
    cupy.random = types.SimpleNamespace(default_rng=Generator, Generator=Generator)
    for name in ("empty", "empty_like"):
        setattr(cupy, name, poisoned(getattr(np, name)))
    stream = Stream()
    runtime = {"getDevice": 0, "driverGetVersion": 13000, "runtimeGetVersion": 13000, "memGetInfo": (1 << 30, 1 << 30)}
    cupy.cuda = types.SimpleNamespace(
        is_available=lambda: True,
        Device=lambda device=0: types.SimpleNamespace(compute_capability="90"),
        runtime=types.SimpleNamespace(**{name: lambda value=value: value for name, value in runtime.items()}),
        get_current_stream=lambda: stream,
    )
    return cupy


def install(monkeypatch):
    """Be CuPy until the test ends."""
    from cnnkit import dispatch

    cupy = module()
    COUNTED.clear()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for cached in (dispatch.why_not, dispatch._find):
        cached.cache_clear()
    return cupy
