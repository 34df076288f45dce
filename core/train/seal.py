"""The files that a trained model consists of, and whether they are as they were when training ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.train.checkpoint import latest
from core.train.fitted import FITTED

WEIGHTS = "model.safetensors"
"""of an exported model; a run's stand in its checkpoints"""
FILES = ("config.toml", "parts.toml", "preparation.json", FITTED)


def sealed(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files of a folder, by name."""
    return {name: _digest(folder / name) for name in names}


def model_files(run: Path) -> list[str]:
    """Names of the files of a run that make its model what it is."""
    found = latest(run)
    weights = sorted(found[1].glob("*.safetensors")) if found else []
    return [name for name in FILES if (run / name).exists()] + [str(path.relative_to(run)) for path in weights]


def check_seal(run: Path, record: Mapping[str, Any]) -> None:
    """Refuse a model whose files are of different runs, were changed, or are gone.

    A run of an earlier version has no seal, and is taken as it is.

    Raises:
        UserError: a file is missing, or has another content than when the run ended.
    """
    for name, digest in record.get("files", {}).items():
        path = run / name
        try:
            now = _digest(path)
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing, without which the model is not what was trained: copy the whole folder again, or "
                "train it again with `core run --force`"
            ) from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        if now != digest:
            raise UserError(
                f"{path} is not the file that the model was written with (SHA-256 {now[:12]}..., and run.json says "
                f"{digest[:12]}...): it is damaged, edited or of another run; copy the whole folder again"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
