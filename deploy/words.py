"""Numbers in words: prefixes, ranges, intervals."""

from __future__ import annotations

from spikefold.deploy.comparison import Paired
from spikefold.deploy.quantity import Range

_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))


def si(value: float, unit: str) -> str:
    """A number with three digits and an SI prefix: ``4.6e-4, "J"`` becomes ``460 µJ``."""
    if value == 0:
        return f"0 {unit}"
    factor, prefix = next(((f, p) for f, p in _PREFIXES if abs(value) >= f), _PREFIXES[-1])
    return f"{value / factor:.3g} {prefix}{unit}"


def count(value: float) -> str:
    """A count in thousands or millions, three digits."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.3g}"


def signed(value: float) -> str:
    """A count with its sign, as `count` writes it."""
    return f"{'-' if value < 0 else '+'}{count(abs(value))}"


def size(value: float) -> str:
    """Bytes, as `count` writes a count: ``161000`` becomes ``161 kB``."""
    number, _, letter = count(value).partition(" ")
    return f"{number} {letter}B"


def ranged(quantity: Range, unit: str = "J") -> str:
    """Nominal value with its low and high."""
    if quantity.low == quantity.high:
        return si(quantity.value, unit)
    return f"{si(quantity.value, unit)} ({si(quantity.low, unit)} to {si(quantity.high, unit)})"


def change(result: Paired) -> str:
    """A paired difference in percentage points with its interval and the samples behind it."""
    return (
        f"{100 * result.difference:+.1f} [{100 * result.low:+.1f}, {100 * result.high:+.1f}] "
        f"(+{result.gained} -{result.lost})"
    )
