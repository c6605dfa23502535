"""The lanes and bars of the jobs of the last day."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given, settings

from mopsjobs.cache.queries.recent import RecentJob
from mopsjobs.web import gantt

NOW = 1_000_000 * gantt.HOUR + 1234.0

ROWS = st.tuples(st.integers(0, 40 * 3600), st.integers(0, 20 * 3600), st.integers(0, 20 * 3600), st.integers(0, 3))


def job(row: int, ago: float, queued: float, ran: float, status: str = "succeeded") -> RecentJob:
    """Return a job that was registered `ago` seconds before now; one that would end after now is active."""
    created = NOW - ago
    started = created + queued if created + queued <= NOW else None
    ended = created + queued + ran if created + queued + ran <= NOW else None
    return RecentJob(row, status, ended is None, created, started, ended, has_history=True)


@given(rows=st.lists(ROWS, max_size=60))
@settings(max_examples=100)
def test_bars_of_a_lane_do_not_overlap(rows: list[tuple[int, int, int, int]]) -> None:
    """Each job is a bar or one of the others; bars keep a place for their marks, and their blocks keep apart."""
    owners: dict[str, list[RecentJob]] = {}
    for number, (ago, queued, ran, owner) in enumerate(rows):
        found = job(number, ago, queued, ran, ("succeeded", "failed")[number % 2])
        if found.ended is None or found.ended >= gantt.window(NOW)[0]:
            owners.setdefault(f"owner-{owner}", []).append(found)
    drawn = gantt.lay_out(owners, NOW)
    assert sum(block.jobs for block in drawn.blocks) == sum(map(len, owners.values()))
    for block, after in pairwise([*drawn.blocks, None]):
        assert block is not None
        assert len(block.bars) + block.others == block.jobs == sum(block.counts.values())
        assert len(block.bars) <= gantt.MAX_BARS
        lanes: dict[int, list[gantt.Bar]] = {}
        for bar in block.bars:
            assert 0 <= bar.left <= bar.start <= bar.right <= 100 + gantt.LEAST_WIDTH
            lanes.setdefault(bar.y, []).append(bar)
        assert len(lanes) <= gantt.MAX_LANES
        for lane in lanes.values():
            ordered = sorted(lane, key=lambda bar: bar.left)
            assert all(one.right + gantt.MARK_WIDTH <= other.left for one, other in pairwise(ordered))
        bottom = max([*lanes, block.y]) + (gantt.OTHERS if block.others else 0)
        assert bottom < (drawn.height if after is None else after.y)


def test_failed_jobs_have_the_first_bars() -> None:
    """Then active ones, then the longest; an area has the others at their times."""
    jobs = [job(number, 3 * 3600, 60, 1800) for number in range(100)]
    jobs += [job(200, 3600, 60, 60, "failed"), job(201, 3600, 60, 7200, "running")]
    [block] = gantt.lay_out({"ada": jobs}, NOW).blocks
    assert {200, 201} <= {bar.job.row for bar in block.bars}
    assert block.others == 102 - len(block.bars) > 0
    assert max(block.levels) == block.others
    assert sum(level > 0 for level in block.levels) in (2, 3, 4), "half an hour, in parts of a quarter"


def test_the_drawing_is_bounded() -> None:
    """A hundred owners of a hundred jobs each: ten have blocks, the others are counted."""
    owners = {f"owner-{number}": [job(one, 7200, 60, 900) for one in range(100)] for number in range(100)}
    drawn = gantt.lay_out(owners, NOW)
    assert len(drawn.blocks) == gantt.MAX_OWNERS
    assert len(drawn.rest) == 100 - gantt.MAX_OWNERS
    assert sum(len(block.bars) for block in drawn.blocks) <= gantt.MAX_OWNERS * gantt.MAX_BARS
    assert drawn.height < 2000


def test_the_window_has_a_day_and_full_hours() -> None:
    """Bars of ended jobs keep their places within an hour; now is a line in it, at its end on the hour."""
    ended = {"a": [job(1, 7200, 60, 900)]}
    places = [gantt.lay_out(ended, at).blocks[0].bars[0][1:] for at in (NOW, NOW + 600)]
    assert places[0] == places[1]
    since, until = gantt.window(NOW)
    assert (NOW - since >= 24 * gantt.HOUR, until >= NOW, since % gantt.HOUR, until % gantt.HOUR) == (True, True, 0, 0)
    assert gantt.window(until) == (until - 24 * gantt.HOUR, until)
    assert gantt.lay_out({}, until).now == 100
    assert all(0 < place < 100 for place, _ in gantt.lay_out({}, until).ticks), "a text has no room at the edges"


def test_a_job_of_unknown_start_has_no_queue() -> None:
    """Its record does not tell; one that waits still has nothing else."""
    undated = RecentJob(1, "running", True, NOW - 3600, None, None, has_history=False)
    waiting = RecentJob(2, "scheduled", True, NOW - 3600, None, None, has_history=True)
    [block] = gantt.lay_out({"a": [undated, waiting]}, NOW).blocks
    first, second = sorted(block.bars, key=lambda bar: bar.job.row)
    assert first.start == first.left
    assert second.start == second.right
