"""The README of a prepared data set: what it holds, for people and for the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
SHOWN = 40
"""sections that the table names"""


def write_card(name: str, said: Mapping[str, Any]) -> str:
    """A dataset card with the YAML header of the Hub; what `metadata.json` says, in words."""
    cells = sum(said["splits"].values())
    size = next((word for limit, word in SIZES if cells < limit), "1M<n<10M")
    files = [("train", "train"), ("validation", "validation"), ("test", "test")]
    configs = "\n".join(f"  - split: {split}\n    path: data/{folder}-*.parquet" for split, folder in files)
    form = (
        "`indices`, `values`: the genes that are not 0, and their values (float32)"
        if said["sparse"]
        else f"`expression`: {len(said['genes'])} values (float32), in the order of `genes` in `metadata.json`"
    )
    rows = "\n".join(
        f"| {_cell(s['name'])} | {s['cells']} | {s['train']} | {s['valid']} | {s['test']} | {s['absent']} |"
        for s in said["sections"][:SHOWN]
    )
    more = len(said["sections"]) - SHOWN
    rows += f"\n\n... and {more} more, in `metadata.json`." if more > 0 else ""
    return f"""---
pretty_name: {json.dumps(name)}
tags:
- biology
- spatial-transcriptomics
- single-cell
size_categories:
- {size}
configs:
- config_name: default
  data_files:
{configs}
---

# {name}

{cells} cells of {len(said["sections"])} section(s), {len(said["genes"])} genes, {len(said["cell_types"])} cell types,
{said["dims"]}-D positions. Made by `core data` of cellcore.

## Columns

- {form}
- `position`: {said["dims"]} coordinates (float64), in units of the input
- `section`: name; sections need not share a frame
- `cell_type`: index into `cell_types` of `metadata.json`, -1 where no type is known
- `total`: sum of the cell's counts over the panel, before anything was done
- `cell`: name of the cell in the input

## Preparation

{said["steps"][0].upper() + said["steps"][1:]}. `statistics.json` holds each section's mean and deviation a gene, with
which the values can be turned back into counts and new cells be prepared alike.

## Splits

{said["split"][0].upper() + said["split"][1:]}.

| section | cells | train | validation | test | absent genes |
|---|---|---|---|---|---|
{rows}
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
