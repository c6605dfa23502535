"""The limit of failed tasks: which texts it takes, and that chance does not reach a share."""

from __future__ import annotations

import heapq
import random

import pytest

from mopsjobs.errors import OptionError
from mopsjobs.registry.failure_limit import parse_failure_limit, tally


def test_a_limit_is_a_number_or_a_share() -> None:
    """A number is exceeded by one more failure."""
    assert parse_failure_limit("2.5%") == ("2.5%", None, 0.025)
    limit = parse_failure_limit("10")
    assert [limit.is_exceeded(failed, 1000) for failed in (10, 11)] == [False, True]


@pytest.mark.parametrize("text", ["", "-1", "0.1", "ten", "0%", "100%", "-5%", "1e1%", "10 %", "%", "٣", "1" * 5000])
def test_an_invalid_limit_is_refused(text: str) -> None:
    with pytest.raises(
        OptionError, match=r"^invalid max_failures '.*': expected a number of tasks, or a share"
    ) as told:
        parse_failure_limit(text)
    assert told.value.fields == ("max_failures",)


@pytest.mark.parametrize(
    ("text", "failed", "begun"),
    [("10%", 7, 7), ("10%", 10, 19), ("10%", 20, 96), ("10%", 46, 450), ("1%", 4, 4), ("50%", 12, 12)],
)
def test_a_share_is_judged_from_a_least_sample(text: str, failed: int, begun: int) -> None:
    """That of the decision record. With one failure less it is not judged yet."""
    limit = parse_failure_limit(text)
    assert limit.is_exceeded(failed, begun)
    assert not limit.is_exceeded(failed - 1, begun)


def _chance_of_an_end(rate: float, text: str, total: int) -> float:
    """Return the exact probability that a job is ended whose tasks fail at a rate, one after another."""
    limit, ended = parse_failure_limit(text), 0.0
    chances = [1.0]
    """Of each number of failures so far, in jobs that go on."""
    for begun in range(1, total + 1):
        following = [0.0] * (len(chances) + 1)
        for failed, chance in enumerate(chances):
            following[failed] += chance * (1 - rate)
            following[failed + 1] += chance * rate
        least = next((n for n in range(1, len(following)) if limit.is_exceeded(n, begun)), len(following))
        ended += sum(following[least:])
        chances = following[:least]
    return ended


@pytest.mark.parametrize(("rate", "text"), [(0.03, "10%"), (0.003, "1%"), (0.15, "50%")])
def test_chance_never_ends_a_job_that_fails_at_a_third(rate: float, text: str) -> None:
    """Of its limit: less than once in 500 million jobs. Exact, and summed over all moments of 600 tasks."""
    assert _chance_of_an_end(rate, text, 600) < 2e-9


@pytest.mark.parametrize(("rate", "total"), [(1.0, 7), (0.15, 1000)])
def test_a_job_that_fails_too_often_is_ended(rate: float, total: int) -> None:
    assert _chance_of_an_end(rate, "10%", total) > 0.98


def _is_ended(seed: int, rate: float, shards: int, workers: int, total: int) -> bool:
    """Simulate a job whose tasks fail at once or run long, and say whether a limit of 10 % ends it."""
    draw, limit = random.Random(seed), parse_failure_limit("10%")
    running: list[tuple[float, bool]] = []
    completed = failed = begun = 0
    now = 0.0
    while completed + failed < total:
        while len(running) < shards * workers and begun < total:
            is_bad = draw.random() < rate
            heapq.heappush(running, (now + draw.random() * (0.01 if is_bad else 3600.0), is_bad))
            begun += 1
        now, is_bad = heapq.heappop(running)
        failed, completed = failed + is_bad, completed + (not is_bad)
        at_work = tally({}, shards, 0, (0, 0)).unfinished * workers
        if limit.is_exceeded(failed, min(completed + failed + at_work, total)):
            return True
    return False


def test_failures_that_come_first_do_not_end_a_job() -> None:
    """400 workers of which 3 % fail in a moment, while the others take an hour: none has succeeded yet."""
    assert not any(_is_ended(seed, 0.03, shards=100, workers=4, total=800) for seed in range(200))
    assert all(_is_ended(seed, 0.3, shards=100, workers=4, total=800) for seed in range(20))


def test_the_counts_of_a_job_have_the_newest_of_the_own_shard() -> None:
    """Those of shards that the job does not have count no more. A shard without a report has work left."""
    by_shard = {"0": [5, 1, 1], "1": [2, 0, 0], "7": [9, 9, 1], "x": [9, 9, 1]}
    assert tally(by_shard, 4, 1, (3, 2)) == (8, 3, 3)
    assert tally({}, 4, 1, (3, 2)) == (3, 2, 4)
