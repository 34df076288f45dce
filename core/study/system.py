"""One system of a study, judged: its arms, contrasts, effects and what more seeds would find."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.score import is_model
from core.study.findings import ArmFound, CostOf, CurvePoint, Outcome, Secondary, SystemFound
from core.study.folder import Stored, command_of
from core.study.gather import Seen, primary
from core.study.stats.alias import aliases
from core.study.stats.contrast import Contrast, paired
from core.study.stats.factorial import Effects, effects
from core.study.stats.noise import NoiseFloor, noise_floor
from core.study.stats.power import Point, power_curve, seeds_needed
from core.study.stats.resampled import nadeau_bengio
from core.study.stats.scores import FEWEST, LARGEST, Estimate, interval, spread
from core.study.stats.units import TwoLevel, two_level
from core.study.stats.verdict import Verdict
from core.study.trial import State

SEED_CURVE = (3, 4, 5, 6, 8, 10, 12, 15, 20, 30)
Pair = tuple[str, int]
"""block, seed"""


class SystemOf:
    """The arms of one system."""

    def __init__(self, stored: Stored, name: str, seen: list[Seen]) -> None:
        self.stored, self.name, self.seen = stored, name, seen
        self.arms = [arm for arm in stored.arms if arm["system"] == name and arm["state"] == "planned"]
        self.by_arm = {arm["label"]: [one for one in seen if one.of.arm == arm["label"]] for arm in self.arms}
        self.metric = primary(stored, name, [*dict.fromkeys(key for one in seen for key in one.scores())])
        first = next((one.scores()[self.metric] for one in seen if self.metric in one.scores()), None)
        self.label = first["label"] if first else self.metric
        self.larger = bool(first["higher"]) if first else True
        self.alpha = stored.value("analysis.alpha")
        self.pairs: list[Pair] = sorted({(one.of.block, one.of.seed) for one in seen})
        self.stopped = {
            label: next((one.message for one in ones if one.trial.state is State.STOPPED), "")
            for label, ones in self.by_arm.items()
        }

    def contrasts(self) -> dict[str, Contrast]:
        """Each arm against the baseline; a stopped one has none."""
        base, *others = [arm["label"] for arm in self.arms]
        return {label: self._contrast(base, label) for label in others if not self.stopped[label]}

    def found(self, contrasts: Mapping[str, Contrast], verdicts: Mapping[str, Verdict], family: int) -> SystemFound:
        """Everything about the system.

        Args:
            contrasts: as `contrasts` gave them.
            verdicts: on each of them.
            family: contrasts of the whole study.
        """
        base = self.arms[0]["label"]
        noise = self._noise(base)
        return SystemFound(
            system=self.name,
            data=self.stored.first["data"].get(self.name, {}),
            metric=self.metric,
            label=self.label,
            larger_is_better=self.larger,
            references=self._references(),
            arms=tuple(
                self._arm(
                    arm, arm["label"] == base, contrasts.get(arm["label"]), verdicts.get(arm["label"]), noise, base
                )
                for arm in self.arms
            ),
            family=family,
            noise=noise,
            effects=self._effects(),
            aliases=self._aliases(),
            power=self._power(contrasts, family),
            power_relative=any(_of_mean(c) for c in contrasts.values()),
            needed=self._needed(contrasts, family),
            secondary=tuple(self._secondary(base)),
        )

    def scores(self, label: str, key: str | None = None) -> list[float | None]:
        """An arm's scores over pairs of block and seed, None where there is none."""
        found = {(one.of.block, one.of.seed): one.value(key or self.metric) for one in self.by_arm[label]}
        return [found.get(pair) for pair in self.pairs]

    def _contrast(self, base: str, label: str, key: str | None = None, larger: bool | None = None) -> Contrast:
        larger = self.larger if larger is None else larger
        a, b = self.scores(base, key), self.scores(label, key)
        splits = self.stored.first["data"].get(self.name, {}).get("splits", {})
        if self.stored.first.get("splits_anew") and splits.get("train") and splits.get("test"):
            return nadeau_bengio(
                a, b, n_test=splits["test"], n_train=splits["train"], larger_is_better=larger, alpha=self.alpha
            )
        return paired(a, b, larger_is_better=larger, alpha=self.alpha)

    def _arm(
        self, arm: Mapping[str, Any], baseline: bool, contrast: Contrast | None, verdict: Verdict | None,
        noise: NoiseFloor | None, base: str,
    ) -> ArmFound:  # fmt: skip
        ones = self.by_arm[arm["label"]]
        values = np.array([v for v in self.scores(arm["label"]) if v is not None])
        stopped = self.stopped[arm["label"]]
        difference = contrast.difference if contrast else None
        floor = noise.floor if noise else None
        return ArmFound(
            label=arm["label"],
            levels=arm["levels"],
            baseline=baseline,
            stopped=stopped,
            outcomes=tuple(self._outcome(one) for one in ones),
            mean=None if stopped else _mean(values, self.alpha),
            sd=float(values.std(ddof=1)) if len(values) > 1 and not stopped else None,
            cost=self._cost(arm, ones),
            matched=arm["matched"],
            contrast=contrast,
            verdict=verdict,
            units=self._units(base, arm["label"]) if contrast else None,
            inside_noise=bool(difference and floor is not None and abs(difference.value) <= floor),
            curve=_curve(ones),
        )

    def _outcome(self, one: Seen) -> Outcome:
        return Outcome(
            trial=one.of.id, seed=one.of.seed, block=one.of.block, state=str(one.trial.state),
            cached=one.trial.cached, value=one.value(self.metric), message=one.message,
            command=command_of(self.stored, one.of),
            scores={key: s["value"] for key, s in one.scores().items() if s["value"] is not None},
        )  # fmt: skip

    def _cost(self, arm: Mapping[str, Any], ones: Sequence[Seen]) -> CostOf:
        seconds = [one.measured["seconds_per_step"] for one in ones if "seconds_per_step" in one.measured]
        memory = [one.measured["peak_memory"] for one in ones if "peak_memory" in one.measured]
        return CostOf(
            parameters=arm["cost"]["parameters"], active=arm["cost"]["active"], flops=arm["cost"]["flops"],
            seconds=statistics.median(seconds) if seconds else None, memory=max(memory, default=None),
        )  # fmt: skip

    def _units(self, base: str, label: str) -> TwoLevel | None:
        tables = []
        names = sorted({u for one in self.seen for u in one.scores().get(self.metric, {}).get("units", {})})
        if len(names) < FEWEST:
            return None
        for arm in (base, label):
            by_pair = {(one.of.block, one.of.seed): one for one in self.by_arm[arm]}
            rows = []
            for pair in self.pairs:
                units = by_pair[pair].scores().get(self.metric, {}).get("units", {}) if pair in by_pair else {}
                rows.append([units.get(name, np.nan) for name in names])
            tables.append(np.array(rows, float))
        return two_level(*tables, alpha=self.alpha)

    def _noise(self, base: str) -> NoiseFloor | None:
        """A/A: the baseline's own seeds in two blocks, every other one."""
        scores = self.scores(base)
        if len(scores) < 4:
            return None
        return noise_floor(scores[0::2], scores[1::2], self.alpha)

    def _references(self) -> dict[str, float]:
        """Other arms that the evaluation scores beside the model, by their mean over trials."""
        found: dict[str, list[float]] = {}
        for one in self.seen:
            for score in one.metrics.get("scores", []):
                other = not is_model(score["arm"]) and score["value"] is not None
                if other and f"{score['task']}/{score['metric']}" == self.metric:
                    found.setdefault(score["arm"], []).append(score["value"])
        return {arm: statistics.fmean(values) for arm, values in found.items()}

    def _effects(self) -> Effects | None:
        varied = [key for key, labels in self.stored.axes.items() if len(labels) > 1]
        ones = [one for one in self.seen if one.value(self.metric) is not None and not self.stopped[one.of.arm]]
        levels = {arm["label"]: arm["levels"] for arm in self.arms}
        factors = {key: [levels[one.of.arm][key] for one in ones] for key in varied}
        factors = {key: given for key, given in factors.items() if len({*given}) > 1}
        scores = [one.value(self.metric) for one in ones]
        if len(varied) < 2 or len(factors) < 2:
            return None
        there = {key: {*given} for key, given in factors.items()}
        baseline = {key: level for key, level in self.stored.first["baseline"].items() if level in there.get(key, ())}
        seeds = [f"{one.of.block}/{one.of.seed}" for one in ones]
        return effects(scores, factors, seeds, baseline=baseline, alpha=self.alpha)

    def _aliases(self) -> tuple[str, ...]:
        kind = str(self.stored.value("design.kind"))
        head, _, generators = kind.partition(":")
        if head != "fraction":
            return ()
        keys = sorted(self.stored.axes)
        letters = {chr(ord("A") + i): key for i, key in enumerate(keys)}
        named = []
        for part in generators.replace(",", " ").replace(";", " ").split():
            left, _, right = part.partition("=")
            sign = "-" if len(right) % 2 == 0 else ""
            named.append(f"{letters[left]}={sign}{'*'.join(letters[letter] for letter in right)}")
        table = aliases(named, factors=keys)
        found = [f"{a.effect} = {', '.join(a.mixed_with)}" for a in table.table if a.mixed_with]
        gone = sum(arm["system"] == self.name and arm["state"] != "planned" for arm in self.stored.arms)
        if gone:
            cells = "1 cell is" if gone == 1 else f"{gone} cells are"
            found.append(f"{cells} left out = the above is that of the whole fraction, of which more is mixed now")
        return tuple(found)

    def _spread(self, contrasts: Mapping[str, Contrast]) -> tuple[float, float] | None:
        """Median sd of the differences that are tested, with the size that `mde` asks for: both as shares of the
        baseline's mean, or both in the metric's own unit where scores are 0 or below."""
        mde = self.stored.value("analysis.mde")
        relative = [share for c in contrasts.values() if (share := _of_mean(c))]
        if relative:
            return statistics.median(relative), mde
        absolute = [(c.sd, abs(c.baseline_mean)) for c in contrasts.values() if c.sd and c.baseline_mean]
        if not absolute:
            return None
        return statistics.median(sd for sd, _ in absolute), mde * statistics.median(size for _, size in absolute)

    def _power(self, contrasts: Mapping[str, Contrast], family: int) -> tuple[Point, ...]:
        known = self._spread(contrasts)
        if known is None:
            return ()
        here = len(self.pairs)
        seeds = sorted({*SEED_CURVE, here} - {n for n in (here,) if n < FEWEST})
        return power_curve(
            seeds, sd=known[0], alpha=self.alpha / max(family, 1), power=self.stored.value("analysis.power"),
            effect=known[1],
        )  # fmt: skip

    def _needed(self, contrasts: Mapping[str, Contrast], family: int) -> int | None:
        known = self._spread(contrasts)
        if known is None:
            return None
        try:
            return seeds_needed(known[1], known[0], self.alpha / max(family, 1), self.stored.value("analysis.power"))
        except ValueError:
            return None

    def _secondary(self, base: str) -> list[Secondary]:
        kinds: dict[str, dict[str, Any]] = {}
        for one in self.seen:
            for key, score in one.scores().items():
                kinds.setdefault(key, score)
        found = []
        for key, score in kinds.items():
            if key == self.metric:
                continue
            means, differences = {}, {}
            for arm in self.arms:
                if self.stopped[arm["label"]]:
                    continue
                values = np.array([v for v in self.scores(arm["label"], key) if v is not None])
                mean = _mean(values, self.alpha)
                if mean is not None:
                    means[arm["label"]] = mean
                if arm["label"] != base:
                    contrast = self._contrast(base, arm["label"], key, score["higher"])
                    if contrast.difference is not None:
                        differences[arm["label"]] = contrast.difference
            found.append(
                Secondary(
                    key=key,
                    label=score["label"],
                    larger_is_better=score["higher"],
                    means=means,
                    differences=differences,
                )
            )
        return found


def _of_mean(contrast: Contrast) -> float | None:
    """The sd of a contrast's differences as a share of the baseline's mean; None where a score is 0 or below."""
    if contrast.relative is None or not contrast.sd or not contrast.baseline_mean:
        return None
    of_mean = contrast.sd / abs(contrast.baseline_mean)
    return of_mean if 0 < of_mean < LARGEST else None


def _mean(values: np.ndarray, alpha: float) -> Estimate | None:
    if not len(values):
        return None
    mean = float(values.mean())
    if len(values) < FEWEST:
        return Estimate(value=mean)
    sd = spread(values, float(np.abs(values).max()))
    return interval(mean, sd / np.sqrt(len(values)), len(values) - 1, alpha) if sd else Estimate(value=mean)


def _curve(ones: Sequence[Seen]) -> tuple[CurvePoint, ...]:
    by_step: dict[int, list[float]] = {}
    for one in ones:
        for step, loss in one.metrics.get("curve", []):
            by_step.setdefault(int(step), []).append(float(loss))
    return tuple(
        CurvePoint(step=step, mean=statistics.fmean(v), low=min(v), high=max(v)) for step, v in sorted(by_step.items())
    )
