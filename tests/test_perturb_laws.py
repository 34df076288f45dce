"""Laws of the perturbation system as a whole: what its pieces promise one by one holds where they meet."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.cli.choose import resolve_run
from core.kinds import Batch, Card, FlowPath, Solver
from core.kinds.extractor import Latents
from core.params import fields
from core.testing.draws import law, randn, seeds
from core.train.checkpoint import load
from core.train.loop import Trainer
from core.train.streams import Streams
from core.train.trained import trained_model
from perturbed import SMALL, changed, make, recorded, trained, trainer, unit_of
from plugins.paths.cond_ot import CondOt
from plugins.paths.cosine import Cosine
from plugins.solvers.euler import Euler
from plugins.solvers.heun import Heun
from plugins.solvers.rk4 import Rk4
from plugins.systems.perturb import evaluation, generate
from plugins.systems.perturb.cells import GIVEN, Cells, Given
from plugins.systems.perturb.network import PROBE, Responder
from plugins.systems.perturb.system import Perturb

PATHS: list[FlowPath] = [CondOt(), Cosine(), Cosine(exponent=2.0)]
SOLVERS: list[Solver] = [Euler(), Heun(), Rk4()]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The path and its solvers


@law
@given(seed=seeds, shape=st.lists(st.integers(1, 4), min_size=0, max_size=3), single=st.booleans())
def test_a_straight_path_gives_both_its_ends_back(seed: int, shape: list[int], single: bool) -> None:
    """x_t + (1 - t) v = x1 and x_t - t v = x0, whatever shape an item has; the ends are met to the bit."""
    dtype, within = (torch.float32, 1e-6) if single else (torch.float64, 1e-12)
    x0, x1 = (randn(seed + i, 5, *shape, dtype=dtype) for i in (0, 1))
    t_B = torch.tensor([0.0, 1e-3, 0.4, 0.999, 1.0], dtype=dtype)
    point, over = CondOt().point(x0, x1, t_B), t_B.reshape(5, *[1] * len(shape))
    torch.testing.assert_close(point.x_t + (1 - over) * point.velocity, x1, rtol=within, atol=within)
    torch.testing.assert_close(point.x_t - over * point.velocity, x0, rtol=within, atol=within)
    assert torch.equal(point.x_t[0], x0[0])
    assert torch.equal(point.x_t[-1], x1[-1])


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (4,), (2, 1)], ids=str)
def test_a_path_takes_one_time_an_item(path: FlowPath, shape: tuple[int, ...]) -> None:
    """Times of another shape than (B,) would be broadcast, and are refused; so are ends of different shapes."""
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"one time an item, \(2,\), got times"):
        path.point(x, x, torch.full(shape, 0.5))
    with pytest.raises(ValueError, match="one time an item"):
        path.convert(x, torch.full(shape, 0.5), x, "data", "velocity")
    with pytest.raises(ValueError, match="two ends of one shape"):
        path.point(x[:1], x, torch.full((2,), 0.5))


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_velocity_and_data_of_one_output(path: FlowPath) -> None:
    """Both readings of an output agree inside the path; the data stay finite, gradients too, where it stands still."""
    noisy, raw = randn(0, 9, 4), randn(1, 9, 4).requires_grad_()
    t_B = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    velocity = generate.velocity_of(path, noisy, t_B, raw)
    wanted = path.convert(noisy, t_B, velocity, "velocity", "data")
    torch.testing.assert_close(generate.data_of(path, noisy, t_B, raw), wanted, rtol=1e-9, atol=1e-9)
    for t in (0.0, 1.0):
        at = generate.data_of(path, noisy, torch.full((9,), t, dtype=torch.float64), raw)
        (slope,) = torch.autograd.grad(at.sum(), raw)
        assert torch.isfinite(at).all()
        assert torch.isfinite(slope).all()
    torch.testing.assert_close(at, noisy)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_velocity_of_an_output_of_zero_is_the_mean_one(path: FlowPath) -> None:
    """With ends of unit deviation, what an untrained network stands for is the linear regression of velocity."""
    x0, x1 = torch.randn(2, 50_000, generator=rng(), dtype=torch.float64)
    for t in (0.2, 0.7):
        t_B = torch.full((len(x0),), t, dtype=torch.float64)
        point = path.point(x0, x1, t_B)
        slope = (point.velocity @ point.x_t) / (point.x_t @ point.x_t)
        rest = (point.velocity - slope * point.x_t).std()
        one, nothing = torch.ones_like(x0), torch.zeros_like(x0)
        assert generate.velocity_of(path, one, t_B, nothing)[0] == pytest.approx(slope.item(), abs=0.04)
        assert generate.velocity_of(path, nothing, t_B, one)[0] == pytest.approx(rest.item(), rel=0.02)


@law
@given(rate=st.floats(-1.0, 2.0), start=st.floats(0.5, 2.0))
def test_nineteen_steps_of_fourth_order(rate: float, start: float) -> None:
    """On y' = a y, a in [-1, 2], 20 points are enough for a relative error of 1e-5; halving steps gains 16 times."""

    def error(points: int) -> float:
        times = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
        first = {"a": torch.full((1,), start, dtype=torch.float64)}
        end = Rk4().solve(lambda y, t: {"a": rate * y["a"]}, first, times, paths={})
        return abs(end["a"].item() / (start * math.exp(rate)) - 1)

    assert error(20) < 1e-5
    if abs(rate) > 0.5:
        assert 11 < error(11) / error(21) < 23


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_constant_fields_are_solved_exactly(solver: Solver, steps: int) -> None:
    """Along a constant velocity any number of steps ends at x + v; the grid begins at exactly 0 and ends at 1."""
    x, v = randn(0, 3, 4), randn(1, 3, 4)
    grid = np.linspace(0.0, 1.0, steps + 1).tolist()
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    end = solver.solve(lambda state, t: {"a": v}, {"a": x}, grid, paths={"a": CondOt()})
    torch.testing.assert_close(end["a"], x + v, rtol=1e-12, atol=1e-12)
    if steps == 1 and isinstance(solver, Euler):
        assert torch.equal(end["a"], x + v)


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 0.5), (1.5, 1.0), (-2.0, 2.0)])
def test_the_gaussian_field(mean: float, sd: float) -> None:
    """The exact field from N(0, 1) to N(mu, s^2) carries x0 to mu + s x0: 20 points of fourth order lose 1e-6."""
    x0 = torch.randn(4000, generator=rng(), dtype=torch.float64)
    x0 = (x0 - x0.mean()) / x0.std()

    def field(state: dict[str, torch.Tensor], t: float) -> dict[str, torch.Tensor]:
        variance = (1 - t) ** 2 + (t * sd) ** 2
        return {"a": mean + (t * sd**2 - (1 - t)) / variance * (state["a"] - t * mean)}

    end = Rk4().solve(field, {"a": x0}, np.linspace(0.0, 1.0, 20).tolist(), paths={"a": CondOt()})["a"]
    assert end.mean().item() == pytest.approx(mean, abs=1e-6)
    assert end.std().item() == pytest.approx(sd, abs=1e-6)
    torch.testing.assert_close(end, mean + sd * x0, rtol=0, atol=4e-6)


