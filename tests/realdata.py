"""Where the real data sets lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def realdata(*parts: str) -> Path:
    """A file below `CORE_REALDATA`, else below `../shared/data` of the checkout; skips the test where it is missing."""
    root = os.environ.get("CORE_REALDATA")
    base = Path(root) if root else Path(__file__).resolve().parents[2] / "shared" / "data"
    path = base.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data at {path}; set CORE_REALDATA to the folder that holds {parts[0]}/")
    return path
