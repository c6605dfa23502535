"""What each job should be: a description in plain Python, which imports nothing of mops-jobs.

A step of a trial changes it by the rules that the documents state. Every view of a job has to agree with it.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

ORDER = ("pending", "submitting", "scheduled", "running", "validating")
ENDS = ("succeeded", "partial", "failed", "cancelled")
EXIT_CODES = {"succeeded": 0, "failed": 100, "cancelled": 103, "partial": 104}
NOT_FINISHED = 8

ARCHIVED = "archived"
SWEEP = "sweep"
SUCCEEDED = "succeeded"
MISSING = "missing"
LOST = "lost"
UNKNOWN = None
"""A fact that the model leaves open. The views still have to agree on it."""

ENDS_BY_MODE = {
    "ok": SUCCEEDED, "wide": SUCCEEDED, "gate": SUCCEEDED, "save": SUCCEEDED,
    "fail": "failed", "fail-once": "failed", "die-once": "died",
}  # fmt: skip
"""How a task ends by the mode of its parameter set, as long as the study is not repaired."""

LISTED = (3, 4, 5, 6)
"""Seeds of replicates that a study lists; those from a base are others, but odd where these are."""
BASE = 7


MOST_X = 10**6
MODES = ("ok", "ok", "fail")
"""What a search draws from: the highest `x`, and the modes."""


@dataclass(frozen=True)
class Search:
    """A calibration by random draws, which follow from its seed."""

    seed: int
    rounds: int
    """Those of earlier calibrations included."""
    inherited: int = 0
    sets_per_round: int = 2

    def draws(self) -> list[tuple[int, str]]:
        """Return `x` and the mode of each set, those of earlier calibrations included."""
        chance = random.Random(self.seed)
        count = self.rounds * self.sets_per_round
        return [(int(chance.random() * (MOST_X + 1)), MODES[int(chance.random() * 3)]) for _ in range(count)]

    def study(self, name: str) -> Study:
        """Return the study of its own job."""
        own = self.draws()[self.inherited * self.sets_per_round :]
        return Study(name, tuple(mode for _, mode in own), 1, xs=tuple(x for x, _ in own))

    def counts(self) -> dict[str, Any]:
        """Return what each view of the record has to show."""
        told = [
            (x * 10 + 0.5, place // self.sets_per_round + 1)
            for place, (x, mode) in enumerate(self.draws())
            if mode == "ok"
        ]
        value, number = min(told, default=(None, None))
        sets = self.rounds * self.sets_per_round
        return {
            "rounds": self.rounds, "at_most": self.rounds, "inherited": self.inherited, "sets": sets,
            "failed": sets - len(told), "best": value, "best in round": number,
        }  # fmt: skip


@dataclass(frozen=True)
class Study:
    """The parameter sets of a study by `x`: the mode of each, and how often it is repeated."""

    name: str
    modes: tuple[str, ...]
    replicates: int
    """Of each set; the most, if the study is adaptive."""
    least: int | None = None
    """The replicates after which an adaptive study looks at a set first, which is precise then unless it is `wide`."""
    seeds: str | None = None
    """The rule of its seeds: `common`, `listed`, `base`; None for the default."""
    xs: tuple[int, ...] | None = None
    """The parameter `x` of each set; None if it is the place of the set."""

    def tasks(self) -> list[int]:
        """Return the numbers of the tasks that it needs. An adaptive study leaves out some."""
        each = [self.replicates if self.least is None or mode == "wide" else self.least for mode in self.modes]
        return [x * self.replicates + replicate for x, needed in enumerate(each) for replicate in range(needed)]

    def x(self, task: int) -> int:
        """Return the parameter of a task."""
        place = task // self.replicates
        return place if self.xs is None else self.xs[place]

    def seed(self, task: int) -> int | None:
        """Return the seed of a task; None if the rule depends on more than is known here."""
        replicate = task % self.replicates
        if self.seeds == "common":
            digest = hashlib.blake2b(f"common:{replicate}".encode(), digest_size=8).digest()
            return int.from_bytes(digest, "big") % 2**32
        return {"listed": LISTED[replicate], "base": BASE + replicate}.get(self.seeds or "")

    def value(self, task: int) -> float:
        """Return the result of a task. Those of a wide set are far apart by their seeds."""
        away = 0 if self.modes[task // self.replicates] != "wide" else 1000 if task % 2 == 0 else -1000
        return self.x(task) * 10 + 0.5 + away

    def end(self, task: int, *, is_repaired: bool) -> str:
        """Return how a run of a task ends."""
        mode = self.modes[task // self.replicates]
        return SUCCEEDED if is_repaired and mode.endswith("-once") else ENDS_BY_MODE[mode]


@dataclass
class Job:
    """One job as its record and its ledger should have it."""

    job_id: str
    status: str = "pending"
    total: int | None = None
    completed: int = 0
    failed: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    note: str | None = None
    parent: str | None = None
    study: Study | None = None
    ends: dict[int, str] = field(default_factory=dict)
    """How its own tasks ended, by their numbers."""
    deferred: tuple[int, ...] = ()
    """The tasks of its parent that it left to a later resume."""
    reused: dict[int, str] = field(default_factory=dict)
    """Tasks that it took over from an earlier job, and the job that holds their outputs."""
    ended_in: int | None = None
    """The step in which it ended."""
    is_foreign: bool = False
    """Whether another program registered it, with a Job of Kubernetes."""
    is_capped: bool = False
    """Whether its first task uses up its budget of CPU-hours."""
    search: Search | None = None
    """The calibration whose sets it runs."""
    was_killed: bool = False
    """Whether its runner was killed, so that no ledger may tell how its tasks ended."""

    @property
    def is_archived(self) -> bool:
        """Return whether lists leave it out."""
        return not self.is_active and self.labels.get(ARCHIVED) == "true"

    def labels_to_inherit(self) -> dict[str, str]:
        """Return the labels that a child gets."""
        return {label: value for label, value in self.labels.items() if label != ARCHIVED}

    @property
    def is_active(self) -> bool:
        """Return whether it has not ended."""
        return self.status not in ENDS

    @property
    def exit_code(self) -> int:
        """Return the exit code that tells its end."""
        return NOT_FINISHED if self.is_active else EXIT_CODES[self.status]

    def record(self) -> dict[str, Any]:
        """Return what each view of the record has to show."""
        return {
            "id": self.job_id,
            "status": self.status,
            "total": self.total,
            "completed": self.completed,
            "failed": self.failed,
            "labels": tuple(sorted(self.labels.items())),
            "note": self.note,
            "parent": self.parent,
            "calibration": None if self.search is None else tuple(self.search.counts().items()),
        }


@dataclass
class Cache:
    """The jobs that a cache may and may not show."""

    pruned: set[str] = field(default_factory=set)
    seen: dict[str, int] = field(default_factory=dict)
    """Of each job, the oldest version that a view may still show; none for a job that it may lack."""
    ledgers: set[str] = field(default_factory=set)
    """Jobs whose ledgers it had read after their end."""


class World:
    """All jobs of a registry, each with all versions that it had, and the caches of it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.versions: dict[str, list[dict[str, Any]]] = {}
        self.caches = {"a": Cache(), "b": Cache()}
        self.step = 0
        self.repaired: set[str] = set()
        """Names of studies whose tasks fail no more, if they fail once."""
        self.deleted: set[tuple[str, int]] = set()
        """Outputs that were deleted by hand: the job that held them, and the task."""
        self.without_ledger: set[str] = set()
        """Jobs whose ledgers were pruned from the store."""

    # --- changes ---------------------------------------------------------------------------------------------------

    def changed(self, job_id: str, by: str | None) -> None:
        """Note a new version of a record, written from the machine of a cache, or by another program."""
        job = self.jobs[job_id]
        if not job.is_active and job.ended_in is None:
            job.ended_in = self.step
        self.versions.setdefault(job_id, []).append(job.record())
        for name, cache in self.caches.items():
            if name == by:
                self.has_seen(name, job_id)
                for member in self.family(job_id) & cache.pruned:  # a family is pruned as one
                    cache.pruned.discard(member)
                    self.has_seen(name, member)

    def has_seen(self, name: str, job_id: str) -> None:
        """Note that a cache has the last version of a job."""
        self.caches[name].seen[job_id] = len(self.versions[job_id]) - 1

    def synced(self, name: str) -> None:
        """Note that a cache was synced. A pruned job comes back if it has changed, or with one of its family."""
        cache = self.caches[name]
        for job_id in self.jobs:
            if cache.seen.get(job_id) != len(self.versions[job_id]) - 1:
                cache.pruned.discard(job_id)
                self.has_seen(name, job_id)
        for job_id in self.jobs.keys() - cache.pruned:
            cache.pruned -= self.family(job_id)

    def is_behind(self, name: str) -> bool:
        """Return whether a cache may show something older than the registry has."""
        seen = self.caches[name].seen
        return any(seen.get(job_id) != len(versions) - 1 for job_id, versions in self.versions.items())

    def prune(self, name: str, before_step: int) -> None:
        """Prune a cache: families go as one, when all of their jobs in the cache ended before a step."""
        cache = self.caches[name]
        shown = {job_id for job_id in self.jobs if job_id in cache.seen and job_id not in cache.pruned}
        is_pruning = False
        for job_id in shown:
            family = [self.jobs[member] for member in self.family(job_id) if member in shown]
            if all(member.ended_in is not None and member.ended_in < before_step for member in family):
                cache.pruned.add(job_id)
                is_pruning = True
        if is_pruning:
            cache.ledgers -= cache.pruned  # also one that was read again for a look at a pruned job

    def prune_store(self) -> None:
        """Prune the ledgers of jobs that have ended from the store."""
        self.without_ledger |= {job.job_id for job in self.jobs.values() if not job.is_active}

    def run(self, job: Job, tasks: list[int]) -> None:
        """Let tasks of a job end, and then the job."""
        assert job.study is not None
        is_repaired, begun = job.study.name in self.repaired, tasks[:1] if job.is_capped else tasks
        ends = {task: job.study.end(task, is_repaired=is_repaired) for task in begun}
        self.end(job, dict.fromkeys(tasks, MISSING) | ends)

    def end(self, job: Job, ends: dict[int, str]) -> None:
        """Let a job end with its tasks."""
        job.ends, last = ends, list(ends.values())
        job.total = len(ends) + len(job.reused)
        job.completed = last.count(SUCCEEDED) + len(job.reused)
        job.failed = len(last) - last.count(SUCCEEDED) - last.count(MISSING)
        is_whole = job.completed == job.total and not job.deferred
        job.status = SUCCEEDED if is_whole else "partial" if job.completed else "failed"

    # --- what follows ----------------------------------------------------------------------------------------------

    def lineage(self, job_id: str) -> Iterator[Job]:
        """Yield a job, its parent, and so on."""
        job: Job | None = self.jobs.get(job_id)
        while job is not None:
            yield job
            job = self.jobs.get(job.parent or "")

    def family(self, job_id: str) -> set[str]:
        """Return the ids of a job, its ancestors, and all that descend from them."""
        root = [job.job_id for job in self.lineage(job_id)][-1]
        return {other for other in self.jobs if root in [job.job_id for job in self.lineage(other)]}

    def child_id(self, job_id: str) -> str:
        """Return the id of the job that resumes another: `exp-2.2`, then `exp-2.3`."""
        ancestors = [job.job_id for job in self.lineage(job_id)]
        return f"{ancestors[-1]}.{len(ancestors) + 1}"

    def newest(self, job_id: str) -> Job:
        """Return the last job of a family that was resumed."""
        return max(
            (self.jobs[member] for member in self.family(job_id)), key=lambda job: len([*self.lineage(job.job_id)])
        )

    def ends(self, job: Job, name: str | None = None) -> dict[int, str]:
        """Return how the tasks of a job alone ended, as a cache can know it; without one, as it was."""
        ends = job.ends | dict.fromkeys(job.reused, SUCCEEDED)
        if name is not None and job.job_id in self.without_ledger - self.caches[name].ledgers:
            return {task: end if end == SUCCEEDED else MISSING for task, end in ends.items()}
        return ends

    def rows(self, job_id: str, name: str | None = None) -> dict[int, tuple[str, str]]:
        """Return the rows of a table of results: of each task, the job that has it, and how it ended."""
        rows: dict[int, tuple[str, str]] = {}
        for job in self.lineage(job_id):
            for task, end in self.ends(job, name).items():
                if task not in rows or (rows[task][1] == MISSING and end != MISSING):
                    rows[task] = (job.job_id, end)
        return rows

    def contrast(self, job_id: str, name: str) -> tuple[str, tuple[object, ...]] | None:
        """Return two values of x to compare, and of both how many results count, and their means.

        None if no two sets differ in x alone, or nothing is to compare.
        """
        study = self.jobs[job_id].study
        alike = [] if study is None else [x for x, mode in enumerate(study.modes) if mode == study.modes[0]][:2]
        if study is None or study.xs is not None or len(alike) < 2:
            return None
        sides: list[dict[int, float]] = [{}, {}]
        for task, (_, end) in self.rows(job_id, name).items():
            if end == SUCCEEDED and study.x(task) in alike:
                sides[alike.index(study.x(task))][task % study.replicates] = study.value(task)
        if not any(sides):
            return None
        if study.seeds is not None:  # replicates are paired by them
            sides = [{one: side[one] for one in sides[0].keys() & sides[1].keys()} for side in sides]
        means = [sum(side.values()) / len(side) if side else None for side in sides]
        return f"x={alike[0]},{alike[1]}", (*map(len, sides), *means)

    def family_done(self, job_id: str) -> tuple[int, int | None] | None:
        """Return how many tasks of a study its family has done, and how many there are; None of other families."""
        root = [*self.lineage(job_id)][-1]
        if root.study is None or len(self.family(job_id)) == 1:
            return UNKNOWN
        ends = [end for _, end in self.rows(self.newest(job_id).job_id).values()]
        return ends.count(SUCCEEDED), root.total

    def sweeps(self, shown: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the rows of sweeps in a cache that shows these jobs: the statuses and the tasks of the jobs of each.

        A sweep has no row if the cache knows a single job of it, or if all are archived. A job that was resumed counts
        as the one that took up its tasks.
        """
        by_name: dict[str, list[Job]] = {}
        for job_id in shown:
            if name := self.jobs[job_id].labels.get(SWEEP):
                by_name.setdefault(name, []).append(self.jobs[job_id])
        rows = {}
        for name, members in by_name.items():
            listed = {one.job_id: one for one in members if not one.is_archived}
            if len(members) < 2 or not listed:
                continue
            pairs = [(listed[one.parent], one) for one in listed.values() if one.parent in listed]
            counts = Counter(one.status for one in listed.values())
            counts.subtract(parent.status for parent, child in pairs if not child.deferred)
            completed, total = (
                sum(getattr(one, field) or 0 for one in listed.values()) for field in ("completed", "total")
            )
            for parent, child in pairs:
                is_adaptive = child.study is not None and child.study.least is not None
                total -= (parent.total if is_adaptive else child.total) or 0
                completed -= parent.completed if is_adaptive else 0
            statuses = tuple(sorted((status, count) for status, count in counts.items() if count))
            rows[name] = {"statuses": statuses, "tasks": (completed, total)}
        return rows

    def holder(self, job_id: str, task: int) -> str:
        """Return the job whose prefix has the output of a task."""
        return self.jobs[job_id].reused.get(task, job_id)

    def outputs(self, job_id: str) -> tuple[int, ...]:
        """Return the tasks of a job and its ancestors whose outputs are stored."""
        rows = self.rows(job_id).items()
        found = [task for task, (owner, end) in rows if end == SUCCEEDED and not self.is_deleted(owner, task)]
        return tuple(sorted(found))

    def is_deleted(self, job_id: str, task: int) -> bool:
        """Return whether the output of a task was deleted by hand."""
        return (self.holder(job_id, task), task) in self.deleted

    def missing(self, job_id: str) -> dict[int, str]:
        """Return the tasks without an output that a resume of a job would run, and how they ended last."""
        return {task: end for task, (_, end) in self.rows(job_id).items() if end != SUCCEEDED}

    def taken_over(self, job_id: str) -> dict[int, str]:
        """Return the tasks that a child has from a job without running them, and the jobs that hold their outputs.

        Of a study that is not adaptive, it has none. The decisions of others need all tasks.
        """
        study, rows = self.jobs[job_id].study, self.rows(job_id)
        if study is None or study.least is None:
            return {}
        return {task: self.holder(rows[task][0], task) for task in self.outputs(job_id)}