# What a training step teaches


def losses_of(made: Trainer, batch: Batch, seed: int = 1) -> dict[str, torch.Tensor]:
    return made.system.step(made.model, batch, Streams(seed), 0).losses


def drawn_of(made: Trainer, batch: Batch, seed: int = 1) -> dict[str, torch.Tensor]:
    """The cells that teach each stream, as `losses_of` has it, (B, N)."""
    time, shape = made.system.time, batch.real_BN.shape
    drawn = time.assign(shape.numel(), made.system.streams, Streams(seed).generator("time", 0))
    return {m: rows.reshape(shape) for m, rows in drawn.active.items()}


@pytest.mark.parametrize("path", ["cond_ot", "cosine"])
@pytest.mark.parametrize("stream", ["expression", "latent"])
def test_other_cells_outputs_teach_a_stream_nothing(stream: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network says of cells that teach the other stream enters neither a loss of this one nor a gradient."""
    made = trained(f"--path={path}")
    batch = made.train_split.batch(0, 0)
    idle_M = ~drawn_of(made, batch)[stream].flatten()
    inner, outputs = made.model.network.forward, {}

    def forward(*given: Any, **named: Any) -> Any:
        found, aux = inner(*given, **named)
        outputs.update({m: x.detach() + shifts[-1] * idle_M[:, None, None] for m, x in found.items()})
        for x in outputs.values():
            x.requires_grad_()
        return dict(outputs), aux

    values: list[dict[str, float]] = []
    shifts: list[float] = []
    monkeypatch.setattr(made.model.network, "forward", forward)
    for shift in (0.0, 3.0):
        shifts.append(shift)
        found = {name: v for name, v in losses_of(made, batch).items() if name.startswith(f"{stream}/")}
        assert len(found) == (2 if stream == "expression" else 1)
        sum(found.values()).backward()
        values.append({name: v.item() for name, v in found.items()})
        grad = outputs[stream].grad
        assert not grad[idle_M].any()
        assert grad[~idle_M].any()
        assert all(x.grad is None or not x.grad.any() for m, x in outputs.items() if m != stream)
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_samples_are_compared_where_expression_is_taught() -> None:
    """The loss of samples knows none of the cells of the latent stage."""
    made = trained()
    batch = made.train_split.batch(0, 0)
    active = drawn_of(made, batch)["expression"]
    before = losses_of(made, batch)["expression/mmd"]
    torch.testing.assert_close(losses_of(made, changed(batch, "expression", ~active))["expression/mmd"], before)
    after = losses_of(made, changed(batch, "expression", active))["expression/mmd"]
    assert abs((after - before).item()) > 1e-6


def test_samples_are_compared_within_a_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicted and true cells of a set are of one group, of different sets never, of the latent stage in none."""
    made = trained()
    batch = made.train_split.batch(0, 0)
    seen: list[tuple[torch.Tensor, ...]] = []
    mmd = made.system.sample_loss
    monkeypatch.setattr(type(mmd), "__call__", lambda self, *given: seen.append(given) or {})
    losses_of(made, batch)
    (_, target_MK, predicted_M, true_M) = seen[0]
    assert torch.equal(predicted_M, true_M)
    active = (drawn_of(made, batch)["expression"] & batch.real_BN)[batch.real_BN]
    place = torch.arange(len(batch.real_BN))[:, None].expand(batch.real_BN.shape)[batch.real_BN]
    real_M = Cells.of(batch).real
    found = predicted_M[real_M] if len(predicted_M) == len(real_M) else predicted_M
    assert ((found >= 0) == active).all()
    same = found[:, None] == found[None]
    together = place[:, None] == place[None]
    both = active[:, None] & active[None]
    assert torch.equal(same & both, together & both)
    assert len(target_MK) == len(predicted_M)


def test_a_loss_is_a_mean_over_the_cells_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream's loss is the mean over its own cells and genes, however many cells teach the other stream."""
    made = trained("--latent_of=covered", "--extractor.covers=expressed")
    batch = made.train_split.batch(0, 0)
    inner, kept = made.model.network.forward, {}

    def forward(fields: Any, times: Any, *given: Any, **named: Any) -> Any:
        found, aux = inner(fields, times, *given, **named)
        kept.update(fields=fields, times=times, found=found)
        return found, aux

    monkeypatch.setattr(made.model.network, "forward", forward)
    losses, active = losses_of(made, batch), drawn_of(made, batch)
    cells = Cells.of(batch)
    gene_K = torch.arange(cells.expression.shape[1])
    latents = made.model.latents(cells.expression, cells.given.level, gene_K)
    true = {"expression": made.model.centred(cells.expression, cells.given.level)[..., None], "latent": latents.z_NKD}
    asked = {"expression": torch.ones_like(latents.covered_NK), "latent": latents.covered_NK}
    for m, x1 in true.items():
        x_t, t_B = kept["fields"][m], kept["times"][m]
        v = generate.velocity_of(made.system.path, x_t, t_B, kept["found"][m])
        # On the straight path the velocity is (x1 - x_t) / (1 - t), t < 1 wherever a stream is taught.
        true_v = (x1 - x_t) / (1 - t_B)[:, None, None]
        rows = active[m].flatten() & cells.real
        wanted = (v - true_v)[rows][asked[m][rows]].square().mean()
        assert 0 < rows.sum() < len(rows)
        torch.testing.assert_close(losses[f"{m}/mse"], wanted, rtol=2e-4, atol=1e-5)


def test_a_step_leaves_the_extractor_as_it_was() -> None:
    """Training changes no number of what was fitted, and asks it for no gradient."""
    made = trainer([])
    before = {name: x.copy() for name, x in made.model.fitted.state().items()}
    made.step()
    made.model.train()
    after = made.model.fitted.state()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not any("fitted" in name for name, _ in made.model.named_parameters())


def test_latents_are_of_whole_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latents of a step's few genes are those that the whole cells have there, in training as in evaluation."""
    made = trained("--genes=5")
    batch = made.train_split.batch(0, 0)
    seen: list[torch.Tensor] = []
    inner = Responder.latents

    def latents(self: Responder, cells: torch.Tensor, level: torch.Tensor, genes: torch.Tensor) -> Latents:
        seen.extend([cells, genes])
        return inner(self, cells, level, genes)

    monkeypatch.setattr(Responder, "latents", latents)
    monkeypatch.setattr(made.model, "training", True)
    losses_of(made, batch)
    cells_MG, gene_K = seen
    assert cells_MG.shape[1] == 12
    assert len(gene_K.unique()) == 5
    assert (gene_K.diff() > 0).all()


def test_poisson_noise_is_about_the_control_cell() -> None:
    """Noise of counts has the control cell's rate in every gene: neither nothing nor another cell's."""
    made = trained("--noise=poisson")
    control_MG = torch.log1p(torch.tensor([[0.0, 2.0, 30.0] * 4]).repeat(4000, 1))
    given = Given(control=control_MG, level=control_MG / 2, perturbation=torch.zeros(4000, 2, dtype=torch.long))
    noise = generate.noise_like(made.system, made.model, given, rng())
    counts = torch.expm1(made.model.restored(noise, given.level))
    torch.testing.assert_close(counts.mean(0), torch.expm1(control_MG[0]), rtol=0.03, atol=1e-4)
    torch.testing.assert_close(counts.var(0), torch.expm1(control_MG[0]), rtol=0.1, atol=1e-4)


def test_gaussian_noise_is_standard() -> None:
    """Both streams start from unit normal numbers, in which the data have about unit deviation too."""
    made = trained()
    none = torch.zeros(4000, 12)
    given = Given(control=none, level=none, perturbation=torch.zeros(4000, 2, dtype=torch.long))
    noise = generate.noise_like(made.system, made.model, given, rng())
    torch.testing.assert_close(noise.mean(0), torch.zeros(12), rtol=0, atol=4 / 4000**0.5)
    torch.testing.assert_close(noise.std(0), torch.ones(12), rtol=0, atol=4 / 8000**0.5)
    units = [Cells.of(u) for u in made.source.split("train", Streams(0)).units()]
    cells, level = (torch.cat(each) for each in zip(*((one.expression, one.given.level) for one in units), strict=True))
    flow = made.model.centred(cells, level)
    assert flow.std().item() == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(flow[: len(units[0].real)].mean(0), torch.zeros(12), rtol=0, atol=1e-5)
    torch.testing.assert_close(made.model.restored(flow, level), cells, rtol=1e-5, atol=1e-5)
    latents = made.model.latents(cells, level, torch.arange(12))
    z = latents.z_NKD[latents.covered_NK]
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(2), rtol=0, atol=1e-3)


