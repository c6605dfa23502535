"""When a value that cost much is computed again."""

from __future__ import annotations

from mopsjobs.web.memo import Memo


class _Costly:
    """Computes numbers, each of which takes some seconds."""

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self.made = 0
        self._seconds = seconds

    def make(self) -> int:
        self.now += self._seconds
        self.made += 1
        return self.made


def test_a_value_stays_until_its_state_changes() -> None:
    """Then it is made again, if it costs little."""
    costly = _Costly(0.0)
    memo: Memo[int] = Memo(lambda: costly.now, 2)
    assert [memo.get("a", state, costly.make) for state in (1, 1, 2, 2)] == [1, 1, 2, 2]


def test_a_costly_value_takes_a_twentieth_of_the_time() -> None:
    """However often its state changes."""
    costly = _Costly(1.0)
    memo: Memo[int] = Memo(lambda: costly.now, 2)
    for state in range(200):
        memo.get("a", state, costly.make)
        costly.now += 1.0
    assert costly.made == 10


def test_the_values_that_were_asked_for_last_are_kept() -> None:
    """Others are dropped."""
    costly = _Costly(0.0)
    memo: Memo[int] = Memo(lambda: costly.now, 2)
    for key in ("a", "b", "c", "c", "b", "a"):
        memo.get(key, 0, costly.make)
    assert costly.made == 4
