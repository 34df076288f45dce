"""The noise process of the spatial system: modes, sampling, read-outs, conditions and recomputation."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.cli.choose import resolve_run
from core.errors import UserError
from core.kinds import Aux, Batch, Card
from core.nn.padding import centred
from core.score import MODEL
from core.train.streams import Streams
from plugins.paths.cond_ot import CondOt
from plugins.paths.cosine import Cosine
from plugins.systems.spatial.conditions import Labels, labels_of
from plugins.systems.spatial.geometry import frames, mean_of, turn, unfold
from plugins.systems.spatial.process import as_velocity, noise, schedule, see, shares
from small import SMALL
from test_system import trainer

law = settings(deadline=None, max_examples=25)
PATHS = [Cosine(), Cosine(exponent=2.0), CondOt()]
SOLVERS = ["ddpm", "ddim", "ddim(eta=1)", "euler", "heun"]
TINY = [word for word in SMALL if not word.startswith("--sampling")]
MODES = {"joint": ("expression", "position"), "expr_to_pos": ("position",), "pos_to_expr": ("expression",)}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Oracle(nn.Module):
    """A network that knows the clean data, and answers in the terms of a network's output."""

    def __init__(self, system: object, clean: dict[str, Tensor]) -> None:
        super().__init__()
        self.system, self.clean, self.seen = system, clean, []

    def forward(self, fields: dict, times: dict, real_BN: Tensor) -> tuple:
        self.seen.append((fields, times))
        raw = {}
        for m in self.system.learned:
            alpha, sigma = shares(self.system.path_of(m), times[m])
            share = sigma / (alpha**2 + sigma**2).sqrt()
            raw[m] = torch.where(share > 0, (self.clean[m] - fields[m]) / share, 0.0)
            if m == "position" and self.system.position_head == "edm":
                raw[m] = torch.nn.functional.pad(raw[m], (0, self.system.embedding - raw[m].shape[-1]))
        return raw, Aux({}, {})


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", ["cosine", "cosine(exponent=2)", "cond_ot"])
@pytest.mark.parametrize("steps", [2, 7])
def test_no_noise_is_left_and_steps_are_those_asked(solver: str, path: str, steps: int) -> None:
    """Given an oracle a sample is the data; calls are as announced, times rise, a given modality stays bit-equal."""
    words = [*TINY, f"--solver={solver}", f"--path={path}", f"--sampling={steps}"]
    run = resolve_run([], words).root
    batch = run.data.open().split("train", Streams(0)).batch(0, 0)
    clean = {"expression": batch.fields["expression"], "position": centred(batch.fields["position"], None)}
    for wanted in (("expression",), ("position",), ("expression", "position")):
        model = Oracle(run.system, clean)
        found = run.system.sample(model, batch, wanted, rng(1))
        for m in wanted:
            torch.testing.assert_close(found[m], clean[m], rtol=1e-4, atol=2e-4)
        assert len(model.seen) == run.system.solver.calls(steps) == (2 * steps - 1 if solver == "heun" else steps)
        for m in {"expression", "position"} - set(wanted):
            assert all(torch.equal(fields[m], clean[m]) and (times[m] == 1).all() for fields, times in model.seen)
        at = [float(times[wanted[0]][0]) for _, times in model.seen]
        assert at == sorted(at)
        assert len(set(at)) == steps
        sigma = run.system.path_of(wanted[0]).sigma(torch.tensor(sorted(set(at)), dtype=torch.float64))
        assert (sigma.diff() < 0).all()