# What is generated


def test_the_first_stage_sees_what_training_showed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expression waits as the noise of the training law, drawn once; the latent starts from the draw after it."""
    made = trained()
    seen = recorded(made, monkeypatch)
    cells = unit_of(made)
    make(made, cells, seed=5)
    source = rng(5)
    noise = generate.noise_like(made.system, made.model, cells.given, source)
    z = torch.randn(*noise.shape, made.model.width, generator=source)
    fields, times, _ = seen[0]
    assert torch.equal(fields["expression"][..., 0], noise)
    assert torch.equal(fields["latent"], z)
    assert all((t_B == 0).all() for t_B in times.values())
    assert torch.equal(fields["control"][..., 0], made.model.centred(cells.given.control, cells.given.level))


@pytest.mark.parametrize("words", [(), ("--time=independent",), ("--time=aligned", "--path=cosine")], ids=str)
def test_latents_that_are_given(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """True latents stand in for the first stage: they are clean and stand still, and the noise is the same."""
    made = trained(*words)
    cells = unit_of(made)
    true = made.model.latents(cells.expression, cells.given.level, torch.arange(12)).z_NKD
    make(made, cells, seed=3, latent=true)
    seen = recorded(made, monkeypatch)
    taught = make(made, cells, seed=3, latent=true)
    assert {streams for *_, streams in seen} == {("expression",)}
    assert all(torch.equal(fields["latent"], true) for fields, *_ in seen)
    assert all((times["latent"] == 1).all() for _, times, _ in seen)
    first = seen[0][0]["expression"]
    seen.clear()
    plain = make(made, cells, seed=3)
    assert torch.equal(seen[0][0]["expression"], first)
    assert not np.allclose(plain, taught)
    if not words:
        # The latents that the first stage ended in, given, are the second stage alone.
        ended = next(fields["latent"] for fields, _, streams in seen if streams == ("expression",))
        np.testing.assert_array_equal(make(made, cells, seed=3, latent=ended), plain)


def test_latents_that_do_not_fit_are_refused() -> None:
    """Latents of another shape, and latents for a model without any, are refused."""
    made = trained()
    cells = unit_of(made)
    with pytest.raises(ValueError, match=r"given to a model that takes \(6, 12, 2\)"):
        make(made, cells, latent=torch.zeros(6, 12, 3))


def relabelled(made: Trainer, order: torch.Tensor) -> Responder:
    """The same model of a vocabulary in which gene `order[i]` comes i-th."""
    system: Perturb = made.system
    model = system.build(made.source.describe())
    assert isinstance(model, Responder)
    back = torch.argsort(order)
    state = dict(made.model.state_dict())
    for name, x in state.items():
        if name == "network.genes.reading.neighbours_VK":
            state[name] = torch.where(x >= 0, back[x.clamp(min=0)], x)[order]
        elif name == "network.perturbations.gene_K":
            state[name] = torch.where(x >= 0, back[x.clamp(min=0)], x)
        elif name.startswith("network.genes.") and x.dim() and x.shape[0] == len(order) and "codes.table" in name:
            state[name] = x[order]
    model.load_state_dict(state)
    model.mean_G, model.spread = made.model.mean_G[order.numpy()], made.model.spread
    return model.eval()


@pytest.mark.parametrize("backbone", ["diff_perceiver", "perceiver", "diff_transformer"])
def test_order_of_genes_and_cells_in_both_stages(backbone: str) -> None:
    """Genes in another order, or cells, give the same cells in that order, from noise in that order."""
    made = trained(f"--backbone={backbone}")
    cells, order = unit_of(made), torch.randperm(12, generator=rng(1))
    count = len(cells.given.control)
    x, z = randn(0, count, 12, dtype=torch.float32), randn(1, count, 12, 2, dtype=torch.float32)
    codes = torch.stack([torch.tensor([1, 0]), torch.tensor([1, 2]), torch.tensor([0, 0])])
    given = Given(control=cells.given.control, level=cells.given.level, perturbation=codes[torch.arange(count) % 3])
    whole = torch.arange(count)

    def solved(model: Responder, cells_x: torch.Tensor, cells_z: torch.Tensor, told: Given) -> torch.Tensor:
        return generate._solve(made.system, model, {"expression": cells_x, "latent": cells_z}, told, taught=False)

    with made.evaluating(), torch.no_grad():
        plain = solved(made.model, x, z, given)
        other = attrs.evolve(given, control=given.control[:, order], level=given.level[:, order])
        turned = solved(relabelled(made, order), x[:, order], z[:, order], other)
        torch.testing.assert_close(turned, plain[:, order], rtol=5e-6, atol=5e-6)
        rows = torch.randperm(count, generator=rng(2))
        moved = solved(made.model, x[rows], z[rows], given.at(rows, x.device))
        torch.testing.assert_close(moved, plain[rows], rtol=5e-6, atol=5e-6)
        alone = [solved(made.model, x[i::3], z[i::3], given.at(whole[i::3], x.device)) for i in range(3)]
        for i, part in enumerate(alone):
            torch.testing.assert_close(part, plain[i::3], rtol=5e-6, atol=5e-6)


def test_perturbations_of_a_cell_are_a_set() -> None:
    """Order, repetition and padding of a cell's perturbations change no generated cell; another set does."""
    made = trained()
    cells = unit_of(made)

    def told(*codes: int) -> np.ndarray:
        both = torch.tensor([codes]).expand(len(cells.given.control), -1)
        return make(made, attrs.evolve(cells, given=attrs.evolve(cells.given, perturbation=both)))

    np.testing.assert_array_equal(told(2, 1), told(1, 2))
    np.testing.assert_array_equal(told(1, 1), told(1, 0))
    np.testing.assert_array_equal(told(0, 1), told(1, 0))
    np.testing.assert_array_equal(told(1, 2, 1), told(1, 2, 0))
    assert not np.allclose(told(1, 0), told(1, 2), atol=1e-7)
    assert not np.allclose(told(1, 0), told(0, 0), atol=1e-7)


