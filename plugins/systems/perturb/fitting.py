"""What a model takes from the training cells before its first step. n cells, V genes, K perturbations."""

from __future__ import annotations

import numpy as np

from core.kinds import Source
from core.kinds.extractor import Extractor
from core.nn.correlated import most_correlated
from core.train.streams import Streams
from plugins.systems.perturb.cells import EXPRESSION, GIVEN, Cells
from plugins.systems.perturb.generate import MOST_PROBES
from plugins.systems.perturb.network import CONTROLS, GENES, LATENT, MEAN, NEIGHBOURS, PROBE, SPREAD, Origin

MOST_NEIGHBOURS = 64
"""co-expressed genes that are found for each gene; a network reads the first of them"""


def fitted_to(source: Source, streams: Streams, extractor: Extractor | None, origin: Origin) -> dict[str, np.ndarray]:
    """Statistics, co-expression, the extractor's state and probe cells of the training split, controls among them."""
    cells = [Cells.of(unit) for unit in source.split("train", streams).units()]
    expression_nV = np.concatenate([one.expression.numpy() for one in cells])
    genes, perturbations = source.names("genes"), source.names("perturbations")
    place = {gene: code for code, gene in enumerate(genes)}
    mean_V = expression_nV.mean(0, dtype=np.float64)
    origin_nV = np.concatenate([one.given.level.numpy() for one in cells]) if origin == CONTROLS else np.float32(mean_V)
    apart_nV = expression_nV - origin_nV
    fitted = {
        MEAN: mean_V,
        SPREAD: np.array([max(float(apart_nV.std()), 1e-6)]),
        NEIGHBOURS: most_correlated(expression_nV, MOST_NEIGHBOURS),
        # A perturbation of a measured gene is embedded as that gene; code 0 is none.
        GENES: np.array([place.get(name, -1) if code else -1 for code, name in enumerate(perturbations)]),
    }
    rng = np.random.default_rng(streams.generator("probes").initial_seed())
    chosen = np.sort(rng.permutation(len(expression_nV))[:MOST_PROBES])
    fitted[PROBE + EXPRESSION] = expression_nV[chosen]
    fitted |= {PROBE + m: np.concatenate([getattr(one.given, m).numpy() for one in cells])[chosen] for m in GIVEN}
    if extractor is not None:
        state = extractor.fit(apart_nV if extractor.relative else expression_nV, genes, streams).state()
        fitted |= {f"{LATENT}{name}": values for name, values in state.items()}
    return fitted
