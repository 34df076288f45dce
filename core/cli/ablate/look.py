"""`core ablate status`, `show`, `diff` and `slurm`: verbs that only read."""

from __future__ import annotations

import contextlib
import json
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.cli.ablate.words import directory, trial_called
from core.errors import UserError
from core.study.conclude import conclude
from core.study.folder import Stored, arm_file, command_of, read, whole
from core.study.gather import failure
from core.study.live import standing
from core.study.report.words import clean
from core.study.scan import Scanner
from core.study.sealed import Damaged, load
from core.study.spans import spell_seconds
from core.study.table import Table
from core.study.trial import RESOLVED, State, Trial
from core.words import plural, spell


def _opened(root: Path) -> tuple[Stored, Table, dict[str, Trial]]:
    stored = read(root)
    table = Table(root, attempts=stored.value("run.attempts"))
    whole(stored, table)
    return stored, table, Scanner(table).scan()


UNDONE = State.FAILED, State.CRASHED, State.TIMEOUT, State.EXHAUSTED


def _line(text: str) -> str:
    """A message of a trial on one line, without what a terminal would obey."""
    return clean(" ".join(text.split()))


def status(words: list[str]) -> int:
    """Counts by state, and what is wrong; 0 where all is resolved, 3 where trials failed or wait."""
    root, _, said = directory(words, "status", switches={"--json": "json"})
    stored, table, seen = _opened(root)
    counts = Counter(str(trial.state) for trial in seen.values())
    states = Counter(trial.word for trial in seen.values())
    stale = [t.id for t in seen.values() if t.state is State.RUNNING and not t.damaged and not table.alive(t)]
    if "json" in said.switches:
        by_id = {trial.id: trial for trial in stored.trials}
        doc: dict[str, Any] = {
            "plan": stored.hash, "planned": len(seen), "states": {str(s): counts.get(str(s), 0) for s in State},
            "stale": stale,
            "trials": [
                {"id": t.id, "system": by_id[t.id].system, "arm": by_id[t.id].arm, "seed": by_id[t.id].seed,
                 "block": by_id[t.id].block, "state": str(t.state), "attempt": t.attempt, "cached": t.cached,
                 "damaged": t.damaged, "message": failure(table, t) if t.state in UNDONE else ""}
                for t in seen.values() if t.id in by_id
            ],
        }  # fmt: skip
        print(json.dumps(doc, indent=1))
    else:
        print(f"study    {root}  (plan {stored.hash[:12]})")
        print(f"planned  {len(seen)} trials: " + ", ".join(f"{n} {name}" for name, n in sorted(states.items())))
        for name in stale:
            print(f"stale    {name}: its process is gone; the next runner takes it up")
        left = _left(table, seen)
        if left is not None:
            print(f"left     about {spell_seconds(left)} of work for one runner with one slot")
        try:
            print("".join(f"so far   {name}  {text}\n" for name, text in standing(conclude(stored, table))), end="")
        except UserError as error:  # how trials stand is told whatever may be wrong with how they are judged
            print(f"so far   {error}")
        for trial in stored.trials:
            found = seen[trial.id]
            if found.state in UNDONE:
                name = f"{trial.arm}, seed {trial.seed}, {plural(found.attempt, 'attempt')}"
                print(f"{found.state!s:9} {trial.id} {name}: {_line(failure(table, found))}")
    return 0 if counts.get("done", 0) + counts.get("stopped", 0) == len(seen) else 3


def _left(table: Table, seen: Mapping[str, Trial]) -> float | None:
    """Seconds that the trials not resolved take, by the median of those done; None where none tells or none is left."""
    taken = []
    for trial in seen.values():
        if trial.state is State.DONE and not trial.cached:
            with contextlib.suppress(OSError, Damaged):
                ended = (table.folder(trial.id) / "result.json").stat().st_mtime
                taken.append(ended - load(table.claim_path(trial.id, trial.attempt))["time"])
    rest = sum(trial.state not in RESOLVED for trial in seen.values())
    return rest * statistics.median(taken) if taken and rest else None


