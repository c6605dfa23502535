"""A registry as a Python program opens it, with the settings of the command."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from mopsjobs.api.arguments import (
    Choices,
    Duration,
    Freshness,
    Labels,
    RunnerOptions,
    check_limit,
    check_texts,
    choices_text,
    label_texts,
    labels_to_set,
    launch_options,
    policy_of,
    seconds_of,
)
from mopsjobs.api.as_completed import jobs_as_completed
from mopsjobs.api.job import Job
from mopsjobs.api.log_printer import LogPrinter
from mopsjobs.api.study import Study, check_is_study
from mopsjobs.api.table import Table, table_of_dicts
from mopsjobs.app.run import freshness as freshness_module
from mopsjobs.app.run.app import App, open_app
from mopsjobs.errors import UsageError

if TYPE_CHECKING:
    import sqlite3

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store.base import VersionedStore
    from mopsjobs.submission.submit import Code

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
    """An open registry with its cache. Several threads may use it; after a fork, both processes may."""

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
            name: the full id. What `@latest` means changes, and a handle may cancel its job.
            freshness: see `Freshness`.

        Raises:
            UsageError: if the name cannot be an id.
            JobNotFoundError: if the job does not exist. Its `candidates` are ids that begin with the name.
            StoreError: if the registry cannot be read, and neither the cache nor an engine knows the job.
        """
        from mopsjobs.app.jobs.find_job import find_job

        if str(name).startswith("@"):
            newest = 'The newest job is reg.jobs(sort="-created", limit=1).'
            raise UsageError(f"invalid job '{name}': expected a full id.", hint=newest)
        found = find_job(name, self.app, policy_of(freshness, Registry.job))
        for warning in found.warnings:
            self.app.out.warn(warning)
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
        check_texts(since=since, until=until, name=name, match=match, sort=sort)
        now = app.now()
        chosen = job_filter(
            now, status=choices_text(status), label=label_texts(label), hours=hours, since=since, until=until,
            name=name, match=match, namespace=choices_text(namespace), owner=choices_text(owner), stuck=stuck,
        )  # fmt: skip
        order = filters.parse_sort(sort or filters.DEFAULT_SORT)

        def view(connection: sqlite3.Connection, age: freshness_module.Freshness) -> Table:
            for warning in job_queries.unreadable_warning(connection):
                app.out.warn(warning)
            filters.hide_archived(connection, chosen)
            page = job_queries.list_jobs(connection, chosen, order=order, limit=limit, now=now.timestamp())
            return table_of_dicts("jobs", job_json.job_fields(), page.jobs(None), age=self._age(age))

        return app.cache.read(view, policy_of(freshness, Registry.jobs))

    def query(self, sql: str, *, timeout: Duration = 30.0, **freshness: Unpack[Freshness]) -> Table:
        """Run one SELECT over the views of the cache, in SQLite's dialect, and return all rows.

        Args:
            sql: the query; `mops-jobs query` lists the views.
            timeout: the longest time that it may take.
            freshness: see `Freshness`.

        Raises:
            UsageError: if it is not a query over the views, takes too long, or has two columns of one name.
            StoreError: if the cache was never filled, and the registry cannot be read either.
        """
        from mopsjobs.cache.queries import user_sql

        app, seconds = self.app, seconds_of(timeout)

        def view(connection: sqlite3.Connection, age: freshness_module.Freshness) -> Table:
            found = user_sql.run_user_query(connection, sql, seconds=seconds or 0.0, monotonic=app.monotonic)
            user_sql.check_distinct(found.columns)
            return Table.of("a query", found.columns, found.rows, age=self._age(age))

        return app.cache.read(view, policy_of(freshness, Registry.query))

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
        from mopsjobs.app.following.notify.after_sync import tell_after_sync
        from mopsjobs.app.following.sync_more import mirror_events_and_ledgers, sync_json

        app = self.app
        report = app.cache.sync(wait=0, full=full)
        if report is None:
            app.out.warn("Another sync is running; the cache is not updated.")
            return None
        events, ledgers, warnings = mirror_events_and_ledgers(app, full=full)
        news = (f"{problem.key}: {problem.reason}" for problem in report.news)
        for warning in (*news, *warnings, *tell_after_sync(app)):
            app.out.warn(warning)
        return sync_json(report, events, ledgers)

    def as_completed(
        self, jobs: Iterable[Job], timeout: Duration | None = None, *, interval: Duration | None = None
    ) -> Iterator[Job]:
        """Yield each job once, as it ends, until all have ended or the time is up.

        A failed job raises nothing. An interrupt ends only the wait. For arguments and errors, see `Job.wait`.

        Raises:
            UsageError: if an item is not a job of this registry.
        """
        return jobs_as_completed(list(jobs), self, timeout, interval)

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
        extend: Job | str | None = None,
        check_determinism: int | None = None,
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
            extend: an earlier job, or its full id: what it has done is reused, and not run again. None to run all.
            check_determinism: first run this many tasks twice, here, and submit nothing if their outputs differ.
            without_targets: run the simulations of a study with targets, which are not evaluated.
            options: see `RunnerOptions`. A `cell` runs in the Python of this program, unless `python` names another.

        Raises:
            UsageError: if an argument is invalid, if the code cannot be packed, or if it does not have the model.
            JobExistsError: if the id is taken.
            JobBusyError: if the job to extend has not ended.
            NotDeterministicError: if tasks left other outputs when they were run twice.
            StoreAccessError: if the registry refuses the credentials.
            EngineError: if the engine refuses the job.
        """
        from mopsjobs.app.run.submission_session import submission_session
        from mopsjobs.submission.submit import SubmitRequest, prepare, submit_prepared

        check_is_study(study)
        has_code = bundle is not None or (extend is not None and code is None and study.cell is None)
        if study.cell is not None and engine == "local":
            options = {"python": sys.executable, **options}
        request = SubmitRequest(
            study=study.definition,
            code=None if has_code else self._code_of(study, code),
            bundle=bundle,
            engine=engine,
            options=launch_options(options, Registry.submit, self.app),
            job_id=job_id,
            owner=owner,
            labels=labels_to_set(labels),
            extend=extend if extend is None or isinstance(extend, str) else extend.id,
            without_targets=without_targets,
        )
        session = submission_session(self.app)
        with prepare(request, session) as prepared:
            if check_determinism is not None:
                from mopsjobs.app.origins.determinism import check_determinism as check  # here: few submissions need it

                check(prepared, check_determinism, self.app)
            submitted = submit_prepared(prepared, session)
        for warning in submitted.warnings:
            self.app.out.warn(warning)
        return Job(self, submitted.job_id)

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

        return Code(directory=Path(directory).resolve(), leave_out=self.app.own_files())

    def _age(self, age: freshness_module.Freshness) -> str:
        """Return the age of a view in words, and warn if its sync failed."""
        for warning in age.warnings():
            self.app.out.warn(warning)
        return age.describe()
