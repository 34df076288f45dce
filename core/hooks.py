"""Callbacks: pluggy hook specifications, and their isolation from the run that fires them.

A manifest names a module (`[hooks] module = "acme.hooks"`); its functions marked with `hookimpl` are called. A hook
that raises is reported once and silenced, its module's other hooks are not; the run goes on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from core.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from core.train.rundir import RunDir

hookspec = pluggy.HookspecMarker("core")
hookimpl = pluggy.HookimplMarker("core")


class Specs:
    """What can be listened to."""

    @hookspec
    def core_run_start(self, run: RunDir) -> None:
        """A run begins or goes on; `run` is its `RunDir`."""

    @hookspec
    def core_step_end(self, run: RunDir, step: int, losses: Mapping[str, float]) -> None:
        """An optimiser step ended."""

    @hookspec
    def core_eval_end(self, run: RunDir, step: int, metrics: Mapping[str, float]) -> None:
        """A validation ended."""

    @hookspec
    def core_run_end(self, run: RunDir, status: str) -> None:
        """The run ended as `done`, `stopped` or `failed`."""

    @hookspec
    def core_verbs(self) -> dict[str, Callable[[list[str]], int]]:  # type: ignore[empty-body]
        """Further verbs of the command `core`: name -> function of the words behind it, returning the exit status."""

    @hookspec
    def core_report_sections(self, path: Path) -> list[tuple[str, str]]:  # type: ignore[empty-body]
        """Further sections of the report of the run in directory `path`: pairs of title and plain text."""


class Hooks:
    """The listeners of this process."""

    def __init__(self, registry: Registry, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self.manager = pluggy.PluginManager("core")
        self._silenced: set[tuple[str, str]] = set()
        self.manager.add_hookspecs(Specs)
        for origin, module in registry.hooks:
            try:
                self.manager.register(importlib.import_module(module), name=f"{origin.name}:{module}")
                self.manager.check_pending()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - third-party code may raise anything
                self.warn(f"hooks of {origin} are left out: {module}: {type(error).__name__}: {error}")
                self.manager.unregister(name=f"{origin.name}:{module}")

    def fire(self, name: str, **said: Any) -> list[Any]:
        """Call every listener of a hook; what they return, without None."""
        results = []
        for listener in getattr(self.manager.hook, name).get_hookimpls():
            if (listener.plugin_name, name) in self._silenced:
                continue
            try:
                results.append(listener.function(*(said[argument] for argument in listener.argnames)))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a callback must not end the run
                self.warn(
                    f"hook {name} of {listener.plugin_name} failed and is silenced: {type(error).__name__}: {error}"
                )
                self._silenced.add((listener.plugin_name, name))
        return [r for r in results if r is not None]
