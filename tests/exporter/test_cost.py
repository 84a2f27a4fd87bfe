"""What a sample costs is measured in few runs where runs are long, and in bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from keepdrop_exporter.verification.cost import cost


class Clock:
    """Processor time that runs pass as they are told to."""

    def __init__(self, run: float, sample: float) -> None:
        self.now, self.asked = 0.0, []
        self._run, self._sample = run, sample

    def __call__(self) -> float:
        return self.now

    def run(self, samples: int) -> Callable[[], None]:
        def action() -> None:
            self.asked.append(samples)
            self.now += self._run + samples * self._sample

        return action


@pytest.mark.parametrize("run, sample, most", [(1e-3, 1e-5, 101), (0.01, 0.01, 51), (0.1, 1.2, 2), (0.0, 30.0, 2)])
def test_long_runs_are_few(run: float, sample: float, most: int) -> None:
    clock = Clock(run, sample)
    found = cost(clock.run, 7, clock)
    assert (found.run, found.sample) == (pytest.approx(run, abs=1e-9), pytest.approx(sample))
    assert max(clock.asked) <= most
    assert clock.now < 3 + 6 * (run + sample)
    assert len(clock.asked) <= 16


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_bytes_are_those_of_the_peak() -> None:
    def run(samples: int) -> Callable[[], object]:
        return lambda: np.ones(samples << 20, np.uint8)  # which is dropped at once

    found = cost(run, 3)
    assert found.bytes == pytest.approx(1 << 20, rel=0.1)
