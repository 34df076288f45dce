"""Conditions to predict from control cells of a file, or its cells to embed; and results written as AnnData.

n items, G genes of the run, P perturbations at most, C covariates, K draws, m control cells.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import attrs
import numpy as np
import torch

from core.errors import UserError
from core.kinds.data import Batch, Items
from plugins.data.like import write_anndata
from plugins.data.screen_asked import LISTS, Asked, read_list, requests
from plugins.data.screen_read import ScreenKeys
from plugins.data.screen_shown import Part, Shown, file_table
from plugins.data.screen_table import ScreenTable
from plugins.shared.condition import CONTROL, Labels, spell

Home = Callable[[], Path | ScreenTable]
"""where the training data are, or are made: asked only where a list of conditions comes without control cells"""


def read_like(
    path: Path,
    preparation: Mapping[str, Any],
    needs: Collection[str],
    keys: ScreenKeys,
    labels: Labels,
    asked: Asked,
    home: Home,
) -> NewScreen:
    """Items for a trained model.

    `path` is an .h5ad file with control cells (all of its cells, if no column names conditions), or a list of
    conditions (.csv, .tsv, .txt), whose control cells are those of the training data. With `expression` among the
    needs, the items are the file's own cells; else cells to be made: the conditions that `asked` names, or those of
    the file.

    Raises:
        UserError: no such file, no control cells, none of the run's genes, values on another scale than the training
            cells, an unknown perturbation.
    """
    if not preparation:
        raise UserError("the run's data cannot tell how other cells are to be prepared")
    listed = path.suffix.lower() in LISTS
    names, covariates = preparation["perturbations"][1:], list(preparation["covariates"])
    limits = (labels, covariates, names, preparation["together"])
    if listed and "expression" in needs:
        raise UserError(f"{path} is a list of conditions, and this needs cells: give an .h5ad file")
    if listed and asked.conditions:
        raise UserError(f"{path} lists conditions and asked.conditions does so too: give one of them")
    wanted = read_list(path, *limits) if listed else requests(asked.conditions, *limits) if asked.conditions else None
    origin = _at_home(home, path) if listed else path
    notes: list[str] = []
    alone = "expression" in needs and not {"control", "perturbation"} & {*needs}
    if isinstance(origin, ScreenTable):
        table, given = origin, None
    else:
        table, given = file_table(origin, preparation, keys, labels, notes, conditions=not alone), origin
    shown = Shown(table, preparation, notes)
    if alone:
        # Every cell counts as a control cell, so that nothing hangs on what the file calls them.
        parts, known_fields = shown.own((), 0), frozenset({"expression", "covariate"})
    elif "expression" in needs:
        parts = shown.own(names, preparation["together"])
        known_fields = frozenset({"expression", "control", "level", "perturbation", "covariate"})
    else:
        parts = shown.wanted(
            wanted if wanted is not None else shown.present(names, preparation["together"]), asked.cells
        )
        known_fields = frozenset({"control", "level", "perturbation", "covariate"})
    return NewScreen(given=given, known=known_fields, notes=tuple(notes), shown=shown, parts=tuple(parts))


def _at_home(home: Home, path: Path) -> Path | ScreenTable:
    try:
        return home()
    except UserError as error:
        raise UserError(
            f"{path.name} lists conditions, and control cells are to come from the training data: {error} Or give an "
            f".h5ad file of control cells, and --data.asked.conditions {path}"
        ) from None


@final
@attrs.frozen(kw_only=True, eq=False)
class NewScreen(Items):
    """Items that were no part of training. Batches hold the fields of `plugins.data.screen_sets.ScreenSource`."""

    given: Path | None
    """the .h5ad file; None: control cells are simulated"""
    known: frozenset[str]
    notes: tuple[str, ...]
    shown: Shown
    parts: tuple[Part, ...]

    def units(self) -> Iterator[Batch]:
        start = 0
        for part in self.parts:
            count = len(part.control)
            rows, start = np.arange(start, start + count) if part.rows is None else part.rows, start + count
            member_P, level_C = self.shown.codes(part)
            blank = np.zeros((count, len(self.shown.genes)), np.float32)
            fields = {
                "expression": blank if part.rows is None else self.shown.expression(part.rows),
                "control": self.shown.expression(part.control),
                "level": np.tile(self.shown.level(part), (count, 1)),
                "perturbation": np.tile(member_P, (count, 1)),
                "covariate": np.tile(level_C, (count, 1)),
                "index": rows.astype(np.int64),
            }
            tensors = {name: torch.from_numpy(value)[None] for name, value in fields.items()}
            yield Batch(tensors, torch.ones((1, count), dtype=torch.bool), (part.name,))

    def save(self, path: Path, made: Mapping[str, np.ndarray], said: Mapping[str, Any], *, fresh: bool) -> None:
        """Write an AnnData file.

        Predicted cells come first, then all control cells of their strata, as they were. `X` is log1p of
        normalised counts, `layers["raw"]` what the model gave before zeros were restored; `obs` has `condition`,
        `label` (as it was asked for), covariates, `predicted`, `source_control` (name of the control cell) and
        `source_row` (its row in the file), `draw` where there are several; `uns["cellcore"]` tells what made it. An
        embedding is added to the file as `obsm["X_cellcore"]`.
        """
        from anndata import AnnData, read_h5ad

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "embedding" in made and self.given is not None:
                out = read_h5ad(self.given)
                out.obsm["X_cellcore"] = made["embedding"][0].astype(np.float32)
            else:
                out = self._predicted(AnnData, made)
            out.uns["cellcore"] = dict(said)
            write_anndata(out, path)

    def _predicted(self, make: Any, made: Mapping[str, np.ndarray]) -> Any:
        import pandas as pd  # type: ignore[import-untyped]

        x_KnG = made["expression"]
        raw_KnG = made.get("raw", x_KnG)
        draws = len(x_KnG)
        table, names = self.shown.table, self.shown.covariates
        source_n = np.concatenate([part.control for part in self.parts])
        used = np.unique(np.concatenate([self.shown.pool(part) for part in self.parts]))
        control_mG = self.shown.expression(used)
        unit_of = [table.units[code] for code in table.unit_n[used]]
        columns: dict[str, list[Any]] = {"condition": [], "label": [], **{name: [] for name in names}}
        for part in self.parts:
            count = len(part.control)
            columns["condition"] += [spell(part.members)] * count
            columns["label"] += [part.label] * count
            for name, level in zip(names, part.levels, strict=True):
                columns[name] += [level] * count
        obs = {key: np.array(values * draws, object) for key, values in columns.items()}
        tail = {"condition": [CONTROL] * len(used), "label": [str(text) for text in table.raw_n[used]]}
        tail |= {name: [unit.levels[c] for unit in unit_of] for c, name in enumerate(names)}
        frame = pd.DataFrame({key: np.concatenate([obs[key], np.array(tail[key], object)]) for key in obs})
        frame["predicted"] = np.arange(len(frame)) < draws * len(source_n)
        frame["source_control"] = [
            *(str(name) for name in np.tile(table.names_n[source_n], draws)),
            *map(str, table.names_n[used]),
        ]
        frame["source_row"] = np.concatenate([np.tile(source_n, draws), used])
        if draws > 1:
            frame["draw"] = np.concatenate(
                [np.repeat(np.arange(1, draws + 1), len(source_n)), np.zeros(len(used), np.int64)]
            )
        frame.index = pd.Index(
            _unique([*(f"predicted{i}" for i in range(draws * len(source_n))), *map(str, table.names_n[used])])
        )
        flat = [np.concatenate([part, control_mG]) for part in (_flat(x_KnG), _flat(raw_KnG))]
        out = make(X=flat[0], obs=frame, layers={"raw": flat[1]})
        out.var_names = list(self.shown.genes)
        return out


def _flat(values_KnG: np.ndarray) -> np.ndarray:
    return values_KnG.reshape(-1, values_KnG.shape[-1]).astype(np.float32)


def _unique(names: list[str]) -> list[str]:
    """Names with a number behind those that came before."""
    taken: set[str] = set()
    out = []
    for name in names:
        text, number = name, 1
        while text in taken:
            text, number = f"{name}-{number}", number + 1
        taken.add(text)
        out.append(text)
    return out
