"""A screen served as padded sets of cells of one condition, with control cells beside them.

B sets, N cells of a set, G genes, P perturbations at most, C covariates, n cells of the table, k chosen rows.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, final

import attrs
import numpy as np
import torch

from core.errors import UserError
from core.kinds.data import Batch, Card, Source, Split
from core.params import knob, params
from core.train.streams import Streams, stream_seed
from plugins.data.cells import dense
from plugins.data.screen_cut import SPLITS, Division, ScreenCut, divide
from plugins.data.screen_prepare import ScreenPrepare, choose_genes, decide, prepared, statistics, survey
from plugins.data.screen_split import document, read_split
from plugins.data.screen_table import ScreenTable, Unit, facts_of, some
from plugins.shared.condition import names_of


@final
@params
class ScreenSets:
    """How cells are grouped for training. A set holds cells of one condition in one stratum."""

    size: int = knob(
        8, "most cells of a set; a condition's cells are dealt evenly over as few sets as that takes", ge=2
    )
    per_batch: int = knob(8, "sets of a batch", ge=1)

    def count(self, cells: int) -> int:
        """Sets that so many cells make."""
        return math.ceil(cells / self.size)


class ScreenTruth(ABC):
    """What a simulator knows of its conditions."""

    @abstractmethod
    def fresh(self, unit: Unit, cells: int) -> np.ndarray:
        """New cells of a condition from the true law, in the units of the table, (cells, genes)."""


@final
class ScreenSplit(Split):
    """The cells of one split. An epoch's plan is a function of streams and epoch; only the last one is kept."""

    def __init__(self, source: ScreenSource, rows: np.ndarray, streams: Streams) -> None:
        self._source = source
        self._streams = streams
        codes = source.table.unit_n[rows]
        self._parts = [rows[codes == code] for code in np.unique(codes)]
        self._plan: tuple[int, list[np.ndarray]] | None = None

    def batches(self, epoch: int) -> int:
        sets = sum(self._source.sets.count(len(part)) for part in self._parts)
        return math.ceil(sets / self._source.sets.per_batch)

    def batch(self, epoch: int, index: int) -> Batch:
        """Sets of an epoch, with control cells drawn anew.

        Raises:
            IndexError: the epoch has no batch of that index.
        """
        if not 0 <= index < self.batches(epoch):
            raise IndexError(f"batch {index} of epoch {epoch}: there are {self.batches(epoch)}")
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self._deal(epoch))
        width = self._source.sets.per_batch
        sets = self._plan[1][index * width : (index + 1) * width]
        seed = stream_seed("pairs", self._streams.seed, epoch, index)
        return self._source.collate(sets, np.random.default_rng(seed))

    def units(self) -> Iterator[Batch]:
        """Every condition whole; its control cells are the same for every seed, as whoever judges wants them."""
        for part in self._parts:
            name = self._source.table.units[self._source.table.unit_n[part[0]]].name
            yield self._source.collate([part], np.random.default_rng(stream_seed(f"pairs:{name}", 0)))

    def _deal(self, epoch: int) -> list[np.ndarray]:
        generator = self._streams.generator("order", epoch)
        sets: list[np.ndarray] = []
        for part in self._parts:
            order = torch.randperm(len(part), generator=generator).numpy()
            sets += np.array_split(part[order], self._source.sets.count(len(part)))
        return [sets[i] for i in torch.randperm(len(sets), generator=generator).tolist()]


