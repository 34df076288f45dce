"""`core evaluate PREDICTED REAL`: two files of cells, no model needed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import attrs

from core.kinds.metric import GroupMetric
from core.params import knob, params, slot

if TYPE_CHECKING:
    from plugins.systems.perturb.compare import Compared

HELP = """usage: core evaluate PREDICTED.h5ad REAL.h5ad [flags]

Judge predicted cells of perturbed conditions by the real ones: effects, differing genes, distances of cells, beside
simple predictions and the ceiling that the real cells themselves set. Both sides are measured from the controls of
REAL; controls in PREDICTED are not read. Conditions of REAL that are not predicted count as training data: they give
the perturbed mean and the baselines. No model is needed, and nothing is written but what -o names.

{flags}

`core list metric` says what each metric is. `A+B` is `B+A`, and `A+ctrl` is `A`; `ctrl`, `control`, `non-targeting` and
`NT` are controls."""

SHORT = {"-o": "out"}
DEFAULT = (
    "pearson_delta", "pearson_perturbed", "mse", "mae", "discrimination_score_l1", "centroid_accuracy", "overlap_at_n",
    "precision_at_n", "de_direction_match", "de_spearman_lfc_sig", "de_sig_genes_recall", "pr_auc", "roc_auc",
    "edistance", "mmd", "zero_rate_gap", "variance_ratio", "de_nsig_counts_pred", "de_nsig_counts_real",
)  # fmt: skip


@final
@params
class Asked:
    """What two files are compared by."""

    metrics: str = knob("", "metrics by name, with commas; empty: a choice of each sort, `all` for every one")
    condition: str = knob(
        "",
        "column of obs of REAL, and of PREDICTED if there, with a cell's perturbations; empty: found by its usual "
        "names",
    )
    control: str = knob("", "label of control cells, beside the usual ones")
    stratum: str = knob("", "column of obs, such as cell_type, whose values are judged apart")
    layer: str = knob("", "layer of PREDICTED; empty: X")
    real_layer: str = knob("", "layer of REAL; empty: X")
    total: float = knob(0.0, "scale counts of either file to this sum and take log1p; 0: both are log1p", ge=0)
    counts: Literal["match", "keep"] = knob("match", "as many predicted as real cells, surplus drawn out; or all")
    baselines: bool = knob(True, "simple predictions beside it, learned from conditions that are not predicted")
    ceiling: bool = knob(True, "what the real cells score against themselves")
    seed: int = knob(0, "of draws and intervals", ge=0)
    out: str = knob("", "write FILE.json and, by condition, FILE.csv")
    force: bool = knob(False, "write over files of -o that are there")


@final
@params
class Chosen:
    """Metrics by name."""

    metrics: tuple[GroupMetric, ...] = slot((), "what is scored")


def evaluate(words: list[str]) -> int:
    """`core evaluate PREDICTED REAL`."""
    from core.cli.flags import describe_flags, read_flags
    from core.errors import UserError

    if "-h" in words or "--help" in words:
        print(HELP.format(flags=describe_flags([Asked], SHORT)))
        return 0
    (asked,), places = read_flags([Asked], words, "evaluate", SHORT)
    if len(places) != 2:
        switch = ". A switch takes its value behind =, as in --ceiling=false" if {"true", "false"} & {*places} else ""
        raise UserError(
            f"`core evaluate` of files takes two, the predicted and the real, not {len(places)}"
            f"{' (' + ', '.join(places) + ')' if places else ''}: core evaluate PREDICTED.h5ad REAL.h5ad{switch}"
        )
    target = _target(asked)
    metrics = chosen(asked.metrics)
    from plugins.systems.perturb.compare import compare_files
    from plugins.systems.perturb.tables import print_compared

    compared = compare_files(places[0], places[1], metrics, asked, _tell)
    print_compared(compared)
    if target is not None:
        _write(target, compared, {"predicted": places[0], "real": places[1], **_told(asked)})
    return 0


def chosen(text: str) -> tuple[GroupMetric, ...]:
    """Metrics by name; a choice of each sort where nothing is said.

    Raises:
        ConfigError: a name that is none, or a metric that does not compare groups of cells.
    """
    from core.config import Layer, resolve

    names: Any = text or ",".join(DEFAULT)
    if text.strip() == "all":
        names = ",".join(every())
    return resolve(Chosen, [Layer("--metrics", {"metrics": (names, "--metrics")})]).root.metrics


def every() -> list[str]:
    """Names of all metrics of groups that load; those named by a number of genes at 50, 100, 200 and 500."""
    from core.errors import UserError
    from core.registry import installed

    found = []
    for row in installed().rows("metric"):
        with contextlib.suppress(UserError):  # what does not load, `core doctor` explains
            if not issubclass(row.load(), GroupMetric):
                continue
            numbered = row.pattern == f"{row.name}_{{k:int}}"
            found += [f"{row.name}_{k}" for k in (50, 100, 200, 500)] if numbered else [row.name]
    return found


def _target(asked: Asked) -> Path | None:
    from core.errors import UserError
    from core.files import spare

    out = asked.out
    if not out:
        if asked.force:
            raise UserError("--force writes over files of -o, and none is named; leave it out, or give -o FILE.json")
        return None
    path = Path(out)
    if path.suffix != ".json":
        raise UserError(f"-o {out}: the name must end in .json; the table by condition goes beside it as .csv")
    if not path.absolute().parent.is_dir():
        raise UserError(f"-o {out}: there is no folder {path.absolute().parent}; make it or name another")
    for one in (path, path.with_suffix(".csv")):
        spare(one, force=asked.force)
    return path


def _told(asked: Any) -> dict[str, Any]:
    """What a comparison hangs on; `force` is about the place of the file."""
    return {name: value for name, value in attrs.asdict(asked).items() if name != "force"}


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(target: Path, compared: Compared, told: dict[str, Any]) -> None:
    from core.errors import UserError
    from core.files import write_atomic

    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["stratum", "condition", "metric", "arm", "value"])
    table.writerows(compared.by_condition())
    beside = target.with_suffix(".csv")
    try:
        write_atomic(target, json.dumps({**told, **compared.document()}, indent=1, allow_nan=False) + "\n")
        write_atomic(beside, lines.getvalue())
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}); name another file with -o") from None
    print(f"scores   {target}\ntable    {beside}")
