"""Trackers beside metrics.jsonl: what TensorBoard and W&B are told, that W&B is told nothing unless asked to, and that
none can stop a run. W&B itself runs offline; what it is asked for online is asked of a stand-in."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from core.cli import main
from core.errors import UserError
from core.testing.outer import TrackerLaws
from core.train.tracked import open_track, told
from plugins.trackers.jsonl import Jsonl
from plugins.trackers.tensorboard import Tensorboard
from plugins.trackers.wandb import Wandb
from small import SMALL, same

RUN = ("run", *SMALL, "--train.steps=3", "--quiet")


def curves(run: Path) -> list[tuple[int, dict[str, float]]]:
    """The lines of metrics.jsonl."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line.pop("step"), line) for line in lines]


@attrs.define
class Stand:
    """Records what the client of W&B is asked for."""

    logged_in: bool = True
    fails: str = ""
    asked: dict[str, Any] = attrs.field(factory=dict)
    lines: list[tuple[int, dict[str, float]]] = attrs.field(factory=list)
    summary: dict[str, float] = attrs.field(factory=dict)
    finished: int = 0
    Settings = staticmethod(dict)

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt
        return self.logged_in

    def init(self, **asked: Any) -> Stand:
        self._may("init")
        self.asked = asked
        return self

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self._may("log")
        self.lines.append((step, dict(scalars)))

    def finish(self) -> None:
        self._may("finish")
        self.finished += 1

    def _may(self, what: str) -> None:
        if self.fails == what:
            raise ConnectionError("no answer\nfrom the service")


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    client, module = Stand(), types.ModuleType("wandb")
    for name in ("Settings", "login", "init"):
        setattr(module, name, getattr(client, name))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    return client


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a tracker of its own."""
    path = tmp_path_factory.mktemp("plain") / "run"
    assert main([*RUN, "-o", str(path)]) == 0
    return path


def test_told_to_wandb(core: Callable, stand: Stand, plain: Path, tmp_path: Path) -> None:
    """Curves, finite scores, configuration and identity; no place, no command, no code, no machine; a run is the same
    to the last digit."""
    said = core(*RUN, "-o", str(tmp_path / "run"), "--tracker", "wandb")
    assert said.code == 0
    assert same(plain, tmp_path / "run") == []
    assert stand.lines == curves(tmp_path / "run")
    assert stand.finished == 1
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())["scores"]
    assert stand.summary == {
        f"final/{s['task']}/{s['arm']}/{s['metric']}": s["value"] for s in scores if s["value"] is not None
    }
    asked = stand.asked
    assert (asked["mode"], asked["project"], asked["entity"], asked["name"]) == ("offline", "cellcore", None, "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert asked["config"]["run"]["digest"] == record["digest"]
    assert asked["config"]["width"] == 16
    assert "tracker" not in asked["config"]
    assert str(tmp_path) not in json.dumps(asked["config"])
    quiet = {"console": "off", "disable_git": True, "save_code": False, "x_disable_machine_info": True}
    assert quiet.items() <= asked["settings"].items()


def test_no_place_of_data_is_told(tmp_path: Path) -> None:
    """The path of the data stays at home; where there is no run there is nothing to tell."""
    record = dict.fromkeys(("digest", "system", "seed", "parameters", "flops_per_step", "started"), 0)
    (tmp_path / "run.json").write_text(json.dumps(record | {"data": {"name": "cells", "fingerprint": "f"}}))
    (tmp_path / "config.toml").write_text('width = 3\n[data]\nname = "h5ad"\npath = "/home/me/cells.h5ad"\n')
    config, facts = told(tmp_path)
    assert config == {"width": 3, "data": {"name": "h5ad"}}
    assert facts["data"] == "cells"
    assert told(tmp_path / "nowhere") == ({}, {})


def test_online_only_where_asked(stand: Stand, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mode=online` goes online under the run's own id, which stays when the run goes on; the environment alone does
    not."""
    monkeypatch.setenv("WANDB_MODE", "online")
    Wandb().start(plain, 0)
    assert (stand.asked["mode"], stand.asked["resume"]) == ("offline", None)
    Wandb(mode="online", project="p", entity="e").start(plain, 0)
    first = stand.asked
    assert (first["mode"], first["resume"], first["project"], first["entity"]) == ("online", "allow", "p", "e")
    Wandb(mode="online").start(plain, 2)
    assert stand.asked["id"] == first["id"]
    assert stand.asked["config"]["resumed_after"] == 2


