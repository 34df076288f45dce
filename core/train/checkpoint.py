"""Checkpoints: weights as safetensors, the trainer's state as tensors and plain numbers, never a pickled class."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import RunFailed
from core.files import sync_file, sync_folder

FOLDER = "checkpoints"


@attrs.frozen
class Checkpoint:
    """Everything that the next step depends on."""

    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    """the averaged weights; empty without averaging"""
    best: dict[str, Tensor]
    """the model at its best validation; empty where no early stop asks for it"""
    trainer: dict[str, Any]
    """optimiser state, loader position, best validation, what the log has warned of"""


def save(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `checkpoints/step-N` as a whole, then drop the oldest beyond `keep`.

    Raises:
        RunFailed: the disk is full or not writable; earlier checkpoints are untouched.
    """
    folder = run / FOLDER
    target = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".{target.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _save_tensors(checkpoint.model, temporary / "model.safetensors")
        for name, tensors in (("average", checkpoint.average), ("best", checkpoint.best)):
            if tensors:
                _save_tensors(tensors, temporary / f"{name}.safetensors")
        torch.save(checkpoint.trainer, temporary / "trainer.pt")
        for file in temporary.iterdir():
            sync_file(file)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        sync_folder(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors wrap a full disk into errors of their own.
        shutil.rmtree(temporary, ignore_errors=True)
        last = latest(run)
        stands = f"The checkpoint of step {last[0]} stands" if last else "There is no earlier checkpoint"
        raise RunFailed(
            f"the checkpoint of step {checkpoint.step} could not be written to {folder} ({_room(run)}): {error}. "
            f"{stands}; make room and give the same command to go on"
        ) from error
    for _, old in _found(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _room(run: Path) -> str:
    try:
        return f"{shutil.disk_usage(run).free / 2**20:,.0f} MiB free there"
    except OSError:
        return "free space unknown"


def latest(run: Path) -> tuple[int, Path] | None:
    """Step and folder of the newest whole checkpoint."""
    found = _found(run)
    return found[-1] if found else None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in it can run code.

    Raises:
        RunFailed: a file is missing or damaged.
    """
    try:
        model = load_file(path / "model.safetensors")
        average, best = (_load_if_there(path / name) for name in ("average.safetensors", "best.safetensors"))
        trainer = torch.load(path / "trainer.pt", weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise RunFailed(
            f"checkpoint {path} cannot be read: trainer.pt is damaged or asks for code to be run, and nothing was "
            "run. Delete it to go on from the one before"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RunFailed(
            f"checkpoint {path} cannot be read: {reason}. Delete it to go on from the one before"
        ) from error
    return Checkpoint(int(path.name.removeprefix("step-")), model, average, best, trainer)


def _load_if_there(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.exists() else {}


def _found(run: Path) -> list[tuple[int, Path]]:
    return sorted((int(p.name.removeprefix("step-")), p) for p in (run / FOLDER).glob("step-*"))


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
