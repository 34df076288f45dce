"""A finished run's model, and what it takes to show it new items: neither needs the training data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.errors import RunFailed, UserError
from core.kinds import Card, Source, System
from core.train.checkpoint import latest, load
from core.train.fitted import read_fitted
from core.train.rundir import RunDir, read_record
from core.train.schedule import advance
from core.train.seal import WEIGHTS, check_seal
from core.train.streams import Streams

PREPARATION = "preparation.json"
SCHEMA = 1


@attrs.frozen
class Prepared:
    """What a run remembers of its data."""

    card: Card
    told: dict[str, Any]
    """`Source.preparation`"""


def keep_preparation(run: RunDir, source: Source) -> None:
    """Write `preparation.json`: the card, and what other items would be prepared with."""
    document = {"schema": SCHEMA, "card": attrs.asdict(source.describe()), "prepared": source.preparation()}
    run.write(PREPARATION, json.dumps(document, allow_nan=False))


def read_preparation(run: Path) -> Prepared:
    """Read back what `keep_preparation` wrote.

    Raises:
        UserError: the run keeps none, as runs of earlier versions do, or it cannot be read.
    """
    path = run / PREPARATION
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["schema"] != SCHEMA:
            raise UserError(f"{path} has schema {document['schema']!r}; this core reads {SCHEMA}")
        return Prepared(Card(**document["card"]), document["prepared"])
    except FileNotFoundError:
        raise UserError(
            f"{run} keeps no {PREPARATION}: it was trained by an earlier version, which did not write down how its "
            "data were prepared. Train it again with `core run --force`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def finished(run: Path) -> dict[str, Any]:
    """`run.json` of a run that ended well.

    Raises:
        UserError: there is no run, or it is not complete.
    """
    record = read_record(run)
    if record["status"] != "done":
        raise UserError(f"{run} is not complete ({record['status']}); `core resume {run}` finishes it")
    return record


def trained_model(run: Path, system: System, card: Card, seed: int, device: torch.device) -> nn.Module:
    """The model as the run's own evaluation had it: averaged weights, the best ones where training stopped early.

    Raises:
        UserError: the run has no checkpoint, or its weights are of another network.
    """
    weights, whence = trained_weights(run, read_record(run))
    with torch.random.fork_rng(devices=[]):
        model = system.build(card)
    Streams(seed).initialise(model)
    system.recall(model, read_fitted(run) or {})
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the weights of {whence} do not fit the network of {run}/config.toml ({' '.join(str(error).split())}): "
            "the files are of different runs, or of different versions"
        ) from None
    advance(model, 1.0)
    return model.to(device).eval()


def trained_weights(run: Path, record: Mapping[str, Any]) -> tuple[dict[str, Tensor], Path]:
    """The weights that a run is judged with, and where they stand: in its last checkpoint, or exported.

    Raises:
        UserError: there are none, they cannot be read, or the run's files are not those that it ended with.
    """
    path, found = run / WEIGHTS, latest(run)
    if not path.exists() and found is None:
        raise UserError(f"{run} holds no checkpoint, so there is no model: `core run --force` trains it again")
    check_seal(run, record)
    if found is None:
        try:
            return load_file(path), path
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read: {error}; export the model again with `core export`") from None
    try:
        state = load(found[1])
    except RunFailed as error:
        raise UserError(str(error)) from None
    weights = dict(state.best or state.model)
    return (weights if state.best else weights | state.average), found[1]
