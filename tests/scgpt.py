"""Small folders of scGPT with random weights, as its publishers lay them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from core.train.streams import Streams
from plugins.extractors._scgpt_files import Settings, encoder_of

Layout = Literal["torch", "flash", "impl"]
NAMES = tuple(f"G{i:02d}" for i in range(28))
SETTINGS = Settings(width=8, inner=12, layers=2, heads=2, bins=11, longest=64, pad="<pad>", pad_value=-2.0)


def arguments(**more: Any) -> dict[str, Any]:
    """args.json of `SETTINGS`."""
    return {
        "embsize": 8, "d_hid": 12, "nlayers": 2, "nheads": 2, "n_bins": 11, "max_seq_len": 64, "pad_token": "<pad>",
        "pad_value": -2, "mask_value": -1, "dropout": 0.2, "input_style": "binned", "input_emb_style": "continuous",
        "n_layers_cls": 3, "MVC": True, "fast_transformer": True, **more,
    }  # fmt: skip


def vocabulary() -> dict[str, int]:
    """Names in no order that means anything, special tokens behind them."""
    order = torch.randperm(len(NAMES), generator=torch.Generator().manual_seed(3)).tolist()
    table = {NAMES[i]: row for row, i in enumerate(order)}
    return table | {"<pad>": len(table), "<cls>": len(table) + 1, "<eoc>": len(table) + 2}


def weights(layout: Layout = "torch", seed: int = 0) -> dict[str, Tensor]:
    """A state of the encoder, with heads of the pretraining that nobody asks for."""
    encoder = encoder_of(SETTINGS, len(vocabulary()))
    Streams(seed).initialise(encoder)
    generator = torch.Generator().manual_seed(seed)
    state = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in encoder.state_dict().items()}
    inside = {"torch": "self_attn.", "flash": "self_attn.", "impl": "self_attn._impl."}[layout]
    packed = "self_attn.in_proj_" if layout == "torch" else f"{inside}Wqkv."
    named = {
        k.replace("self_attn.out_proj.", f"{inside}out_proj.").replace("self_attn.in_proj_", packed): v
        for k, v in state.items()
    }
    return named | {"decoder.fc.0.weight": torch.ones(8, 8), "mvc_decoder.W.weight": torch.ones(8, 8)}


def folder(path: Path, layout: Layout = "torch", *, safe: bool = False, seed: int = 0, **more: Any) -> Path:
    """The three files."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "args.json").write_text(json.dumps(arguments(**more)))
    (path / "vocab.json").write_text(json.dumps(vocabulary()))
    if safe:
        safetensors.torch.save_file(weights(layout, seed), path / "best_model.safetensors")
    else:
        torch.save(weights(layout, seed), path / "best_model.pt")
    return path
