"""Cells of a raw file on the scale of a prepared folder: stage 1 done again for a model that was trained on one.

n cells of the file, G genes of the panel that the file has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import scipy.sparse as sp

from plugins.data.cells import dense
from plugins.data.prepare import LOG_ABOVE
from plugins.data.transform import Fitted, Transform

SHOWN = 5
"""sections that a note lists before it counts"""


def told(metadata: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Any]:
    """What stage 1 did to the sections of a folder, as plain JSON."""
    return {
        "knobs": metadata["transform"],
        "sparse": metadata["sparse"],
        "stacked": bool(metadata["z_spacing"]),
        "sections": dict(statistics) if metadata["transform"]["scale"] else {},
        "read": _common([one["read"] for one in metadata["data_sets"]]),
    }


def stage(
    values: Any,
    shared_G: np.ndarray,
    section_n: np.ndarray,
    sections: Sequence[str],
    stem: str,
    staged: Mapping[str, Any],
    notes: list[str],
) -> Any:
    """Raw values (n, G) as stage 1 stores them.

    A section is known by the name that stage 1 gave it, `FILE:SECTION`, or `FILE` for a file without sections: its
    stored statistics scale it. Any other is scaled by its own cells, as stage 1 does.

    Args:
        values: of the shared genes, dense or CSR.
        shared_G: which genes of the run's panel these are, bool over the whole panel.
        section_n: codes of the cells' sections.
        sections: their names; `all` where the file has no column of them.
        stem: the name of the file without its ending.
        staged: what `told` told.
        notes: gets a sentence on how the sections were scaled.
    """
    knobs = Transform(**staged["knobs"])
    values = sp.csr_matrix(values) if staged["sparse"] else dense(values)
    rows_of = [np.flatnonzero(section_n == code) for code in range(len(sections))]
    parts: list[Any] = []
    known: list[str] = []
    own: list[str] = []
    for name, rows in zip(sections, rows_of, strict=True):
        called = stem if tuple(sections) == ("all",) else f"{stem}:{name}"
        stored = [said for full, said in staged["sections"].items() if full == called or full.endswith(f"/{called}")]
        if len(stored) == 1:
            whole = Fitted.from_json(stored[0])
            fitted = attrs.evolve(whole, mean_G=whole.mean_G[shared_G], std_G=whole.std_G[shared_G])
            parts.append(fitted.apply(values[rows]))
        else:
            parts.append(Fitted.fit(values[rows], knobs)[1])
        (known if len(stored) == 1 else own).append(called)
    if knobs.scale and known:
        notes.append(f"Scaled by the statistics that the run keeps of them: {_some(known)}.")
    if knobs.scale and own:
        notes.append(f"New sections, scaled by their own cells as stage 1 does: {_some(own)}.")
    numbers = values.data if sp.issparse(values) else values
    if knobs.log1p and 0 < numbers.max(initial=0) < LOG_ABOVE and not np.array_equal(numbers, np.rint(numbers)):
        notes.append(
            f"Fractional values below {LOG_ABOVE:g} look like logarithms already, and the run's data were raw: name a "
            "matrix of counts with --data.layer if there is one."
        )
    back_n = np.argsort(np.concatenate(rows_of), kind="stable")
    return (sp.vstack(parts, format="csr") if staged["sparse"] else np.concatenate(parts))[back_n]


def _common(read: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Where all data sets were read alike; what they differ in is left to its default."""
    return {key: value for key, value in read[0].items() if all(one[key] == value for one in read)}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
