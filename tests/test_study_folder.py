"""A study's directory: written once, found again, completed after a kill, refused where it is another's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import core.study.folder
import core.study.planned
import core.study.table
from core.study.folder import append, arm_file, command_of, design_hash, plan_hash, planned_whole, read, whole
from core.study.mismatch import seeds_text
from core.study.sealed import TableError, seal
from core.study.table import Table
from made import Made, arm_of, made, make


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def refused(root: Path, plan: Made) -> str:
    with pytest.raises(TableError) as caught:
        plan.keep(root)
    return str(caught.value)


def test_keeping_twice_is_keeping_once(tmp_path: Path) -> None:
    """The same plan again changes no byte, and what is read is what was planned."""
    plan = make(
        axes={"ffn": ("dense", "moe"), "attention": ("softmax", "linear")}, seeds=(3, 7), idle=[("x", "n/a", "why")]
    )
    table = plan.keep(tmp_path / "s")
    before = files(tmp_path / "s")
    assert plan.keep(tmp_path / "s").ids() == table.ids()
    assert files(tmp_path / "s") == before
    stored = read(tmp_path / "s")
    assert [[t.id, t.system, t.arm, t.seed, t.block] for t in stored.trials] == plan.doc["trials"]
    assert [arm["label"] for arm in stored.arms] == [arm["label"] for arm in plan.doc["arms"]]
    assert len([name for name in before if name.startswith("arms/")]) == 4
    assert sorted(table.ids()) == sorted(t.id for t in stored.trials)


def test_the_hash_is_of_what_was_decided() -> None:
    """The order of trials, where a setting came from, and how trials are run change nothing; everything else does."""
    plan = make().doc
    same = [
        plan | {"trials": plan["trials"][::-1]},
        plan | {"settings": {key: [value, "elsewhere"] for key, (value, _) in plan["settings"].items()}},
        make(run__slots=3, run__timeout="2h", run__attempts=5, run__store="x", run__keep=True, title="other").doc,
        plan | {"notes": ["x"], "data": {}},
    ]
    assert {plan_hash(doc) for doc in same} == {plan_hash(plan)}
    other = [
        make(analysis__alpha=0.1).doc, make(seeds=range(5)).doc, make(metric="task/other").doc,
        make(axes={"ffn": ("moe", "dense")}).doc, make(blocks=("0", "1"), block_key="data.seed").doc,
        make(idle=[("ffn=x", "n/a", "no kernel")]).doc,
    ]  # fmt: skip
    assert len({plan_hash(doc) for doc in (plan, *other)}) == 7
    assert design_hash(make(analysis__alpha=0.1).doc) == design_hash(plan) != design_hash(make(seeds=range(5)).doc)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            make(seeds=range(10)),
            "E-PLAN: {root} was planned otherwise: seeds: the plan has 6 and this command asks for 10; use "
            '"core ablate extend {root} --seeds 10", or -o for a new study',
        ),
        (
            make(seeds=(0, 1, 2, 3, 4, 5, 9)),
            "E-PLAN: {root} was planned otherwise: seeds: the plan has 6 and this command asks "
            'for 0,1,2,3,4,5,9; use "core ablate extend {root} --seeds 0,1,2,3,4,5,9", or -o for a new study',
        ),
        (
            make(seeds=range(3)),
            "E-PLAN: {root} was planned otherwise: seeds: the plan has 6 and this command asks for 3; "
            "choose another directory with -o for a new study",
        ),
        (
            make(axes={"ffn": ("dense", "moe", "none")}),
            "E-PLAN: {root} was planned otherwise: axes: the plan has "
            "ffn=dense,moe and this command asks for ffn=dense,moe,none; choose another "
            "directory with -o for a new study",
        ),
        (
            make(axes={"ffn": ("moe", "dense")}),
            "E-PLAN: {root} was planned otherwise: baseline: the plan has ffn=dense and this "
            "command asks for ffn=moe; choose another directory with -o for a new study",
        ),
        (
            make(blocks=("0", "1")),
            "E-PLAN: {root} was planned otherwise: blocks: the plan has none and this command asks for 0,1; "
            "choose another directory with -o for a new study",
        ),
        (
            make(systems=("spatial", "perturb")),
            "E-PLAN: {root} was planned otherwise: ffn=dense of perturb is new; choose "
            "another directory with -o for a new study",
        ),
    ],
)
def test_another_plan_is_refused_with_what_differs(tmp_path: Path, other: Made, text: str) -> None:
    """E-PLAN says what is there, what was asked, and which command would do it; nothing is changed."""
    root = tmp_path / "s"
    make().keep(root)
    before = files(root)
    assert refused(root, other) == text.format(root=root)
    assert files(root) == before


def test_another_configuration_under_the_same_name_is_refused(tmp_path: Path) -> None:
    """Arms that are called alike and differ in their configuration, or data that changed, are told."""
    make().keep(tmp_path / "s")
    other = make()
    other.doc["trials"][0][0] = "0" * 16
    assert refused(tmp_path / "s", other).endswith(
        "its data have changed since, or the pieces' code has another revision; choose -o for a new study"
    )
    other.doc["arms"][1]["config"] = "width = 3\n"
    assert refused(tmp_path / "s", other).endswith(
        "ffn=moe of spatial is configured otherwise (width = 3); choose another directory with -o for a new study"
    )


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    """A directory with something else in it, or a file, is refused and stays as it was."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("x")
    root = tmp_path / "thesis"
    assert (
        refused(root, make())
        == f"E-STRANGER: {root} is no study and not empty (chapter.txt, ...); choose another with -o"
    )
    root = tmp_path / "thesis" / "chapter.txt"
    assert refused(root, make()) == f"E-STRANGER: {root} is a file; choose a directory with -o"
    assert files(tmp_path) == {"thesis/chapter.txt": b"x"}
    (tmp_path / "empty").mkdir()
    make().keep(tmp_path / "empty")


