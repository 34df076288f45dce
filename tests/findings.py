"""Findings made from score matrices by the statistics that judge real studies."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np

from core.study.findings import (
    ArmFound,
    CostOf,
    CurvePoint,
    Deviation,
    Findings,
    Outcome,
    OverSystems,
    Secondary,
    SystemFound,
)
from core.study.stats import (
    Estimate,
    Margin,
    Scale,
    effects,
    iqm,
    judge,
    noise_floor,
    over_tasks,
    paired,
    power_curve,
    seeds_needed,
    two_level,
)
from core.study.stats.scores import interval as t_interval

EVIL = "<script>alert(1)</script>"
NAMES = (
    "softmax", "gated_headwise", "moe4x2", "_a_", "window(radius=8)", EVIL, "\"' onload=alert(1) x='", "a\nb",
    "\u202ertl", "\u200f\u2066", "$x_{1}^2$ & 5 %", "\\end{table}", "| pipe | **bold** `code` [a](javascript:alert(1))",
    "</title></style>", "=HYPERLINK(1)", "漢字", "é", "]]> --> <!--", "\x00\x1b[31m", "&lt;b&gt;", "x" * 90, "# 1. - *",
)  # fmt: skip
STATES = ("pending", "running", "done", "failed", "crashed", "timeout", "exhausted")


def estimate(values, alpha):
    """Mean with its t interval, as an analysis gives it."""
    found = np.array([v for v in values if not math.isnan(v)])
    if not found.size:
        return None, None
    sd = float(found.std(ddof=1)) if found.size > 1 else None
    if found.size < 3 or not sd:
        return Estimate(value=float(found.mean())), sd
    return t_interval(float(found.mean()), sd / math.sqrt(found.size), found.size - 1, alpha), sd


def make_system(
    *, name, axes, cells, scores, seeds, blocks=("",), states=None, stopped=(), larger=True, alpha=0.05, mde=0.05,
    margin=0.02, label="distance Spearman", metric="expression to position/distance_spearman", cost=None,
    messages="RuntimeError: out of memory",
    with_units=False, references=None, aliases=(),
):  # fmt: skip
    """One system; `scores[i]` are the scores of cell i, one for each seed of each block; NaN where there is none."""
    pairs = [(seed, block) for block in blocks for seed in seeds]
    states = states or {}
    rows = np.array(scores, float).reshape(len(cells), len(pairs))
    state = {
        (i, j): "stopped" if i in stopped else states.get((i, j), "pending" if math.isnan(rows[i, j]) else "done")
        for i, j in itertools.product(range(len(cells)), range(len(pairs)))
    }
    for (i, j), s in state.items():
        if s != "done" or math.isnan(rows[i, j]):
            rows[i, j] = math.nan
    contrasts = {
        i: paired(rows[0], rows[i], larger_is_better=larger, alpha=alpha)
        for i in range(1, len(cells))
        if i not in stopped
    }
    chosen = Margin(value=margin, relative=True)
    family = len(cells) - 1
    verdicts = (
        dict(zip(contrasts, judge([*contrasts.values()], alpha=alpha, margin=chosen, family_size=family), strict=True))
        if contrasts
        else {}
    )
    half = len(pairs) // 2
    noise = noise_floor(rows[0][:half], rows[0][half:], alpha) if half else None
    arms = []
    for i, cell in enumerate(cells):
        mean, sd = estimate(rows[i], alpha)
        contrast = contrasts.get(i)
        floor = None if noise is None else noise.floor
        difference = contrast.difference if contrast else None
        arms.append(
            ArmFound(
                label=" ".join(f"{a}={level}" for a, level in zip(axes, cell, strict=True)),
                levels=dict(zip(axes, cell, strict=True)),
                baseline=i == 0,
                stopped="behind by 2.1 standard errors at step 500" if i in stopped else "",
                outcomes=tuple(
                    Outcome(
                        trial=f"{name}{i:02d}{j:02d}".encode().hex()[-16:], seed=seed, block=block, state=state[i, j],
                        cached=state[i, j] == "done" and (i + j) % 5 == 0,
                        value=None if math.isnan(rows[i, j]) else float(rows[i, j]),
                        message="" if state[i, j] in ("done", "pending") else messages,
                        command=f"core run --from {i}-{j} --seed {seed}",
                        scores={} if math.isnan(rows[i, j]) else {"expression to position/r2": float(rows[i, j]) / 2},
                    )
                    for j, (seed, block) in enumerate(pairs)
                ),
                mean=None if i in stopped else mean,
                sd=None if i in stopped else sd,
                cost=(cost or _cheap)(i),
                matched={"system.width": 60 + i} if i == 1 else {},
                contrast=contrast,
                verdict=verdicts.get(i),
                units=_units(rows, i, alpha) if with_units and contrast else None,
                inside_noise=bool(floor is not None and difference is not None and abs(difference.value) <= floor),
                curve=tuple(
                    CurvePoint(step=s, mean=m, low=0.9 * m, high=1.1 * m)
                    for s in range(0, 2001, 100)
                    for m in [0.4 + (1.2 + 0.1 * i) * math.exp(-s / (300 + 40 * i))]
                )
                if not np.isnan(rows[i]).all()
                else (),
            )
        )  # fmt: skip
    spreads = sorted(c.sd / abs(c.baseline_mean) for c in contrasts.values() if c.relative and c.sd)
    sd = spreads[len(spreads) // 2] if spreads else None
    flat = [(i, j) for i in range(len(cells)) if i not in stopped for j in range(len(pairs))]
    finished = [(i, j) for i, j in flat if not math.isnan(rows[i, j])]
    usable = len(finished) > 1
    factors = {axis: [cells[i][k] for i, _ in finished] for k, axis in enumerate(axes)}
    fitted = None
    if usable and all(cells[0][k] in factors[axis] for k, axis in enumerate(axes)):
        fitted = effects(
            [rows[i, j] for i, j in finished], factors, [str(pairs[j]) for _, j in finished],
            baseline=dict(zip(axes, cells[0], strict=True)), alpha=alpha,
        )  # fmt: skip
    return SystemFound(
        system=name, data={"name": "tissue", "sizes": {"cells": 12000}, "facts": {"split": "by section"}},
        metric=metric, label=label, larger_is_better=larger, references=references or {}, arms=tuple(arms),
        family=family, noise=noise, effects=fitted, aliases=tuple(aliases),
        power=() if sd is None else power_curve(range(3, 31), sd=sd, alpha=alpha / max(1, family)),
        needed=None if sd is None else _needed(mde, sd, alpha / max(1, family)),
        secondary=(_secondary(arms, contrasts, rows),) if finished else (),
    )  # fmt: skip


def make_findings(systems, *, axes, seeds, blocks=("",), idle=(), title="gates by experts", deviations=(), warnings=(),
                  over=True, alpha=0.05, mde=0.05, margin=0.02, settings=None, fixed=()):  # fmt: skip
    """A study of systems that share axes and seeds, its counts taken from their outcomes."""
    cells = Counter(kind for _, kind, _ in idle)
    counts = {"planned": 0, "n/a": cells["n/a"], "excluded": cells["excluded"]}
    for o in (o for s in systems for a in s.arms for o in a.outcomes):
        key = "cached" if o.cached else "failed" if o.state in ("crashed", "timeout") else o.state
        counts[key] = counts.get(key, 0) + 1
        counts["planned"] += 1
    settled = all(o.state in ("done", "stopped") for s in systems for a in s.arms for o in a.outcomes)
    first = next(a for a in systems[0].arms if a.baseline) if systems and systems[0].arms else None
    return Findings(
        title=title, plan="3f9c" * 16,
        settings=settings or (("seeds", str(len(seeds)), "flag"), ("analysis.alpha", str(alpha), "default")),
        axes=axes, baseline=first.levels if first else {}, seeds=tuple(seeds), blocks=tuple(blocks), alpha=alpha,
        mde=mde, margin=margin, counts=counts, complete=settled, idle=tuple(idle), warnings=tuple(warnings),
        deviations=tuple(deviations), systems=tuple(systems), **_over(systems, alpha) if over and len(systems) > 1 else
        {"over_systems": (), "iqm": None}, code={"a1b2c3d": counts["planned"]},
        environments={"python 3.11, torch 2.13, cpu": counts["planned"]}, fixed=tuple(fixed),
    )  # fmt: skip


def _needed(mde, sd, alpha):
    try:
        return seeds_needed(mde, sd, alpha)
    except ValueError:
        return None


def _units(rows, i, alpha):
    generator = np.random.default_rng(i)
    noise = generator.normal(0, 0.02, (2, rows.shape[1], 4))
    return two_level(rows[0][:, None] + noise[0], rows[i][:, None] + noise[1], alpha=alpha)


def _secondary(arms, contrasts, rows):
    means, differences = {}, {}
    for i, arm in enumerate(arms):
        if arm.stopped or np.isnan(rows[i]).all():
            continue
        means[arm.label] = estimate(rows[i] / 2, 0.05)[0]
        if i in contrasts:
            half = paired(rows[0] / 2, rows[i] / 2, larger_is_better=True)
            if half.difference is not None:
                differences[arm.label] = half.difference
    key = "expression to position/r2"
    return Secondary(key=key, label="R²", larger_is_better=True, means=means, differences=differences)


def _cheap(i):
    return CostOf(parameters=1000 + 10 * i, active=1000, flops=10**6, seconds=None, memory=None)


def _over(systems, alpha):
    scales = {s.system: Scale(trivial=0.0, best=1.0) for s in systems}
    arms = {(s.system, a.label): a for s in systems for a in s.arms}
    by_label = {
        a.label: {s.system: [math.nan if o.value is None else o.value for o in arms[s.system, a.label].outcomes]
                  for s in systems}
        for a in systems[0].arms
        if all((s.system, a.label) in arms and not arms[s.system, a.label].stopped for s in systems)
    }  # fmt: skip
    base = next(a.label for a in systems[0].arms if a.baseline)
    rows = []
    for label, scores in by_label.items():
        if label != base and all(len(v) == len(by_label[base][k]) for k, v in scores.items()):
            found = over_tasks(by_label[base], scores, scales, alpha=alpha)
            rows.append(OverSystems(label=label, effects=found.effects, mean=found.mean, p=found.p))
    try:
        middle = iqm(by_label, scales, baseline=base, alpha=alpha, draws=200)
    except ValueError:
        middle = None
    return {"over_systems": tuple(rows), "iqm": middle}


def gated(seeds=6, *, larger=True, system="spatial", n_effect=1.0, stopped=(6,), lost=True):
    """Attention by feed-forward, eight cells: better, worse, equivalent, inconclusive and stopped arms."""
    generator = np.random.default_rng(3)
    attention = ("softmax", "linear", "gated_headwise", "gated_elementwise")
    cells = list(itertools.product(attention, ("dense", "moe4x2")))
    shift = [0, 0.001, -0.05, -0.043, 0.021, 0.018, -0.09, 0.012]
    spread = [0.0, 0.0015, 0.01, 0.012, 0.006, 0.03, 0.02, 0.012]
    own = 0.62 + generator.normal(0, 0.02, seeds)
    scores = [own + n_effect * d + generator.normal(0, s or 1e-300, seeds) for d, s in zip(shift, spread, strict=True)]
    states = {(3, 2): "exhausted"} if lost and seeds > 2 else {}

    def cost(i):
        return CostOf(parameters=1_204_224 + 9_000 * (i // 2) + 1_800_000 * (i % 2), active=1_204_224 + 9_000 * i,
                      flops=int(3.1e9 * (1 + 0.07 * i)), seconds=0.021 * (1 + 0.13 * i),
                      memory=(180 + 37 * i) * 2**20)  # fmt: skip

    return make_system(
        name=system, axes=("attention", "ffn"), cells=cells, scores=scores, seeds=range(seeds), states=states,
        stopped=stopped, larger=larger, cost=cost, with_units=seeds > 2,
        references={"mean of the training cells": 0.11, "random": 0.0, "ceiling": 0.93, "nearest neighbours": 0.41},
    )  # fmt: skip


def gated_study(seeds=6, **changes):
    """A whole study of `gated`, with a cell that does not run, a deviation and a warning."""
    axes = {"attention": ("softmax", "linear", "gated_headwise", "gated_elementwise"), "ffn": ("dense", "moe4x2")}
    return make_findings(
        [gated(seeds, **changes)], axes=axes, seeds=range(seeds),
        idle=(("attention=sparse ffn=dense", "n/a", "sparse attention needs positions, and this system gives none"),
              ("attention=linear ffn=moe8x2", "excluded", "kernel missing on this machine")),
        deviations=(Deviation(kind="code", text="trials ran with 2 revisions of the code: a1b2c3 (40), d4e5f6 (8)"),),
        warnings=("at the observed spread of 8.1 % a change of 5 % needs 23 seeds; this study has 6",),
        settings=(("system", "spatial", "flag --system"), ("seeds", "6", "study.toml:12"),
                  ("budget.match", "params", "default"), ("analysis.alpha", "0.05", "default"),
                  ("analysis.margin", "0.02", "default")),
        fixed=(("data", "tissue", "tissue", "study.toml:9"), ("width", "16", "", "study.toml:5")),
    )  # fmt: skip
