"""How numbers and names read in a report."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from core.study.findings import ArmFound, Findings, SystemFound
from core.study.stats.scores import FEWEST, Estimate
from core.study.stats.verdict import BETTER, EQUIVALENT, INCONCLUSIVE, NOT_TESTED, WORSE

STOPPED = "stopped"
DASH, MINUS = "–", "−"
UNIT = "\N{NO-BREAK SPACE}%"
SIGNS = {BETTER: "▲", WORSE: "▼", EQUIVALENT: "≈", INCONCLUSIVE: "?", NOT_TESTED: "○", STOPPED: "■"}
"""a shape for each verdict, so that nothing rests on colour alone"""


def clean(text: str) -> str:
    """`text` on one line, with every character that is invisible or turns the line about spelled out.

    A name that holds a newline or a right-to-left mark could else move what stands beside it.
    """
    text = text.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    return "".join(c if not _hidden(c) else f"\\u{ord(c):04x}" for c in text)


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def number(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """A score or a difference to `digits` significant digits, or more before the point; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    if not value:
        return "0"
    size = abs(value)
    if not 1e-4 <= size < 1e9:
        text = f"{size:.{digits - 1}e}"
    else:
        text = f"{size:,.{max(0, digits - 1 - _power(size))}f}"
    return _sign(value, signed, text) + text


def percent(share: float | None, *, signed: bool = False) -> str:
    """.021 as 2.1 %."""
    if share is None or not math.isfinite(share):
        return DASH
    value = 100 * share
    size = abs(value)
    text = f"{size:,.0f}" if size >= 1000 or size == round(size) else f"{size:.1f}" if size >= 1 else f"{size:.2f}"
    if 0 < size < 0.005:
        text = f"{size:.1e}"
    return _sign(value, signed, text) + text + UNIT


def _power(size: float) -> int:
    return math.floor(math.log10(size))


def _sign(value: float, signed: bool, text: str) -> str:
    if not any(c in "123456789" for c in text):
        return ""
    return MINUS if value < 0 else "+" if signed else ""


def interval(estimate: Estimate | None, *, relative: bool = False, signed: bool = False) -> str:
    """`2.1 % [0.4, 3.8]`, all to the digit that the width of the interval allows; no brackets without an interval."""
    if estimate is None:
        return DASH
    unit = UNIT if relative else ""
    if estimate.low is None or estimate.high is None:
        return (percent if relative else number)(estimate.value, signed=signed)
    factor = 100.0 if relative else 1.0
    ends = [factor * v for v in (estimate.value, estimate.low, estimate.high)]
    half = (ends[2] - ends[1]) / 2
    if not all(map(math.isfinite, ends)) or not 1e-6 < half < 1e9 or max(map(abs, ends)) >= 1e9:
        value, low, high = (number(v, signed=signed) for v in ends)
    else:
        value, low, high = (_fixed(v, max(0, 1 - _power(half)), signed) for v in ends)
    return f"{value}{unit} [{low}, {high}]"


def _fixed(value: float, decimals: int, signed: bool) -> str:
    text = f"{abs(value):,.{decimals}f}"
    return _sign(value, signed, text) + text


def with_intervals(estimates: Iterable[Estimate | None], what: str) -> str:
    """`what` where all estimates have an interval, what is true where some or none of them have."""
    drawn = {e.low is not None and e.high is not None for e in estimates if e is not None}
    if drawn == {True}:
        return what
    few = f"an interval takes {FEWEST} seeds or more, not all alike"
    return f"{what} where there is one ({few})" if drawn == {True, False} else f"no intervals ({few})"


def capital(text: str) -> str:
    """`text` as a sentence begins."""
    return text[:1].upper() + text[1:]


def chance(p: float | None) -> str:
    """A p value to two digits."""
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_is(p: float) -> str:
    return f"p {chance(p)}" if p < 0.001 else f"p = {chance(p)}"


def amount(value: float | None, unit: str = "") -> str:
    """A count or a cost in three digits with k, M, G, T: 1,204,224 as 1.2 M."""
    if value is None or not math.isfinite(value):
        return DASH
    size, step = float(value), 0
    while abs(size) >= 999.5 and step < 5:
        size, step = size / 1000, step + 1
    text = f"{size:.0f}" if step == 0 and size == int(size) else f"{size:.3g}"
    return f"{text} {'kMGTP'[step - 1] if step else ''}{unit}".rstrip()


