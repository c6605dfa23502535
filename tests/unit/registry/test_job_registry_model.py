"""The registry against a model of a job: random calls over a bad line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mopsjobs.errors import InvalidTransitionError, JobExistsError, JobNotFoundError, MopsJobsError, TerminalStateError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import TERMINAL, JobStatus, steps
from support.bench import Bench


@dataclasses.dataclass(frozen=True)
class Model:
    """The model of a job, in the fewest words."""

    status: JobStatus = JobStatus.PENDING
    done: int = 0
    labels: frozenset[tuple[str, str]] = frozenset()
    history: tuple[JobStatus, ...] = (JobStatus.PENDING,)

    def to(self, target: JobStatus, **fields: Any) -> Model | type[MopsJobsError]:
        """Return the job moved to `target` with these fields, or the error that the attempt deserves."""
        changed = dataclasses.replace(self, **fields)
        if self.status is target:
            annotated = dataclasses.replace(self, labels=changed.labels)
            return TerminalStateError if changed != annotated and self.status in TERMINAL else changed
        way = steps(self.status, target)
        if way is None:
            return TerminalStateError if self.status in TERMINAL else InvalidTransitionError
        return dataclasses.replace(changed, status=target, history=self.history + way)

    def stay(self, **fields: Any) -> Model | type[MopsJobsError]:
        return self.to(self.status, **fields)

    def labelled(self, name: str, value: str) -> frozenset[tuple[str, str]]:
        return frozenset({**dict(self.labels), name: value}.items())


Expected = Model | type[MopsJobsError]
jobs = st.sampled_from("ab")
statuses = st.sampled_from(JobStatus)
names = st.sampled_from("xy")


class RegistryMachine(RuleBasedStateMachine):
    """Random calls over a bad line, with a clock that jumps: the registry is always where the model is."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.registry = self.bench.registry
        self.models: dict[str, Model] = {}
        self.revisions: dict[str, int] = {}

    @rule(lost=st.integers(0, 1), conflicts=st.integers(0, 2), minutes=st.integers(-90, 90))
    def trouble(self, lost: int, conflicts: int, minutes: int) -> None:
        """Choose the faults that the next writes meet; no result shows them."""
        self.bench.line._lost_replies, self.bench.line._conflicts = lost, conflicts
        self.bench.now += timedelta(minutes=minutes)

    @rule(job=jobs)
    def register(self, job: str) -> None:
        self.bench.line._conflicts = 0  # to a create, a lost race means that the key is taken
        if job in self.models:
            with pytest.raises(JobExistsError):
                self.registry.register_job(job)
            return
        self.registry.register_job(job, tasks_total=9)
        self.models[job], self.revisions[job] = Model(), 1

    @rule(job=jobs, status=statuses)
    def move(self, job: str, status: JobStatus) -> None:
        self.compare(job, lambda: self.registry.update_status(job, status), lambda model: model.to(status))

    @rule(job=jobs, status=statuses, name=names, value=st.sampled_from("12"))
    def move_and_label(self, job: str, status: JobStatus, name: str, value: str) -> None:
        self.compare(
            job,
            lambda: self.registry.update_status(job, status, labels={name: value}),
            lambda model: model.to(status, labels=model.labelled(name, value)),
        )

    @rule(job=jobs, name=names, value=st.sampled_from("12"))
    def label(self, job: str, name: str, value: str) -> None:
        self.compare(
            job,
            lambda: self.registry.update_fields(job, labels={name: value}),
            lambda model: model.stay(labels=model.labelled(name, value)),
        )

    @rule(job=jobs, done=st.integers(0, 9))
    def progress(self, job: str, done: int) -> None:
        self.compare(job, lambda: self.registry.update_progress(job, done), lambda model: model.stay(done=done))

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        self.compare(job, lambda: self.registry.cancel_job(job), lambda model: model.to(JobStatus.CANCELLED))

    def compare(self, job: str, call: Callable[[], JobState], change: Callable[[Model], Expected]) -> None:
        expected = change(self.models[job]) if job in self.models else JobNotFoundError
        if isinstance(expected, type):
            with pytest.raises(expected) as caught:
                call()
            assert type(caught.value) is expected
            return
        call()
        self.revisions[job] += expected != self.models[job]
        self.models[job] = expected

    @invariant()
    def the_registry_is_where_the_model_is(self) -> None:
        found = {job.job_id: job for job in JobRegistry(self.bench.store).list_jobs()}
        assert found.keys() == self.models.keys()
        for job_id, model in self.models.items():
            job = found[job_id]
            history = tuple(step["status"] for step in job.transitions)
            assert Model(JobStatus(job.status), job.tasks_completed, frozenset(job.labels.items()), history) == model
            assert job.revision == self.revisions[job_id]
            times = [job.created_at, *(str(step["at"]) for step in job.transitions), job.updated_at]
            assert times == sorted(times)
        assert len(self.bench.told) == sum(self.revisions.values())


TestAgainstAModel = RegistryMachine.TestCase
