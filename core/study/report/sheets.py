"""The trials as tables for other programs: CSV, AnnData; and all findings as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from core.study.findings import Findings
from core.study.report.words import clean

Row = dict[str, Any]


def trials(findings: Findings) -> tuple[list[Row], list[str]]:
    """One row a trial in the order of the findings, and the keys of all metrics, `task/metric`."""
    rows: list[Row] = []
    for system in findings.systems:
        for arm in system.arms:
            for o in arm.outcomes:
                row: Row = {
                    "trial": o.trial, "system": system.system, "arm": arm.label, "baseline": arm.baseline,
                    **{f"axis_{axis}": arm.levels.get(axis, "") for axis in sorted(findings.axes)},
                    "seed": o.seed, "block": o.block, "state": o.state, "cached": o.cached, "primary": system.metric,
                    "metrics": ({} if o.value is None else {system.metric: o.value}) | dict(o.scores),
                    "parameters": arm.cost.parameters, "active": arm.cost.active, "flops": arm.cost.flops,
                    "seconds": arm.cost.seconds, "memory": arm.cost.memory, "message": o.message, "command": o.command,
                }  # fmt: skip
                rows.append(row)
    primary = dict.fromkeys(system.metric for system in findings.systems)
    others = sorted({key for row in rows for key in row["metrics"]} - primary.keys())
    return rows, [*primary, *others]


def as_csv(findings: Findings) -> str:
    """Numbers in full, empty where there are none.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, as such programs read it.
    """
    rows, metrics = trials(findings)
    axes = [f"axis_{axis}" for axis in sorted(findings.axes)]
    header = ["trial", "system", "arm", "baseline", *axes, "seed", "block", "state", "cached", "primary", *metrics,
              "parameters", "active", "flops", "seconds", "memory", "message", "command"]  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_cell(key) for key in header])
    for row in rows:
        writer.writerow([_cell(row["metrics"].get(key) if key in metrics else row[key]) for key in header])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = clean(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def as_json(findings: Findings) -> str:
    """Every field, keys sorted. A number that is not finite has no place in JSON and is null."""
    return json.dumps(_plain(findings), sort_keys=True, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def as_h5ad(findings: Findings) -> bytes:
    """AnnData: one observation a trial, its metrics as X (nan where there is none), the plan in `uns`."""
    import anndata
    import pandas as pd  # type: ignore[import-untyped]

    rows, metrics = trials(findings)
    x_NM = np.array([[row["metrics"].get(key, math.nan) for key in metrics] for row in rows], np.float64)
    columns: dict[str, Any] = {}
    for key in rows[0] if rows else ():
        if key == "metrics":
            continue
        found = [row[key] for row in rows]
        if key in ("seconds", "memory"):
            columns[key] = np.array([math.nan if v is None else v for v in found], np.float64)
        elif isinstance(found[0], str):
            columns[_name(key)] = pd.Categorical([clean(v) for v in found])
        else:
            columns[_name(key)] = found
    ids = [clean(row["trial"]) for row in rows]
    index = ids if len(set(ids)) == len(ids) else [f"{name}-{i}" for i, name in enumerate(ids)]
    data = anndata.AnnData(
        X=x_NM.reshape(len(rows), len(metrics)),
        obs=pd.DataFrame(columns, index=pd.Index(index, dtype=object)),
        var=pd.DataFrame({"primary": [k in {s.metric for s in findings.systems} for k in metrics]},
                         index=pd.Index([clean(k) for k in metrics], dtype=object)),
        uns={
            "title": clean(findings.title), "plan": clean(findings.plan), "complete": findings.complete,
            "alpha": findings.alpha, "mde": findings.mde, "margin": findings.margin,
            "axes": json.dumps(_plain(findings.axes), sort_keys=True),
            "baseline": json.dumps(_plain(findings.baseline), sort_keys=True),
            "counts": json.dumps(_plain(findings.counts), sort_keys=True),
            "settings": json.dumps(_plain(findings.settings)),
        },
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trials.h5ad"
        data.write_h5ad(path)
        return path.read_bytes()


def _name(key: str) -> str:
    """A column's name; HDF5 takes a slash for a folder."""
    return clean(key).replace("/", ".")
