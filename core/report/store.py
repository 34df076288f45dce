"""An evaluation on disk: numbers as JSON, units as Parquet, arrays as npz without pickles."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from core.errors import UserError
from core.kinds import Evaluation, Score
from core.train.rundir import RunDir


def save_evaluation(run: RunDir, evaluation: Evaluation, gates: dict[str, Any], whole: bool = True) -> None:
    """Write `evaluation.json`, `evaluation.npz`, `units.parquet` and `gates.json`, each atomically.

    Args:
        run: where.
        evaluation: what.
        gates: statistics by module.
        whole: False leaves out what only a report of this run needs: the arrays of its figures and the table of units,
            which stand in `evaluation.json` too.
    """
    run.write("evaluation.json", json.dumps(document(evaluation), indent=1, allow_nan=False))
    run.write("gates.json", json.dumps(gates, indent=1))
    if not whole:
        return
    packed = io.BytesIO()
    np.savez_compressed(packed, **evaluation.arrays)  # type: ignore[arg-type]
    run.write("evaluation.npz", packed.getvalue())
    run.write("units.parquet", _units(evaluation))


def document(evaluation: Evaluation) -> dict[str, Any]:
    """Scores and notes as plain JSON; a value that is no number is null."""
    return {
        "scores": [attrs.asdict(s) | {"value": _finite(s.value)} for s in evaluation.scores],
        "notes": list(evaluation.notes),
        "groups": dict(evaluation.groups),
    }


def load_evaluation(run: Path) -> Evaluation:
    """Read back what `save_evaluation` wrote.

    Raises:
        UserError: the run has no evaluation, or a damaged one.
    """
    try:
        doc = json.loads((run / "evaluation.json").read_text("utf-8"))
        with (run / "evaluation.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in packed.files}
        scores = tuple(Score(**s | {"value": math.nan if s["value"] is None else s["value"]}) for s in doc["scores"])
        return Evaluation(scores=scores, notes=tuple(doc["notes"]), arrays=arrays, groups=doc.get("groups", {}))
    except FileNotFoundError:
        raise UserError(f"{run} has no evaluation yet; `core resume {run}` finishes it") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{run}: evaluation.json or evaluation.npz is damaged ({error}); copy the folder again, or train again "
            "with `core run --force`"
        ) from None


def load_gates(run: Path) -> dict[str, Any]:
    """Gate statistics by module; empty where there are none."""
    path = run / "gates.json"
    try:
        return json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); copy the folder again") from None


def load_records(run: Path) -> list[dict[str, float]]:
    """The whole lines of metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1] if line]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); copy the folder again") from None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _units(evaluation: Evaluation) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"task": s.task, "arm": s.arm, "metric": s.metric, "unit": unit, "value": value, "higher": s.higher}
        for s in evaluation.scores
        for unit, value in s.units.items()
    ]
    schema = pa.schema(
        [(name, pa.string()) for name in ("task", "arm", "metric", "unit")]
        + [("value", pa.float64()), ("higher", pa.bool_())]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()
