"""What a system took from the training items before the first step, kept beside the run's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from core.errors import UserError
from core.train.rundir import RunDir

FITTED = "fitted.safetensors"


def keep_fitted(run: RunDir, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays; nothing where there are none."""
    if arrays:
        run.write(FITTED, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_fitted(run: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a run; None where it keeps none.

    Raises:
        UserError: the file cannot be read.
    """
    path = run / FITTED
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}; `core run --force` trains the run again") from None