def test_the_last_step_leaves_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows the data ends in the data, on every path and by every clock, with either solver."""
    for words in ((), ("--path=cosine",), ("--time=aligned",), ("--time=aligned", "--path=cosine")):
        made = trained(*words)
        cells, path = unit_of(made), made.system.path
        count = len(cells.given.control)
        want = {"expression": randn(0, count, 12, dtype=torch.float32), "latent": randn(1, count, 12, 2).float()}

        def oracle(
            fields: Any, times: Any, real: Any, *, streams: Any, want: Any = want, path: Any = path, **kept: Any
        ) -> Any:
            """The output whose reading as data is what is wanted."""
            found = {}
            for m in streams:
                t_B = times[m].double()
                x = fields[m].double()
                alpha, sigma = (s[:, None, None] for s in path.shares(t_B))
                true = (want[m][..., None] if m == "expression" else want[m]).double()
                norm = alpha**2 + sigma**2
                found[m] = ((true * norm - alpha * x) / (sigma * norm.sqrt())).float()
            return found, None

        monkeypatch.setattr(made.model.network, "forward", oracle)
        for solver in SOLVERS:
            ended = make(made, cells, solver=solver, sampling=3)
            wanted = made.model.restored(want["expression"], cells.given.level).numpy()
            np.testing.assert_allclose(ended, wanted, rtol=2e-3, atol=2e-3, err_msg=f"{words} {solver}")
        monkeypatch.undo()


def test_nothing_is_dropped_where_cells_are_made() -> None:
    """A model with dropout is evaluated and sampled without: the same cells however often it is asked."""
    made = trained("--dropout=0.5")
    cells = unit_of(made)
    np.testing.assert_array_equal(make(made, cells), make(made, cells))
    seen = []
    hook = made.model.network.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    with made.evaluating():
        made.system.evaluate(made.model, made.source, "test", Streams(0))
    hook.remove()
    assert seen
    assert not any(seen)


def test_as_many_cells_are_predicted_as_are_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each held-out condition is judged by as many predicted as real cells, of its own real controls."""
    made = trained()
    seen: list[tuple[Any, ...]] = []
    inner = evaluation.stand
    monkeypatch.setattr(evaluation, "stand", lambda *given, **named: seen.append(given) or inner(*given, **named))
    with made.evaluating():
        made.system.evaluate(made.model, made.source, "test", Streams(0))
    truth, predicted = seen[0][:2]
    (control,) = (u for u in made.source.split("train", Streams(0)).units() if u.units == ("control",))
    np.testing.assert_array_equal(truth.reference, Cells.of(control).expression.numpy())
    assert {n: x.shape for n, x in predicted.items()} == {n: x.shape for n, x in truth.groups.items()}
    assert truth.features == made.source.names("genes")
    assert all(np.isfinite(x).all() and (x >= 0).all() for x in predicted.values())