def test_online_without_a_login(core: Callable, stand: Stand, tmp_path: Path) -> None:
    """Nobody is asked for a key in the middle of a run: it ends before its first step, in a sentence."""
    stand.logged_in = False
    said = core(*RUN, "-o", str(tmp_path / "run"), "--tracker", "wandb(mode=online)")
    assert said.code == 2
    assert "`wandb login`, or set WANDB_API_KEY" in said.err
    assert not stand.asked
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_failing_tracker_is_told_once(stand: Stand, tmp_path: Path, where: str) -> None:
    """Whatever a tracker raises is one line, after which it is left alone; the record is whole."""
    stand.fails = where
    said: list[str] = []
    track = open_track(Wandb(), tmp_path, 0, said.append)
    for step in (1, 2):
        track.log(step, {"x": 2.0})
    track.finish()
    (line,) = said
    assert "tracker Wandb failed and is silenced (ConnectionError: no answer from the service)" in line
    assert curves(tmp_path) == [(1, {"x": 2.0}), (2, {"x": 2.0})]


def test_a_failing_tracker_stops_nothing(core: Callable, stand: Stand, plain: Path, tmp_path: Path) -> None:
    """The run ends as it would without a tracker."""
    stand.fails = "log"
    said = core("run", *SMALL, "--train.steps=3", "-o", str(tmp_path / "run"), "--tracker", "wandb")
    assert (said.code, said.err.count("silenced")) == (0, 1)
    assert same(plain, tmp_path / "run") == []


@pytest.mark.parametrize(
    ("tracker", "module", "extra"),
    [(Tensorboard(), "torch.utils.tensorboard", "tensorboard"), (Wandb(), "wandb", "wandb")],
    ids=["tensorboard", "wandb"],
)
def test_without_the_extra(
    tracker: Any, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the library, the extra that brings it is named before anything is trained."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with pytest.raises(UserError, match=rf"pip install 'cellcore\[{extra}\]'"):
        open_track(tracker, tmp_path, 0, lambda text: None)


def test_the_record_is_there_once(tmp_path: Path) -> None:
    """The default tracker is the record itself: each line stands once, and its failure is no warning."""
    track = open_track(Jsonl(), tmp_path, 0, lambda text: None)
    track.log(1, {"x": 2.0})
    track.conclude(1, {"a": 1.0})
    track.finish()
    assert curves(tmp_path) == [(1, {"x": 2.0})]
    with pytest.raises(ValueError, match="closed"):
        track.log(2, {"x": 2.0})


if importlib.util.find_spec("tensorboard") is not None:

    def events(directory: Path) -> Any:
        """What TensorBoard itself reads."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(directory / "tensorboard"), size_guidance={"tensors": 0})
        found.Reload()
        return found

    @pytest.mark.parametrize("tracker", [Tensorboard()], ids=repr)
    class TestTensorboard(TrackerLaws):
        def read(self, directory: Path) -> list[tuple[int, dict[str, float]]]:
            from tensorboard.util.tensor_util import make_ndarray

            said = events(directory).Tensors("train/loss")
            return [(e.step, {"train/loss": make_ndarray(e.tensor_proto).item()}) for e in said]

        def tear(self, directory: Path) -> None:
            newest = max((directory / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
            with newest.open("ab") as handle:
                handle.write(b"\x30\0\0\0\0\0\0\0half")

    def test_told_to_tensorboard(core: Callable, plain: Path, tmp_path: Path) -> None:
        """Curves, final scores, configuration and identity are read back by TensorBoard; the run is the same."""
        assert core(*RUN, "-o", str(tmp_path / "run"), "--tracker", "tensorboard").code == 0
        assert same(plain, tmp_path / "run") == []
        found = events(tmp_path / "run")
        tags = set(found.Tags()["tensors"])
        assert {name for _, line in curves(plain) for name in line} <= tags
        assert "final/expression to position/ridge/distance_spearman" in tags
        (run,) = found.Tensors("run/text_summary")
        assert json.loads((plain / "run.json").read_text())["digest"] in run.tensor_proto.string_val[0].decode()


if importlib.util.find_spec("wandb") is not None:

    def test_offline_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The client itself takes what it is given, and leaves a folder to sync: asked for by nobody, it sends nothing,
        and tells nothing of the machine."""
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            monkeypatch.setenv(name, str(tmp_path / name))
        import wandb

        track = Wandb().start(tmp_path, 0)
        track.log(1, {"train/loss": 0.5})
        track.conclude(1, {"task/model/metric": 0.25})
        track.finish()
        wandb.teardown()  # its service writes the last bytes after `finish` has returned
        (folder,) = (tmp_path / "wandb").glob("offline-run-*")
        (file,) = folder.glob("*.wandb")
        said = file.read_bytes()
        assert b"train/loss" in said
        assert b"final/task/model/metric" in said
        assert not [path for path in folder.rglob("files/*") if path.is_file()]
