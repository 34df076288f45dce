"""Callbacks of third parties: called, isolated, and never loaded for listing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.hooks import Hooks, Specs
from core.registry import Origin, Registry
from tests.fakes import command, package, read

HEAD = "from core.hooks import hookimpl\n\ncalls = []\n\n"
LISTENER = HEAD + (
    "@hookimpl\ndef core_step_end(step, losses):\n    calls.append((step, dict(losses)))\n    return step\n\n"
    "@hookimpl\ndef core_run_end(run, status):\n    calls.append(status)\n"
)
RAISING = HEAD + "@hookimpl\ndef core_step_end(step):\n    calls.append(step)\n    raise ValueError('my own mistake')\n"
VERB = HEAD + (
    "def greet(words):\n    print('hello', *words)\n    return 3 if words == ['three'] else None\n\n"
    "@hookimpl\ndef core_verbs():\n    return {'greet': greet}\n"
)


def listener(site: Path, name: str, text: str) -> None:
    package(site, name, f'api = 1\n[hooks]\nmodule = "{name}.hooks"\n', modules={"hooks": text})


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def listening(site: Path, warned: list[str]) -> Callable[..., Hooks]:
    """Hooks of fake packages, by name and content of their module."""

    def make(**modules: str) -> Hooks:
        for name, text in modules.items():
            listener(site, name, text)
        return Hooks(read(site), warned.append)

    return make


def test_a_listener_hears_what_it_asks_for(listening: Callable[..., Hooks], warned: list[str]) -> None:
    """It is called with the arguments that it names, and what it returns comes back, without None."""
    hooks = listening(acme=LISTENER)
    assert hooks.fire("core_step_end", run="r", step=3, losses={"loss": 1.0}) == [3]
    assert hooks.fire("core_run_end", run="r", status="done") == []
    assert hooks.fire("core_run_start", run="r") == []
    assert sys.modules["acme.hooks"].calls == [(3, {"loss": 1.0}), "done"]
    assert warned == []


def test_a_listener_cannot_end_the_run(listening: Callable[..., Hooks], warned: list[str]) -> None:
    """A callback that calls `sys.exit` is silenced like any other that fails."""
    hooks = listening(bad=RAISING.replace("ValueError('my own mistake')", "SystemExit(3)"), good=LISTENER)
    assert hooks.fire("core_step_end", run="r", step=1, losses={}) == [1]
    assert warned == ["hook core_step_end of bad:bad.hooks failed and is silenced: SystemExit: 3"]


def test_listing_loads_no_hooks(site: Path) -> None:
    """Reading manifests notes the module and leaves it alone."""
    listener(site, "acme", "raise RuntimeError('imported')")
    assert read(site).hooks == [(Origin("acme", "1.0"), "acme.hooks")]
    assert "acme" not in sys.modules


def test_a_listener_that_raises_is_told_once_and_silenced(listening: Callable[..., Hooks], warned: list[str]) -> None:
    """A broken callback ends neither the run nor the others, and is not called again."""
    hooks = listening(bad=RAISING, good=LISTENER)
    for step in range(3):
        assert hooks.fire("core_step_end", run="r", step=step, losses={}) == [step]
    assert sys.modules["bad.hooks"].calls == [0]
    assert warned == ["hook core_step_end of bad:bad.hooks failed and is silenced: ValueError: my own mistake"]


def test_a_silenced_hook_leaves_its_neighbours_heard(listening: Callable[..., Hooks], warned: list[str]) -> None:
    """Of a module with one failing hook the others go on: the end of a run is still heard."""
    hooks = listening(bad=RAISING + "@hookimpl\ndef core_run_end(status):\n    return status\n")
    for step in range(2):
        assert hooks.fire("core_step_end", run="r", step=step, losses={}) == []
    assert hooks.fire("core_run_end", run="r", status="done") == ["done"]
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('broken at import')", "RuntimeError: broken at import"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("def (", "SyntaxError"),
        (HEAD + "@hookimpl\ndef core_step_ended(step): ...", "core_step_ended"),
        (HEAD + "@hookimpl\ndef core_step_end(stepp): ...", "stepp"),
    ],
)
def test_a_module_that_cannot_listen_is_left_out(
    listening: Callable[..., Hooks], warned: list[str], text: str, says: str
) -> None:
    """Import errors, unknown hooks and unknown arguments are told with the distribution; the others listen on."""
    hooks = listening(bad=text, good=LISTENER)
    assert hooks.fire("core_step_end", run="r", step=1, losses={}) == [1]
    assert len(warned) == 1
    assert warned[0].startswith("hooks of bad 1.0 are left out: bad.hooks: ")
    assert says in warned[0]


@settings(deadline=None, max_examples=30)
@given(kinds=st.lists(st.sampled_from(["good", "raises", "gone"]), max_size=5))
def test_whoever_fails_the_others_are_called(kinds: list[str]) -> None:
    """In any company, exactly the sound listeners answer at every step."""
    registry, warned = Registry(), []
    for i, kind in enumerate(kinds):
        registry.hooks.append(
            (Origin(f"d{i}", "1"), "no_such_module" if kind == "gone" else f"tests.test_hooks_{kind}{i}")
        )
        if kind != "gone":
            module = type(sys)(f"tests.test_hooks_{kind}{i}")
            exec(LISTENER if kind == "good" else RAISING, module.__dict__)
            sys.modules[module.__name__] = module
    try:
        hooks = Hooks(registry, warned.append)
        for step in range(2):
            assert hooks.fire("core_step_end", run="r", step=step, losses={}) == [step] * kinds.count("good")
        assert len(warned) == len(kinds) - kinds.count("good")
    finally:
        for name in [name for name in sys.modules if name.startswith("tests.test_hooks_")]:
            del sys.modules[name]


def test_every_hook_is_documented() -> None:
    """Each specification says when it is called."""
    for name, spec in vars(Specs).items():
        if name.startswith("core_"):
            assert spec.__doc__


class TestVerbs:
    """Further verbs of the command."""

    def test_a_verb_of_a_third_party(self, site: Path, tmp_path: Path) -> None:
        """It runs with the words behind it, its status is the command's, and a typo of it is recognised."""
        listener(site, "acme", VERB)
        said = command("greet", "you", "--there", cwd=tmp_path, path=[site])
        assert (said.returncode, said.stdout, said.stderr) == (0, "hello you --there\n", "")
        assert command("greet", "three", cwd=tmp_path, path=[site]).returncode == 3
        wrong = command("gret", cwd=tmp_path, path=[site])
        assert wrong.returncode == 2
        assert "no verb is called 'gret'. Did you mean 'greet'?" in wrong.stderr

    @pytest.mark.parametrize(
        "text",
        [
            "raise RuntimeError('imported')",
            HEAD + "@hookimpl\ndef core_verbs():\n    return 3\n",
            HEAD + "@hookimpl\ndef core_verbs():\n    1 / 0\n",
        ],
    )
    def test_a_broken_verb_hides_no_typo(self, site: Path, tmp_path: Path, text: str) -> None:
        """Hooks that do not load, raise or return something else leave the message about the verb standing."""
        listener(site, "acme", text)
        said = command("lsit", cwd=tmp_path, path=[site])
        assert said.returncode == 2
        assert said.stderr.splitlines()[-1].startswith("core: no verb is called 'lsit'. Did you mean 'list'?")
        assert "Traceback" not in said.stderr

    def test_our_own_verbs_load_no_hooks_to_list(self, site: Path, tmp_path: Path) -> None:
        """`core list` and `core --help` never import a hooks module."""
        listener(site, "acme", "raise SystemExit(7)")
        for words in (["list"], ["--help"], ["list", "gate"]):
            assert command(*words, cwd=tmp_path, path=[site]).returncode == 0