@pytest.mark.parametrize("loss", ["distance_mse", "distance_mse,mse"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_embedding_keeps_the_frame_of_a_sample(solver: str, loss: str) -> None:
    """With an oracle behind the embedding a sample is the data in their own frame, and so is the mean by one call."""
    run = resolve_run([], [*SMALL, f"--solver={solver}", "--position_head=edm", f"--position_loss={loss}"]).root
    batch = run.data.open().split("train", Streams(0)).batch(0, 0)
    clean = {"expression": batch.fields["expression"], "position": centred(batch.fields["position"], None)}
    for make in (run.system.sample, run.system.expect):
        found = make(Oracle(run.system, clean), batch, ("position",), rng(1))["position"]
        torch.testing.assert_close(found, clean["position"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("grid", ["uniform", "cosine", "late"])
@law
@given(steps=st.integers(1, 3000))
def test_grids_have_the_steps_asked(grid: str, steps: int) -> None:
    """Times rise strictly from 0 to 1, one interval a step."""
    times = schedule(grid, steps)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (0.0, 1.0)
    assert all(a < b for a, b in itertools.pairwise(times))


def test_a_velocity_solver_cannot_leave_rest_in_one_step() -> None:
    """One step of euler or heun along a path that stands still at pure noise is refused before anything is trained."""
    for solver in ("euler", "heun"):
        with pytest.raises(UserError, match="sampling = 1 is too few"):
            resolve_run([], [*TINY, f"--solver={solver}", "--sampling=1"])
        resolve_run([], [*TINY, f"--solver={solver}", "--sampling=1", "--path=cond_ot"])


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_forward_noise_has_the_moments_of_the_path(path: object) -> None:
    """Noisy values have mean alpha x0 and variance sigma^2; noisy positions stay centred over the real cells."""
    x0 = torch.randn(1, 40, 2, generator=rng(0))
    real = torch.arange(40)[None] < 33
    x0 = centred(x0, real) * real[..., None]
    t_B = torch.full((1,), 0.6)
    alpha, sigma = shares(path, t_B)
    draws = torch.stack([alpha * x0 + sigma * noise({"position": x0}, real, rng(i))["position"] for i in range(3000)])[
        :, 0, :33
    ]
    torch.testing.assert_close(draws.mean(1), torch.zeros(3000, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(draws.mean(0), (alpha * x0)[0, :33], rtol=0, atol=float(5 * sigma / 3000**0.5))
    # Centring takes one of the 33 degrees of freedom of each axis.
    assert float(draws.var(0).mean()) == pytest.approx(float(sigma) ** 2 * 32 / 33, rel=0.02)


@pytest.mark.parametrize("path", PATHS, ids=str)
@law
@given(seed=st.integers(0, 2**32), t=st.floats(0.02, 0.98))
def test_the_output_is_the_velocity_of_the_path_of_unit_variance(path: object, seed: int, t: float) -> None:
    """Output, data and velocity turn into each other exactly: raw = (sigma x1 - alpha x0) / norm, errors too."""
    x1, x0 = torch.randn(2, 3, 5, 2, dtype=torch.float64, generator=rng(seed))
    t_B = torch.full((3,), t, dtype=torch.float64)
    alpha, sigma = shares(path, t_B)
    norm = (alpha**2 + sigma**2).sqrt()
    velocity = (sigma * x1 - alpha * x0) / norm
    seen = see(path, alpha * x1 + sigma * x0, t_B)
    torch.testing.assert_close(seen.data(velocity), x1, rtol=1e-9, atol=1e-9)
    other = torch.randn(3, 5, 2, dtype=torch.float64, generator=rng(seed + 1))
    stretched = as_velocity(path, t_B, seen.data(other)) - as_velocity(path, t_B, x1)
    torch.testing.assert_close(stretched, other - velocity, rtol=1e-8, atol=1e-8)


def test_predicting_velocity_weighs_errors_by_time() -> None:
    """With `predicts = velocity` the loss of coordinates is the mean squared error of the network's output."""
    arm = trainer(["--predicts=velocity", "--position_loss=mse", "--time.clean=0"])
    batch, told = arm.train_split.batch(0, 0), []
    arm.model.register_forward_hook(lambda module, given, out: told.append((given, out)))
    terms = arm.system.step(arm.model, batch, Streams(3), 5)
    (fields, times, _), (raw, _) = told[0]
    alpha, sigma = shares(arm.system.path, times["expression"])
    wanted = (batch.fields["expression"] - fields["expression"]) / (sigma / (alpha**2 + sigma**2).sqrt())
    expected = (raw["expression"] - wanted).square().mean()
    torch.testing.assert_close(terms.losses["expression/mse"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_modes_hold_what_they_use(mode: str) -> None:
    """A mode's model has read-outs of what it predicts alone, loses nothing on the rest, and is scored on its tasks."""
    arm = trainer([f"--mode={mode}"])
    assert arm.system.learned == MODES[mode]
    heads = {name.partition(".")[0] for name, _ in arm.model.named_parameters()} & {"expression", "position"}
    assert heads == set(MODES[mode])
    batch = arm.train_split.batch(0, 0)
    seen = []
    arm.model.register_forward_pre_hook(lambda module, given: seen.append(given))
    terms = arm.system.step(arm.model, batch, Streams(0), 0)
    assert {name.partition("/")[0] for name in terms.losses} == set(MODES[mode])
    fields, times, _ = seen[0]
    for m in {"expression", "position"} - set(MODES[mode]):
        clean = batch.fields[m] if m == "expression" else centred(batch.fields[m], None)
        assert torch.equal(fields[m], clean)
        assert (times[m] == 1).all()
    evaluation = arm.system.evaluate(arm.model.eval(), arm.source, "test", arm.streams)
    tasks = {"position": "expression to position", "expression": "position to expression"}
    made = {"joint generation"} if mode == "joint" else set()
    assert {score.task for score in evaluation.scores} == {tasks[m] for m in MODES[mode]} | made
    assert {score.arm for score in evaluation.scores} > {MODEL}
    for picture in arm.system.pictures(evaluation):
        assert picture.caption


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mode=expr_to_pos", "--metrics=pearson_gene"], "none of the metrics judges that"),
        (["--mode=pos_to_expr", "--position_path=cond_ot"], "position_path does nothing"),
        (["--mode=pos_to_expr", "--position_head=edm"], "does nothing"),
        (["--mode=expr_to_pos", "--masking.shape=random", "--masking.expression=0.1"], "masking.expression does"),
        (["--masking.expression=0.1"], "does nothing"),
        (["--masking.shape=random", "--masking.expression=1.2"], "<= 1"),
        (["--conditions=cell_type,cell_type"], "named once each"),
        (["--draws=3"], "does nothing"),
        (["--embedding=2", "--position_head=edm"], ">= 3"),
    ],
)
def test_choices_in_vain_are_refused(words: list[str], said: str) -> None:
    """What does nothing in a mode, or contradicts itself, is one sentence before anything is read."""
    with pytest.raises(UserError, match=said):
        resolve_run([], [*SMALL, *words])


@law
@given(seed=st.integers(0, 2**32), dims=st.integers(2, 3), sets=st.integers(1, 3), items=st.integers(4, 20))
def test_unfolding_is_classical_scaling(seed: int, dims: int, sets: int, items: int) -> None:
    """Coordinates have the distances that classical scaling of the whole N x N matrix has, in the frame asked for."""
    z = centred(torch.randn(sets, items, 8, dtype=torch.float64, generator=rng(seed)), None)
    onto = centred(torch.randn(sets, items, dims, dtype=torch.float64, generator=rng(seed + 1)), None)
    found = unfold(z, dims, onto)
    for b in range(sets):
        squared = torch.cdist(z[b], z[b], compute_mode="donot_use_mm_for_euclid_dist").square()
        middle = torch.eye(items, dtype=torch.float64) - 1 / items
        values, vectors = torch.linalg.eigh(-0.5 * middle @ squared @ middle)
        plain = vectors[:, -dims:] * values[-dims:].clamp_min(0).sqrt()
        torch.testing.assert_close(torch.cdist(found[b], found[b]), torch.cdist(plain, plain), rtol=1e-5, atol=1e-5)
        best = (found[b] - onto[b]).norm()
        for other in (turn(found, found @ frames(found.float(), rng(i)).double())[b] for i in range(3)):
            assert best <= (other - onto[b]).norm() + 1e-6


@pytest.mark.parametrize("dims", [2, 3])
def test_places_in_an_embedding_come_back(dims: int) -> None:
    """Places put into more axes and turned there come back up to their own frame, and exactly in that of themselves."""
    place = centred(torch.randn(2, 50, dims, generator=rng(0)), None)
    z = torch.nn.functional.pad(place, (0, 8 - dims))
    z = z @ torch.linalg.qr(torch.randn(8, 8, generator=rng(1)))[0]
    torch.testing.assert_close(unfold(z, dims, place), place, rtol=1e-4, atol=1e-4)


def test_the_mean_of_draws() -> None:
    """Draws of one shape in several frames have that shape as their mean once turned onto the first."""
    place = centred(torch.randn(3, 40, 2, generator=rng(0)), None)
    drawn = [{"position": place @ frames(place, rng(i)), "expression": place + i} for i in range(4)]
    found = mean_of(drawn, align=True)
    torch.testing.assert_close(found["position"], drawn[0]["position"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["expression"], place + 1.5)
    plain = mean_of(drawn, align=False)["position"]
    torch.testing.assert_close(plain, torch.stack([draw["position"] for draw in drawn]).mean(0))


def test_mean_of_samples_is_closer_to_the_data_than_one() -> None:
    """The read-out `mean_of` averages the announced number of samples and varies less than a sample."""
    arm = trainer(["--readout=mean_of", "--draws=6"])
    arm.model.eval()
    batch, calls = arm.train_split.batch(0, 0), []
    arm.model.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        mean = arm.system.expect(arm.model, batch, ("expression",), rng(0))["expression"]
        assert len(calls) == 6 * arm.system.sampling
        one = arm.system.sample(arm.model, batch, ("expression",), rng(0))["expression"]
    truth = batch.fields["expression"]
    assert (mean - truth).square().mean() < (one - truth).square().mean()


def test_conditions_fall_back_to_the_unknown() -> None:
    """Types of -1, unseen sections and what training drops are one learned entry; entries start as that one."""
    arm = trainer(["--conditions=cell_type,section"])
    labels, batch = labels_of(arm.model), arm.train_split.batch(0, 0)
    assert labels is not None
    assert list(labels.sections) == [n for n, c in arm.source.describe().facts["sections"].items() if c["train"]]
    told = labels.codes(batch, None)
    assert torch.equal(told["cell_type"], batch.fields["cell_type"])
    assert (told["section"] >= 0).all()
    assert torch.equal(labels(told), labels({name: torch.full_like(code, -1) for name, code in told.items()}))
    elsewhere = Batch(batch.fields, batch.real_BN, ("a new section",) * len(batch.units))
    assert (labels.codes(elsewhere, None)["section"] == -1).all()
    dropped = [(labels.codes(batch, rng(i))["cell_type"] == -1).all(1) for i in range(400)]
    assert 0.07 < float(torch.cat(dropped).float().mean()) < 0.13
    for table in labels.tables.values():
        nn.init.normal_(table.known_CD, generator=rng(0))
    assert not torch.equal(labels(told), labels({name: torch.full_like(code, -1) for name, code in told.items()}))
    plain = dict(trainer([]).model.named_parameters())
    told_of = dict(arm.model.named_parameters())
    assert all(torch.equal(plain[name], told_of[name]) for name in plain)


def test_conditions_that_the_data_do_not_know_are_refused() -> None:
    """A condition of which the data have no entry is named when the model is built."""
    card = Card(name="bare", sizes={"genes": 3, "dims": 2, "cell_types": 0}, splits={}, fingerprint="")
    for condition in ("cell_type", "section"):
        with pytest.raises(ValueError, match=f"the data name no {condition}"):
            Labels(card, (condition,), 8)


@pytest.mark.parametrize(
    "words",
    [[], ["--ffn=moe4x2(balance=bias,jitter=0.1)", "--gate=headwise(spectral=penalty,spectral_bound=0.01)"]],
    ids=["plain", "routed"],
)
def test_recomputation_changes_no_bit(words: list[str]) -> None:
    """Losses, gradients and weights after steps with dropout are bit-equal whether activations are kept or not."""
    arms = [trainer([*words, "--dropout=0.3", f"--recompute={flag}"]) for flag in ("false", "true")]
    for _ in range(3):
        kept, again = (arm.step() for arm in arms)
        assert kept == again
    for (name, one), (_, two) in zip(*(arm.model.state_dict().items() for arm in arms), strict=True):
        assert torch.equal(one, two), name
    gradients = [{n: p.grad for n, p in arm.model.named_parameters()} for arm in arms]
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])


def test_recomputation_keeps_less() -> None:
    """Of the layers only what enters them is kept for the backward pass."""
    kept = []
    for flag in ("false", "true"):
        arm = trainer([f"--recompute={flag}", "--dropout=0.1"])
        batch, sizes = arm.train_split.batch(0, 0), []

        def keep(x: Tensor, sizes: list = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            arm.system.step(arm.model, batch, Streams(0), 0)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("words", [[], ["--mode=pos_to_expr"], ["--position_head=edm", "--path=cond_ot"]], ids=" ".join)
def test_where_a_section_lies_changes_nothing(words: list[str]) -> None:
    """Positions are centred in training and in sampling alike: an offset changes neither losses nor samples."""
    arm = trainer(words)
    batch = arm.train_split.batch(0, 0)
    moved = Batch(batch.fields | {"position": batch.fields["position"] + 5}, batch.real_BN, batch.units)
    one, two = (arm.system.step(arm.model, where, Streams(0), 0).losses for where in (batch, moved))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    arm.model.eval()
    for m in arm.system.learned:
        with torch.no_grad():
            here, there = (arm.system.sample(arm.model, where, (m,), rng(0))[m] for where in (batch, moved))
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


def test_one_model_is_shown_every_mixture_of_times() -> None:
    """A joint model is trained at times of their own for both modalities, and with either of them clean."""
    arm = trainer([])
    times = [arm.system.time.draw(64, arm.system.learned, rng(i)) for i in range(20)]
    e, p = (torch.cat([t[m] for t in times]) for m in arm.system.learned)
    assert abs(float(torch.corrcoef(torch.stack([e, p]))[0, 1])) < 0.3
    assert ((e == 1) & (p < 1)).any()
    assert ((p == 1) & (e < 1)).any()