def test_no_study_is_told(tmp_path: Path) -> None:
    """A missing directory, an empty one, a file and a half-planned one have their texts."""

    def told(root: Path) -> str:
        with pytest.raises(TableError) as caught:
            read(root)
        return str(caught.value)

    (tmp_path / "file").write_text("")
    for name in ("none", "file", "."):
        root = tmp_path / name
        assert told(root) == f"E-STUDY: {root} holds no study (no plan.json). `core ablate` begins one"
    Table.create(tmp_path / "half")
    assert told(tmp_path / "half").startswith(f"E-PLAN: {tmp_path / 'half'} was left before its plan was written;")


def test_no_changed_byte_of_a_plan_goes_unnoticed(tmp_path: Path) -> None:
    """A plan that was cut short, emptied or changed in a bit is refused; so is what was appended to it."""
    make().keep(tmp_path)
    append(tmp_path, {"kind": "analysis", "text": "x", "settings": {}})
    for path in (tmp_path / "plan.json", tmp_path / "plan.d" / "0001.json"):
        whole_file = path.read_bytes()
        spots = [*range(0, len(whole_file), max(1, len(whole_file) // 60))]
        damaged = [whole_file[:at] for at in spots]
        damaged += [whole_file[:at] + bytes([whole_file[at] ^ 4]) + whole_file[at + 1 :] for at in spots]
        for data in damaged:
            path.write_bytes(data)
            with pytest.raises(TableError, match=r"^E-DAMAGED: .*plan"):
                read(tmp_path)
        path.write_bytes(whole_file)
    assert len(read(tmp_path).later) == 1


def test_a_newer_plan_is_refused(tmp_path: Path) -> None:
    """A plan of a newer schema is not guessed at."""
    make().keep(tmp_path)
    (tmp_path / "plan.json").write_bytes(seal(make().doc | {"schema": 2}))
    with pytest.raises(TableError, match=r"^E-LAYOUT: .* was planned by a newer cellcore; update cellcore"):
        read(tmp_path)


def test_what_was_appended_is_read_in_order(tmp_path: Path) -> None:
    """The tenth addition comes after the ninth and the ten thousandth last; later settings and metrics win."""
    make().keep(tmp_path)
    for number in range(11):
        append(
            tmp_path, {"kind": "analysis", "text": str(number), "settings": {"analysis.alpha": [number / 100, "CLI"]}}
        )
    (tmp_path / "plan.d" / "10000.json").write_bytes(
        seal({"kind": "analysis", "text": "last", "metrics": {"spatial": "a/b"}})
    )
    stored = read(tmp_path)
    assert [more["text"] for more in stored.later] == [*map(str, range(11)), "last"]
    assert stored.value("analysis.alpha") == 0.1
    assert stored.metrics == {"spatial": "a/b"}
    assert stored.hash == plan_hash(make().doc)


def more_seeds() -> tuple[dict[str, Any], Made]:
    """What an extension by two seeds appends, and the plan of everything."""
    everything = make(seeds=range(8))
    there = {trial[0] for trial in make().doc["trials"]}
    fresh = [trial for trial in everything.doc["trials"] if trial[0] not in there]
    arm = arm_of("spatial", "ffn=new", {"ffn": "new"})
    return {
        "kind": "extended",
        "text": "x",
        "trials": fresh,
        "arms": [arm],
        "axes": {"ffn": ["dense", "moe", "new"]},
    }, everything


def test_an_extended_study_is_found_by_its_first_command_and_by_all_of_it(tmp_path: Path) -> None:
    """Extending keeps every trial; the first command and one that asks for everything go on, others are refused."""
    make().keep(tmp_path)
    doc, everything = more_seeds()
    append(tmp_path, doc)
    stored = read(tmp_path)
    assert [t.id for t in stored.trials][:12] == [t[0] for t in make().doc["trials"]]
    assert len(stored.trials) == 16
    assert stored.axes == {"ffn": ["dense", "moe", "new"]}
    assert (tmp_path / "arms" / arm_file("spatial", "ffn=new")).exists()
    make().keep(tmp_path)
    everything.keep(tmp_path)
    assert refused(tmp_path, make(seeds=range(7))).startswith("E-PLAN")
    assert len(Table(tmp_path).ids()) == 16


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`dying(k)`: the k-th write from now on kills the process before it, `-k` after it."""
    real = {
        (module, name): getattr(module, name)
        for module, name in (
            (core.study.folder, "publish"), (core.study.folder, "write_atomic"), (core.study.table, "publish"),
            (core.study.planned, "publish"),
        )
    }  # fmt: skip

    def at(k: int) -> None:
        numbers = count(1)

        def deadly(write: Any) -> Any:
            def call(*args: Any) -> Any:
                number = next(numbers)
                if number == k:
                    raise Killed
                done = write(*args)
                if number == -k:
                    raise Killed
                return done

            return call

        for (module, name), write in real.items():
            monkeypatch.setattr(module, name, deadly(write) if k else write)

    yield at
    at(0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_kill_between_any_two_writes_is_completed_by_the_same_command(tmp_path: Path, dying: Any, sign: int) -> None:
    """Whatever write a process dies before or after, the same plan again gives the directory of an unbroken one."""
    plan = make()
    plan.keep(tmp_path / "whole")
    expected = files(tmp_path / "whole")
    killed = 0
    for k in range(1, 20):
        root = tmp_path / f"s{k}"
        dying(sign * k)
        try:
            plan.keep(root)
        except Killed:
            killed += 1
        dying(0)
        if (root / "plan.json").exists():
            assert planned_whole(root) == bool(Table(root).ids())
            stored = read(root)
            if not Table(root).ids():
                with pytest.raises(TableError, match=r"E-PLAN: .* was left while it was planned: 12 of 12 trials"):
                    whole(stored, Table(root))
        plan.keep(root)
        found = files(root)
        assert found.keys() == expected.keys()
        assert all(found[name] == data for name, data in expected.items() if name != "LAYOUT")
    assert killed == 6


def test_an_extension_that_was_killed_is_completed(tmp_path: Path, dying: Any) -> None:
    """Arms of an addition whose process died are written by whoever plans again, and its trials are added."""
    for k in (2, -1):
        root = tmp_path / f"s{k}"
        make().keep(root)
        doc, everything = more_seeds()
        dying(k)
        with pytest.raises(Killed):
            append(root, doc)
        dying(0)
        everything.keep(root)
        assert (root / "arms" / arm_file("spatial", "ffn=new")).exists()
        whole(read(root), Table(root))


def test_the_command_of_a_trial(tmp_path: Path) -> None:
    """It names the arm's file, the seed and the block; what a shell would read otherwise is quoted."""
    stored, _ = made(tmp_path, blocks=("0", "a b;c"), block_key="data.cut.seed")
    name = arm_file("spatial", "ffn=dense")
    assert command_of(stored, stored.trials[1]) == f"core run arms/{name} --seed 1 --data.cut.seed 0"
    assert command_of(stored, stored.trials[7]) == f"core run arms/{name} --seed 1 --data.cut.seed 'a b;c'"


def test_arm_files_have_names_of_their_own() -> None:
    """Labels that look alike on disk do not share a file, and no label leaves the folder."""
    labels = ["ffn=a b", "ffn=a-b", "ffn=a/b", "ffn=../../b", "x" * 300, "x" * 301, "ffn=ü"]
    names = [arm_file("spatial", label) for label in labels]
    assert len({*names}) == len(labels)
    assert all("/" not in name and len(name) < 120 and name.endswith(".toml") for name in names)


def test_seeds_as_a_flag_takes_them() -> None:
    """As short as can be."""
    assert [seeds_text(s) for s in ([0, 1, 2], [10, 11], [3, 7, 11], [5], [0])] == ["3", "10:12", "3,7,11", "5:6", "1"]


def test_plans_are_json_all_the_way(tmp_path: Path) -> None:
    """A plan can be read by other tools: one line of JSON with its body and digest."""
    make().keep(tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["body"]["baseline"] == {"ffn": "dense"}
