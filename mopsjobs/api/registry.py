"""A registry as a Python program opens it, with the settings of the command, and its jobs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from mopsjobs.api.arguments import (
    Choices,
    Duration,
    Freshness,
    Labels,
    RunnerOptions,
    check_limit,
    check_texts,
    choices_text,
    filter_values,
    labels_to_set,
    launch_options,
    policy_of,
    require,
    seconds_of,
    task_query,
    task_set,
)
from mopsjobs.api.info import JobInfo
from mopsjobs.api.study import Study, as_plain, check_is_study, growing_study
from mopsjobs.api.table import Failures, Results, Table, table_of_dicts
from mopsjobs.app.run import freshness as freshness_module
from mopsjobs.app.run.app import App, open_app
from mopsjobs.console.printer import Printer
from mopsjobs.errors import (
    EXIT_DONE,
    LATEST,
    JobCancelledError,
    JobEndError,
    JobFailedError,
    JobNotFinishedError,
    JobPartialError,
    UsageError,
    command_line,
    exit_code_of,
    read_job_name,
)
from mopsjobs.utils.text import error_line, strip_control_characters

if TYPE_CHECKING:
    import sqlite3

    from mopsjobs.api.calibration import Calibration
    from mopsjobs.api.cell import Cell
    from mopsjobs.api.session import Session
    from mopsjobs.app.following.wait import WaitResult
    from mopsjobs.app.jobs.job_tasks import JobTasks
    from mopsjobs.app.tasks.contrasts import ContrastChoice
    from mopsjobs.app.tasks.result_sets import ResultSets, SetChoice
    from mopsjobs.app.tasks.results_table import ResultsTable
    from mopsjobs.cache.queries.tasks import TaskList
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.registry.job_state import JobState
    from mopsjobs.store.base import VersionedStore
    from mopsjobs.studies.journal import Journal
    from mopsjobs.submission.submit import Code, SubmitRequest
    from mopsjobs.utils.table_files import Column, Row

T = TypeVar("T")

CELL_HINT = "Install the module in the Python that runs the tasks. If it lies in a directory, pack that with code='.'."


def connect(
    registry: str | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    environment: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Registry:
    """Open a registry with the settings that the command would use here. Nothing is sent yet.

    The first of these that names a setting wins: the arguments, the environment, the project file, the user's
    configuration file, the default.

    Args:
        registry: the URL of the registry, like `sqlite:///path/registry.db` or `azure://CONTAINER`.
        cache: the path of the cache.
        environment: an environment of ModelOps, as `-e` names it.
        env: the environment variables; None for those of this process.

    Raises:
        ConfigError: if a setting or a configuration file is invalid.
    """
    env = os.environ if env is None else env
    flags = {"registry": registry, "cache": None if cache is None else os.fspath(cache), "env": environment}
    return Registry(open_app(flags, env, LogPrinter(env), given_by="argument ", new_app=_SharedApp))


LOGGER = logging.getLogger("mopsjobs")
"""Warnings have the level WARNING, which Python shows on stderr by default. Notes have INFO, which it hides."""


class LogPrinter(Printer):
    """A printer without streams. It asks no questions, so choices of records need `trust`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(None, None, env)

    def note(self, text: str) -> None:
        """Log a message about progress."""
        LOGGER.info("%s", strip_control_characters(text))

    def warn(self, text: str) -> None:
        """Log a warning."""
        LOGGER.warning("%s", strip_control_characters(text))

    def debug(self, text: str) -> None:
        """Log a detail."""
        LOGGER.debug("%s", strip_control_characters(text))


class _SharedApp(App):
    """A run that several threads use."""

    def __init__(self, *args: Any, **clocks: Any) -> None:
        super().__init__(*args, **clocks)
        self._lock, self._pid = threading.RLock(), os.getpid()

    @property
    def store(self) -> VersionedStore:
        """Return the store, which only one thread opens."""
        with self._opening():
            return super().store

    @property
    def registry(self) -> JobRegistry:
        """Return the registry, which only one thread opens."""
        with self._opening():
            return super().registry

    def _opening(self) -> threading.RLock:
        """Return the lock of this process: in a forked child, no thread would ever release that of its parent."""
        if self._pid != os.getpid():
            self._lock, self._pid = threading.RLock(), os.getpid()
        return self._lock


