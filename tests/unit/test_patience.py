"""Seconds that a process has lived through, on a clock that stalls."""

from types import SimpleNamespace

import pytest

from megatron_srp.training.process import patience


class Clock:
    """Each sleep takes as long as it is asked to, but the third one a minute more."""

    def __init__(self) -> None:
        self.now, self.sleeps = 100.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds + 60 * (self.sleeps == 3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    return clock


def test_a_stall_counts_as_one_step_of_a_silence(clock: Clock) -> None:
    silence = patience.Silence(2.0)
    heard = []
    for _ in range(6):
        clock.sleep(1.0)
        heard.append(silence.seconds())
    assert heard == [1.0, 2.0, 4.0, 5.0, 6.0, 7.0]
    silence.end()
    clock.sleep(1.0)
    assert silence.seconds() == 1.0


def test_a_stall_does_not_use_up_a_sleep(clock: Clock) -> None:
    patience.sleep(5.0)
    assert clock.sleeps == 50 and clock.now == pytest.approx(165)
