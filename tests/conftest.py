"""What every test stands on: no settings and no variables of the user, and a way to install fake packages."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from core.cli import main
from core.registry import installed

KEPT = ("CORE_REALDATA", "CORE_STORE")


@pytest.fixture(autouse=True)
def no_user_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`CORE_*` variables and the user's settings belong to the user, not to a test."""
    for name in [name for name in os.environ if name.startswith("CORE_") and name not in KEPT]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CORE_CONFIG", os.devnull)
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path where packages can be written; what was imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None) or "").startswith(f"{folder}{os.sep}"):
            del sys.modules[name]
    importlib.invalidate_caches()


@attrs.frozen
class Said:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def core(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`core WORDS` in this process."""

    def run(*words: str) -> Said:
        capsys.readouterr()
        code = main(words)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def unprobed() -> Iterator[None]:
    """Files that a test wrote are sound: the look at their structure, a process each, is left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plugins.data.anndata_file._probe", lambda path: None)
        yield
