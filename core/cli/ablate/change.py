"""`core ablate retry`, `extend`, `confirm` and `gc`: verbs that add to a study or tidy it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from core.cli.ablate.words import directory, trial_called
from core.errors import UserError
from core.files import write_atomic
from core.identity import digest, plain
from core.layers import cli_layer
from core.study.ask import ask, seeds_of
from core.study.folder import Stored, append, keep, mend, read
from core.study.said import FLAGS, metric_of_each
from core.study.scan import Scanner
from core.study.steps import retry as grant
from core.study.table import Table
from core.study.trial import State

ANALYSIS = "analysis."


def retry(words: list[str]) -> int:
    """Grant failed trials one more attempt; their history stays."""
    root, ids, said = directory(words, "retry", switches={"--failed": "failed", "--crashed": "crashed"}, further=True)
    stored = read(root)
    table = Table(root, attempts=stored.value("run.attempts"))
    chosen = []
    for word in ids:
        chosen.append(trial_called(stored, word).id)
    if not ids:
        ends = said.switches & {"failed", "crashed"}
        chosen = [
            name for name, trial in Scanner(table).scan().items()
            if trial.state is State.EXHAUSTED
            and (not ends or any((table.folder(name) / f"{end}.{trial.attempt}.json").exists() for end in ends))
        ]  # fmt: skip
    for name in chosen:
        grant(table, name)
    print(f"{len(chosen)} trials may be tried once more; `core ablate work {root}` does")
    return 0


def extend(words: list[str]) -> int:
    """Plan more seeds or levels into a study; what is there keeps its identity and its results."""
    if not words or words[0].startswith("-"):
        raise UserError("which study? usage: core ablate extend DIR --seeds 10, or --attention +NAME")
    root = Path(words[0])
    stored = read(root)
    from core.cli.choose import resolve_layers
    from core.study.plan import document, make_plan
    from core.study.spell import spell

    entries = cli_layer(words[1:]).entries
    for key, (value, origin) in entries.items():
        if key in stored.axes and "," not in str(value) and not str(value).startswith("+"):
            raise UserError(f"{origin}: `extend` adds to the levels that are there; write +{value}")
    asked = ask(str(root / "study.toml"), entries)
    plan = make_plan(asked, resolve_layers)
    doc = document(plan)
    there = {trial.id for trial in stored.trials}
    fresh = [trial for trial in doc["trials"] if trial[0] not in there]
    gone = there - {trial[0] for trial in doc["trials"]}
    if gone:
        raise UserError(
            f"E-PLAN: {len(gone)} trials of {root} would no longer be planned; `extend` only adds. Give all seeds and "
            "levels that are to be there (if an `extend` was killed, give that one again first), or plan a new study "
            "with -o"
        )
    table = Table(root, attempts=stored.value("run.attempts"))
    if fresh:
        _add(root, stored, table, doc, fresh, " ".join(words[1:]))
    # Said twice by whoever comes after an `extend` that was killed half-way.
    mend(read(root))
    table.add([trial.identity for trial in plan.trials])
    write_atomic(root / "study.toml", spell(asked, dict(plan.baseline)))
    if fresh:
        print(f"{len(fresh)} trials were added; `core ablate work {root}` runs them")
    else:
        print("nothing new: every trial of this is planned already")
    return 0


def _add(root: Path, stored: Stored, table: Table, doc: Mapping[str, Any], fresh: list[list[Any]], words: str) -> None:
    """Append trials to a plan, with what was known of its results by then."""
    done = sum(trial.state is State.DONE for trial in Scanner(table).scan().values())
    new_arms = {(trial[1], trial[2]) for trial in fresh}
    append(
        root,
        {
            "kind": "extended",
            "text": f"{len(fresh)} trials were added ({words}) when {done} of {len(stored.trials)} results were known; "
            "a decision to go on that rests on results makes p values too small",
            "axes": doc["axes"],
            "arms": [arm for arm in doc["arms"] if (arm["system"], arm["label"]) in new_arms],
            "trials": fresh,
        },
    )


def confirm(words: list[str]) -> int:
    """Run one arm and the baseline again on fresh seeds, as a study of its own inside the first."""
    options = {"--arm": "arm", "--seeds": "seeds", "--slots": "slots"}
    root, _, said = directory(words, "confirm", options=options)
    stored = read(root)
    planned = list(dict.fromkeys(arm["label"] for arm in stored.arms if arm["state"] == "planned"))
    known, label = planned[1:], said.options.get("arm", "")
    if label not in known:
        from core.names import near

        wrong = f"{label!r} is none of them.{near(label, known)}" if label else "say which."
        raise UserError(f"--arm: {wrong} Arms beside the baseline: {'; '.join(known)}")
    from core.cli.ablate.run import go, run_settings
    from core.cli.choose import resolve_layers
    from core.study.mismatch import seeds_text
    from core.study.plan import document, make_plan
    from core.study.spell import spell

    fresh = _fresh_seeds(stored, said.options.get("seeds", "6"))
    entries = cli_layer(["--seeds", seeds_text(fresh), "--design", "list"]).entries
    asked = ask(str(root / "study.toml"), entries)
    arm = next(arm for arm in stored.arms if arm["label"] == label)
    asked = attrs.evolve(asked, cells=(arm["levels"],), exclude=())
    plan = make_plan(asked, resolve_layers)
    inner = root / f"confirm-{digest([label, *fresh])[:8]}"
    keep(inner, document(plan), [t.identity for t in plan.trials], spell(asked, dict(plan.baseline)), 2)
    over = run_settings({"slots": said.options["slots"]}) if "slots" in said.options else {}
    return go(inner, over, quiet=False)


def _fresh_seeds(stored: Stored, text: str) -> tuple[int, ...]:
    """So many seeds behind those of the study, or those named, none of which the study may have used.

    Raises:
        UserError: a seed that the arm was picked by.
    """
    seeds, used = seeds_of(text, "--seeds"), {trial.seed for trial in stored.trials}
    if text.strip().isdecimal():
        return tuple(range(1 + max(used), 1 + max(used) + len(seeds)))
    if old := sorted(used & {*seeds}):
        raise UserError(
            f"--seeds: the study has used {', '.join(map(str, old))}; an arm that was picked by them is confirmed by "
            f"others, --seeds {1 + max(used)}:{1 + max(used) + len(seeds)}"
        )
    return seeds


def gc(words: list[str]) -> int:
    """Remove what no finished trial needs: its run's files, attempts, and temporary files that a kill left."""
    root, _, said = directory(words, "gc", switches={"--dry-run": "dry"})
    stored = read(root)
    table = Table(root, attempts=stored.value("run.attempts"))
    freed = 0
    for name, trial in Scanner(table).scan().items():
        if trial.state is not State.DONE:
            continue
        for path in sorted(table.folder(name).iterdir()):
            if path.name == "run" and stored.value("run.keep"):
                continue
            if path.is_dir() or path.name.startswith((".", "result.corrupt.")):
                freed += _size(path)
                if "dry" not in said.switches:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"{freed / 2**20:.1f} MiB {'would be' if 'dry' in said.switches else 'were'} freed")
    return 0


