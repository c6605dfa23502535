"""One run of mops-jobs: its settings, its registry, its cache, its clock and its streams, opened at the first use."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime

from mopsjobs.app.run.cache_access import CacheAccess
from mopsjobs.app.run.config import Settings, load
from mopsjobs.app.run.embedded_registry import CacheLocation, EmbeddedRegistry
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.console.printer import Printer
from mopsjobs.errors import CacheError
from mopsjobs.utils.sqlite_file import file_names
from mopsjobs.utils.times import json_time, utc_now

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store.base import VersionedStore, VersionToken
    from mopsjobs.submission.launch_options import LaunchOptions
    from mopsjobs.submission.session import Session


LIST_VERSION = 1
"""The `schema_version` of `list --json`. Fields are only added; it changes if one has to be removed."""


class App:
    """The settings, the cache and the registry of one run, for commands and the page."""

    def __init__(
        self,
        settings: Settings,
        out: Printer,
        env: Mapping[str, str],
        *,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.out = out
        self.env = env
        self.now = now
        self.sleep = sleep
        self.monotonic = monotonic
        self._store: VersionedStore | None = None
        self._registry: JobRegistry | None = None
        location = CacheLocation(settings, out)
        self.embedded = EmbeddedRegistry(settings, location, out)
        """The file of the registry, if it is embedded."""
        self.cache = CacheAccess(
            settings, out, location=location, embedded=self.embedded, open_registry=lambda: self.registry, now=now
        )
        """The local cache."""

    @property
    def store(self) -> VersionedStore:
        """Return the store of the registry, opened once."""
        if self._store is None:
            from mopsjobs.store import open_store
            from mopsjobs.store.bulk import pacer_of

            store = open_store(self.settings.registry.value, self.env, when_missing=self.embedded.refuse_lost)
            if not self.settings.is_local:
                from mopsjobs.studies.packed_store import show_packs

                store = show_packs(store)
            self._store = store
            if self.out.verbose and (pacer := pacer_of(self._store)) is not None:
                pacer.on_retry = lambda reason, pause: self.out.debug(f"{reason} Trying again in {pause:.1f} s.")
        return self._store

    @property
    def registry(self) -> JobRegistry:
        """Return the registry. What it reads and writes goes into the cache too, and each write leaves an event."""
        if self._registry is None:  # made once: it remembers its announcements
            from mopsjobs.registry.job_registry import JobRegistry
            from mopsjobs.utils.user_dirs import user_name

            self._registry = JobRegistry(
                self.store, now=self.now, sleep=self.sleep, on_write=self._after_write, observe=self.cache.observe
            ).with_user(user_name(self.env))
            self._registry.ids_with_prefix = self.ids_with_prefix
        return self._registry

    def session(self) -> Session:
        """Return a session in which jobs are submitted, resumed and ended. Nothing is opened yet."""
        from mopsjobs.submission.session import Session

        return Session(
            registry_url=self.settings.registry.value,
            open_registry=lambda: self.registry,
            env=self.env,
            note=self.out.note,
            warn=self.out.warn,
            progress=lambda: self.out.progress("bytes packed"),
            now=self.now,
            monotonic=self.monotonic,
            sleep=self.sleep,
        )

    def launch_options(self, values: Mapping[str, Any], *, may_grow: bool = False) -> LaunchOptions:
        """Return the options of a launch for the values of flags or of arguments.

        Args:
            values: the values, by the names of options.
            may_grow: whether limits may be factors, like `x2`, of those of an earlier launch.

        Raises:
            UsageError: if a value is not valid, or if there is no usable rule of a name.
        """
        from mopsjobs.app.run.notify_rules import check_rules
        from mopsjobs.submission.launch_options import read_options

        options = read_options(values, may_grow=may_grow)
        check_rules(self.settings.rules, options.notify or (), self.env)
        return options

    def describe_reads(self) -> str:
        """Return how fast a registry across a network answers a sync, and what it is waited for."""
        pacer = getattr(self._store, "pacer", None)
        return "" if pacer is None else pacer.describe()

    def own_files(self) -> list[str]:
        """Return what no bundle takes: the files of registry and cache, and the directories of mops-jobs.

        They have the unpacked code of each job. If packed, it would double with each job.

        Raises:
            CacheError: if there is no home directory, and the temporary one is not private.
        """
        from glob import escape, glob

        from mopsjobs.utils.user_dirs import own_directories

        paths = [path for path in (self.cache.path, self.embedded.path) if path is not None]
        every = [*paths, *map(os.path.realpath, paths)]
        names = [
            name for path in every for name in (*file_names(path), path + ".lock", *glob(f"{escape(path)}.damaged-*"))
        ]
        return [*names, *(self.cache.path + of for of in ("-results", "-series")), *own_directories(self.env)]

    def document_head(self, schema_version: int, age: Mapping[str, object]) -> dict[str, object]:
        """Return the first fields of a JSON document of what the cache holds: version, age and registry."""
        return {
            "schema_version": schema_version,
            "generated_at": json_time(self.now()),
            **age,
            "registry": self.settings.registry_id,
            "registry_from": self.settings.registry.origin,
        }

    def list_header(self, page: job_queries.JobList, freshness: Freshness) -> dict[str, object]:
        """Return the JSON document of a listing without its jobs, which come last in it."""
        return {**self.document_head(LIST_VERSION, freshness.to_json()), "total": page.total, "returned": len(page)}

    def ids_with_prefix(self, prefix: str) -> tuple[str, ...]:
        """Return ids of the cache that begin with a prefix, as far as it can be read, for an error or a hint."""
        with contextlib.suppress(CacheError):
            return self.cache.read_cached(lambda cache: job_queries.ids_with_prefix(cache, prefix)) or ()
        return ()

    def close(self) -> None:
        """Close what was opened."""
        if self._store is not None:
            self._store.close()

    def _after_write(self, _key: str, value: bytes, _version: VersionToken) -> None:
        """Write the events of a written record, which tell other readers."""
        from mopsjobs.events.writer import record_write

        if not record_write(self.store, value, now=self.now):
            self.out.debug("The registry took the write, but not its events.")


def open_app(
    flags: Mapping[str, str | None],
    env: Mapping[str, str],
    out: Printer,
    *,
    given_by: str = "flag --",
    new_app: Callable[..., App] = App,
    **clocks: object,
) -> App:
    """Find the settings, report what is odd about them, and return the run. Nothing is opened yet.

    Args:
        flags: see `mopsjobs.app.run.config.load`, as for `given_by`.
        env: the environment.
        out: takes warnings and notes.
        given_by: the text in front of the name of a flag.
        new_app: makes the run of settings, printer, environment and clocks.
        clocks: the clocks of `App`, by name.

    Raises:
        ConfigError: if a setting or a configuration file is invalid.
    """
    if (environment := flags.get("env")) is not None:
        from mopsjobs.app.run.modelops_environment import with_environment

        env = with_environment(environment, env)
    cwd = None
    with contextlib.suppress(OSError):  # it was removed, like the scratch directory of a job that has ended
        cwd = os.getcwd()
    settings = load(flags, env, cwd, given_by=given_by)
    out.color = settings.color.value
    for sentence in settings.ignored:
        out.warn(sentence)
    if settings.redirected_by is not None:
        out.note(f"The registry is {settings.registry.value}, named by {settings.redirected_by}")
    return new_app(settings, out, env, **clocks)
