"""What every solver must do. Each modality (B, ...).

@pytest.mark.parametrize("solver", [Euler(), Ddpm()], ids=str)
class TestSolvers(SolverLaws): ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from core.kinds.path import FlowPath
from core.kinds.solver import Field, Noise, Solver, Tree
from core.testing.path import Straight

PATHS: dict[str, FlowPath] = {"a": Straight(), "b": Straight()}
RISING = [0.0, 0.1, 0.35, 0.6, 0.9, 1.0]


def gaussian(seed: int = 0) -> Noise:
    """Standard normal noise from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tree) -> Tree:
        return {
            name: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for name, x in like.items()
        }

    return draw


def oracle(solver: Solver, data: Tree, paths: Mapping[str, FlowPath]) -> Field:
    """The field that knows the data, in the terms `solver` wants."""

    def field(state: Tree, t: float) -> Tree:
        answer = {}
        for name, x in state.items():
            t_B = torch.full((len(x),), t, dtype=x.dtype)
            answer[name] = paths[name].convert(x, t_B, data[name], "data", solver.wants)
        return answer

    return field


def observed_order(solver: Solver) -> float:
    """The order of convergence of a velocity solver on y' = -y over [0, 1], y(0) = 1, whose end is 1/e."""
    errors = []
    for steps in (64, 128):
        start = {"a": torch.ones(1, dtype=torch.float64)}
        end = solver.solve(lambda y, t: {"a": -y["a"]}, start, _even(steps), paths={"a": Straight()})
        errors.append(abs(end["a"].item() - math.exp(-1)))
    return math.log2(errors[0] / errors[1])


class SolverLaws:
    """Laws of `core.kinds.solver.Solver`; parametrise a subclass over `solver`."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_oracle(self, solver: Solver, dtype: torch.dtype) -> None:
        """A field that knows the data reaches them, however the times are spaced, and keeps shape and dtype."""
        start, data = _tree(1, dtype), _tree(2, dtype)
        for times in (RISING, _even(1), _even(7)):
            end = solver.solve(oracle(solver, data, PATHS), start, times, paths=PATHS, noise=gaussian())
            for name in data:
                assert end[name].dtype == dtype
                torch.testing.assert_close(end[name], data[name], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("steps", [1, 2, 13])
    def test_calls(self, solver: Solver, steps: int) -> None:
        """The field is called exactly as often as announced, at times of the schedule's span that never fall.

        An adaptive solver announces nothing and may go back; what was asked for between the ends changes nothing.
        """
        times, seen = _even(steps), []
        inner = oracle(solver, _tree(2), PATHS)

        def field(state: Tree, t: float) -> Tree:
            seen.append(t)
            return inner(state, t)

        solver.solve(field, _tree(1), times, paths=PATHS, noise=gaussian())
        assert times[0] <= min(seen)
        assert max(seen) <= times[-1]
        if solver.calls(steps) is None:
            ends = [
                solver.solve(_shrinking(solver), _tree(1), given, paths=PATHS, noise=gaussian())
                for given in (times, [times[0], times[-1]])
            ]
            assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
        else:
            assert len(seen) == solver.calls(steps)
            assert seen == sorted(seen)

    def test_one_seed_one_sample(self, solver: Solver) -> None:
        """One start and one seed give one sample; a stochastic solver gives another with another seed."""
        drawn: list[int] = []

        def noise(seed: int) -> Noise:
            fresh = gaussian(seed)

            def draw(like: Tree) -> Tree:
                drawn.append(seed)
                return fresh(like)

            return draw

        runs = [
            solver.solve(_shrinking(solver), _tree(1), [0.1, 0.4, 0.8], paths=PATHS, noise=noise(seed))["a"]
            for seed in (3, 3, 4)
        ]
        assert torch.equal(runs[0], runs[1])
        assert bool(drawn) is solver.stochastic  # what is drawn may be too little to change a digit
        assert solver.stochastic or torch.equal(runs[0], runs[2])

    def test_state_untouched(self, solver: Solver) -> None:
        """The state that comes in is not written to."""
        start, kept = _tree(1), _tree(1)
        solver.solve(_shrinking(solver), start, RISING, paths=PATHS, noise=gaussian())
        assert all(torch.equal(start[name], kept[name]) for name in kept)

    def test_gradient(self, solver: Solver) -> None:
        """Gradients reach the field's parameters through all the steps."""
        scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        end = solver.solve(
            lambda x, t: {k: scale * v for k, v in x.items()}, _tree(1), RISING, paths=PATHS, noise=gaussian()
        )
        (slope,) = torch.autograd.grad(end["a"].square().sum(), scale)
        assert torch.isfinite(slope)
        assert slope != 0

    @pytest.mark.parametrize(
        "times", [[], [0.5], [0.0, 0.5, 0.5], [1.0, 0.0], [-0.1, 1.0], [0.0, 1.1], [0.0, math.nan, 1.0]]
    )
    def test_times_are_checked(self, solver: Solver, times: list[float]) -> None:
        """Times that do not rise strictly within [0, 1] are refused before the field is called."""

        def field(state: Tree, t: float) -> Tree:
            raise AssertionError("the field was called")

        with pytest.raises(ValueError, match="rise"):
            solver.solve(field, _tree(1), times, paths=PATHS, noise=gaussian())

    def test_noise(self, solver: Solver) -> None:
        """A stochastic solver refuses to work without noise; a deterministic one needs none."""
        if solver.stochastic:
            with pytest.raises(ValueError, match="noise"):
                solver.solve(_shrinking(solver), _tree(1), RISING, paths=PATHS)
        else:
            bare = solver.solve(_shrinking(solver), _tree(1), RISING, paths=PATHS)
            noisy = solver.solve(_shrinking(solver), _tree(1), RISING, paths=PATHS, noise=gaussian())
            assert all(torch.equal(bare[name], noisy[name]) for name in bare)

    def test_convergence(self, solver: Solver) -> None:
        """A solver of ordinary differential equations with steps as asked is of first order or better."""
        if solver.wants == "velocity" and not solver.stochastic and solver.calls(1) is not None:
            assert observed_order(solver) > 0.95


def _even(steps: int) -> list[float]:
    return [i / steps for i in range(steps + 1)]


def _tree(seed: int, dtype: torch.dtype = torch.float64) -> Tree:
    shapes: dict[str, Tensor] = {"a": torch.empty(3, 5, 2, dtype=dtype), "b": torch.empty(3, 4, dtype=dtype)}
    return gaussian(seed)(shapes)


def _shrinking(solver: Solver) -> Field:
    return lambda state, t: {name: -x for name, x in state.items()}