def test_zeros_of_generated_training_cells() -> None:
    """Cells generated for the probes have each gene's true share of zeros, to within one cell; the rest is kept."""
    made = trained()
    true = made.model.probes[PROBE + "expression"]
    given = Given(**{name: torch.from_numpy(made.model.probes[PROBE + name]) for name in GIVEN})
    seed = int(Streams(0).generator("zeros").initial_seed())
    with made.evaluating():
        found = made.system.cells(made.model, given, rng(seed), Streams(0))
    wanted, share = (true == 0).mean(0), (found["expression"] == 0).mean(0)
    # Below 0 nothing is expressed, whatever the threshold.
    floor = (found["raw"] <= 0).mean(0)
    assert (np.abs(share - np.maximum(wanted, floor)) <= 1 / len(true) + 1e-9).all()
    kept = found["expression"] > 0
    np.testing.assert_array_equal(found["expression"][kept], found["raw"][kept])
    assert 0 < kept.sum() < kept.size


def test_zeros_of_generated_controls() -> None:
    """Controls generated for a stratum have its true share of zeros, to within one cell, whatever stands by it."""
    made = trained("--zeros=controls")
    probes = Given(**{name: torch.from_numpy(made.model.probes[PROBE + name]) for name in GIVEN})
    silent = torch.arange(probes.control.shape[1]) % 3 == 0
    other = Given(
        control=probes.control.masked_fill(silent, 0.0), level=probes.level + 1.0, perturbation=probes.perturbation
    )
    seed = int(Streams(0).generator("zeros").initial_seed())
    with made.evaluating(), torch.no_grad():
        alone = []
        for one in (probes, other):
            still = attrs.evolve(one, perturbation=torch.zeros_like(one.perturbation))
            found = made.system.cells(made.model, still, rng(seed), Streams(0))
            wanted, share = (one.control.numpy() == 0).mean(0), (found["expression"] == 0).mean(0)
            floor = (found["raw"] <= 0).mean(0)
            assert (np.abs(share - np.maximum(wanted, floor)) <= 1 / len(one.control) + 1e-9).all()
            alone.append(generate.calibrated(made.system, made.model, seed, one))
        both = Given(**{name: torch.cat([getattr(probes, name), getattr(other, name)]) for name in GIVEN})
        together = generate.calibrated(made.system, made.model, seed, both)
        nobody = generate.calibrated(made.system, made.model, seed, both.at(torch.arange(0), torch.device("cpu")))
    np.testing.assert_array_equal(together, np.concatenate(alone))
    assert np.isinf(alone[1][:, silent]).all()
    assert nobody.shape == (0, probes.control.shape[1])


