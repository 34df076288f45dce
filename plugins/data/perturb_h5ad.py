"""A perturbation screen from one AnnData file.

n cells, G genes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import attrs

from core.kinds.data import Data
from core.params import group, knob, params
from plugins.data.anndata_file import AnnDataFile
from plugins.data.screen_cut import ScreenCut
from plugins.data.screen_like import Asked, NewScreen, read_like
from plugins.data.screen_prepare import ScreenPrepare
from plugins.data.screen_read import CELL_TYPE, CONDITION, ScreenKeys, found, read_obs, table_of
from plugins.data.screen_sets import ScreenSets, ScreenSource
from plugins.shared.condition import ALIASES, Labels


@final
@params
class PerturbH5ad(Data):
    """Cells of a perturbation screen, read from an AnnData file (.h5ad, Virshup et al. 2024, doi:10.21105/joss.04371).

    Files as Norman et al. 2019, ComboSciPlex and the scPerturb collection have them: one column of `obs` names the
    perturbations of each cell, joined by a separator, with some label for control cells. Conditions are sets, so that
    no double stands on both sides of a split. What was found by default stands among the card's facts.
    """

    applied_by: ClassVar[tuple[str, ...]] = (
        "condition",
        "separator",
        "control",
        "covariates",
        "dose",
        "layer",
        "asked",
    )

    path: str = knob(attrs.NOTHING, "the .h5ad file; its content counts for a run, not its place", identity=False)
    condition: str = knob(
        "", f"column of `obs` with the condition of each cell; empty: the first there is of {', '.join(CONDITION)}"
    )
    separator: str = knob("+", "stands between the perturbations of one condition")
    control: tuple[str, ...] = knob(
        ALIASES,
        "labels of control cells, also beside a perturbation (`A+ctrl` is `A`); upper and lower case count alike",
    )
    covariates: tuple[str, ...] = knob(
        (),
        "columns of `obs` in which cells are compared with control cells of their own level (cell type, batch, donor); "
        f"empty: the first there is of {', '.join(CELL_TYPE)}; `none`: no column",
    )
    dose: str = knob("", "column of `obs` with the dose; empty: none. Control cells need none")
    layer: str = knob("", "layer to read expression from; empty: X")
    few: Literal["refuse", "drop"] = knob("refuse", "what is done with conditions of a single cell in a stratum")
    asked: Asked = group("what `core sample` is to predict")
    sets: ScreenSets = group("how cells are grouped for training")
    cut: ScreenCut = group("how conditions are split")
    prepare: ScreenPrepare = group("how expression is scaled, and which genes are kept")

    def __attrs_post_init__(self) -> None:
        self._labels()

    def open(self) -> ScreenSource:
        """Read the file.

        Raises:
            UserError: no such file, a file that is not a whole h5ad, a column that is not there, or content that
                cannot be used; one sentence that names file, field and fix.
        """
        keys, labels = self._keys(), self._labels()
        path = found(self.path)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        file = AnnDataFile(path)
        try:
            told = read_obs(file, keys, labels)
            table, left = table_of(file, told, keys, drop=self.few == "drop")
            notes = file.notes()
        finally:
            file.close()
        said: dict[str, Any] = {"file": path.name, "expression_from": keys.matrix, **told.said, **notes}
        if left:
            said["left_out"] = left
        read = [attrs.asdict(one) for one in (keys, labels)]
        return ScreenSource(
            path.stem,
            table,
            content=json.dumps([digest, read, self.few], sort_keys=True),
            sets=self.sets,
            cut=self.cut,
            prepare=self.prepare,
            said=said,
        )

    def like(self, path: Path, preparation: Mapping[str, Any], needs: Collection[str]) -> NewScreen:
        """Conditions to predict from control cells of another file, or its cells; see `screen_like.read_like`."""
        return read_like(path, preparation, needs, self._keys(), self._labels(), self.asked, lambda: found(self.path))

    def ending(self, path: Path) -> str:
        return ".h5ad"

    def _keys(self) -> ScreenKeys:
        return ScreenKeys(condition=self.condition, covariates=self.covariates, dose=self.dose, layer=self.layer)

    def _labels(self) -> Labels:
        return Labels(separator=self.separator, control=self.control)