@final
class ScreenSource(Source):
    """A screen, split and prepared.

    Fields of a batch, on padding 0 or, for `covariate` and `index`, -1:

    - `expression` (B, N, G) float32: log1p of normalised counts;
    - `control` (B, N, G) float32: control cells of the same stratum, drawn with replacement; in training batches anew
      each epoch, in units always the same ones;
    - `level` (B, N, G) float32: mean of all control cells of the stratum;
    - `perturbation` (B, N, P) int64: codes into the names of `perturbations`, rising, then 0 for none;
    - `covariate` (B, N, C) int64: codes into the names of each covariate, -1 where it is unknown;
    - `index` (B, N) int64: row in the table.

    `table` holds the cells in model units, over the genes that are kept.

    Args:
        name: what the card is called.
        table: the cells; checked here.
        content: SHA-256 of everything that `table` was made from.
        said: facts of the input to put on the card.
        truth: what a simulator knows; without it the oracle is empty.

    Raises:
        UserError: a table that cannot be used, split or transformed.
    """

    def __init__(
        self,
        name: str,
        table: ScreenTable,
        *,
        content: str,
        sets: ScreenSets,
        cut: ScreenCut,
        prepare: ScreenPrepare,
        said: Mapping[str, Any],
        truth: ScreenTruth | None = None,
    ) -> None:
        table.check()
        self.sets, self._truth = sets, truth
        self.division: Division = divide(table, cut, lambda path: read_split(path, table))
        self._rows = self.division.rows(table)
        train = self._rows["train"]
        self._scale = decide(table.where, prepare, survey(table, train), survey(table, np.arange(table.cells)))
        self._forced = set(names_of(unit.members for unit in table.units))
        self._kept_G, self._extra = choose_genes(table, train, self._scale, prepare.genes, self._forced)
        self._statistics = statistics(table, train, self._scale, self._kept_G)
        self.genes = tuple(table.genes[i] for i in self._kept_G)
        self._given = len(table.genes)
        self.document = document(self.division, table)
        # Prepared once: a batch picks rows, and the matrix of all genes of the file need not stay in memory.
        self.table = attrs.evolve(table, values=prepared(table, self._scale, self._kept_G), genes=self.genes)
        self._perturbations = table.perturbations
        self._member_UP, self._level_UC = self._codes()
        self._controls, self._stratum_U = self._control_rows()
        self._level_LG = np.stack([self.table.mean(rows) for rows in self._controls]).astype(np.float32)
        knobs = [attrs.asdict(group) for group in (sets, prepare)]  # type: ignore[arg-type]
        identity = [content, knobs, {split: list(names) for split, names in self.division.units.items()}]
        self._card = self._describe(name, said, json.dumps(identity, sort_keys=True))

    def describe(self) -> Card:
        return self._card

    def split(self, name: str, streams: Streams) -> ScreenSplit:
        """One of the three splits.

        Raises:
            ValueError: no split is called so.
        """
        if name not in SPLITS:
            raise ValueError(f"no split is called {name!r}: there are {', '.join(SPLITS)}")
        return ScreenSplit(self, self._rows[name], streams)

    def names(self, what: str) -> tuple[str, ...]:
        """Names of the `genes`, the `perturbations` (code 0: control), the `covariates`, or the levels of one of these.

        Raises:
            KeyError: any other word.
        """
        table = self.table
        known = {"genes": self.genes, "perturbations": self._perturbations, "covariates": table.covariates}
        known |= {name: table.levels(place) for place, name in enumerate(table.covariates) if name not in known}
        if what not in known:
            raise KeyError(f"no names of {what!r}: there are names of {', '.join(known)}")
        return known[what]

    def restore(self, field: str, values: np.ndarray) -> np.ndarray:
        """Model units are log1p of normalised counts already; as float64.

        Raises:
            ValueError: the field has no scale.
        """
        known = ("expression", "control", "level", "raw")
        if field not in known:
            raise ValueError(f"{field!r} has no scale to restore: the fields that have are {', '.join(known)}")
        return np.asarray(values, np.float64)

    def oracle(self, unit: Batch) -> dict[str, np.ndarray]:
        """Fresh cells of the condition from the true law, as many as the unit has: what a perfect generator makes."""
        if self._truth is None:
            return {}
        rows = unit.fields["index"][unit.real_BN].cpu().numpy()
        made = self._truth.fresh(self.table.units[self.table.unit_n[rows[0]]], len(rows))
        return {"expression": dense(self._scale.apply(made))[:, self._kept_G].astype(np.float32)}

    def preparation(self) -> dict[str, Any]:
        table, fitted = self.table, self._statistics
        return {
            "transform": self._scale.transform,
            "target_sum": self._scale.target_sum,
            "genes": list(self.genes),
            "perturbations": list(self._perturbations),
            "together": table.together,
            "covariates": {name: list(table.levels(place)) for place, name in enumerate(table.covariates)},
            "matched": list(table.matched),
            "mean": fitted.mean_G.tolist(),
            "sd": fitted.sd_G.tolist(),
            "zero_rate": fitted.zero_G.tolist(),
            "split": self.document,
        }

    def arranged(self, preparation: Mapping[str, Any]) -> ScreenSource:
        """This screen with its genes in the order of a run, if it is the run's own screen, cell by cell.

        That it is so is seen from the cells of each condition and from mean, deviation and zero rate of each gene over
        the training cells.
        """
        own, place = json.loads(json.dumps(self.preparation())), {gene: i for i, gene in enumerate(self.genes)}
        numbers = ("mean", "sd", "zero_rate")
        if {*preparation} != {*own}:
            raise UserError("they are no screen of the run's kind")
        genes = preparation["genes"]
        missing = [gene for gene in genes if gene not in place]
        if missing:
            raise UserError(f"{len(missing)} of the run's {len(genes)} genes are not there: {some(missing)}")
        if len(genes) < len(self.genes):
            raise UserError(f"they have {len(self.genes)} genes and the run {len(genes)}")
        other = [key for key in own if key not in ("genes", *numbers) and preparation[key] != own[key]]
        if other:
            raise UserError(f"their {' and '.join(other)} differ")
        order_G = np.array([place[gene] for gene in genes])
        if not all(np.allclose(np.asarray(own[key])[order_G], preparation[key], 1e-5, 1e-7) for key in numbers):
            raise UserError("their expression differs")
        arranged = copy.copy(self)
        arranged.genes, arranged._level_LG = tuple(genes), self._level_LG[:, order_G]
        arranged._kept_G, arranged._statistics = self._kept_G[order_G], self._statistics.at(order_G)
        arranged.table = attrs.evolve(self.table, values=self.table.values[:, order_G], genes=arranged.genes)
        return arranged

    def expression(self, rows: np.ndarray) -> np.ndarray:
        """Cells in model units, (k, G)."""
        return np.ascontiguousarray(dense(self.table.rows(rows)), np.float32)

    def collate(self, sets: list[np.ndarray], rng: np.random.Generator) -> Batch:
        """Sets of rows, each of one unit, as a padded batch.

        Args:
            rng: draws the control cells.
        """
        real_BN = np.arange(max(map(len, sets)))[None] < np.array([len(rows) for rows in sets])[:, None]
        rows_k = np.concatenate(sets)
        unit_k = self.table.unit_n[rows_k]
        pools = [self._controls[self._stratum_U[self.table.unit_n[rows[0]]]] for rows in sets]
        control_k = np.concatenate(
            [pool[rng.integers(len(pool), size=len(r))] for pool, r in zip(pools, sets, strict=True)]
        )
        values: dict[str, tuple[np.ndarray, int]] = {
            "expression": (self.expression(rows_k), 0),
            "control": (self.expression(control_k), 0),
            "level": (self._level_LG[self._stratum_U[unit_k]], 0),
            # An embedding looks codes up on padding too, where 0 is no perturbation and -1 would be no row.
            "perturbation": (self._member_UP[unit_k], 0),
            "covariate": (self._level_UC[unit_k], -1),
            "index": (rows_k.astype(np.int64), -1),
        }
        fields = {}
        for field, (value, blank) in values.items():
            padded = np.full((*real_BN.shape, *value.shape[1:]), blank, value.dtype)
            padded[real_BN] = value
            fields[field] = torch.from_numpy(padded)
        names = tuple(self.table.units[self.table.unit_n[rows[0]]].name for rows in sets)
        return Batch(fields, torch.from_numpy(real_BN), names)

    def _codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Perturbations and levels of each unit."""
        table = self.table
        place = {name: code for code, name in enumerate(self._perturbations)}
        member_UP = np.zeros((len(table.units), table.together), np.int64)
        level_UC = np.full((len(table.units), len(table.covariates)), -1, np.int64)
        levels = [{name: code for code, name in enumerate(table.levels(c))} for c in range(len(table.covariates))]
        for u, unit in enumerate(table.units):
            member_UP[u, : len(unit.members)] = sorted(place[member] for member in unit.members)
            level_UC[u] = [levels[c].get(level, -1) for c, level in enumerate(unit.levels)]
        return member_UP, level_UC

    def _control_rows(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The control cells of each stratum, and the stratum of each unit."""
        strata: dict[tuple[str, ...], list[int]] = {}
        for code, unit in enumerate(self.table.units):
            if not unit.members:
                strata.setdefault(self.table.stratum(unit), []).append(code)
        place = {stratum: number for number, stratum in enumerate(strata)}
        pools = [np.flatnonzero(np.isin(self.table.unit_n, codes)) for codes in strata.values()]
        return pools, np.array([place[self.table.stratum(unit)] for unit in self.table.units])

    def _leaks(self) -> list[str]:
        """What was learned from which cells, and what a model may know of those it is judged on."""
        train = len(self._rows["train"])
        learned = f"the {train} cells of train (control cells included)"
        genes = (
            f"{len(self.genes)} of {self._given} genes: the most variable on {learned}, and by name "
            f"{self._extra} more that are perturbed in some condition"
            if len(self.genes) < self._given
            else f"all {self._given} genes of the input are kept, so none was chosen by any cell"
        )
        return [
            genes,
            f"mean, deviation and zero rate of each gene: fitted on {learned}",
            "normalisation: a constant total for each cell, fitted on nothing; whether it is needed was judged on train"
            if self._scale.transform == "counts"
            else "normalisation: none was done here; totals of all cells that the input's own may have used are in it",
            "the vocabulary of perturbations holds the names of all conditions, test included, and nothing of their "
            "cells",
            "control cells of every stratum are trained on and given at evaluation; no perturbed cell of valid or "
            "test is",
        ]

    def _describe(self, name: str, said: Mapping[str, Any], identity: str) -> Card:
        table = self.table
        sizes = table.counts()
        train = [sizes[unit] for unit in self.division.units["train"]]
        sets = sum(map(self.sets.count, train))
        facts = {
            **said,
            "cells": table.cells,
            "genes": len(self.genes),
            **facts_of(table),
            "units": {split: len(names) for split, names in self.division.units.items()},
            "covariates": {name: len(table.levels(place)) for place, name in enumerate(table.covariates)},
            "silent_genes": int((self._statistics.zero_G == 1).sum()),
            "split": f"{self.division.scheme}: {self.division.sentence}",
            "transform": self._scale.reason,
            "categories": dict(self.division.categories),
            "leaks": self._leaks(),
        }
        levels = [len(table.levels(place)) for place in range(len(table.covariates))]
        return Card(
            name=name,
            sizes={
                "genes": len(self.genes),
                "perturbations": len(self._perturbations),
                "together": table.together,
                "covariates": len(table.covariates),
                "levels": max(levels, default=0),
                "set_size": max(math.ceil(count / self.sets.count(count)) for count in train),
                "sets_per_batch": min(self.sets.per_batch, sets),
            },
            splits={split: len(self._rows[split]) for split in SPLITS},
            fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
            facts=facts,
        )