# What is kept


def test_a_saved_model_makes_the_same_cells(core: Callable[..., Any], tmp_path: Path) -> None:
    """Loaded from its directory, a model gives bit for bit the cells of the one that was saved."""
    run = tmp_path / "run"
    assert core("run", *SMALL, "--latent_steps=2", "--no-report", "-q", "-o", str(run)).code == 0
    resolved = resolve_run([], [*SMALL, "--latent_steps=2"]).root
    source = resolved.data.open()
    loaded = trained_model(run, resolved.system, source.describe(), resolved.seed, torch.device("cpu"))
    made = trained()
    cells = unit_of(made)
    there = make(made, cells)
    with torch.no_grad():
        here = generate.raw(resolved.system, loaded, cells.given, rng())
    np.testing.assert_array_equal(here, there)
    weights = load(next((run / "checkpoints").glob("step-*"))).model
    assert weights.keys() == loaded.state_dict().keys()


# Every choice does something


OTHER: dict[str, list[str]] = {
    "width": ["--width=16"],
    "depth": ["--depth=2"],
    "dropout": ["--dropout=0.4"],
    "backbone": ["--backbone=perceiver"],
    "attention": ["--attention=softmax"],
    "ffn": ["--ffn=dense(ratio=2)"],
    "residual": ["--residual=layerscale"],
    "extractor": ["--extractor=random_projection"],
    "origin": ["--origin=mean"],
    "path": ["--path=cosine"],
    "noise": ["--noise=poisson"],
    "time": ["--time=cascaded"],
    "genes": ["--genes=5"],
    "forget": ["--forget=0.9"],
    "latent_weight": ["--latent_weight=3"],
    "latent_of": ["--latent_of=covered"],
    "sample_loss": ["--sample_loss=none"],
    "sample_weight": ["--sample_weight=3"],
    "solver": ["--solver=euler"],
    "sampling": ["--sampling=5"],
    "latent_steps": ["--latent_steps=5"],
    "sampling_shift": ["--sampling_shift=0.5"],
    "latent_shift": ["--latent_shift=0.5"],
    "guidance": ["--guidance=3"],
    "latent_guidance": ["--latent_guidance=3"],
    "guided_from": ["--guided_from=0.4"],
    "guided_to": ["--guided_to=0.4"],
    "latent_guided_from": ["--latent_guided_from=0.4"],
    "latent_guided_to": ["--latent_guided_to=0.4"],
    "zeros": ["--zeros=none"],
}

