"""When a value that cost much is computed again."""

from __future__ import annotations

from mopsjobs.web.site.memo import LastUsed, Memo


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


def test_values_that_take_too_much_memory_are_dropped_except_the_last() -> None:
    """The limit is of all of them together."""
    kept: LastUsed[str] = LastUsed(3, 5, len)
    for name, value in (("a", "12"), ("b", "123"), ("c", "1")):
        kept.put(name, value)
    assert [kept.get(name) for name in "abc"] == [None, "123", "1"]
    kept.put("d", "123456")
    assert [kept.get(name) for name in "abcd"] == [None, None, None, "123456"]
