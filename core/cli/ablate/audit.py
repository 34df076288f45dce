"""`core ablate audit`: finished trials repeated from nothing, and compared to the last digit."""

from __future__ import annotations

import os
import random
import sys

from core.cli.ablate.run import INTERRUPTED, NOTHING, TERMINATED, run_settings
from core.cli.ablate.words import directory, trial_called
from core.errors import UserError
from core.study.said import FLAGS


def audit(words: list[str]) -> int:
    """Repeat some finished trials; 0 where all give what they gave, 1 where one does not, 3 where one gives nothing."""
    flags = {f"--{flag.replace('_', '-')}": flag for flag, key in FLAGS.items() if key.startswith("run.")}
    root, ids, said = directory(words, "audit", options={**flags, "--trials": "trials"}, further=True)
    from core.study.drive import audit as repeat
    from core.study.drive import ways
    from core.study.folder import append, read
    from core.study.scan import Scanner
    from core.study.table import Table
    from core.study.trial import State

    options = dict(said.options)
    count = _count(options.pop("trials", "1"))
    stored = read(root)
    table = Table(root, attempts=stored.value("run.attempts"))
    done = sorted(name for name, trial in Scanner(table).scan().items() if trial.state is State.DONE)
    chosen = [trial_called(stored, word).id for word in ids] or random.SystemRandom().sample(
        done, min(count, len(done))
    )
    undone = [name for name in chosen if name not in done]
    if undone or not chosen:
        what = f"trial {undone[0]} is not" if undone else "no trial is"
        raise UserError(f"E-TRIAL: {what} done, so nothing can be repeated; `core ablate status {root}` lists them")
    how = ways(stored, run_settings(options), os.environ, lambda text: print(f"core: {text}", file=sys.stderr))
    code, reason, same = repeat(root, how, chosen, lambda event: None)
    if code == NOTHING:
        raise UserError(reason)
    if code in (INTERRUPTED, TERMINATED):
        return code
    arm = {trial.id: f"{trial.arm}, seed {trial.seed}" for trial in stored.trials}
    word = {True: "the same", False: "OTHER NUMBERS", None: "gave nothing"}
    for name, equal in same.items():
        print(f"{word[equal]:13} {name} {arm[name]}")
    other = [name for name, equal in same.items() if equal is False]
    if other:
        text = f"{len(other)} of {len(same)} trials that were repeated gave other numbers: {', '.join(other)}"
        append(root, {"kind": "audit", "text": text})
        print(f"core: E-AUDIT: {text}; see {root / 'audit'}. The report tells it", file=sys.stderr)
        return 1
    return 3 if None in same.values() else 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"--trials: {text!r} is no number of trials, 1 or more")
    return int(text)