def duration(seconds: float | None) -> str:
    """Time of a step."""
    if seconds is None:
        return DASH
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def listed(items: Sequence[str], most: int = 8) -> str:
    """`a, b and c`; what is beyond `most` is counted."""
    if len(items) > most:
        return f"{', '.join(items[: most - 1])} and {len(items) - most + 1} more"
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]])) if items else ""


def short_names(findings: Findings, system: SystemFound) -> dict[str, str]:
    """What arms are called in sentences and figures: the levels in which they differ from the baseline.

    The name of a piece stands for itself; a number, a truth value or a text keeps the last word of its key, `lr=3.0`.
    Where two arms would be called alike, both go by their labels.
    """
    base = next((a.levels for a in system.arms if a.baseline), findings.baseline)
    short = {a.label: _short(findings, a, base) for a in system.arms}
    taken = list(short.values())
    return {label: clean(name if taken.count(name) == 1 else label) for label, name in short.items()}


def _short(findings: Findings, arm: ArmFound, base: Mapping[str, str]) -> str:
    other = [axis for axis, level in sorted(arm.levels.items()) if arm.baseline or base.get(axis) != level]
    return " + ".join(_level(findings, axis, arm.levels[axis]) for axis in other) or arm.label


def _level(findings: Findings, axis: str, level: str) -> str:
    named = _says_itself(level) and (findings.pieces is None or axis in findings.pieces)
    if named:
        return level
    last = axis.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in findings.axes) < 2
    return f"{last if alone else axis}={level}"


def _says_itself(level: str) -> bool:
    """Whether a level is legible without its axis: no number, truth value, list or empty text."""
    if level in ("true", "false", "") or level.startswith("["):
        return False
    try:
        float(level)
    except ValueError:
        return True
    return False


def why_stopped(arm: ArmFound) -> str:
    """`at step 10: worse than the baseline by 2.1 standard errors`: what follows the word stopped."""
    hit = re.fullmatch(r"step (\d+): (?:stopped: )?(.*)", clean(arm.stopped))
    return f" at step {int(hit[1]):,}: {hit[2]}" if hit else f": {clean(arm.stopped)}"


def verdict_word(arm: ArmFound) -> str:
    """better, worse, equivalent, inconclusive, not tested or stopped."""
    if arm.stopped:
        return STOPPED
    return NOT_TESTED if arm.verdict is None else arm.verdict.word


SCALES = (
    "tests, and verdicts of better or worse, are on differences; changes in %, and equivalence, are on logarithms, so "
    "where scores are skewed an interval in % may leave out 0 otherwise than the verdict does"
)
"""what a reader must know who sees a verdict beside a change in per cent"""


def smallest(arm: ArmFound, *, bare: bool = False) -> str:
    """The smallest difference that the test would have found, or nothing; a share is one of the baseline's mean, which
    is said unless `bare`."""
    verdict = arm.verdict
    if verdict is None or verdict.detectable is None:
        return ""
    if verdict.detectable_relative is None:
        return number(verdict.detectable)
    return percent(verdict.detectable_relative) + ("" if bare else " of the baseline's mean")


def gain(arm: ArmFound) -> tuple[Estimate | None, bool]:
    """The effect turned so that above 0 is better, and whether it is a change in per cent, which is on logarithms.

    Where scores are so skewed that the change points the other way than the difference, it is the difference: the
    verdict is on that.
    """
    contrast = arm.contrast
    if contrast is None or contrast.difference is None:
        return None, False
    # Logarithms of large numbers may be all alike although the numbers are not: then there is no relative interval.
    relative = contrast.relative
    if relative is not None and relative.low is None and contrast.difference.low is not None:
        relative = None
    if relative is not None and relative.value * contrast.difference.value < 0:
        relative = None
    estimate = relative or contrast.difference
    return (estimate if contrast.larger_is_better else turned(estimate)), relative is not None


def turned(estimate: Estimate) -> Estimate:
    low = None if estimate.high is None else -estimate.high
    return Estimate(value=-estimate.value, low=low, high=None if estimate.low is None else -estimate.low)
