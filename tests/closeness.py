"""When is a computed array right? Bounds from the number format and the number of terms alone."""

import math

import numpy as np

SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133}  # the distance between the smallest numbers of the halves


def eps(dtype):
    """The distance from 1 to the next number of the format (``ml_dtypes`` formats included)."""
    if np.dtype(dtype).name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype).eps)


def tolerance(dtype, magnitude, terms, expected=0.0):
    """How far a sum of ``terms`` products may be from the truth, whatever its order.

    Each of the at most ``terms`` additions rounds by half an eps of the sum of absolute values,
    ``magnitude``; the product and the last operations of a formula add a few more (Higham,
    *Accuracy and Stability of Numerical Algorithms*, ch. 3). The reference, in float64, may be off
    by as much again, hence a whole eps. Halves are accumulated in float32 and rounded once.
    """
    accumulated = np.result_type(dtype, np.float32) if np.dtype(dtype).kind == "f" else np.float32
    tiny = float(np.finfo(accumulated).smallest_normal)
    bound = (terms + 4) * eps(accumulated) * np.asarray(magnitude, np.float64) + tiny
    if eps(dtype) > eps(accumulated):  # half a unit of what is rounded
        bound = bound + eps(dtype) / 2 * (np.abs(expected) + bound) + SMALLEST[np.dtype(dtype).name] / 2
    return bound


def assert_close(actual, expected, magnitude, terms, dtype=None):
    """``actual`` has ``expected``'s shape, and is within the bound of `tolerance` everywhere.

    ``expected`` is the float64 truth, ``magnitude`` the same sum over absolute values (an array
    that broadcasts to it, or a number), ``dtype`` the dtype that ``actual`` must have.
    """
    assert isinstance(actual, np.ndarray | np.generic), f"{type(actual)} is no NumPy array"
    if dtype is not None:
        assert actual.dtype == np.dtype(dtype), f"dtype {actual.dtype}, not {np.dtype(dtype)}"
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, not {expected.shape}"
    error = np.abs(np.asarray(actual, np.float64) - expected)
    bound = np.broadcast_to(tolerance(actual.dtype, magnitude, terms, expected), expected.shape)
    wrong = ~(error <= bound)  # a NaN is wrong
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, error / bound, -math.inf)), error.shape)
        worst = tuple(int(i) for i in worst)
        raise AssertionError(
            f"{wrong.sum()} of {wrong.size} elements are off; worst at {worst}: "
            f"{np.asarray(actual)[worst]!r}, not {expected[worst]!r} +- {bound[worst]:.3g}"
        )


def assert_same(actual, expected):
    """The same dtype, shape and bits (-0.0 and 0.0 differ; a NaN equals the same NaN)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, not {expected.dtype}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, not {expected.shape}"
    same = np.ascontiguousarray(actual).tobytes() == np.ascontiguousarray(expected).tobytes()
    if not same:
        np.testing.assert_array_equal(actual, expected)
        raise AssertionError("the values are equal, but the bits are not")
