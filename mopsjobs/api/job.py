"""A job as a Python program holds it: an id and a registry. Dropping the handle changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from mopsjobs.api.arguments import (
    Choices,
    Duration,
    Freshness,
    RunnerOptions,
    check_limit,
    check_texts,
    choices_text,
    labels_to_set,
    launch_options,
    policy_of,
    require,
    seconds_of,
    task_query,
    task_set,
)
from mopsjobs.api.as_completed import noting_what_goes_on, tasks_as_completed
from mopsjobs.api.job_info import JobInfo
from mopsjobs.api.reduced import reduced_outputs, table_of_reductions
from mopsjobs.api.replay import replay_task
from mopsjobs.api.table import Failures, Table, table_of_dicts
from mopsjobs.api.task_info import TaskInfo
from mopsjobs.app.run.exit_codes import exit_code_of
from mopsjobs.errors import (
    EXIT_DONE,
    JobCancelledError,
    JobEndError,
    JobFailedError,
    JobNotFinishedError,
    JobPartialError,
)

if TYPE_CHECKING:
    from mopsjobs.api.registry import Registry
    from mopsjobs.app.following.notify.watched import OnEvent
    from mopsjobs.app.following.wait import WaitResult
    from mopsjobs.app.run.app import App
    from mopsjobs.cache.queries.tasks import TaskList
    from mopsjobs.registry.job_state import JobState

_END_ERRORS: dict[int, type[JobEndError]] = {
    kind.exit_code: kind for kind in (JobFailedError, JobCancelledError, JobPartialError, JobNotFinishedError)
}


class Job:
    """A handle on a job: its id, and the registry that has it. It keeps nothing else, and cancels nothing."""

    __slots__ = ("id", "registry")

    def __init__(self, registry: Registry, job_id: str) -> None:
        """Make a handle; nothing is read. `Registry.job` also checks that the job exists."""
        self.registry = registry
        self.id: str = job_id
        """The full id of the job."""

    @property
    def _app(self) -> App:
        return self.registry.app

    # --- read ------------------------------------------------------------------------------------------------

    def status(self, **freshness: Unpack[Freshness]) -> JobInfo:
        """Return the job as `status` shows it: from the cache; a registry on this machine is read first.

        Raises:
            JobNotFoundError: if the job does not exist.
            StoreError: if the registry cannot be read, and neither the cache nor an engine knows the job.
        """
        from mopsjobs.app.jobs.find_job import find_job

        found = find_job(self.id, self._app, policy_of(freshness, Job.status))
        self._warn(found.warnings)
        return JobInfo(found.job, "live" if found.freshness is None else found.freshness.describe())

    def wait(
        self, timeout: Duration | None = None, *, interval: Duration | None = None, on_event: OnEvent | None = None
    ) -> JobInfo:
        """Wait until the job ends, however it ends, or until the time is up. See `raise_for_status`.

        An interrupt ends only the wait.

        Args:
            timeout: a text like `2h`, or seconds; None for no limit.
            interval: the time between two reads; None for that of `wait`.
            on_event: called once with the notification of its end, of many failures, and of a suspect, as a webhook
                gets it.

        Raises:
            JobNotFoundError: if the job does not exist.
            StoreUnavailableError: if the time was up while the registry did not answer.
        """
        from mopsjobs.app.following.wait import wait_for

        return self._wait(wait_for, timeout, interval, on_event=on_event)

    def watch(self, timeout: Duration | None = None, *, interval: Duration | None = None) -> JobInfo:
        """Show the job until it ends, or until the time is up, and wait for that as `wait` does.

        A notebook shows what the handle shows, redrawn in place. A terminal has the line of `mops-jobs wait` on stderr.
        For arguments and errors, see `wait`.
        """
        from mopsjobs.api.live_view import wait_with_view

        return self._wait(wait_with_view, timeout, interval)

    def _wait(
        self, wait: Callable[..., WaitResult], timeout: Duration | None, interval: Duration | None, **more: object
    ) -> JobInfo:
        """Return the job at the end of a wait."""
        from mopsjobs.app.following.wait import StopCondition

        app, until = self._app, StopCondition(timeout=seconds_of(timeout))
        with noting_what_goes_on([self.id]):
            waited = wait([self.id], app, until, interval=seconds_of(interval), **more)
        if waited.is_cached:
            return self.status(offline=True)  # with the age of the cache
        return self._live(waited.states[0])

    def as_completed(self, timeout: Duration | None = None, *, interval: Duration | None = None) -> Iterator[TaskInfo]:
        """Yield each task of the job once, as it ends, until the job has ended or the time is up.

        A failed task raises nothing. One that is tried again is yielded at its end. Arguments and errors are those of
        `wait`; without a manifest, `NoManifestError` is raised too.
        """
        return tasks_as_completed(self.id, self._app, timeout, interval)

    def raise_for_status(self) -> None:
        """Raise an error unless the job has succeeded. Its `exit_code` is that of `status --exit-status`.

        Raises:
            JobFailedError: if it has failed.
            JobCancelledError: if it was cancelled.
            JobPartialError: if some of its tasks have no complete outputs.
            JobNotFinishedError: if it has not ended.
        """
        job = self.status()
        if exit_code_of(job) == JobNotFinishedError.exit_code:
            job = self.status(refresh=True)  # an end is final; all else may be old
        if (code := exit_code_of(job)) == EXIT_DONE:
            return
        why = ": ".join(str(job[name]) for name in ("error_code", "error_message") if job.get(name))
        raise _END_ERRORS[code](
            f"Job {self.id} is {job['status']}{f': {why}' if why else ''}.", job_id=self.id, status=str(job["status"])
        )

    def tasks(
        self,
        status: Choices | None = None,
        param: str | Iterable[str] = (),
        *,
        sort: str | None = None,
        limit: int = 0,
        **freshness: Unpack[Freshness],
    ) -> Table:
        """Return the tasks of the job, with the fields of `tasks --json`.

        Args:
            status: statuses of tasks; several as a list, or separated by commas.
            param: conditions on parameters, like `beta>0.9`.
            sort: the order; see `tasks --sort`.
            limit: the first tasks, this many; 0 for all.
            freshness: see `Freshness`.

        Raises:
            UsageError: if an argument is malformed.
            NoManifestError: if mops-jobs did not submit the job.
            StoreError: if the registry cannot be read, and the cache does not have the tasks.
        """
        from mopsjobs.app.jobs.job_tasks import find_tasks
        from mopsjobs.cache.queries.tasks import TASK_FIELDS

        query, limit = task_query(status, param, sort), check_limit(limit)
        job = find_tasks(self.id, self._app, policy_of(freshness, Job.tasks))

        def view(tasks: TaskList) -> Table:
            self._warn(job.warnings_with(tasks))
            items = (task.to_json() for task in tasks.tasks(limit))
            return table_of_dicts(f"tasks of {self.id}", TASK_FIELDS, items, age=job.describe_age(tasks.ledger))

        return job.read(query, view)

    def failures(self, **freshness: Unpack[Freshness]) -> Failures:
        """Return the failed tasks by their errors, and what separates them: the document of `failures --json`.

        Raises:
            NoManifestError: if mops-jobs did not submit the job.
            StoreError: if the registry cannot be read, and the cache does not have the tasks.
        """
        from mopsjobs.app.tasks.failures import failures_of_jobs

        failures = failures_of_jobs([self.id], self._app, policy_of(freshness, Job.failures))
        self._warn(failures.warnings)
        return Failures(failures.to_json(self._app))

    def logs(
        self,
        task: int | Iterable[int] | None = None,
        *,
        failed: bool = False,
        grep: str | None = None,
        since: Duration | None = None,
        tail: int | None = None,
        offline: bool = False,
        trust: Sequence[str] = (),
    ) -> list[str]:
        """Return the log lines so far, with the traceback of each failed task.

        Args:
            task: only lines of this task, or of these.
            failed: only lines of tasks that failed.
            grep: only lines that contain a match of this regular expression.
            since: only lines newer than this.
            tail: only the last lines, this many.
            offline: never use the network.
            trust: choices of the record that are accepted, as `KIND:VALUE`.

        Raises:
            UsageError: if an argument is malformed.
            StoreUnavailableError: if the registry does not answer, and neither cache nor machine has lines.
        """
        from mopsjobs.app.following.log_source import LogRequest, read_logs

        check_texts(grep=grep)
        require(tail is None or isinstance(tail, int), "tail", tail, "a number of lines")
        lines: list[str] = []
        request = LogRequest(
            job=self.id,
            since=seconds_of(since),
            tail=tail,
            pattern=grep,
            offline=offline,
            trust=trust,
            tasks=task_set(task),
            failed=failed,
        )
        read_logs(request, self._app, lambda some: lines.extend(line.text for line in some))
        return lines

    def events(self, kind: str | None = None, *, offline: bool = False) -> list[dict[str, Any]]:
        """Return the events of the job so far, as `events --json` prints them.

        Args:
            kind: kinds of events, separated by commas; None for all.
            offline: never use the network.

        Raises:
            UsageError: if a kind is malformed.
            StoreUnavailableError: if the registry does not answer, and the cache has no events.
        """
        from mopsjobs.app.following.event_feed import EventFeed, parse_kinds
        from mopsjobs.cache.queries.events import cache_id, public_event

        app = self._app
        kinds = None if kind is None else parse_kinds(kind)
        feed = EventFeed(app, self.id, offline=offline, follow=False, kinds=kinds)
        feed.sync_if_possible()
        cache = app.cache.read_cached(cache_id) or ""
        return [public_event(cache, one) for page in feed.pages(0) for one in page]

    def results(self, *, mean: bool = False, quantiles: Sequence[float] = (), offline: bool = False) -> Table:
        """Return the table of results: a row per task of the job and its ancestors, as `results --table` writes it.

        Args:
            mean: a row per parameter set, with the mean of each number.
            quantiles: a row per parameter set, with these quantiles of each number.
            offline: never use the network. The cache has the results that were read before.

        Raises:
            UsageError: if the quantiles are invalid.
            NoManifestError: if mops-jobs did not submit the job.
            StoreError: if the registry cannot be read; offline, if the cache has no results of the job. Also when the
                rows are read.
        """
        from mopsjobs.api.job_results import job_results

        return job_results(self.id, self._app, self._warn, mean=mean, quantiles=quantiles, offline=offline)

    def provenance(self) -> dict[str, Any]:
        """Return code, study, packages and machines of the job: the document of `provenance --json`.

        Raises:
            JobNotFoundError: if the job does not exist.
            StoreError: if the registry cannot be read.
        """
        from mopsjobs.app.origins.provenance import read_provenance

        found = read_provenance(self.id, self._app)
        self._warn(found.problems)
        return found.to_json()

    reduced = reduced_outputs
    reduced_table = table_of_reductions
    replay = replay_task

    # --- change ----------------------------------------------------------------------------------------------

    def cancel(self, reason: str | None = None, *, trust: Sequence[str] = ()) -> JobInfo:
        """Cancel the job, and stop what runs it. A cancelled job that still runs is stopped again.

        Args:
            reason: kept in the record.
            trust: choices of the record that are accepted, as `KIND:VALUE`.

        Raises:
            TerminalStateError: if the job has ended otherwise.
            NotTrustedError: if only the record names the cluster of the job. Nothing was cancelled.
            StoreError: if the registry cannot be written.
        """
        from mopsjobs.api.cancelling import cancel_job

        return self._live(cancel_job(self, reason, trust))

    def note(self, text: str) -> JobInfo:
        """Note something about the job, also after its end. Earlier notes stay in its history.

        Raises:
            UsageError: if the text is empty or too long.
            StoreError: if the registry cannot be written.
        """
        require(isinstance(text, str), "note", text, "a text")
        return self._live(self._app.registry.add_note(self.id, text))

    def label(self, labels: Mapping[str, object] | None = None, *, remove: Iterable[str] = ()) -> JobInfo:
        """Set labels, like `{"paper": "fig2"}`, and remove those with these keys, also after the end of the job.

        Raises:
            UsageError: if `labels` is not a mapping.
            StoreError: if the registry cannot be written.
        """
        return self._live(self._app.registry.change_labels(self.id, labels_to_set(labels), remove=[*remove]))

    def _live(self, state: JobState) -> JobInfo:
        from mopsjobs.cache.rows import job_json_from_state

        return JobInfo(job_json_from_state(state, now=self._app.now().timestamp()), "live")

    def resume(
        self,
        *,
        only: Choices | None = None,
        code: str | os.PathLike[str] | None = None,
        trust: Sequence[str] = (),
        yes: bool = False,
        **options: Unpack[RunnerOptions],
    ) -> Job | None:
        """Run the missing tasks of the job, and return at once.

        Args:
            only: run only those that ended so: `failed`, `timeout`, `oom`, `died`, `lost`, or keys of errors; None for
                all. A later resume runs the others.
            code: a directory to pack as the code of the child; None for the job's own code.
            trust: choices of the record that are accepted, as `KIND:VALUE`.
            yes: start a runner also if that of another machine may be at work.
            options: see `RunnerOptions`; by default as before. `task_timeout`, `task_memory` and `memory` may be
                factors, like `x2`, of the limits of the job. On this machine and on Dask, `memory` is that of a task.

        Returns:
            The job that runs: a child, or this job if only its runner was lost. None if there is nothing to run.

        Raises:
            JobBusyError: if its runner is at work, or may be elsewhere, or if the job was resumed before.
            NotTrustedError: if only the record names where or as what it runs. Nothing was launched.
            StoreError: if the registry cannot be read.
        """
        from mopsjobs.api.resuming import resume_job

        chosen = launch_options(options, Job.resume, self._app, may_grow=True)
        return resume_job(self, choices_text(only), code, trust, chosen, yes=yes)

    # --- show ------------------------------------------------------------------------------------------------

    def _warn(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            self._app.out.warn(warning)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and (self.id, self.registry.identity) == (other.id, other.registry.identity)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Job {self.id} in {self.registry.url}>"

    def _repr_html_(self) -> str | None:
        from mopsjobs.api.job_html import job_html

        return None if self.registry.is_closed else job_html(self.id, self._app)