class Registry:
    """An open registry with its cache. Several threads may use it; after a fork, the parent alone if it is embedded."""

    def __init__(self, app: App) -> None:
        """Use a run; see `connect`."""
        self._open_app: App | None = app
        self.url: str = app.settings.registry.value
        """The URL of the registry. It holds no secret."""
        self.identity: str = app.settings.registry_id  # the same for each URL of the registry

    @property
    def app(self) -> App:
        """Return the run that the commands would use.

        Raises:
            UsageError: if the registry is closed.
        """
        if self._open_app is None:
            raise UsageError("The registry is closed.", hint="Open it again with connect().")
        return self._open_app

    @property
    def is_closed(self) -> bool:
        """Return whether the registry is closed."""
        return self._open_app is None

    def close(self) -> None:
        """Close the connections. Jobs go on."""
        app, self._open_app = self._open_app, None
        if app is not None:
            app.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Registry {self.url}{', closed' if self.is_closed else ''}>"

    # --- read ------------------------------------------------------------------------------------------------

    def job(self, name: str, **freshness: Unpack[Freshness]) -> Job:
        """Find a job, and return a handle on it.

        Args:
            name: the full id, literally after `./`. What `@latest` means changes, and a handle may cancel its job.
            freshness: see `Freshness`.

        Raises:
            UsageError: if the name cannot be an id.
            JobNotFoundError: if the job does not exist. Its `candidates` are ids that begin with the name.
            StoreError: if the registry cannot be read, and neither the cache nor an engine knows the job.
        """
        from mopsjobs.app.jobs.current_jobs import find_current_job

        found = find_current_job(_full_id(name), self.app, policy_of(freshness, Registry.job))
        self.app.out.warn_each(found.warnings)
        return Job(self, str(found.job["job_id"]))

    def jobs(  # noqa: PLR0913 - one argument a filter, all by name
        self,
        *,
        status: Choices | None = None,
        label: Labels | None = None,
        hours: float | None = None,
        since: str | None = None,
        until: str | None = None,
        name: str | None = None,
        match: str | None = None,
        namespace: Choices | None = None,
        owner: Choices | None = None,
        stuck: bool = False,
        sort: str | None = None,
        limit: int = 0,
        **freshness: Unpack[Freshness],
    ) -> Table:
        """Return the jobs that meet all conditions, with the fields of `list --json`, the newest change first.

        Ended jobs with the label `archived=true` are left out, unless `label` names it.

        Args:
            status: statuses, or the groups `active` and `done`; several as a list, or separated by commas.
            label: labels, like `{"exp": 7}`.
            hours: created or changed in the last hours, this many, or still active.
            since: created or changed since this time, or still active: `2h` ago, or RFC 3339.
            until: created before this time.
            name: a glob that the id matches.
            match: a regular expression that the id matches.
            namespace: namespaces of Kubernetes; several as for `status`.
            owner: owners; several as for `status`.
            stuck: active, and silent for a minute, with a task that hangs, or marked as suspect.
            sort: the order; see `list --sort`.
            limit: the first jobs, this many, and all active ones; 0 for all.
            freshness: see `Freshness`.

        Raises:
            UsageError: if a value is malformed.
            StoreError: if the cache was never filled, and the registry cannot be read either.
        """
        from mopsjobs.app.run.job_arguments import job_filter
        from mopsjobs.cache import job_json
        from mopsjobs.cache.queries import filters
        from mopsjobs.cache.queries import jobs as job_queries

        app, limit = self.app, check_limit(limit)
        check_texts(sort=sort)
        now = app.now()
        given = {
            "status": status, "label": label, "hours": hours, "since": since, "until": until, "name": name,
            "match": match, "namespace": namespace, "owner": owner, "stuck": stuck,
        }  # fmt: skip
        chosen = job_filter(now, **filter_values(given))
        order = filters.parse_sort(sort or filters.DEFAULT_SORT)

        def view(connection: sqlite3.Connection, age: freshness_module.Freshness) -> Table:
            app.out.warn_each(job_queries.unreadable_warning(connection))
            filters.hide_archived(connection, chosen)
            page = job_queries.list_jobs(connection, chosen, order=order, limit=limit, now=now.timestamp())
            return table_of_dicts("jobs", job_json.job_fields(), page.jobs(None), age=self._age(age))

        return app.cache.read(view, policy_of(freshness, Registry.jobs))

    def query(
        self, sql: str, *, jobs: Sequence[str] = (), timeout: Duration = 30.0, **freshness: Unpack[Freshness]
    ) -> Table:
        """Run one SELECT over the views of the cache, in SQLite's dialect, and return all rows.

        Args:
            sql: the query; `mops-jobs query` lists the views.
            jobs: ids of the jobs that the views `results` and `result_sets` have.
            timeout: the longest time that it may take.
            freshness: see `Freshness`.

        Raises:
            UsageError: if it is not a query over the views, takes too long, or has two columns of one name.
            StoreError: if the cache was never filled, and the registry cannot be read either.
        """
        from mopsjobs.cache.queries import user_sql

        app, seconds = self.app, seconds_of(timeout)
        policy = policy_of(freshness, Registry.query)

        def read(connection: sqlite3.Connection, age: freshness_module.Freshness) -> Table:
            found = user_sql.run_user_query(connection, sql, seconds=seconds or 0.0, monotonic=app.monotonic)
            user_sql.check_distinct(found.columns)
            return Table.of("a query", found.columns, found.rows, age=self._age(age))

        def view(connection: sqlite3.Connection, age: freshness_module.Freshness) -> Table:
            if not jobs:
                return read(connection, age)
            from mopsjobs.app.tasks.result_sets import query_results

            def read_results(results: sqlite3.Connection, has: dict[str, Any]) -> Table:
                table = read(results, age)
                table.notes = [*has["problems"], *has["notes"]]
                return table

            return query_results(jobs, app, read_results, policy)

        return app.cache.read(view, policy)

    def sync(self, *, full: bool = False) -> dict[str, Any] | None:
        """Mirror the registry into the cache, and return the document of `sync --json`.

        Args:
            full: read every record, and also accept a registry that is now empty or was replaced.

        Returns:
            None if another sync is running.

        Raises:
            StoreError: if the registry cannot be read.
            CacheError: if the cache cannot be written.
        """
        from mopsjobs.app.following.notify.notifier import CacheNotifier
        from mopsjobs.app.following.sync_more import mirror_events_and_ledgers, sync_json

        app = self.app
        report = app.cache.sync(wait=0, full=full)
        if report is None:
            app.out.warn("Another sync is running; the cache is not updated.")
            return None
        events, ledgers, warnings = mirror_events_and_ledgers(app, full=full)
        news = (f"{problem.key}: {problem.reason}" for problem in report.news)
        app.out.warn_each((*news, *warnings, *CacheNotifier(app).tell()))
        return sync_json(report, events, ledgers)

    def as_completed(
        self, jobs: Iterable[Job], timeout: Duration | None = None, *, interval: Duration | None = None
    ) -> Iterator[Job]:
        """Yield each job once, as it ends, until all have ended or the time is up.

        A failed job raises nothing. An interrupt ends only the wait. For arguments and errors, see `Job.wait`.

        Raises:
            UsageError: if an item is not a job of this registry.
        """
        from mopsjobs.app.following.wait import ended_jobs

        by_id: dict[str, Job] = {}
        for job in jobs:
            if not isinstance(job, Job):
                raise UsageError(f"invalid job {job!r}: expected a handle.", hint="Use job() to find one.")
            if job.registry.identity != self.identity:
                raise UsageError(f"Job {job.id} is in another registry: {job.registry.url}, not {self.url}.")
            by_id[job.id] = job
        batches = ended_jobs([*by_id], self.app, timeout=seconds_of(timeout), interval=seconds_of(interval))
        return _until_interrupted((by_id[job_id] for batch in batches for job_id in batch), [*by_id])

    # --- submit ----------------------------------------------------------------------------------------------

    def submit(  # noqa: PLR0913 - all but the study and its code by name
        self,
        study: Study,
        code: str | os.PathLike[str] | None = None,
        *,
        bundle: str | None = None,
        engine: str = "local",
        job_id: str | None = None,
        owner: str | None = None,
        labels: Mapping[str, object] | None = None,
        sweep: str | None = None,
        extend: Job | str | None = None,
        without_targets: bool = False,
        **options: Unpack[RunnerOptions],
    ) -> Job:
        """Pack the code, register a job and launch it. Return at once; the job outlives this process.

        Args:
            study: what to run.
            code: the directory with the model's code; None for the current one, or for the file of a `cell` alone. With
                `extend`, None for the code of that job.
            bundle: the digest of a bundle in the registry, in place of `code`.
            engine: `local`, `kubernetes`, `dask` or `slurm`.
            job_id: the id of the job; None: from model and time.
            owner: the owner; None: the current user.
            labels: labels of the job.
            sweep: the label `sweep`, which groups jobs.
            extend: an earlier job, or its full id: what it has done is reused, and not run again. None to run all.
            without_targets: run the simulations of a study with targets, which are not evaluated.
            options: see `RunnerOptions`. A `cell` runs in the Python of this program, unless `python` names another.

        Raises:
            UsageError: if an argument is invalid, if the code cannot be packed, or if it does not have the model.
            JobExistsError: if the id is taken.
            JobBusyError: if the job to extend has not ended.
            StoreAccessError: if the registry refuses the credentials.
            EngineError: if the engine refuses the job.
        """
        from mopsjobs.submission.submit import prepare, submit_prepared

        request = self._request(
            Registry.submit, study, code, bundle, engine, extend, options, without_targets=without_targets
        )
        check_texts(job_id=job_id, owner=owner)
        request = replace(request, job_id=job_id, owner=owner, labels=labels_to_set(labels, sweep))
        session = self.app.session()
        with prepare(request, session) as prepared:
            submitted = submit_prepared(prepared, session)
        self.app.out.warn_each(submitted.warnings)
        return Job(self, submitted.job_id)

    def session(  # noqa: PLR0913 - all but the model and its code by name
        self,
        model: str | Cell | Study,
        code: str | os.PathLike[str] | None = None,
        *,
        outputs: Sequence[str] | None = None,
        replicates: int = 1,
        idle: Duration = "1h",
        bundle: str | None = None,
        engine: str = "local",
        job_id: str | None = None,
        owner: str | None = None,
        labels: Mapping[str, object] | None = None,
        sweep: str | None = None,
        **options: Unpack[RunnerOptions],
    ) -> Session[Job]:
        """Begin a growing job: its workers stay loaded, and take the parameter sets that the session is asked for.

        It ends with the session, or after its idle time. A killed program loses nothing: `session` with the id of its
        job goes on.

        Args:
            model: the function, as `module:function` or as `cell(function)`; or a study, whose sets come first. To go
                on with a growing job, its id.
            code: see `submit`.
            outputs: the files that each task must leave; None for no check.
            replicates: the tasks of each set, unless its `submit` names another number.
            idle: the time without a task after which the job ends.
            bundle: see `submit`.
            engine: see `submit`.
            job_id: see `submit`.
            owner: see `submit`.
            labels: see `submit`.
            sweep: the label `sweep`, which groups jobs.
            options: see `RunnerOptions`.

        Raises:
            UsageError: if an argument is invalid, if the code cannot be packed, or if the job does not grow.
            JobNotFoundError: if the job to go on with does not exist.
            StoreUnavailableError: if the registry does not answer. Nothing was launched.
            EngineError: if the engine refuses the job.
        """
        from mopsjobs.api.session import Session
        from mopsjobs.submission.growing import begin_growing, continue_growing

        session = self.app.session()
        if isinstance(model, str) and ":" not in model:
            growing = continue_growing(session, model)
            if growing.is_calibration:
                hint = f"Go on with it: {command_line('calibrate', model)}"
                raise UsageError(f"Job {model} is a calibration, whose sampler asks for its sets.", hint=hint)
            return Session(Job(self, model), self.app, growing)
        study = model if isinstance(model, Study) else growing_study(model, replicates, outputs)
        request = self._request(Registry.session, study, code, bundle, engine, None, options, without_targets=False)
        check_texts(job_id=job_id, owner=owner)
        given = labels_to_set(labels, sweep)
        request = replace(request, job_id=job_id, owner=owner, labels=given, grows=seconds_of(idle))
        growing = begin_growing(session, request)
        return Session(Job(self, growing.job_id), self.app, growing)

    def plan(
        self,
        study: Study,
        code: str | os.PathLike[str] | None = None,
        *,
        bundle: str | None = None,
        engine: str = "local",
        extend: Job | str | None = None,
        probe: int | None = None,
        without_targets: bool = False,
        **options: Unpack[RunnerOptions],
    ) -> dict[str, Any]:
        """Return what `submit` would do with the same arguments, and its costs: see `submit --dry-run --json`.

        These follow from earlier jobs. With `probe`, this many tasks run here instead, and are not stored.

        Raises:
            UsageError: if `submit` would raise one.
        """
        from mopsjobs.app.jobs.plan import make_plan, plan_document, plan_warnings
        from mopsjobs.submission.submit import prepare

        require(probe is None or type(probe) is int, "probe", probe, "a number of tasks")
        request = self._request(
            Registry.plan, study, code, bundle, engine, extend, options, without_targets=without_targets
        )
        with prepare(request, self.app.session()) as prepared:
            plan = make_plan(prepared, self.app, probe=probe)
            self.app.out.warn_each(plan_warnings(plan, prepared.launch.max_cpu_hours))
            return plan_document(prepared, plan)

    def calibrate(  # noqa: PLR0913 - all but the calibration and its code by name
        self,
        spec: Mapping[str, Any] | str | os.PathLike[str] | Job,
        code: str | os.PathLike[str] | None = None,
        *,
        bundle: str | None = None,
        engine: str = "local",
        job_id: str | None = None,
        owner: str | None = None,
        labels: Mapping[str, object] | None = None,
        sweep: str | None = None,
        extend: Job | str | None = None,
        rounds: int | None = None,
        on_round: Callable[[Calibration[Job]], object] | None = None,
        trust: Sequence[str] = (),
        **options: Unpack[RunnerOptions],
    ) -> Calibration[Job]:
        """Search parameters round by round in one job, and return when it has ended.

        After an interrupt or a crash, `calibrate(reg.job(id))` goes on.

        Args:
            spec: the fields of a calibration, or the path of its file; or the job of one to go on with.
            code: the directory with the model's code; None for the current one, or for that of `extend`.
            bundle: the digest of a bundle in the registry, in place of `code`.
            engine: `local`, `kubernetes`, `dask` or `slurm`.
            job_id: the id of the job; None: from model and time.
            owner: the owner; None: the current user.
            labels: labels of the job.
            sweep: the label `sweep`, which groups jobs.
            extend: an earlier calibration, or its full id, whose evaluations the sampler is told first.
            rounds: the rounds, those of earlier ones included; None for those of the calibration. With it, a job that
                has ended goes on as a new one.
            on_round: called after each round, in asynchronous mode after each `sets_per_round` sets.
            trust: choices of the record that are accepted, if a lost runner is started again.
            options: see `RunnerOptions`.

        Raises:
            StudyError: if the calibration is invalid. The message names each wrong field. It is a `UsageError`.
            UsageError: if an argument is invalid, or if the sampler or the objective cannot be loaded.
            JobEndError: if the job ended before its calibration.
            MopsJobsError: if the sampler fails; and as for `submit`.
        """
        from mopsjobs.api.calibration import Calibration
        from mopsjobs.app.following.calibrate import DRAWS, Calibrated, CalibrateRequest, sets_of
        from mopsjobs.app.following.calibrate import calibrate as run
        from mopsjobs.app.run.user_trust import user_trust
        from mopsjobs.studies.calibration import parse_calibration, read_calibration
        from mopsjobs.submission.submit import SubmitRequest

        app = self.app
        check_texts(job_id=job_id, owner=owner, bundle=bundle, engine=engine)
        require(isinstance(spec, (Mapping, str, os.PathLike, Job)), "spec", spec, "fields, a file, or a job")
        extends, launched = _id_of(extend), launch_options(options, Registry.calibrate, app)
        calibration = None
        if isinstance(spec, Mapping):
            calibration = parse_calibration(as_plain(dict(spec)))
        elif not isinstance(spec, Job):
            calibration = read_calibration(os.fspath(spec))
        has_code = bundle is not None or (code is None and (extends is not None or calibration is None))
        request = CalibrateRequest(
            calibration=calibration,
            job_id=spec.id if isinstance(spec, Job) else None,
            submit=lambda study: SubmitRequest(
                study=study,
                code=None if has_code else self.code_in("." if code is None else code),
                bundle=bundle,
                engine=engine,
                options=launched,
                job_id=job_id,
                owner=owner,
                labels=labels_to_set(labels, sweep),
            ),
            extends=extends,
            rounds=rounds,
        )

        def handle(done: Calibrated) -> Calibration[Job]:
            return Calibration(Job(self, done.job_id), done, lambda count: sets_of(done, DRAWS, count, app))

        def tell(told: str, journal: Journal) -> None:
            if on_round is not None:
                on_round(handle(Calibrated(told, journal, "running")))

        done = run(request, app, user_trust(trust, app), lambda _job_id: None, tell)
        return handle(done)

    def _request(  # noqa: PLR0917 - the arguments of two methods
        self,
        method: Callable[..., object],
        study: Study,
        code: str | os.PathLike[str] | None,
        bundle: str | None,
        engine: str,
        extend: Job | str | None,
        options: RunnerOptions,
        *,
        without_targets: bool,
    ) -> SubmitRequest:
        """Return the request of `submit` or `plan`, with their arguments.

        Raises:
            UsageError: if an argument is invalid.
        """
        from mopsjobs.submission.submit import SubmitRequest

        check_is_study(study)
        check_texts(bundle=bundle, engine=engine)
        require(isinstance(without_targets, bool), "without_targets", without_targets, "True or False")
        has_code = bundle is not None or (extend is not None and code is None and study.cell is None)
        if study.cell is not None and engine == "local":
            options = {"python": sys.executable, **options}
        return SubmitRequest(
            study=study.definition,
            code=None if has_code else self._code_of(study, code),
            bundle=bundle,
            engine=engine,
            options=launch_options(options, method, self.app),
            extend=_id_of(extend),
            without_targets=without_targets,
        )

    def _code_of(self, study: Study, directory: str | os.PathLike[str] | None) -> Code:
        from mopsjobs.submission.submit import Code

        cell = study.cell
        if cell is None:
            return self.code_in("." if directory is None else directory)
        code = Code(directory=None) if directory is None else self.code_in(directory)
        added = {cell.file: cell.source.encode()}
        return replace(code, added=added, hint_if_not_found=None if directory is not None else CELL_HINT)

    def code_in(self, directory: str | os.PathLike[str]) -> Code:
        """Return a directory as code to pack, without the files of registry and cache."""
        from mopsjobs.submission.submit import Code

        require(isinstance(directory, (str, os.PathLike)), "code", directory, "the path of a directory")
        return Code(directory=Path(directory).resolve(), leave_out=self.app.own_files())

    def _age(self, age: freshness_module.Freshness) -> str:
        """Return the age of a view in words, and warn if its sync failed."""
        self.app.out.warn_each(age.warnings())
        return age.describe()


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
        from mopsjobs.app.jobs.current_jobs import find_current_job

        found = find_current_job(self.id, self._app, policy_of(freshness, Job.status))
        self._app.out.warn_each(found.warnings)
        return JobInfo(found.job, "live" if found.freshness is None else found.freshness.describe())

    def wait(self, timeout: Duration | None = None, *, interval: Duration | None = None) -> JobInfo:
        """Wait until the job ends, however it ends, or until the time is up. See `raise_for_status`.

        An interrupt ends only the wait.

        Args:
            timeout: a text like `2h`, or seconds; None for no limit.
            interval: the time between two reads; None for that of `wait`.

        Raises:
            JobNotFoundError: if the job does not exist.
            StoreUnavailableError: if the time was up while the registry did not answer.
        """
        from mopsjobs.app.following.wait import wait_for

        return self._wait(wait_for, timeout, interval)

    def watch(self, timeout: Duration | None = None, *, interval: Duration | None = None) -> JobInfo:
        """Show the job until it ends, or until the time is up, and wait for that as `wait` does.

        A notebook shows what the handle shows, redrawn in place. A terminal has the line of `mops-jobs wait` on stderr.
        For arguments and errors, see `wait`.
        """
        from mopsjobs.api.live_view import wait_with_view

        return self._wait(wait_with_view, timeout, interval)

    def _wait(self, wait: Callable[..., WaitResult], timeout: Duration | None, interval: Duration | None) -> JobInfo:
        """Return the job at the end of a wait."""
        from mopsjobs.app.following.wait import StopCondition

        app, until = self._app, StopCondition(timeout=seconds_of(timeout))
        with _noting_what_goes_on([self.id]):
            waited = wait([self.id], app, until, interval=seconds_of(interval))
        return self._live(waited.states[0])

    def raise_for_status(self) -> None:
        """Raise an error unless the job has succeeded. Its `exit_code` is that of `status --exit-status`.

        Raises:
            JobFailedError: if it has failed.
            JobCancelledError: if it was cancelled.
            JobPartialError: if some of its tasks have no complete outputs.
            JobNotFinishedError: if it has not ended.
        """
        job = self.status()
        if exit_code_of(job["status"]) == JobNotFinishedError.exit_code:
            job = self.status(refresh=True)  # an end is final; all else may be old
        if (code := exit_code_of(job["status"])) == EXIT_DONE:
            return
        why = error_line(job["error_code"], job["error_message"])
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
            self._app.out.warn_each(job.warnings_with(tasks))
            items = (task.to_json() for task in tasks.tasks(limit))
            return table_of_dicts(f"tasks of {self.id}", TASK_FIELDS, items, age=job.describe_age(tasks.ledger))

        return job.read(query, view)

    def failures(self, **freshness: Unpack[Freshness]) -> Failures:
        """Return the failed tasks by their errors, and what separates them: the document of `failures --json`.

        Raises:
            NoManifestError: if mops-jobs did not submit the job, and its record has no error.
            StoreError: if the registry cannot be read, and the cache does not have the tasks.
        """
        from mopsjobs.app.tasks.failures import failures_of_jobs

        failures = failures_of_jobs([self.id], self._app, policy_of(freshness, Job.failures))
        self._app.out.warn_each(failures.warnings)
        return Failures(failures.to_json(self._app))

    def explain(self, result: str, *, offline: bool = False) -> dict[str, Any]:
        """Return which parameters separate the sets with the lowest 5 % of a result from the others.

        It is the document of `results --explain --json`. A set counts with the mean of its replicates.

        Args:
            result: the result, like `loss`. With `-` in front, the highest 5 % are explained.
            offline: never use the network. The cache has the results that were read before.

        Raises:
            UsageError: if the job has no such result.
            NoManifestError: if mops-jobs did not submit the job.
            StoreError: if the registry cannot be read; offline, if the cache has no results of the job.
        """
        from mopsjobs.app.tasks.explain import explain_scalar

        app, policy = self._app, policy_of({"offline": offline}, Job.explain)
        families = _find_results([self.id], app, policy)
        return _read_sets(families, app, lambda sets: explain_scalar(sets, result).to_json(app), policy)

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
            [self.id],
            since=seconds_of(since),
            tail=tail,
            pattern=grep,
            offline=offline,
            trust=trust,
            tasks=task_set(task),
            failed=failed,
        )
        read_logs(request, self._app, lambda _, some: lines.extend(line.text for line in some))
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

    def results(self, *, offline: bool = False) -> Results:
        """Return the table of results: a row per task of the job and its ancestors, as `results --table` writes it.

        Its method `best` returns the best parameter sets, and `sets` all of them.

        Args:
            offline: never use the network. The cache has the results that were read before.

        Raises:
            NoManifestError: if mops-jobs did not submit the job.
            StoreError: if the registry cannot be read; offline, if the cache has no results of the job. Also when the
                rows are read.
        """
        from mopsjobs.app.tasks.results_table import find_results, read_results_table
        from mopsjobs.cache.queries.tasks import TaskQuery

        app, policy = self._app, policy_of({"offline": offline}, Job.results)
        families = _find_results([self.id], app, policy)

        def read(view: Callable[[Sequence[Column], Iterable[Row]], T]) -> T:
            def view_results(results: ResultsTable) -> tuple[T, list[str]]:
                return view(results.columns, results.rows()), results.problems()

            found, problems = read_results_table(families, app, view_results, policy)
            app.out.warn_each(problems)
            return found

        def read_sets(choice: SetChoice) -> Table:
            def view(sets: ResultSets) -> Table:
                page = sets.page(choice)
                title = f"parameter sets of {self.id}"
                return Table.held(title, page.columns, page.rows, age=age, notes=page.notes)

            return _read_sets(families, app, view, policy)

        def read_contrast(choice: ContrastChoice, others: Sequence[str]) -> dict[str, Any]:
            from mopsjobs.app.tasks.contrasts import find_contrast

            compared = find_results([self.id, *others], app, policy) if others else families
            return _read_sets(compared, app, lambda sets: find_contrast(sets, compared, choice).to_json(app), policy)

        newest = families[0][0]
        age = newest.read(TaskQuery(), lambda tasks: newest.describe_age(tasks.ledger)) if offline else "live"
        return Results(f"results of {self.id}", read, read_sets, read_contrast, age=age)

    def provenance(self) -> dict[str, Any]:
        """Return code, study, packages and machines of the job: the document of `provenance --json`.

        Raises:
            JobNotFoundError: if the job does not exist.
            StoreError: if the registry cannot be read.
        """
        from mopsjobs.app.origins.provenance import read_provenance

        found = read_provenance(self.id, self._app)
        self._app.out.warn_each(found.problems)
        return found.to_json()

    def reduced(self, params: Mapping[str, Any] | None = None) -> dict[str, bytes]:
        """Return the outputs of the study's reduce function, by their names.

        Those of a resumed job are of all its tasks. `result.json` is what the function returned, if that is JSON.

        Args:
            params: the parameters of a set; None for the outputs of the whole job.

        Raises:
            NoOutputsError: if the function has left none yet, or the study names no such function.
            NoManifestError: if mops-jobs did not submit the job.
            StoreError: if the registry cannot be read.
        """
        from mopsjobs.studies.results import read_reduced

        return read_reduced(self._app.store, self.id, None if params is None else as_plain(params))

    def replay(self, task: int, *, python: str | None = None, interrupt: int = 0) -> dict[str, Any]:
        """Run a task of the job once more, here, and compare its outputs: the document of `replay --json`.

        `equal` is true if all outputs are the stored ones, byte for byte. It is None if there is nothing to compare.

        Args:
            task: the number of the task in the study.
            python: the model's interpreter; None for that of the launch from this machine, else that of the active
                environment.
            interrupt: how often to interrupt a second run, after checkpoints of the task; 0: none is made.

        Raises:
            NoManifestError: if mops-jobs did not submit the job.
            UsageError: if the job has no such task, or the interpreter does not exist.
            StoreError: if the registry cannot be read.
        """
        from mopsjobs.app.origins import replay

        return replay.replay(self.id, task, python, self._app, interrupt).to_json()

    # --- change ----------------------------------------------------------------------------------------------

    def cancel(self, reason: str | None = None, *, grace: Duration | None = None, trust: Sequence[str] = ()) -> JobInfo:
        """Cancel the job, and stop what runs it. A cancelled job that still runs is stopped again.

        Args:
            reason: kept in the record.
            grace: how long tasks with checkpoints may take to save before; by default they are stopped at once.
            trust: choices of the record that are accepted, as `KIND:VALUE`.

        Raises:
            TerminalStateError: if the job has ended otherwise.
            NotTrustedError: if only the record names the cluster of the job. Nothing was cancelled.
            StoreError: if the registry cannot be written.
        """
        from mopsjobs.app.run.user_trust import unknown_contexts, user_trust
        from mopsjobs.engines.trust import not_trusted_error
        from mopsjobs.submission.cancel import cancel, records_to_stop

        app, named = self._app, user_trust(trust, self._app)
        session = app.session()
        if unknown := unknown_contexts(records_to_stop([self.id], session), app, named):
            raise not_trusted_error(unknown, "nothing was cancelled")
        done = cancel([self.id], session, named, reason, seconds_of(grace))
        for error in done.refused:
            raise error
        for note in done.notes:
            app.out.note(note)
        app.out.warn_each(done.problems)
        return self._live(done.jobs[0].state)

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
        engine: str | None = None,
        code: str | os.PathLike[str] | None = None,
        trust: Sequence[str] = (),
        yes: bool = False,
        **options: Unpack[RunnerOptions],
    ) -> Job | None:
        """Run the missing tasks of the job, and return at once.

        Args:
            only: run only those that ended so: `failed`, `timeout`, `oom`, `died`, `lost`, or keys of errors; None for
                all. A later resume runs the others.
            engine: where the child runs; None for where the job ran.
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
        from mopsjobs.app.jobs.job_tasks import ledger_sizes
        from mopsjobs.app.run.user_trust import user_trust
        from mopsjobs.app.tasks.resume_choice import tasks_that_ended
        from mopsjobs.submission.resume import ResumeRequest, resume

        app = self._app
        request = ResumeRequest(
            job_id=self.id,
            options=launch_options(options, Job.resume, app, may_grow=True),
            engine=engine,
            code=None if code is None else self.registry.code_in(code),
            only=tasks_that_ended(self.id, choices_text(only), app),
            sizes_of=partial(ledger_sizes, app=app),
        )
        resumed = resume(request, app.session(), user_trust(trust, app), yes=yes)
        self._app.out.warn_each(resumed.warnings)
        return None if resumed.job_id is None else Job(self.registry, resumed.job_id)

    # --- show ------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and (self.id, self.registry.identity) == (other.id, other.registry.identity)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Job {self.id} in {self.registry.url}>"

    def _repr_html_(self) -> str | None:
        from mopsjobs.api.live_view import job_html

        return None if self.registry.is_closed else job_html(self.id, self._app)


def _id_of(job: Job | str | None) -> str | None:
    """Return the id of a job to extend; None stays."""
    require(job is None or isinstance(job, (str, Job)), "extend", job, "a job, or its id")
    return job.id if isinstance(job, Job) else None if job is None else _full_id(job)


def _full_id(name: str) -> str:
    """Return the full id that a text names; what `@latest` means changes, and a handle may cancel its job."""
    full_id = read_job_name(str(name))
    if full_id is LATEST:
        newest = 'The newest job is reg.jobs(sort="-created", limit=1).'
        raise UsageError(f"invalid job '{name}': expected a full id.", hint=newest)
    return str(full_id)


@contextlib.contextmanager
def _noting_what_goes_on(job_ids: Sequence[str]) -> Iterator[None]:
    """Add to an interrupt that jobs go on, as its traceback then says."""
    try:
        yield
    except KeyboardInterrupt as error:
        subject = f"Job {job_ids[0]} goes on" if len(job_ids) == 1 else f"{len(job_ids)} jobs go on"
        error.add_note(f"{subject}; only the wait was interrupted.")
        raise


def _until_interrupted(items: Iterator[T], job_ids: Sequence[str]) -> Iterator[T]:
    with _noting_what_goes_on(job_ids):
        yield from items


def _find_results(names: Sequence[str], app: App, policy: freshness_module.FreshnessPolicy) -> list[list[JobTasks]]:
    """Return the families of jobs whose results are read, and log their warnings."""
    from mopsjobs.app.tasks.results_table import find_results

    families = find_results(names, app, policy)
    app.out.warn_each(warning for family in families for job in family for warning in job.warnings)
    return families


def _read_sets(
    families: Sequence[Sequence[JobTasks]],
    app: App,
    view: Callable[[ResultSets], T],
    policy: freshness_module.FreshnessPolicy,
) -> T:
    """Return what a view makes of parameter sets, and log the problems of these."""
    from mopsjobs.app.tasks.result_sets import read_result_sets

    found, problems = read_result_sets(families, app, lambda sets: (view(sets), sets.problems), policy)
    app.out.warn_each(problems)
    return found
