"""Functions of every lane: exponentials, the logistic function, the normal distribution, and activations made of them.

Errors are stated in units in the last place (ulp) of the result, its subnormal range included. NaN stays NaN, and what
overflows on the way is bounded before: no infinity becomes a NaN.
"""

from cnnkit.rooms import normal
from cnnkit.rooms.numba.machine import MASK_REGISTERS, kernel
from cnnkit.rooms.numba.vectors import (
    absolute,
    any_lane,
    bits,
    from_bits,
    multiply_add,
    paired_polynomial,
    polynomial,
    select,
    size,
    with_sign,
)

FAR = 1000.0  # beyond, a logistic function is 0 or 1, in float64 too
ROOT = 0.7978845608028654  # sqrt(2 / pi)
CUBIC = 0.044715  # Hendrycks and Gimpel 2016, arXiv:1606.08415

# (exp(r) - 1 - r) / r ** 2 for |r| <= ln(2) / 2, Chebyshev interpolants: exp(r) is off by less than 8e-9 and 2e-17
_more_short = paired_polynomial(
    *(0.0013933676227072776, 0.008363197377014202, 0.04166646468140099, 0.16666576872119707, 0.5000000013491729)
)
_more_long = paired_polynomial(
    *(2.5105245845597674e-08, 2.762012275502573e-07, 2.7557255330683724e-06, 2.4801521223491958e-05),
    *(0.0001984126987487566, 0.0013888888917260632, 0.008333333333326119, 0.04166666666662403),
    *(0.1666666666666667, 0.5000000000000001),
)
_taken_back = polynomial(2.0**-100)
_tail_short, _tail_long = polynomial(*normal.SHORT), polynomial(*normal.LONG)


# ---------------------------------------------------------------- exponentials


@kernel
def _whole(x):
    """``x / ln(2)`` rounded to a whole number: one whose last bits are that, and that."""
    rounder = 1.5 * 2**23 if size(x) == 4 else 1.5 * 2**52
    shifted = x * 1.4426950408889634 + rounder
    return shifted, shifted - rounder


@kernel
def _minus_one(x, factor, n):
    """``exp(x * factor - n * ln(2)) - 1``, where that is small; the product is not rounded if it can be fused.

    A factor of None is 1.
    """
    if size(x) == 4:
        high, low = -0.693359375, -2.12194440e-4
    else:
        high, low = -6.93147180369123816490e-01, 1.90821492927058770002e-10
    # the first part of ln(2) is short: its product is exact
    r = (n * high + x if factor is None else multiply_add(x, factor, n * high)) - n * low
    square = r * r
    return (_more_short(r, square) if size(x) == 4 else _more_long(r, square)) * square + r


@kernel
def _power(shifted):
    """``2 ** n``, n being the last bits of `shifted`; a NaN's bits make any number."""
    mantissa, one = (23, 127) if size(shifted) == 4 else (52, 1023)
    return from_bits((bits(shifted) << mantissa) + (one << mantissa))


@kernel
def exp(x):
    """``e ** x`` for x <= 0, within 2 ulp."""
    least, small = (-104.0, -87.0) if size(x) == 4 else (-746.0, -708.0)
    if not MASK_REGISTERS and not any_lane(x < small):  # what is selected below is a third of all operations
        shifted, n = _whole(x)
        power = _power(shifted)
        return _minus_one(x, None, n) * power + power
    back = select(x < least, 0.0, _taken_back(x))  # no underflow, which can take a hundred cycles
    x = select(x < least, least, x)
    shifted, n = _whole(x)
    tiny = x < small  # 2 ** n is, or may be, too small a number: times 2 ** 100, and that taken back
    power = _power(select(tiny, shifted + 100.0, shifted))
    y = _minus_one(x, None, n) * power + power
    return select(tiny, y * back, y)


@kernel
def expm1(x):
    """``e ** x - 1`` for x <= 0, within 2 ulp."""
    least = -20.0 if size(x) == 4 else -40.0
    x = select(x < least, least, x)
    shifted, n = _whole(x)
    power = _power(shifted)
    return _minus_one(x, None, n) * power + (power - 1.0)


