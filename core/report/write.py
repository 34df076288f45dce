"""The report of a run, drawn anew from its files: figures and one page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.files import write_atomic
from core.kinds import System
from core.report.curves import expert_load, gate_histograms, learning_curves
from core.report.page import Figure, Page, Text, score_tables, verdicts, write_page
from core.report.store import load_evaluation, load_gates, load_records
from core.report.units import group_tables, unit_tables
from core.train.loop import AUXILIARY
from core.train.probe import LEAST, STATS, judge_gates
from core.train.rundir import read_record

CAPTIONS = {
    "learning_curves": (
        "Learning curves",
        "Loss on training batches and on the validation split, by optimiser step. Validation uses the averaged weights "
        "and the same times and noise every time. A batch may be nearly clean or nearly pure noise, so single training "
        "points jump. Lower is better.",
    ),
    "expert_load": (
        "Expert load",
        "Share of token assignments that each expert received, by layer. The dashed line is an even share.",
    ),
    "gates": (
        "What the gates do",
        "Distribution of gate values over the validation split, by layer. 1 lets everything pass, 0 nothing.",
    ),
}


BESIDE = (
    " The training loss holds what layers ask for beside the task, such as a router's balance; the validation loss is "
    "the task's alone, so that arms with and without such layers compare."
)


def write_report(run: Path, system: System, sections: Sequence[tuple[str, str]] = ()) -> Path:
    """Write `figures/*.svg` and `report.html` from what the run directory holds.

    Raises:
        UserError: the run has no evaluation yet.
    """
    evaluation = load_evaluation(run)
    record = read_record(run)
    records = load_records(run)
    drawn: list[tuple[str, str, str, Any]] = [
        (p.name, p.title, p.caption, p.draw()) for p in system.pictures(evaluation)
    ]
    beside = any(AUXILIARY in record for record in records)
    for name, figure in (
        ("learning_curves", learning_curves(records)),
        ("expert_load", expert_load(records)),
        ("gates", gate_histograms(load_gates(run))),
    ):
        if figure is not None:
            title, caption = CAPTIONS[name]
            drawn.append((name, title, caption + (BESIDE if name == "learning_curves" and beside else ""), figure))
    figures = []
    (run / "figures").mkdir(exist_ok=True)
    for name, title, caption, figure in drawn:
        svg = _svg(figure)
        write_atomic(run / "figures" / f"{name}.svg", svg)
        figures.append(Figure(title=title, caption=caption, svg=svg))
    page = Page(
        title=f"{record['system']} on {record['data']['name']}, seed {record['seed']}",
        subtitle=f"run {record['digest'][:16]}, {record['parameters']:,} parameters, "
        f"{record['flops_per_step'] / 1e9:.3g} GFLOP a training step",
        verdicts=verdicts(evaluation.scores),
        notes=(*_split(record["data"]), *evaluation.notes, *_gates(records)),
        tables=(*score_tables(evaluation.scores), *group_tables(evaluation)),
        figures=tuple(figures),
        units=tuple(unit_tables(evaluation)),
        texts=(
            *(Text(title=title, text=text) for title, text in sections),
            Text(title="Data: sizes, splits, how they were prepared", text=_data(record["data"])),
            Text(title="Configuration and where each value came from", text=(run / "config.toml").read_text("utf-8")),
            Text(title="Provenance", text=_provenance(record)),
        ),
    )
    write_page(run / "report.html", page)
    return run / "report.html"


def _split(card: dict[str, Any]) -> list[str]:
    """Who was held out, and what leaks, in the words of the data."""
    facts = card["facts"]
    told = [f"Data: {', '.join(f'{n:,} {name}' for name, n in card['splits'].items())} items."]
    return told + [f"{key.capitalize()}: {facts[key]}." for key in ("split", "transform", "source") if key in facts]


def _gates(records: Sequence[dict[str, float]]) -> list[str]:
    """What the log warned of, gates outside the healthy range; or that none was judged."""
    total = max((record["step"] for record in records), default=0)
    if total < LEAST and any(key.startswith(STATS) for record in records for key in record):
        return [f"Gates are judged from step {LEAST} on, and the training has {total:.0f}."]
    return [f"Warning: {sentence}." for sentence in judge_gates(records, int(total)).values()]


def _data(card: dict[str, Any]) -> str:
    rows = {"name": card["name"], **card["sizes"], **card["facts"], "fingerprint": card["fingerprint"]}
    lines = []
    for key, value in rows.items():
        if isinstance(value, dict):
            lines += [f"{key}:"] + [f"  {name}: {_told(inner)}" for name, inner in value.items()]
        else:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


def _told(value: Any) -> str:
    return ", ".join(f"{v} {k}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "core", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return buffer.getvalue()


def _provenance(record: dict[str, Any]) -> str:
    environment = record.get("environment", {})
    lines = [f"{key}: {value}" for key, value in environment.items() if key not in ("command", "pid")]
    return "\n".join([f"command: {' '.join(environment.get('command', []))}", f"digest: {record['digest']}", *lines])
