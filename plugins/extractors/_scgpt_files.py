"""A folder of scGPT: args.json, vocab.json and weights, read without running anything that is in them.

V names, D width, I inner width.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import attrs
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from core.errors import UserError
from core.names import near
from plugins.extractors._content import content_of
from plugins.extractors._scgpt_encoder import Encoder

WEIGHTS = ("best_model.pt", "best_model.safetensors", "model.safetensors")
CLS = "<cls>"
RENAMED = {
    "self_attn._impl.Wqkv.": "self_attn.in_proj_",
    "self_attn.Wqkv.": "self_attn.in_proj_",
    "self_attn._impl.out_proj.": "self_attn.out_proj.",
}
"""how flash attention calls what torch calls otherwise; rows are [q; k; v] in all of them"""
READ = ("encoder.", "value_encoder.", "transformer_encoder.")
CHANGES = ("bn.", "dsbn.", "pert_encoder.")
"""parts that change what the layers read; features without them would be others than were trained"""
SHOWN = 4
"""keys that a message names"""


@final
@attrs.frozen
class Settings:
    """What args.json says of the encoder."""

    width: int
    inner: int
    layers: int
    heads: int
    bins: int
    longest: int
    """tokens of an item, `<cls>` among them"""
    pad: str
    pad_value: float


_WHOLE = {
    "embsize": ("width", 1), "d_hid": ("inner", 1), "nlayers": ("layers", 1), "nheads": ("heads", 1),
    "n_bins": ("bins", 3), "max_seq_len": ("longest", 2),
}  # fmt: skip
_FIXED = {"input_style": "binned", "input_emb_style": "continuous", "norm_scheme": "post", "pre_norm": False}
"""what the encoder is written for; absent means this"""


def read_settings(folder: Path) -> Settings:
    """args.json.

    Raises:
        UserError: it is missing, or describes no encoder of this form; the sentence names the field.
    """
    said = _object(folder, "args.json")
    where = folder / "args.json"
    found: dict[str, Any] = {}
    for key, (field, least) in _WHOLE.items():
        if key not in said:
            raise UserError(f"{where} has no {key!r}{near(key, said)}; scGPT writes it when it trains")
        if type(said[key]) is not int or said[key] < least:
            raise UserError(f"{where}: {key} must be a whole number >= {least}, got {said[key]!r}")
        found[field] = said[key]
    for key, wanted in _FIXED.items():
        if said.get(key, wanted) != wanted:
            raise UserError(f"{where}: {key} is {said[key]!r}, and only {wanted!r} can be read")
    if found["width"] % found["heads"]:
        raise UserError(f"{where}: embsize {found['width']} is no multiple of nheads {found['heads']}")
    pad, pad_value = said.get("pad_token", "<pad>"), said.get("pad_value", -2)
    if not isinstance(pad, str) or type(pad_value) not in (int, float):
        raise UserError(f"{where}: pad_token must be a text and pad_value a number, got {pad!r} and {pad_value!r}")
    return Settings(**found, pad=pad, pad_value=float(pad_value))


def read_vocabulary(folder: Path, settings: Settings) -> dict[str, int]:
    """vocab.json: name -> row of the embedding, special tokens among them.

    Raises:
        UserError: it is missing, is no such table, or lacks a special token.
    """
    said = _object(folder, "vocab.json")
    where = folder / "vocab.json"
    for name, row in said.items():
        if type(row) is not int or row < 0:
            raise UserError(f"{where}: the row of {name!r} must be a whole number >= 0, got {row!r}")
    for token in (CLS, settings.pad):
        if token not in said:
            raise UserError(f"{where} lacks the token {token!r}")
    return said


def read_weights(folder: Path, settings: Settings, rows: int) -> dict[str, Tensor]:
    """The encoder's parameters by the names that `Encoder` gives them, float32.

    Args:
        folder: holds one of `WEIGHTS`.
        settings: tell the shapes.
        rows: least number of rows of the embedding, which is read off the file.

    Raises:
        UserError: no such file, one that holds anything but named tensors, or whose keys are missing, too many, of
            another shape or not finite; they are named.
    """
    path = weights_file(folder)
    flat = _renamed(_tensors(path), path)
    changing = [key for key in flat if key.startswith(CHANGES)]
    if changing:
        raise UserError(f"{path} was trained with {_list(changing)}, which this encoder does not have")
    mine = {key: tensor for key, tensor in flat.items() if key.startswith(READ)}
    embedding = mine.get("encoder.embedding.weight")
    there = embedding.shape[0] if embedding is not None and embedding.ndim == 2 else rows
    with torch.device("meta"):
        wanted = {k: v.shape for k, v in encoder_of(settings, max(there, rows)).state_dict().items()}
    faults = []
    if missing := [key for key in wanted if key not in mine]:
        faults.append(f"lacks {_list(missing)}")
    if extra := [key for key in mine if key not in wanted]:
        faults.append(f"has besides {_list(extra)}")
    if wrong := [
        f"{key} {tuple(mine[key].shape)} for {tuple(shape)}"
        for key, shape in wanted.items()
        if key in mine and mine[key].shape != shape
    ]:
        faults.append(f"has in another shape {_list(wrong)}")
    if faults:
        raise UserError(
            f"{path} does not hold the encoder that args.json and vocab.json describe: it {'; it '.join(faults)}"
        )
    if wild := [key for key, tensor in mine.items() if not torch.isfinite(tensor).all()]:
        raise UserError(f"{path}: {_list(wild)} hold NaN or infinity")
    return {key: tensor.float() for key, tensor in mine.items()}


def encoder_of(settings: Settings, rows: int) -> Encoder:
    """An encoder with an embedding of so many names."""
    return Encoder(rows, settings.width, settings.inner, settings.layers, settings.heads)


def weights_file(folder: Path) -> Path:
    """The file of weights.

    Raises:
        UserError: the folder is missing or has none, or has several.
    """
    if not folder.is_dir():
        raise UserError(
            f"scgpt: there is no folder {folder}; give the one that holds args.json, vocab.json, {WEIGHTS[0]}"
        )
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"scgpt: {folder} has {_list([p.name for p in found])}; leave the one that is meant")
    raise UserError(f"scgpt: {folder} has none of {', '.join(WEIGHTS)}; is it a folder of scGPT?")


def fingerprint(folder: Path) -> str:
    """SHA-256 over the contents of the three files.

    Raises:
        UserError: one is missing.
    """
    weights = weights_file(folder)
    files = [_there(folder, "args.json"), _there(folder, "vocab.json"), weights]
    return hashlib.sha256("".join(content_of(path) for path in files).encode()).hexdigest()


def _there(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        weights_file(folder)
        raise UserError(f"scgpt: {folder} has no {name}; it needs args.json, vocab.json and {WEIGHTS[0]}")
    return path


def _object(folder: Path, name: str) -> dict[str, Any]:
    path = _there(folder, name)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(said, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(said).__name__}")
    return said


def _tensors(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():  # of pickle protocols, which the user did not choose
            warnings.simplefilter("ignore")
            # weights_only: tensors are built by an unpickler that calls nothing else, whatever the file asks for.
            said = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} asks for more than tensors, so it was not loaded and nothing of it was run: {_first(error)}. Take "
            "the file from its publisher, or save its state_dict alone"
        ) from None
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        KeyError,
        AttributeError,
        safetensors.SafetensorError,
    ) as error:
        raise UserError(f"{path} is no file of tensors: {_first(error)}") from None
    if not isinstance(said, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in said.items()):
        raise UserError(f"{path} must be a flat table of named tensors (a state_dict)")
    return said


def _renamed(flat: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, tensor in flat.items():
        name = key
        for there, here in RENAMED.items():
            name = name.replace(there, here)
        if name in found:
            raise UserError(f"{path} holds {name} twice, the second time as {key}")
        found[name] = tensor
    return found


def _list(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