BESIDE = {
    "guided_from": ["--guidance=3"],
    "guided_to": ["--guidance=3"],
    "latent_guided_from": ["--latent_guidance=3"],
    "latent_guided_to": ["--latent_guidance=3"],
    "latent_of": ["--extractor.covers=expressed"],
    "zeros": ["--data.dropout=0.6"],
}
"""what a parameter acts beside"""


@cache
def outcome(*words: str) -> tuple[float, ...]:
    """The total loss of a first step, and the generated cells, zeros restored."""
    replaced = {word.partition("=")[0] for word in words}
    kept = [w for w in (*SMALL, "--latent_steps=2") if w.partition("=")[0] not in replaced]
    if "--extractor=random_projection" in words:
        kept = [w for w in kept if not w.startswith("--extractor.")]
    if any(w.startswith("--attention=") for w in words):
        kept = [w for w in kept if not w.startswith("--attention.")]
    run = resolve_run([], [*kept, "--backbone.frame.zero=false", *words]).root
    made = Trainer(
        system=run.system, source=run.data.open(), settings=run.train, strategy=run.strategy,
        device=torch.device("cpu"), seed=0,
    )  # fmt: skip
    said = made.step()
    cells = unit_of(made)
    with made.evaluating():
        found = made.system.cells(made.model, cells.given, rng(), Streams(0))
    return said["train/loss"], *found["expression"].flatten().tolist()


def test_every_parameter_of_the_system_has_another_value_here() -> None:
    """A new parameter has to be shown to do something; of losses one fits, and memory changes nothing."""
    without = {"cells_per_call", "metrics", "expression_loss", "latent_loss"}
    assert {f.name for f in fields(Perturb)} == {*OTHER} | without


@pytest.mark.parametrize("name", OTHER)
def test_every_choice_of_the_system_does_something(name: str) -> None:
    """No parameter is taken and ignored: each changes what is learned or what is generated."""
    beside = BESIDE.get(name, [])
    assert outcome(*beside, *OTHER[name]) != outcome(*beside)


def test_no_data_of_perturbations() -> None:
    """A card without perturbations makes no model."""
    from core.errors import UserError

    with pytest.raises(UserError, match="learns from screens of perturbations"):
        trained().system.build(Card(name="x", sizes={"genes": 3, "together": 2}, splits={}, fingerprint=""))