def note_analysis(root: Path, stored: Stored, doc: Mapping[str, Any]) -> None:
    """Where a command judges otherwise than the plan says, write that down beside the plan, for the report."""
    changed = {
        key: [value, origin]
        for key, (value, origin) in doc["settings"].items()
        if key.startswith(ANALYSIS) and stored.settings.get(key, (None, ""))[0] != value
    }
    if changed:
        _record(root, stored, changed, doc["metrics"] if f"{ANALYSIS}metric" in changed else {})


def change_analysis(root: Path, said: Mapping[str, str]) -> None:
    """Judge a study otherwise from now on; the report tells so.

    Raises:
        UserError: a value that is none.
    """
    stored = read(root)
    flags = {key: flag for flag, key in FLAGS.items()}
    words = [word for key, value in said.items() for word in (f"--{flags[key]}", value)]
    from core.cli.ablate.run import run_settings

    values = run_settings({flags[key]: value for key, value in said.items()})
    changed = {
        key: [value, f"CLI {' '.join(words)}"]
        for key, value in plain(values).items()
        if stored.settings[key][0] != value
    }
    metrics = {}
    if f"{ANALYSIS}metric" in changed:
        metrics = metric_of_each(stored.systems, changed[f"{ANALYSIS}metric"][0], "--metric")
    if changed:
        _record(root, stored, changed, metrics)


def _record(root: Path, stored: Stored, changed: Mapping[str, Any], metrics: Mapping[str, str]) -> None:
    """Append a change of the analysis, once it has been seen that the results there are can be judged so.

    Raises:
        UserError: no score is called as the metric is.
    """
    from core.study.conclude import conclude

    table = Table(root, attempts=stored.value("run.attempts"))
    done = sum(trial.state is State.DONE for trial in Scanner(table).scan().values())
    told = "; ".join(f"{key} from {stored.settings[key][0]} to {value}" for key, (value, _) in changed.items())
    change = {
        "kind": "analysis", "settings": dict(changed), "metrics": dict(metrics),
        "text": f"the analysis was changed when {done} of {len(stored.trials)} results were known: {told}",
    }  # fmt: skip
    conclude(attrs.evolve(stored, later=(*stored.later, change)), table)
    append(root, change)
    print(f"core: {root} is judged otherwise from now on, and its reports tell so: {told}", file=sys.stderr)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