def show(words: list[str]) -> int:
    """One trial: what it is, how it stands, what came of it, what repeats it."""
    root, more, _ = directory(words, "show", further=True)
    if len(more) != 1:
        raise UserError("which trial? usage: core ablate show DIR ID")
    stored, table, seen = _opened(root)
    trial = trial_called(stored, more[0])
    state = seen[trial.id]
    print(f"trial    {trial.id}  {state.word}, attempt {state.attempt} of {state.limit}")
    print(f"arm      {trial.arm}  (system {trial.system})")
    print(f"seed     {trial.seed}" + (f", {stored.first['block_key']} = {trial.block}" if trial.block else ""))
    print(f"files    {table.folder(trial.id)}")
    print(f"repeat   {command_of(stored, trial).replace('arms/', f'{root}/arms/', 1)}")
    why = failure(table, state)
    if why and state.state is not State.DONE:
        print(f"why      {_line(why)}")
    output = table.folder(trial.id) / f"attempt.{state.attempt}" / "output.txt"
    if output.exists():
        print(f"log      {output}")
    result = table.result(trial.id)
    if result is not None:
        for score in result.metrics.get("scores", []):
            if score["arm"] == "model":
                value = "none" if score["value"] is None else f"{score['value']:.6g}"
                print(f"score    {score['task']}/{score['metric']} = {value}")
        for key, value in sorted(result.measured.items()):
            print(f"measured {key} = {value}")
    return 0


def diff(words: list[str]) -> int:
    """What two studies do differently, and whether trials that they share agree."""
    root, more, _ = directory(words, "diff", further=True)
    if len(more) != 1:
        raise UserError("which two studies? usage: core ablate diff DIR DIR")
    one, other = _opened(root), _opened(Path(more[0]))
    lines = []
    for key in sorted({*one[0].settings, *other[0].settings}):
        values = [stored.settings.get(key, (None, ""))[0] for stored in (one[0], other[0])]
        if values[0] != values[1]:
            lines.append(f"{key}: {spell(values[0])} | {spell(values[1])}")
    facts = [_facts(stored) for stored in (one[0], other[0])]
    for key in facts[0]:
        if facts[0][key] != facts[1][key]:
            lines.append(f"{key}: {spell(facts[0][key])} | {spell(facts[1][key])}")
    configs = [{(a["system"], a["label"]): a["config"] for a in stored.arms} for stored in (one[0], other[0])]
    for arm in sorted({*configs[0], *configs[1]}):
        if arm not in configs[0] or arm not in configs[1]:
            lines.append(f"arm {arm[1]} is only in {root if arm in configs[0] else more[0]}")
        elif configs[0][arm] != configs[1][arm]:
            lines.append(f"arm {arm[1]} is configured differently (see {arm_file(*arm)} of both)")
    shared = {t.id for t in one[0].trials} & {t.id for t in other[0].trials}
    same = apart = damaged = 0
    for trial in sorted(shared):
        first, second = (table.result(trial) for _, table, _ in (one, other))
        if first is not None and second is not None:
            same += first.metrics == second.metrics
            apart += first.metrics != second.metrics
            lines += [f"trial {trial} came to different results"] * (first.metrics != second.metrics)
            continue
        results = [table.folder(trial) / "result.json" for _, table, _ in (one, other)]
        broken = [
            str(path) for path, found in zip(results, (first, second), strict=True) if not found and path.exists()
        ]
        if broken:
            damaged += 1
            lines.append(f"trial {trial} cannot be compared; damaged: {', '.join(broken)}")
    print("\n".join(lines) or "the two studies ask for the same")
    waiting = len(shared) - same - apart - damaged
    print(
        f"{plural(len(shared), 'trial')} in both, {apart} of them with different results"
        + (f"; {damaged} could not be compared, as a result is damaged" if damaged else "")
        + (f"; {waiting} have no result in one of them yet" if waiting else "")
    )
    return 1 if apart else 0


def _facts(stored: Stored) -> dict[str, Any]:
    """What a study compares, with what was added to it."""
    return {
        "axes": stored.axes, "baseline": stored.first["baseline"], "seeds": sorted({t.seed for t in stored.trials}),
        "blocks": sorted({t.block for t in stored.trials}), "metrics": stored.metrics,
    }  # fmt: skip


def slurm(words: list[str]) -> int:
    """A batch script that starts runners; they share the study's directory and need nothing of each other."""
    options = {"--runners": "runners", "--time": "time", "--partition": "partition", "--gpus": "gpus"}
    root, _, said = directory(words, "slurm", options=options)
    read(root)
    runners = said.options.get("runners", "4")
    if not runners.isdecimal() or int(runners) < 1:
        raise UserError(f"--runners: a whole number of at least 1, not {runners!r}")
    lines = ["#!/bin/bash", f"#SBATCH --job-name={shlex.quote(root.name)}", f"#SBATCH --array=1-{runners}"]
    lines += [f"#SBATCH --{key}={value}" for key in ("time", "partition", "gpus") if (value := said.options.get(key))]
    print(
        "\n".join(
            [*lines, "#SBATCH --signal=B:INT@60", "", f"exec core ablate work {shlex.quote(str(root.absolute()))}"]
        )
    )
    return 0
