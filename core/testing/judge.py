"""Put pieces to the laws of their kinds: pytest in this process, on classes that no file holds."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import Unsatisfiable

from core.errors import RunFailed
from core.registry import installed
from core.testing import draws
from core.testing.configurations import drawable, samples
from core.testing.draws import refused
from core.testing.laws import LAWS, ONE_BY_ONE

FEW = 4
"""configurations of a piece whose laws do not draw them"""
LINES = 30
"""told of one error or example"""
SETTINGS = "_hypothesis_internal_use_settings"
SEED = "_hypothesis_internal_use_seed"
QUIET = (
    "--noconftest", "--import-mode=importlib", "--capture=sys", "--assert=plain", "-p", "no:cacheprovider",
    "-p", "no:terminal", "-p", "no:faulthandler", "-p", "no:unraisableexception", "-p", "no:threadexception",
)  # fmt: skip
"""nothing of the folder or project that the command is given in counts, and pytest itself prints nothing"""


@attrs.frozen
class Verdict:
    """How one law ended for one piece."""

    kind: str
    name: str
    law: str
    """the law's method: `test_padding`"""
    sentence: str
    """what it states"""
    fault: str | None
    """None where it holds; else what went wrong, where, and the smallest example found"""
    tried: bool = True
    """False where all that was drawn was refused, which `fault` tells"""


@attrs.define
class Court:
    """Classes of laws for pieces, and a pytest plugin that collects them and tells each verdict as it falls."""

    tell: Callable[[Verdict], None]
    examples: int | None = None
    """of each law; None: as many as the law asks for"""
    seed: int = 0
    only: str = ""
    """laws whose name or sentence has it; all where empty"""
    _classes: dict[str, type] = attrs.field(factory=dict)
    _pieces: dict[type, tuple[str, str]] = attrs.field(factory=dict)
    _left: Counter[tuple[type, str]] = attrs.field(factory=Counter)
    _faults: dict[tuple[type, str], BaseException] = attrs.field(factory=dict)
    _kept: list[tuple[Any, Any, Any]] = attrs.field(factory=list)
    _interrupted: bool = False

    def summon(self, kind: str, name: str) -> None:
        """Add a piece.

        Raises:
            UserError: it does not load, or none of its configurations can be drawn.
        """
        cls, strategy = installed().find(kind, name).row.load(), drawable(kind, name)
        for laws in LAWS[kind](cls):
            given = samples(strategy, FEW, self.seed) if laws in ONE_BY_ONE else [strategy]
            ids = [f"{i}" for i in range(len(given))]
            said = {"__module__": laws.__module__, "__repr__": lambda self, laws=laws: laws.__name__}
            made = type(f"Test{len(self._classes)}", (laws,), said)
            pytest.mark.parametrize(kind, given, ids=ids)(made)
            self._classes[made.__name__] = made
            self._pieces[made] = (kind, name)

    def judge(self) -> int:
        """Try all pieces, and return how many laws that was.

        Raises:
            RunFailed: pytest itself failed.
        """
        with tempfile.TemporaryDirectory() as folder, _undisturbed(folder):
            home = Path(folder)
            (home / "pytest.ini").write_text("[pytest]\n")
            (home / "test_laws.py").write_text("")
            words = [str(home / "test_laws.py"), "--rootdir", folder, "-c", str(home / "pytest.ini"), *QUIET]
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    code = pytest.main([*words, "--basetemp", str(home / "tmp")], plugins=[self])
            finally:
                for function, former, seed in self._kept:
                    setattr(function, SETTINGS, former)
                    setattr(function, SEED, seed)
                self._kept.clear()
        if self._interrupted:
            raise KeyboardInterrupt
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise RunFailed(f"pytest ended with {code!r}: {said.getvalue().strip()}")
        return sum(1 for count in self._left if self._left[count] == 0)

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module:
        """The classes in place of the empty file's content."""
        module: pytest.Module = pytest.Module.from_parent(parent, path=module_path)
        content = ModuleType(module_path.stem)
        vars(content).update(self._classes)
        module.obj = content
        return module

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what was not asked for; give every law the examples and the seed."""
        items[:] = [item for item in items if self._wanted(item)]
        seen = set()
        for item in items:
            self._left[_place(item)] += 1
            function = item.function  # type: ignore[attr-defined]
            if hasattr(function, SETTINGS) and function not in seen:
                seen.add(function)
                self._prepare(function)

    def _wanted(self, item: pytest.Item) -> bool:
        return self.only.casefold() in f"{_place(item)[1]} {_sentence(item)}".casefold()

    def _prepare(self, function: Any) -> None:
        """Hypothesis keeps a test's settings and seed on the function, which all subclasses share."""
        former = getattr(function, SETTINGS)
        self._kept.append((function, former, getattr(function, SEED)))
        hypothesis.seed(self.seed)(function)
        wanted = settings(
            former,
            max_examples=self.examples or former.max_examples,
            database=None,
            deadline=None,
            derandomize=False,
            print_blob=False,
            report_multiple_bugs=False,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=[*HealthCheck],
        )
        setattr(function, SETTINGS, wanted)

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> None:
        """Keep the first fault of a law, and tell its verdict when its last trial is over."""
        place = _place(item)
        if call.excinfo is not None:
            self._faults.setdefault(place, call.excinfo.value)
        if call.when == "teardown":
            self._left[place] -= 1
            if self._left[place] == 0:
                kind, name = self._pieces[place[0]]
                error = self._faults.get(place)
                fault, tried = None if error is None else _told(error), not isinstance(error, Unsatisfiable)
                self.tell(Verdict(kind, name, place[1], _sentence(item), fault, tried))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo) -> None:
        """Tell an interrupt by the user from pytest's own, which has the same exit status."""
        self._interrupted = type(excinfo.value) is KeyboardInterrupt


def _place(item: pytest.Item) -> tuple[type, str]:
    return item.cls, item.originalname  # type: ignore[attr-defined]


def _sentence(item: pytest.Item) -> str:
    return (item.function.__doc__ or "").strip().partition("\n")[0]  # type: ignore[attr-defined]


def _told(error: BaseException) -> str:
    """What failed and where, then the example that Hypothesis shrank it to."""
    if isinstance(error, Unsatisfiable):
        return f"nothing could be tried, as all that was drawn was refused, the last time so: {refused.get()}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _ours(frame.filename)]
    # Where a law compares tells more than the helper that it compares with.
    if len(frames) > 1 and Path(frames[-1].filename) == Path(draws.__file__):
        frames.pop()
    lines = [f"{_short(frame.filename)}:{frame.lineno}: {frame.line}" for frame in frames[-1:]]
    text = str(error).strip()
    if text or not isinstance(error, AssertionError):
        lines += f"{type(error).__name__}: {text}".splitlines()[:LINES]
    for note in getattr(error, "__notes__", ()):
        lines += note.splitlines()[:LINES]
    return "\n".join(lines)


def _ours(path: str) -> bool:
    """Whether a frame belongs to the laws or to a piece, and not to the machinery between them."""
    return not any(part in {"_pytest", "pluggy", "hypothesis", "torch", "contextlib.py"} for part in Path(path).parts)


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-3:])


@contextlib.contextmanager
def _undisturbed(folder: str) -> Iterator[None]:
    """Without what the environment says to pytest, and with a home of Hypothesis that is not the current folder."""
    kept = dict(os.environ)
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    set_hypothesis_home_dir(folder)
    try:
        yield
    finally:
        set_hypothesis_home_dir(None)
        os.environ.clear()
        os.environ.update(kept)
