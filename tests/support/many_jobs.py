"""Three thousand jobs of eight owners, for pictures of pages and for their layout: the same ones for the same time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bench import registry_data
from mopsjobs.registry.job_state import JobState
from mopsjobs.utils.times import record_time

SEED = 20261126
COUNT = 3000
OWNERS = ("ada", "grace", "emmy", "edsger", "barbara", "donald", "frances", "leslie")
STUDIES = (
    ("malaria.model:run", "bednets"), ("seir.model:run", "baseline"), ("seir.model:run", "school-closure"),
    ("measles.age:simulate", "catch-up-campaign"), ("cholera.water:run", "chlorination"), ("polio.vdpv:run", "nopv2"),
    ("flu.spatial:run_one", "antivirals"),
)  # fmt: skip
ERRORS = (
    ("OOM", "Task 17 ended with exit code 137: out of memory (limit 4 GiB)\nPod evicted from node pool b"),
    ("MODEL", "ValueError: beta must be below 1.0, got 1.031 in seir/model.py:88\nTraceback (most recent call last):"),
    ("MODEL", "ZeroDivisionError: float division by zero in malaria/transmission.py:214"),
    ("INCOMPLETE", "39 of 200 tasks left no output"),
    ("DEADLINE", "The job ran longer than its limit of 6h"),
    ("IMAGE", "ErrImagePull: cannot pull registry.example.org/models/polio:2026.11"),
    ("LOST", "The runner ended without a report, and its pod is gone"),
)
SITES = ("accra", "basel", "lilongwe", "seattle")
LONG_ID = "malaria-" + "sensitivity-of-the-larval-habitat-to-rainfall-" * 4 + "end"
RTL_LABEL = "\u05de\u05dc\u05e8\u05d9\u05d4"
"""A word that is written from right to left."""


_RUN = ("pending", "submitting", "scheduled", "running")
_ENDS = {
    (*_RUN, "validating", "succeeded"): 82,
    (*_RUN, "validating", "partial"): 5,
    (*_RUN, "failed"): 8,
    ("pending", "submitting", "failed"): 1,
    (*_RUN, "cancelled"): 4,
}
"""Ways to an end, and how often each is taken."""


class ManyJobs:
    """The jobs at a time."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._draw = random.Random(SEED)

    def states(self) -> Iterator[JobState]:
        """Yield the jobs: some run, some wait, the others have ended within 30 days. Some were resumed."""
        yield self._job(LONG_ID, _RUN, 5400, owner="ada", labels={"region": RTL_LABEL, "exp": "17"})
        for number in range(57):
            yield self._job(
                self._id(), _RUN if number % 8 else (*_RUN, "validating"), 600 + number * 400, number=number
            )
        for number in range(24):
            yield self._job(self._id(), _RUN[: 1 + number % 3], 60 + number * number * 40)
        made = 82
        while made < COUNT:
            way = self._draw.choices([*_ENDS], [*_ENDS.values()])[0]
            # The first ended ones within the last hours, so that each page shows some of each kind.
            age = self._draw.uniform(60, 86400 if made < 250 else 30 * 86400)
            job = self._job(self._id(), way, age)
            yield job
            made += 1
            if way[-1] in ("failed", "partial") and made % 3 == 0 and made < COUNT:
                yield self._child(job, age)
                made += 1

    def _id(self) -> str:
        model = self._draw.choice(STUDIES)[0].partition(".")[0]
        at = self._now - timedelta(seconds=self._draw.uniform(0, 30 * 86400))
        return f"{model}-{at:%Y%m%d-%H%M%S}-{self._draw.getrandbits(16):04x}"

    def _child(self, job: JobState, age: float) -> JobState:
        way = self._draw.choice(((*_RUN, "validating", "succeeded"), _RUN, (*_RUN, "failed")))
        total = max(1, job.tasks_total - job.tasks_completed)
        own = {"owner": job.owner, "labels": dict(job.labels), "tasks_total": total, "parent_job_id": job.job_id}
        return self._job(f"{job.job_id}.2", way, age / 2, **own)

    def _job(self, job_id: str, way: tuple[str, ...], age: float, *, number: int = 1, **own: Any) -> JobState:
        """Return a job that got the last of these statuses `age` seconds ago."""
        draw, status = self._draw, way[-1]
        model, scenario = next((one for one in STUDIES if job_id.startswith(one[0].partition(".")[0])), STUDIES[0])
        at = self._now - timedelta(seconds=age)
        steps: list[dict[str, object]] = []
        for name in reversed(way):
            steps.insert(0, {"status": name, "at": record_time(at), "id": f"{draw.getrandbits(64):016x}"})
            at -= timedelta(seconds=draw.uniform(1, 4000))
        total = own.pop("tasks_total", draw.choice((20, 200, 500, 2000)))
        bad = 0 if status not in ("failed", "partial", "running") else draw.choice((0, 0, total // 50, total // 5))
        share = {"succeeded": 1.0, "pending": 0.0, "submitting": 0.0, "scheduled": 0.0, "validating": 1.0}
        done = int((total - bad) * share.get(status, draw.random()))
        values: dict[str, Any] = {
            "owner": draw.choice(OWNERS),
            "labels": {"exp": str(draw.randrange(1, 30)), "site": draw.choice(SITES)},
        } | own  # fmt: skip
        metadata: dict[str, Any] = {"model": model, "scenario": scenario, "bundle": "sha256:" + "0" * 64}
        if status in ("running", "validating"):
            # Ahead of the clock, so that none falls silent while a slow test runs.
            beat = self._now + timedelta(hours=1 if number % 9 else -number / 9 - 0.2)
            left = draw.uniform(300, 40000)
            ends = (self._now.timestamp() + left, self._now.timestamp() + left * 1.4, draw.randrange(1, 64))
            values |= {"heartbeat_at": record_time(beat), "shards": {"0": [done, bad, 0]}}
            values |= {"forecast": {"0": list(ends)}} if number % 5 else {}
            if number % 20 == 11:
                metadata["suspect"] = {"reason": "pod is gone", "since": record_time(beat)}
        if status == "failed":
            values["error_code"], values["error_message"] = draw.choice(ERRORS)
        if status == "partial":
            values["error_code"], values["error_message"] = (
                "INCOMPLETE",
                f"{total - done} of {total} tasks left no output",
            )
        return JobState(
            job_id=job_id, status=status, created_at=str(steps[0]["at"]), updated_at=str(steps[-1]["at"]),
            tasks_total=total, tasks_completed=done, tasks_failed=bad, metadata=metadata, transitions=tuple(steps),
            write_id=str(steps[-1]["id"]), revision=len(steps), engine="kubernetes", **values,
        )  # fmt: skip


def fill_cache(path: Path, registry: str, now: datetime) -> None:
    """Fill a cache with the jobs, as if they had come from a registry."""
    registry_data.fill_cache(path, registry, sorted(ManyJobs(now).states(), key=lambda state: f"{state.job_id}/"))