@kernel
def bell(x):
    """``e ** (-x * x / 2)``, or 0 where that is no normal number; and ``|x|``, or where it is 0 less.

    Within 2 ulp, or where processors have no fused multiply-add ``x * x / 2`` ulp.
    """
    most = 13.19 if size(x) == 4 else 37.6
    a = absolute(x)
    far = a > most
    a = select(far, most, a)
    half = a * -0.5
    shifted, n = _whole(a * half)
    exponent = bits(shifted) << (
        23 if size(x) == 4 else 52
    )  # added to the bits of a float, it is ``2 ** n`` times that
    return select(far, 0.0, from_bits(bits(_minus_one(a, half, n) + 1.0) + exponent)), a


@kernel
def bounded(x, most):
    """x, but no further than `most` from 0."""
    x = select(x < -most, -most, x)
    return select(x > most, most, x)


@kernel
def logistic(x):
    """``1 / (1 + e ** -x)`` within 4 ulp, and its slope ``e ** -x / (1 + e ** -x) ** 2`` within 6."""
    e = exp(absolute(x) * -1.0)
    share = 1.0 / (e + 1.0)
    return select(x > 0.0, 1.0, e) * share, e * share * share


@kernel
def normal_tail(x):
    """The normal distribution's probability of less than ``-|x|``, within 5 ulp; and both results of `bell`."""
    e, a = bell(x)
    q = normal.SCALE / (a + normal.SCALE)
    u = q + q - 1.0
    return (_tail_short(u) if size(x) == 4 else _tail_long(u)) * q * e, e, a


# ---------------------------------------------------------------- activations, of x and a parameter


@kernel
def relu(x, _parameter):
    return select(x < 0.0, 0.0, x)


@kernel
def leaky_relu(x, slope):
    return select(x > 0.0, x, x * slope)


@kernel
def elu(x, alpha):
    return select(x > 0.0, x, expm1(select(x > 0.0, 0.0, x)) * alpha)


@kernel
def gelu(x, _parameter):
    tail, _e, a = normal_tail(x)
    return relu(x, 0.0) - a * tail


@kernel
def gelu_tanh(x, _parameter):
    near = bounded(x, 50.0)
    share, _slope = logistic(near * (near * near * (2 * ROOT * CUBIC) + 2 * ROOT))
    return select(x < -50.0, -50.0, x) * share


@kernel
def silu(x, _parameter):
    share, _slope = logistic(x)
    return select(x < -FAR, -FAR, x) * share


@kernel
def sigmoid(x, _parameter):
    share, _slope = logistic(x)
    return share


@kernel
def tanh(x, _parameter):
    """Within 4 ulp."""
    t = expm1(absolute(x) * -2.0)
    return with_sign(t / (t + 2.0), x)


# ---------------------------------------------------------------- their gradients, of grad, x and the parameter


@kernel
def relu_backward(grad, x, _parameter):
    return select(x <= 0.0, 0.0, grad)


@kernel
def leaky_relu_backward(grad, x, slope):
    return select(x > 0.0, grad, grad * slope)


@kernel
def elu_backward(grad, x, alpha):
    return select(x > 0.0, grad, grad * alpha * exp(select(x > 0.0, 0.0, x)))


@kernel
def gelu_backward(grad, x, _parameter):
    tail, e, a = normal_tail(x)
    return grad * (with_sign(a * e * (ROOT / 2), x) + select(x > 0.0, 1.0 - tail, tail))


@kernel
def gelu_tanh_backward(grad, x, _parameter):
    near = bounded(x, 50.0)
    square = near * near
    share, slope = logistic(near * (square * (2 * ROOT * CUBIC) + 2 * ROOT))
    return grad * (near * slope * (square * (6 * ROOT * CUBIC) + 2 * ROOT) + share)


@kernel
def silu_backward(grad, x, _parameter):
    share, slope = logistic(x)
    return grad * (bounded(x, FAR) * slope + share)


@kernel
def sigmoid_backward(grad, x, _parameter):
    _share, slope = logistic(x)
    return grad * slope


@kernel
def tanh_backward(grad, x, _parameter):
    _share, slope = logistic(x + x)
    return grad * slope * 4.0


# ---------------------------------------------------------------- squared errors


@kernel
def squared_error(y, target, _parameter):
    error = y - target
    return error * error


@kernel
def squared_error_backward(y, target, factor):
    return (y - target) * factor
