"""The answer that people come with: what attention brings against the plain net, and in which mode to deploy it.

The rule for the mode, on one piece of hardware (the first chip that was asked for; without one, the first table):

1. A mode is left out if it is shown to be more than `MARGIN` less accurate than the reference: if the whole 95 % paired
   interval of its accuracy minus the reference's lies below that. The reference is ``dynamic``, which computes the
   gates as they were trained; where that was not compared, the most accurate mode.
2. Of the others, those that keep every rule of the chip are preferred, if there are any.
3. Of these, the one that takes least energy is deployed: nominal total, the gate processor's line included.

A mode whose thresholds were reduced to a few stands beside the mode itself, and is judged as a mode of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spikefold.deploy.comparison import Paired, Row, paired
from spikefold.deploy.price_record import GATE_PROCESSOR, Price
from spikefold.deploy.words import change, count, ranged, si
from spikefold.errors import InputError

MARGIN = 0.01
"""Share of samples."""


@dataclass(frozen=True)
class Verdict:
    """Which mode of one variant to deploy, and what that brings."""

    chosen: Row
    modes: tuple[str, ...]
    """Those compared."""
    reference: str
    against_reference: Paired
    plain: Row | None
    against_plain: Paired | None
    """Accuracy of the chosen mode minus that of the plain net, both in fixed point."""
    sentence: str


def ratio(price: Price, other: Price) -> float:
    """Nominal total of one price over another's, gate processors included; infinite over nothing.

    Raises
    ------
    InputError
        They are of different families, or of different chips: models of energy compare within themselves only.
    """
    if price.family != other.family or (price.family == "chip" and price.hardware != other.hardware):
        raise InputError(
            f"prices of {price.title!r} ({price.family}) and {other.title!r} ({other.family}) have no ratio: compare "
            "within one family, and on one chip"
        )
    return full_energy(price) / full_energy(other) if full_energy(other) else float("inf")


def full_energy(price: Price) -> float:
    """Nominal total [J], the gate processor's line included."""
    return price.total.value + (0.0 if price.gate_processor is None else price.gate_processor.value)


def plain_row(rows: Sequence[Row]) -> Row | None:
    """The net without gates that others are held against: the first."""
    return next((row for row in rows if row.mode == "none"), None)


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """One for each net with gates; see the module's text for the rule."""
    plain = plain_row(rows)
    names = dict.fromkeys(row.name for row in rows if row.mode != "none")
    return [_verdict([row for row in rows if row.name == name], plain) for name in names]


def _verdict(variant: Sequence[Row], plain: Row | None) -> Verdict:
    at = next((i for i, p in enumerate(variant[0].prices) if p.family == "chip"), 0)
    reference = next(
        (row for row in variant if row.form == "dynamic"), max(variant, key=lambda row: row.accuracy_fixed)
    )
    against = {row.form: paired(reference.right, row.right) for row in variant}
    kept = [row for row in variant if against[row.form].high >= -MARGIN]
    kept = [row for row in kept if row.prices[at].fits] or kept
    chosen = min(kept, key=lambda row: full_energy(row.prices[at]))
    against_plain = None if plain is None else paired(plain.right, chosen.right)
    sentence = f"{chosen.name}: deploy {chosen.form}, {_why(chosen, reference, against[chosen.form], len(variant), at)}"
    if plain is not None and against_plain is not None:
        sentence += "; " + _gain(chosen, plain, against_plain, at)
    sentence += f"; {_gates(chosen, reference, at)}."
    modes = tuple(row.form for row in variant)
    return Verdict(chosen, modes, reference.form, against[chosen.form], plain, against_plain, sentence)


def _why(chosen: Row, reference: Row, against: Paired, modes: int, at: int) -> str:
    if modes == 1:
        return "the only mode compared"
    price = chosen.prices[at]
    rules = "keeps its rules and " if price.family == "chip" and price.fits else ""
    words = (
        f"of {modes} modes the cheapest on {price.hardware} that {rules}is not shown to be more than {100 * MARGIN:g} "
        f"point less accurate than {reference.form}"
    )
    if chosen is reference:
        return words
    unsure = "; more samples would rule a larger loss out, or not" if against.low < -MARGIN else ""
    return f"{words} ({change(against)}{unsure})"


def _gain(chosen: Row, plain: Row, accuracy: Paired, at: int) -> str:
    mine, theirs = chosen.prices[at], plain.prices[at]
    spikes = chosen.activity.spikes / plain.activity.spikes if plain.activity.spikes else float("inf")
    words = f"{mine.hardware}: {'at least ' if mine.lower_bound else ''}{ranged(mine.total)}"
    if mine.gate_processor is not None:
        words += f" and {ranged(mine.gate_processor)} of its {GATE_PROCESSOR}"
    fits = "" if mine.fits is not False else f", where it breaks {len(mine.fit_notes)} rules"
    return (
        f"against {plain.name} {change(accuracy)} points of accuracy [95 %] on {accuracy.samples:,} samples, "
        f"{spikes:.2f} times the spikes, {ratio(mine, theirs):.2f} times the energy on {words}, against "
        f"{'at least ' if theirs.lower_bound else ''}{ranged(theirs.total)}{fits}"
    )


def _gates(chosen: Row, reference: Row, at: int) -> str:
    row = chosen if chosen.activity.gate_operations else reference
    operations = row.activity.gate_operations
    if not operations:
        return "its gates cost nothing in any mode compared"
    processor, attention = row.prices[at].gate_processor, row.prices[at].attention
    energy = attention.value if processor is None else processor.value
    where = "" if row is chosen else f", which {chosen.form} saves,"
    return f"its gates cost {count(operations)} operations a clip in {row.form}{where} about {si(energy, 'J')}"
