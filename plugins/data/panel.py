"""The genes that a data set keeps: read from a file, or what all inputs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from core.errors import UserError
from plugins.data.cells import Block

SHOWN = 5
"""genes that a message names"""


def read_panel(path: Path) -> tuple[str, ...]:
    """Genes of a text file: one a line, or separated by commas or tabs.

    Raises:
        UserError: no such file, no text, no gene, or a gene twice.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.glob("*") if p.suffix in (".txt", ".csv", ".tsv"))
        raise UserError(
            f"--genes {path}: there is no such file; beside it: {', '.join(beside[:SHOWN]) or 'none'}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--genes {path} cannot be read as text: {error}") from None
    words = [word.strip().strip('"') for line in text.splitlines() for word in line.replace("\t", ",").split(",")]
    genes = tuple(word for word in words if word)
    if not genes:
        raise UserError(f"--genes {path} names no gene: write one a line, or separate them by commas or tabs")
    refuse_twice(genes, f"--genes {path}")
    return genes


def shared_panel(genes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The genes that all inputs have, sorted by name.

    Args:
        genes: names of each input.

    Raises:
        UserError: a gene twice in one input, or none in all.
    """
    for where, names in genes.items():
        refuse_twice(names, where)
    common = set.intersection(*(set(names) for names in genes.values()))
    if not common:
        shown = "; ".join(f"{where} has {_some(names)}" for where, names in genes.items())
        raise UserError(f"no gene is in all inputs ({shown}): name a panel with --genes, or bring names to one form")
    return tuple(sorted(common))


def refuse_twice(genes: Sequence[str], where: str) -> None:
    """Refuse a list that names a gene more than once."""
    seen: set[str] = set()
    twice = sorted({gene for gene in genes if gene in seen or seen.add(gene)})  # type: ignore[func-returns-value]
    if twice:
        raise UserError(
            f"{where} names {len(twice)} gene(s) more than once ({_some(twice)}): which of the columns is meant? "
            "Remove or rename them"
        )


def columns_of(panel: Sequence[str], genes: Sequence[str], where: str) -> np.ndarray:
    """Column (G,) of each gene of the panel in an input, -1 where it is absent.

    Raises:
        UserError: the input has none of them, or one of them twice.
    """
    wanted = set(panel)
    refuse_twice([gene for gene in genes if gene in wanted], where)
    place = {gene: i for i, gene in enumerate(genes)}
    column_G = np.array([place.get(gene, -1) for gene in panel], np.int64)
    if (column_G < 0).all():
        alike = {gene.casefold(): gene for gene in genes}.get(panel[0].casefold())
        close = f" Did you mean {alike!r}?" if alike else ""
        raise UserError(
            f"{where} has none of the {len(panel)} genes of the panel (panel: {_some(panel)}; file: {_some(genes)})."
            f"{close} Are both names of one kind, symbols or identifiers?"
        )
    return column_G


def pick(rows: Block, column_G: np.ndarray) -> Block:
    """Columns of some rows, absent genes 0; dense stays dense, sparse sparse."""
    if not sp.issparse(rows):
        out = np.asarray(rows)[:, np.maximum(column_G, 0)].astype(np.float32)
        out[:, column_G < 0] = 0
        return out
    target = np.full(rows.shape[1], -1)
    target[column_G[column_G >= 0]] = np.flatnonzero(column_G >= 0)
    coo = rows.tocoo()
    kept = target[coo.col] >= 0
    values = (coo.data[kept].astype(np.float32), (coo.row[kept], target[coo.col[kept]]))
    return sp.csr_matrix(values, shape=(rows.shape[0], len(column_G)))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
