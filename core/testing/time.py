"""What every drawing of training times must do. B sets.

@pytest.mark.parametrize("time", [Shared(), Independent(clean=0.5)], ids=str)
class TestTimes(TimeLaws): ...
"""

from __future__ import annotations

import pytest
import torch

from core.kinds.time import Time

STREAMS = (("a",), ("a", "b"), ("a", "b", "c"))


@pytest.mark.parametrize("streams", STREAMS, ids=len)
class TimeLaws:
    """Laws of `core.kinds.time.Time`; parametrise a subclass over `time`."""

    @pytest.mark.parametrize("count", [1, 2, 63])
    def test_range(self, time: Time, streams: tuple[str, ...], count: int) -> None:
        """Each stream gets one float32 time a set, within [0, 1]."""
        for seed in range(20):
            times = time.draw(count, streams, torch.Generator().manual_seed(seed))
            assert tuple(times) == streams
            for t_B in times.values():
                assert t_B.shape == (count,)
                assert t_B.dtype == torch.float32
                assert ((t_B >= 0) & (t_B <= 1)).all()

    def test_generator(self, time: Time, streams: tuple[str, ...]) -> None:
        """The draw is a function of the generator alone, and another generator gives another draw."""
        first = time.draw(16, streams, torch.Generator().manual_seed(1))
        before = torch.random.get_rng_state()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(99)
            again = time.draw(16, streams, torch.Generator().manual_seed(1))
        other = time.draw(16, streams, torch.Generator().manual_seed(2))
        assert torch.equal(before, torch.random.get_rng_state())
        assert all(torch.equal(first[name], again[name]) for name in streams)
        assert any(not torch.equal(first[name], other[name]) for name in streams)

    def test_all_noised(self, time: Time, streams: tuple[str, ...]) -> None:
        """Every stream is noised in some sets, and no set has all its streams clean."""
        times = torch.stack(list(time.draw(400, streams, torch.Generator().manual_seed(0)).values()))
        assert (times < 1).any(dim=1).all()
        assert (times < 1).any(dim=0).all()

    def test_active(self, time: Time, streams: tuple[str, ...]) -> None:
        """The times are those of `draw`; each set teaches a stream, none that is clean, and those of stages are."""
        drawn = time.assign(400, streams, torch.Generator().manual_seed(0))
        times = time.draw(400, streams, torch.Generator().manual_seed(0))
        assert tuple(drawn.times) == tuple(drawn.active) == streams
        assert all(torch.equal(drawn.times[name], times[name]) for name in streams)
        active_SB = torch.stack([drawn.active[name] for name in streams])
        assert active_SB.dtype == torch.bool
        assert active_SB.any(dim=0).all()
        taught = {name for stage in time.stages(streams) for name in stage}
        assert {name for name, active_B in zip(streams, active_SB, strict=True) if active_B.any()} == taught
        assert (torch.stack([drawn.times[name] for name in streams])[active_SB] < 1).all()

    def test_own_memory(self, time: Time, streams: tuple[str, ...]) -> None:
        """Changing one stream's times in place leaves the other streams' alone."""
        times = time.draw(8, streams, torch.Generator().manual_seed(0))
        kept = {name: t_B.clone() for name, t_B in times.items()}
        times[streams[0]].fill_(-1.0)
        assert all(torch.equal(times[name], kept[name]) for name in streams[1:])
