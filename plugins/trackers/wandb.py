"""Curves for Weights & Biases."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

from core.errors import UserError
from core.kinds import Track, Tracker
from core.params import knob, params
from core.train.tracked import told


@final
@params
class Wandb(Tracker):
    """Writes `wandb/` of the run, which `wandb sync` uploads; `mode = online` sends while the run goes.

    What is told: curves, final scores (in the summary), the configuration, and who the run is. Not told: source code,
    git remotes, what is printed, the machine and its load, installed packages; wandb's own reports of its errors are
    off unless WANDB_ERROR_REPORTING says otherwise. The key comes from `wandb login` or WANDB_API_KEY, from nowhere
    else. Offline, a run that is taken up again leaves a further folder under the same id, whose configuration says
    after which step it takes over (`resumed_after`): what is written or sent cannot be taken back, but the steps that
    are taken again have the same numbers.
    """

    mode: Literal["offline", "online"] = knob("offline", "offline: nothing leaves the machine; online: send as it goes")
    project: str = knob("cellcore", "the project that runs go to")
    entity: str = knob("", "the team or user; empty: the login's own")

    def start(self, directory: Path, step: int) -> Track:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError:
            raise UserError("tracker wandb needs wandb. Install it with: pip install 'cellcore[wandb]'") from None
        # A prompt would wait for ever where nobody sits at the terminal.
        if self.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "tracker wandb(mode=online) has no key: run `wandb login`, or set WANDB_API_KEY (and leave WANDB_MODE "
                "unset), or choose mode=offline and `wandb sync` later"
            )
        config, facts = told(directory)
        run = wandb.init(
            project=self.project,
            entity=self.entity or None,
            id=_id(directory, facts),
            name=directory.name,
            dir=str(directory),
            mode=self.mode,
            resume="allow" if self.mode == "online" else None,
            config={**config, "run": facts, "resumed_after": step},
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                disable_job_creation=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
            allow_val_change=True,
        )
        return _Track(run)


@final
class _Track:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def conclude(self, step: int, scores: Mapping[str, float]) -> None:
        self._run.summary.update({f"final/{name}": value for name, value in scores.items()})

    def finish(self) -> None:
        self._run.finish()


def _id(directory: Path, facts: Mapping[str, Any]) -> str:
    """The same for a run that goes on, another for one that is trained again from its start."""
    who = f"{facts['digest']} {facts['started']}" if facts else str(directory)
    return hashlib.sha256(who.encode()).hexdigest()[:16]
