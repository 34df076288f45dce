"""Starting is light: what is listed is not imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from core.registry import discover
from tests.fakes import package, python, read, swish

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "scipy", "anndata", "plugins", "core.kinds", "core.train", "core.report", "acme", "fake")
LIGHT = sorted(f"core.{path.stem}" for path in (ROOT / "core").glob("[a-z]*.py")) + ["core.cli", "core.cli.list"]
"""every module that stands directly in `core`, and what listing needs"""
AFTER = f"""
import sys
from core.cli import main
code = main(sys.argv[1:])
print(code, *sorted(name for name in sys.modules if name.startswith({HEAVY!r})), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def start() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_start", ROOT / "benchmarks" / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def crowd(site: Path) -> Iterator[Path]:
    """A folder of third parties: some import torch, some cannot be imported, some are broken, one brings hooks."""
    for i in range(5):
        swish(site, f"acme-torch{i}", init="import torch\n")
        package(site, f"acme-bad{i}", f"api = {i}\n", init="import torch\nraise RuntimeError\n")
    hooks = 'api = 1\n[hooks]\nmodule = "acme_hooks.hooks"\n'
    package(site, "acme-hooks", hooks, init="import torch\n", modules={"hooks": "import numpy\n"})
    return site


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["list"], 0),
        (["list", "gate"], 0),
        (["list", "--json"], 0),
        (["list", "gaet"], 2),
        (["list", "--help"], 0),
        (["doctor", "--help"], 0),
        (["show", "--help"], 0),
        (["show", "gate"], 2),
        (["show", "gate", "hedwise"], 2),
        (["resume"], 2),
        (["run", "--attention", "gated_hedwise"], 2),
        (["run", "--ffn", "moe4by2", "--gate", "nonesuch"], 2),
        (["report", "--help"], 0),
    ],
)
def test_listing_imports_neither_torch_nor_numpy_nor_any_plugin(
    crowd: Path, tmp_path: Path, words: list[str], code: int
) -> None:
    """In a fresh process among third parties, verbs that load no piece import none, nor what pieces are made of."""
    said = python("-P", "-c", AFTER, *words, cwd=tmp_path, path=[crowd])
    assert said.stderr.splitlines()[-1] == str(code)


def test_the_check_sees_what_is_imported(crowd: Path, tmp_path: Path) -> None:
    """The same look at a verb that does load a piece finds kinds and the plugin: the law above can fail."""
    said = python("-P", "-c", AFTER, "show", "executor", "local", cwd=tmp_path, path=[crowd])
    assert {"core.kinds", "plugins", "plugins.executors.local"} <= {*said.stderr.split()}
    assert not any(name.startswith("acme") for name in said.stderr.split())


def test_the_light_half_of_core_imports_nothing_heavy(tmp_path: Path) -> None:
    """Names, registry, parameters and configuration stand on their own."""
    assert {"core.registry", "core.config", "core.params"} <= {*LIGHT}
    code = f"import {', '.join(LIGHT)}, sys; print(*(name for name in sys.modules if name.startswith({HEAVY!r})))"
    said = python("-P", "-c", code, cwd=tmp_path)
    assert (said.returncode, said.stdout, said.stderr) == (0, "\n", "")


class TestBenchmark:
    """`benchmarks/start.py` measures what it says."""

    def test_its_packages_are_sound_and_import_torch(self, start: ModuleType, site: Path) -> None:
        """Each is discovered without a fault, and would import torch if it were imported."""
        start.write_packages(site, 3)
        added = {row.qualified for row in read(site).rows("gate")} - {
            row.qualified for row in discover([], {}).rows("gate")
        }
        assert added == {f"fake-{i:02d}/fake_{i:02d}" for i in range(3)}
        assert {(site / f"fake_{i:02d}" / "__init__.py").read_text() for i in range(3)} == {"import torch\n"}

    def test_its_processes_see_one_thread_and_no_settings(
        self, start: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Variables of the user and of the test run do not reach what is measured."""
        monkeypatch.setenv("CORE_FFN", "moe4x2")
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        env = start.environment(tmp_path / "cache", tmp_path)
        assert "CORE_FFN" not in env
        assert "PYTHONDONTWRITEBYTECODE" not in env
        assert env["OMP_NUM_THREADS"] == "1"
        assert all(seconds >= 0 for seconds in start.cost("pass", env, tmp_path))

    @pytest.mark.parametrize(("seconds", "status"), [(0.01, 0), (0.31, 1)])
    def test_its_status_is_its_verdict(
        self,
        start: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        seconds: float,
        status: int,
    ) -> None:
        """0 below the limit, 1 with the line that broke it above."""
        measured, real = [], start.run

        def cost(code: str, env: dict, folder: Path) -> tuple[float, float]:
            measured.append(code)
            return seconds, seconds

        def run(code: str, env: dict, folder: Path) -> str:
            return "" if code == "import torch" else real(code, env, folder)

        monkeypatch.setattr(start, "cost", cost)
        monkeypatch.setattr(start, "run", run)
        monkeypatch.setattr(start, "CORE", "print('[fake-' * 2)  # {words}")
        monkeypatch.setattr(sys, "argv", ["start.py", "--repeats", "2", "--packages", "2"])
        assert start.main() == status
        assert len(measured) == 12
        out = capsys.readouterr().out
        assert ("FAILED: core list, 2 packages: 0.310 s of CPU" in out) == bool(status)
        assert "FAILED: core --help" not in out

    def test_an_import_fails_it(self, start: ModuleType, site: Path, tmp_path: Path) -> None:
        """Whatever heavy is loaded by listing is printed on the last line."""
        start.write_packages(site, 1)
        env = start.environment(tmp_path / "cache", site)
        assert start.run(start.LOADED.format(words=["list"]), env, tmp_path).endswith("\n\n")
        (site / "torch.py").touch()
        loaded = start.run("import fake_00\n" + start.LOADED.format(words=["list"]), env, tmp_path)
        assert loaded.splitlines()[-1] == "fake_00 torch"
