"""A trained model in Python: what `core sample` and `core embed` do, with AnnData in and out."""

from __future__ import annotations

import csv
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import attrs

from core.errors import UserError

if TYPE_CHECKING:
    from anndata import AnnData

    from core.cli.apply import Trained
    from core.kinds import Items

MOST = 4096
"""items that a model is shown at once"""
_LINE = re.compile(r"\bconditions\.csv, line (\d+)")


def load(run: str | Path, *flags: str) -> Model:
    """The model of a run's directory, or of a folder of `core export`.

    Args:
        run: the folder.
        flags: what may be said of a trained model, as on the command line: `"--sampling=20"`, `"--data.layer=counts"`.

    Raises:
        UserError: there is no finished run, its files were changed, or a flag does not act here.
    """
    from core.cli.apply import open_trained

    with _as_found():
        return Model(open_trained(Path(run), flags, sampled=True))


@final
class Model:
    """A trained model that stays in memory between calls. AnnData that is given is never changed."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained

    @property
    def preparation(self) -> Mapping[str, Any]:
        """What the model knows of its data: `genes` in its order, `perturbations`, `split`, statistics."""
        return self._trained.prepared.told

    def predict(
        self,
        conditions: str | Sequence[str],
        controls: AnnData | str | Path | None = None,
        *,
        cells: int = 0,
        seed: int | None = None,
    ) -> AnnData:
        """Predicted cells of conditions, then the control cells that they were predicted from, as `core sample` writes.

        Args:
            conditions: such as `["A+B", "C"]`, in any spelling of a set, or `"A+B|K562"` for one level of a covariate.
            controls: control cells (of more cells, those that a column of conditions says), as AnnData or a file; None:
                those of the training data, which have to be there.
            cells: of each condition in each stratum; 0: as many as there are control cells.
            seed: of the noise; None: the run's.

        Returns:
            `X` (log1p of normalised counts) and `layers["raw"]` over the run's genes; `obs` with `condition`, `label`,
            covariates, `predicted`, `source_control`, `source_row`; `uns["cellcore"]`.

        Raises:
            UserError: a condition that cannot be read, an unknown perturbation, cells that cannot be used, or a model
                that predicts no conditions.
        """
        modes = [mode for mode, needs in self._trained.system.modes().items() if "perturbation" in needs]
        if not modes:
            raise UserError(f"the run's system, {self._trained.name}, predicts no conditions; see Model.sample")
        asked = [conditions] if isinstance(conditions, str) else [*conditions]
        if not all(isinstance(text, str) for text in asked):
            raise UserError(f"conditions = {asked!r}: each is a text such as 'A+B', and a set of perturbations")
        if not any(text.strip() for text in asked):
            raise UserError("conditions is empty: name what is to be predicted, such as ['A+B', 'C']")
        with tempfile.TemporaryDirectory() as folder:
            given: AnnData | str | Path
            texts = tuple(asked)
            if controls is None:
                given = Path(folder) / "conditions.csv"
                with given.open("w", encoding="utf-8", newline="") as stream:
                    csv.writer(stream).writerows([["condition"], *([text] for text in asked)])
                asked = []
            else:
                given = controls
            data = _asking(self._trained.data, tuple(asked), cells)
            try:
                made = self._sampled(attrs.evolve(self._trained, data=data), given, modes[0], 1, seed, MOST)
            except UserError as error:
                raise UserError(_LINE.sub(_entry, str(error))) from None
        made.uns["cellcore"]["conditions"] = ", ".join(texts)
        return made

    def sample(
        self, cells: AnnData | str | Path, mode: str, *, draws: int = 1, seed: int | None = None, patch: int = MOST
    ) -> AnnData:
        """Fill in what cells lack, as `core sample CELLS --mode MODE`.

        Args:
            cells: AnnData or a file.
            mode: one of the system's.
            draws: samples of each; 0: the mean that the model predicts at once.
            seed: of the noise; None: the run's.
            patch: most items that the model is shown at once.

        Raises:
            UserError: no such mode, or cells that cannot be used.
        """
        from core.cli.place import one_of

        one_of(mode, self._trained.system.modes(), "mode")
        return self._sampled(self._trained, cells, mode, draws, seed, patch)

    def embed(self, cells: AnnData | str | Path, layer: str | None = None, *, patch: int = MOST) -> AnnData:
        """The cells with what the model makes of each in `obsm["X_cellcore"]`, as `core embed CELLS`.

        Args:
            cells: AnnData or a file.
            layer: one of the system's; None: the first of them.
            patch: most items that the model is shown at once.

        Raises:
            UserError: no such layer, or cells that cannot be used.
        """
        with _as_found(), _file(cells) as file, tempfile.TemporaryDirectory() as folder:
            items, parts, facts = self._trained.embedded(file, layer, patch, _warn)
            return self._answer(items, parts, facts, "embed", Path(folder), fresh=False)

    def _sampled(
        self, trained: Trained, cells: AnnData | str | Path, mode: str, draws: int, seed: int | None, patch: int
    ) -> AnnData:
        with _as_found(), _file(cells) as file, tempfile.TemporaryDirectory() as folder:
            number = trained.seed if seed is None else seed
            items, parts, facts = trained.sampled(file, mode, draws, number, patch, _warn)
            fresh = not trained.system.modes()[mode]
            return self._answer(items, parts, facts, "sample", Path(folder), fresh=fresh)

    def _answer(
        self, items: Items, parts: Any, facts: Mapping[str, Any], verb: str, folder: Path, *, fresh: bool
    ) -> AnnData:
        from anndata import read_h5ad

        self._trained.write(items, folder / "out.h5ad", parts, {"command": f"core.api {verb}", **facts}, fresh=fresh)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_h5ad(folder / "out.h5ad")


def _entry(line: re.Match[str]) -> str:
    """The entry of a list that was given, where the list that was written of it has this line."""
    return f"conditions[{int(line[1]) - 2}]"


def _asking(data: Any, conditions: tuple[str, ...], cells: int) -> Any:
    """The data with what is asked for, as flags `--data.asked.conditions` and `--data.asked.cells` would say it.

    Raises:
        UserError: these data are asked for nothing.
    """
    if "asked" not in data.applied_by:
        raise UserError(f"data of kind {type(data).__name__} take no conditions that are asked for")
    try:
        asked = attrs.evolve(data.asked, conditions=conditions, cells=cells)
    except ValueError as error:
        raise UserError(f"predict: {error}") from None
    return attrs.evolve(data, asked=asked)


@contextmanager
def _file(cells: AnnData | str | Path) -> Iterator[Path]:
    """The cells as a file, which is what data are read from."""
    if isinstance(cells, (str, Path)):
        yield Path(cells)
        return
    if not hasattr(cells, "write_h5ad"):
        raise UserError(f"cells are given as AnnData or as the name of a file, not as {type(cells).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.h5ad"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells.copy().write_h5ad(path)  # writing turns columns of texts into categories, in place
        yield path


@contextmanager
def _as_found() -> Iterator[None]:
    """Exact arithmetic inside, and the caller's own setting of torch afterwards."""
    import torch

    before = torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def _warn(note: str) -> None:
    warnings.warn(note, UserWarning, stacklevel=2)
