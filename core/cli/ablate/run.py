"""`core ablate run`, `work` and the process of one trial."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from core.cli.ablate.words import asked_of, directory
from core.errors import UserError
from core.layers import cli_layer
from core.study.said import FLAGS, share

HOME = Path("runs") / "studies"
INTERRUPTED, TERMINATED, NOTHING = 130, 143, 5


def run(words: list[str]) -> int:
    """Plan if new, then run to the end and report; the same command resumes."""
    asked, said = asked_of(words)
    from core.identity import digest
    from core.study.spell import spell

    # The same words in the same directory ask for the plan that lies there, which need not be made again: it costs
    # seconds, and what was measured for it would come out otherwise.
    word = digest(spell(asked, dict(asked.baseline)))
    out = said.options.get("out") or (str(HOME / word[:16]) if asked.study.budget.match == "time" else None)
    if out and "dry" not in said.switches and _planned(Path(out), word):
        over = {key: s.value for key, s in asked.resolved.settings.items() if key.startswith("run.")}
        return go(Path(out), over, quiet="quiet" in said.switches)
    from core.cli.ablate import plan as planning
    from core.cli.choose import resolve_layers
    from core.study.folder import design_hash, keep, read
    from core.study.plan import document, make_plan

    plan = make_plan(asked, resolve_layers)
    if "dry" in said.switches:
        planning.show(plan)
        return 0
    planning.refuse_weak(plan, asked)
    doc = document(plan) | {"asked": word}
    root = Path(out) if out else HOME / design_hash(doc)[:16]
    from core.cli.ablate.change import note_analysis

    keep(root, doc, [t.identity for t in plan.trials], spell(asked, dict(plan.baseline)), asked.study.run.attempts)
    note_analysis(root, read(root), doc)
    if "quiet" not in said.switches:
        planning.show(plan)
        there = len(read(root).trials)
        more = f", which holds {there} trials by now" if there != len(plan.trials) else ""
        print(f"study       {root}{more}\n", flush=True)
    over = {key: value for key, (value, origin) in plan.settings.items() if key.startswith("run.")}
    return go(root, over, quiet="quiet" in said.switches)


def _planned(root: Path, word: str) -> bool:
    """Whether a directory holds all of the study that these words asked for, and nothing that was changed since."""
    from core.study.folder import planned_whole, read

    if not planned_whole(root):
        return False
    stored = read(root)
    return stored.first.get("asked") == word and not any(more["kind"] == "analysis" for more in stored.later)


def work(words: list[str]) -> int:
    """One more runner on a study."""
    flags = {f"--{flag.replace('_', '-')}": flag for flag, key in FLAGS.items() if key.startswith("run.")}
    root, _, said = directory(words, "work", options=flags)
    return go(root, run_settings(said.options), quiet="quiet" in said.switches)


def run_settings(options: dict[str, str] | Any) -> dict[str, Any]:
    """Flags of how trials are run, typed and checked."""
    from core.config import Layer, resolve
    from core.study.settings import Study

    words = [word for flag, value in options.items() for word in (f"--{flag}", value)]
    entries = {
        FLAGS[key]: (share(FLAGS[key], value, origin), origin)
        for key, (value, origin) in cli_layer(words).entries.items()
    }
    resolved = resolve(Study, [Layer("CLI", entries)])
    return {key: resolved.settings[key].value for key in entries}


def go(root: Path, over: dict[str, Any], *, quiet: bool) -> int:
    """Run a planned study, draw the report, and say how it ended."""
    from core.study.drive import drive, ways
    from core.study.folder import mend, read, whole
    from core.study.live import View
    from core.study.table import Table

    stored = read(root)
    whole(stored, Table(root))
    mend(stored)
    how = ways(stored, over, os.environ, lambda text: print(f"core: {text}", file=sys.stderr))
    with View(root, stored, how.executor.capacity(), quiet=quiet) as view:
        code, reason = drive(root, how, view.tell)
    if code == NOTHING:
        raise UserError(reason)
    if code in (INTERRUPTED, TERMINATED):
        print(f"core: interrupted; the same command, or `core ablate work {root}`, goes on", file=sys.stderr)
        return code
    from core.cli.ablate.report import draw

    draw(root)
    return code


def trial(words: list[str]) -> int:
    """The process of one trial; runners start it."""
    from core.cli.choose import resolve_layers
    from core.study.work import work as work_on_trial

    if len(words) not in (2, 3):
        raise UserError("usage: core ablate trial DIR ID [FOLDER]")
    return work_on_trial(Path(words[0]), words[1], resolve_layers, within=words[2] if len(words) > 2 else "")
