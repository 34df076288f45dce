"""A trained model as a folder of its own: what it needs and what a reader wants to know, without what training needs.

Whatever takes a run's directory to use its model takes such a folder too.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from safetensors.torch import save as save_tensors

from core.errors import UserError
from core.files import sync_folder, write_atomic, write_json
from core.train.seal import FILES, WEIGHTS, sealed
from core.train.trained import finished, read_preparation, trained_weights

STATISTICS = "statistics.safetensors"
BESIDE = ("evaluation.json",)
"""of a run, for the reader"""


def export(run: Path, target: Path, version: str) -> list[str]:
    """Write the model of a finished run to a new folder, whole or not at all; the names of its files.

    `run.json` tells who trained it, when and with which versions, and holds the SHA-256 of every other file, so that a
    folder put together of two models is refused. What `preparation.json` holds stands beside it in forms that other
    programs read: names as `genes.txt` (in the order of the model's columns) and `KEY.json`, numbers by gene in
    `statistics.safetensors`, the split as `split.json`. Nothing in it can run code.

    Raises:
        UserError: the run is not complete or was changed since, the target is there already or cannot be written.
    """
    record = finished(run)
    prepared = read_preparation(run).told
    weights, _ = trained_weights(run, record)
    if target.exists():
        raise UserError(f"-o {target} is there already; name a new folder, nothing is written over")
    if not target.absolute().parent.is_dir():
        raise UserError(f"-o {target}: there is no folder {target.absolute().parent}; make it or name another place")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        for name in (*FILES, *BESIDE):
            if (run / name).exists():
                shutil.copyfile(run / name, temporary / name)
        write_atomic(
            temporary / WEIGHTS, save_tensors({name: w.detach().cpu().contiguous() for name, w in weights.items()})
        )
        for name, content in readable(prepared).items():
            write_atomic(temporary / name, content)
        names = sorted(path.name for path in temporary.iterdir())
        told = {**record, "exported": {"version": version, "run": record["digest"]}, "files": sealed(temporary, names)}
        write_json(temporary / "run.json", told)
        temporary.rename(target)
        sync_folder(target.absolute().parent)
    except OSError as error:
        raise UserError(f"-o {target} cannot be written ({error.strerror or error}); name another place") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [*names, "run.json"]


def readable(prepared: Mapping[str, Any]) -> dict[str, bytes | str]:
    """What a preparation holds, by file name: lists of texts, tables, and numbers."""
    files: dict[str, bytes | str] = {}
    numbers = {}
    for key, value in prepared.items():
        if isinstance(value, Mapping) or _all(value, str):
            lines = key == "genes" and not any("\n" in name for name in value)
            text = "".join(f"{name}\n" for name in value) if lines else json.dumps(value, indent=1, ensure_ascii=False)
            files[f"{key}.{'txt' if lines else 'json'}"] = text
        elif _all(value, float):
            numbers[key] = np.array(value, np.float64)
    return files | ({STATISTICS: save(numbers)} if numbers else {})


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, kind) for one in value)
