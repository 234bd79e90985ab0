"""The range and step of a param's slider."""

from __future__ import annotations

import math

from sagaz_lab.model.params import Param, Scalar

STEPS = 100
"""Approximate minimum number of slider positions."""


def slider(value: Scalar, default: Scalar, param: Param | None) -> tuple[float, float, float] | None:
    """(min, max, step) from the `Param`, with the gaps derived from the value; None if it is not a number."""
    numbers = [it for it in (default, value) if isinstance(it, int | float) and not isinstance(it, bool)]
    if not numbers or isinstance(default, str | bool):
        return None
    low, high = _around(numbers)
    if param is not None:
        low, high = _within(param, low, high)
    low, high = min(low, *numbers), max(high, *numbers)
    step = param.step if param is not None and param.step is not None else _step(low, high)
    return low, high, max(1.0, step) if all(isinstance(it, int) for it in numbers) else step


def _within(param: Param, low: float, high: float) -> tuple[float, float]:
    low = low if param.min is None else param.min
    high = high if param.max is None else param.max
    if low >= high:  # only one bound was given, on the other side of zero
        return (low, 2 * low or 1.0) if param.max is None else (2 * high or -1.0, high)
    return low, high


def _around(numbers: list[float]) -> tuple[float, float]:
    size = max(map(abs, numbers))
    if all(isinstance(it, int) for it in numbers):
        reach = float(max(10, 2 * size))
    elif 0.1 <= size <= 1 or size == 0:
        reach = 1.0
    else:
        reach = _rounded_up(2 * size)
    return -reach if min(numbers) < 0 else 0.0, reach


def _rounded_up(number: float) -> float:
    """Round up to one significant digit; unchanged at the limits of floats."""
    unit = 10.0 ** math.floor(math.log10(number)) if math.isfinite(number) else 0.0
    rounded = math.ceil(number / unit) * unit if unit else math.inf
    return min(rounded, 1.7e308)


def _step(low: float, high: float) -> float:
    """A power of ten that divides the range into 100 steps or more."""
    return max(10.0 ** math.floor(math.log10(high / STEPS - low / STEPS)), 5e-324)
