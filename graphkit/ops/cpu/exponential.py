"""exp for kernels: a polynomial that the compiler turns into vector instructions, which calls of a library are not."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload


@intrinsic
def _power_of_two(typing_context, exponent):  # pragma: no cover - compiled
    """2 to a whole number, put together from its bits."""

    def generate(context, builder, signature, arguments):
        shifted = builder.add(arguments[0], ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(shifted, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.int32), generate


def _polynomial() -> list[np.float32]:
    """Coefficients of 2^f for |f| <= 1/2, to 1e-7."""
    nodes = np.cos(np.pi * (np.arange(64) + 0.5) / 64) / 2
    fitted = np.polynomial.Chebyshev.fit(nodes, 2.0**nodes, 6, domain=[-0.5, 0.5])
    return [np.float32(c) for c in fitted.convert(kind=np.polynomial.Polynomial).coef]


_C0, _C1, _C2, _C3, _C4, _C5, _C6 = _polynomial()
_PER_E, _HALF = np.float32(math.log2(math.e)), np.float32(0.5)
_LEAST, _MOST = np.float32(-126), np.float32(127)


def exp(x):
    """e to the power of x: in float32 to 2e-7 of the value, between 1e-38 and 1e38; in float64 exact."""
    raise NotImplementedError("for compiled kernels only")


@overload(exp, inline="always")
def _exp(x):  # pragma: no cover - compiled
    if x == types.float32:

        def short(x):
            y = min(max(x * _PER_E, _LEAST), _MOST)
            whole = np.floor(y + _HALF)
            f = y - whole
            value = _C0 + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * _C6)))))
            return value * _power_of_two(np.int32(whole))  # type: ignore[call-arg]

        return short

    return lambda x: math.exp(x)
