"""`core ablate retry`, `extend`, `confirm` and `gc`: verbs that add to a study or tidy it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.cli.ablate.words import directory
from core.errors import UserError
from core.layers import cli_layer
from core.study.ask import FLAGS, ask
from core.study.folder import Stored, append, document, keep, read
from core.study.scan import Scanner
from core.study.steps import retry as grant
from core.study.table import Table
from core.study.trial import State

ANALYSIS = "analysis."


def retry(words: list[str]) -> int:
    """Grant failed trials one more attempt; their history stays."""
    root, ids, _ = directory(words, "retry", switches={"--failed": "failed", "--crashed": "crashed"})
    stored = read(root)
    table = Table(root, attempts=stored.value("run.attempts"))
    known = {trial.id for trial in stored.trials}
    chosen = []
    for word in ids:
        hits = [name for name in known if name.startswith(word)]
        if len(hits) != 1:
            raise UserError(f"E-TRIAL: {len(hits)} trials of {root} begin with {word!r}")
        chosen += hits
    if not ids:
        chosen = [name for name, trial in Scanner(table).scan().items() if trial.state is State.EXHAUSTED]
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
    from core.study.plan import make_plan

    asked = ask(str(root / "study.toml"), cli_layer(words[1:]).entries)
    plan = make_plan(asked, resolve_layers)
    doc = document(plan)
    there = {trial.id for trial in stored.trials}
    fresh = [trial for trial in doc["trials"] if trial[0] not in there]
    gone = there - {trial[0] for trial in doc["trials"]}
    if gone and not any(more["kind"] == "extended" for more in stored.later):
        raise UserError(
            f"E-PLAN: {len(gone)} trials of {root} would no longer be planned; `extend` only adds. "
            "Plan a new study with -o"
        )
    if not fresh:
        print("nothing new: every trial of this is planned already")
        return 0
    table = Table(root, attempts=stored.value("run.attempts"))
    done = sum(trial.state is State.DONE for trial in Scanner(table).scan().values())
    new_arms = {(trial[1], trial[2]) for trial in fresh}
    append(
        root,
        {
            "kind": "extended",
            "text": f"{len(fresh)} trials were added ({' '.join(words[1:])}) when {done} of {len(there)} results were "
            "known; a decision to go on that rests on results makes p values too small",
            "arms": [arm for arm in doc["arms"] if (arm["system"], arm["label"]) in new_arms],
            "trials": fresh,
        },
    )
    identities = {trial.id[:16]: trial.identity for trial in plan.trials}
    table.add([identities[trial[0]] for trial in fresh])
    print(f"{len(fresh)} trials were added; `core ablate work {root}` runs them")
    return 0


def confirm(words: list[str]) -> int:
    """Run one arm and the baseline again on fresh seeds, as a study of its own inside the first."""
    options = {"--arm": "arm", "--seeds": "seeds", "--slots": "slots"}
    root, _, said = directory(words, "confirm", options=options)
    stored = read(root)
    known = [arm["label"] for arm in stored.arms if arm["state"] == "planned"]
    label = said.options.get("arm")
    if label not in known[1:]:
        from core.names import near

        raise UserError(f"--arm: which of these arms? {'; '.join(known[1:])}.{near(label or '', known[1:])}")
    from core.cli.ablate.run import go, run_settings
    from core.cli.choose import resolve_layers
    from core.study.ask import seeds_of
    from core.study.plan import make_plan
    from core.study.spell import spell

    count = len(seeds_of(said.options.get("seeds", "6"), "--seeds"))
    first = 1 + max(trial.seed for trial in stored.trials)
    entries = cli_layer(["--seeds", f"{first}:{first + count}", "--design", "list"]).entries
    asked = ask(str(root / "study.toml"), entries)
    arm = next(arm for arm in stored.arms if arm["label"] == label)
    import attrs

    asked = attrs.evolve(asked, cells=(arm["levels"],), exclude=())
    plan = make_plan(asked, resolve_layers)
    inner = root / f"confirm-{first}-{count}"
    keep(inner, document(plan), [t.identity for t in plan.trials], spell(asked, dict(plan.baseline)), 2)
    over = run_settings({"slots": said.options["slots"]}) if "slots" in said.options else {}
    return go(inner, over, quiet=False)


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
        key: [list(value) if isinstance(value, tuple) else value, f"CLI {' '.join(words)}"]
        for key, value in values.items()
        if stored.settings[key][0] != (list(value) if isinstance(value, tuple) else value)
    }
    metrics = {}
    if f"{ANALYSIS}metric" in changed:
        named = changed[f"{ANALYSIS}metric"][0]
        systems = [*stored.metrics]
        if len(named) not in (1, len(systems)):
            raise UserError(f"--metric: {len(named)} metrics for {len(systems)} systems; one for each")
        metrics = {system: named[i if len(named) > 1 else 0] for i, system in enumerate(systems)}
    if changed:
        _record(root, stored, changed, metrics)


def _record(root: Path, stored: Stored, changed: Mapping[str, Any], metrics: Mapping[str, str]) -> None:
    table = Table(root, attempts=stored.value("run.attempts"))
    done = sum(trial.state is State.DONE for trial in Scanner(table).scan().values())
    told = "; ".join(f"{key} from {stored.settings[key][0]} to {value}" for key, (value, _) in changed.items())
    append(
        root,
        {
            "kind": "analysis", "settings": dict(changed), "metrics": dict(metrics),
            "text": f"the analysis was changed when {done} of {len(stored.trials)} results were known: {told}",
        },
    )  # fmt: skip


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
