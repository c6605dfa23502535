"""Check configuration, registry, cache and network, one function per check. Each result that is not ok names a fix."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries import statistics
from mopsjobs.cache.sync.identity import check_same_registry
from mopsjobs.engines.slurm.commands import Commands, NotConfiguredError, is_installed
from mopsjobs.errors import (
    EXIT_DONE,
    EXIT_PARTLY_DONE,
    EXIT_UNREACHABLE,
    CacheError,
    MopsJobsError,
    StoreAccessError,
    UsageError,
    command_line,
)
from mopsjobs.registry.announcements import MAX_CLOCK_SKEW, expired_announcements
from mopsjobs.utils.file_systems import network_file_system
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import human_age, human_duration, parse_time
from mopsjobs.version import __version__

PILING_DAYS = 7
"""Days. Syncs need announcements for one day; older ones pile up until `prune --store` removes them."""

FIRST_JOB = "submit STUDY --auto"

SNAPSHOTS = "snapshots/"

PRUNE_COMMAND = "prune --store --older-than 30d"
"""The command that removes old events and announcements. Its `--dry-run` counts them."""

SET_CLOCK = "synchronize the clock, for example by NTP: timedatectl set-ntp true"

SLURM_SECONDS = 10.0

_SLURM_SETTING = re.compile(r"^(ClusterName|AccountingStorageType|MaxArraySize)\s*=\s*(\S+)", re.ASCII | re.MULTILINE)


class CheckResult(NamedTuple):
    """The result of one check."""

    name: str
    state: str
    """`ok`, `warn` or `fail`."""
    detail: str
    fix: str | None = None
    exit_code: int = EXIT_DONE


def failed(name: str, error: MopsJobsError, fix: str = "", state: str = "fail") -> CheckResult:
    """Return the result of a check that an error has ended."""
    return CheckResult(name, state, str(error), error.hint or fix or None, error.exit_code)


class Problem(NamedTuple):
    """A key whose value cannot be read, or a record with a warning, as of the last sync."""

    key: str
    kind: str
    reason: str


class Diagnosis:
    """The results of the checks so far, in their order."""

    def __init__(self, app: App, problems: list[Problem] | None) -> None:
        self.app = app
        self.problems = problems
        """The records with problems; None if the registry was never synced."""
        self.results: list[CheckResult] = []

    @property
    def exit_code(self) -> int:
        """Return the exit code of the first check that failed."""
        return next((result.exit_code for result in self.results if result.state == "fail"), EXIT_DONE)

    @property
    def sync_fix(self) -> str:
        """Return the fix for a cache that is not up to date."""
        return "restore the access to the registry first" if self.state_of("access") == "fail" else command_line("sync")

    def state_of(self, name: str) -> str | None:
        """Return the state of a check; None if it has no result."""
        return next((result.state for result in self.results if result.name == name), None)


def run_checks(app: App) -> Diagnosis:
    """Run all checks. A registry on this machine is synced first."""
    app.embedded.notes_missing = False  # the check `access` does
    if app.settings.is_local:
        with contextlib.suppress(MopsJobsError):  # the checks say why
            app.cache.sync(wait=None)
    problems: list[Problem] | None = None
    with contextlib.suppress(MopsJobsError):
        problems = app.cache.read_cached(_known_problems)
    diagnosis = Diagnosis(app, problems)
    diagnosis.results += check_settings(diagnosis)
    for check in CHECKS:
        result = check(diagnosis)
        if result is not None:
            diagnosis.results.append(result)
    return diagnosis


def check_settings(diagnosis: Diagnosis) -> list[CheckResult]:
    """Name the versions of mops-jobs, Python and the system, the configuration files, and the registry."""
    settings, system = diagnosis.app.settings, f"{platform.system()} {platform.machine()}"
    version = f"mops-jobs {__version__}, Python {platform.python_version()}, {system}"
    return [
        CheckResult("version", "ok", version),
        CheckResult("config", "ok", ", ".join(settings.files) or "no configuration file"),
        CheckResult("registry", "ok", f"{settings.registry.value} (from {settings.registry.origin})"),
    ]


def check_access(diagnosis: Diagnosis) -> CheckResult:
    """Check that the registry can be read, and that it is the one that the cache mirrors."""
    app = diagnosis.app
    if (missing := app.embedded.missing_path()) is not None:
        return _missing_file(app, missing)
    try:
        registry = app.registry  # opened before the measurement, which is then that of the network
        getattr(app.store, "connect", lambda: None)()
        start = app.monotonic()
        first = next(registry.scan(), None)
        seconds = app.monotonic() - start
        with contextlib.suppress(CacheError, UsageError):  # the check `cache` says why
            app.cache.read_cached(lambda cache: check_same_registry(registry, cache))
    except MopsJobsError as error:
        far = "check the network, the URL and the credentials in the environment"
        return failed("access", error, "check the path" if app.settings.is_local else far)
    source = getattr(app.store, "credential_source", None)
    signed = f", signed in by {source}" if source else ""
    if first is None:
        return CheckResult("access", "warn", f"reachable, no jobs yet{signed}", command_line(FIRST_JOB))
    return CheckResult("access", "ok", f"reachable in {seconds * 1000:.0f} ms{signed}")


def check_clock(diagnosis: Diagnosis) -> CheckResult | None:
    """Compare this machine's clock with the registry's, if the store has one."""
    app = diagnosis.app
    # After the check of the access, which opens the store and reports its errors.
    server_time: datetime | None = None
    with contextlib.suppress(MopsJobsError):
        server_time = getattr(app.store, "server_time", None)
    if server_time is None:
        return None
    ahead = (app.now() - server_time).total_seconds()
    direction = "ahead of" if ahead > 0 else "behind"
    detail = f"this machine's clock is {human_duration(abs(ahead))} {direction} the registry's"
    # A runner reports every 30 s. Writers correct a clock that is behind by the store's replies; readers do not.
    if -MAX_CLOCK_SKEW.total_seconds() <= ahead <= SILENT_SECONDS / 2:
        return CheckResult("clock", "ok", detail)
    limit = MAX_CLOCK_SKEW.total_seconds()
    far = f"; above {human_duration(limit)}, syncs may miss changes for an hour, and ages are wrong"
    near = ", so jobs at work may look silent here"
    return CheckResult("clock", "warn", detail + (far if abs(ahead) > limit else near), SET_CLOCK)


def check_retention(diagnosis: Diagnosis) -> CheckResult | None:
    """Check that old announcements do not pile up in a registry that can be read and has jobs."""
    if diagnosis.state_of("access") != "ok":
        return None
    app = diagnosis.app
    try:
        old = next(expired_announcements(app.store, app.now() - timedelta(days=PILING_DAYS)), None)
    except MopsJobsError as error:
        return failed("retention", error)
    if old is not None:
        detail = f"announcements since {old[1].partition('T')[0]}; no sync needs those older than a day"
        return CheckResult("retention", "warn", detail, command_line(PRUNE_COMMAND))
    return CheckResult("retention", "ok", "no old announcements")


def check_snapshots(diagnosis: Diagnosis) -> CheckResult | None:
    """Name keys of snapshots that a development version left in the store. See docs/decisions/0090-no-snapshots.md."""
    if diagnosis.state_of("access") != "ok" or diagnosis.app.settings.is_local:
        return None
    try:
        if next(iter(diagnosis.app.store.list_keys(SNAPSHOTS)), None) is None:
            return None
    except MopsJobsError as error:
        return failed("snapshots", error)
    detail = f"the store has keys at {SNAPSHOTS} of a development version; nothing reads them"
    return CheckResult("snapshots", "warn", detail, "Remove them with the tools of the store.")


def check_cache(diagnosis: Diagnosis) -> CheckResult:
    """Check that the cache can be written, and that it was synced."""
    app = diagnosis.app
    try:
        app.cache.check_writable()
        result = app.cache.read_cached(lambda connection: _check_cached(diagnosis, connection))
    except MopsJobsError as error:
        return failed("cache", error)
    return result or CheckResult("cache", "warn", f"{app.cache.path}: no file yet", diagnosis.sync_fix)


def check_file_systems(diagnosis: Diagnosis) -> CheckResult | None:
    """Check that neither the cache nor an embedded registry is on a network file system."""
    for name, path in (("cache", diagnosis.app.cache.path), ("registry", diagnosis.app.embedded.path)):
        if path is not None and (kind := network_file_system(path)) is not None:
            detail = f"the {name} {path} is on a network file system ({kind}), where SQLite cannot lock it safely"
            return CheckResult("file system", "warn", detail, f"put the {name} on a local disk")
    return None


def check_records(diagnosis: Diagnosis) -> CheckResult:
    """Check that all records could be read at the last sync."""
    problems = diagnosis.problems
    if problems is None:
        return CheckResult("records", "warn", "not checked: never synced", diagnosis.sync_fix)
    if unreadable := sum(problem.kind == "unreadable" for problem in problems):
        detail = f"{unreadable} unreadable, {len(problems) - unreadable} with a warning"
        fix = "repair the records below; until then, the cache keeps the last good state of each job"
        return CheckResult("records", "fail", detail, fix, EXIT_PARTLY_DONE)
    if problems:
        return CheckResult("records", "warn", f"{len(problems)} with a warning", "see the warnings below")
    return CheckResult("records", "ok", "all readable as of the last sync")


def check_slurm(diagnosis: Diagnosis) -> CheckResult | None:
    """Name the Slurm of this machine, where there is one."""
    env = diagnosis.app.env
    if not is_installed(env):
        return None
    try:
        return CheckResult("slurm", "ok", describe_slurm(env))
    except NotConfiguredError:
        return None
    except MopsJobsError as error:  # jobs of other engines run all the same
        return failed("slurm", error, "ask those who run the cluster", "warn")


def check_conditions(diagnosis: Diagnosis) -> CheckResult | None:
    """Probe the server with a key of its own, if it can be read. The check does not fail if writes are refused."""
    app = diagnosis.app
    if app.settings.is_local or diagnosis.state_of("access") == "fail":
        return None
    try:
        result = getattr(app.store, "check_conditions", lambda: None)()
    except StoreAccessError as error:
        return CheckResult("conditions", "ok", f"not probed, since writes are refused: {error}")
    except MopsJobsError as error:
        return failed("conditions", error, "check the network, and try again")
    if result is None:
        return None
    if result.left_key is not None:
        detail = f"kept; the key of the probe stays, since the credentials may not delete {result.left_key}"
        return CheckResult("conditions", "warn", detail, "remove that key, or allow the credentials to delete keys")
    return CheckResult("conditions", "ok", "kept: the server refuses second creations and updates of stale versions")


CHECKS: tuple[Callable[[Diagnosis], CheckResult | None], ...] = (
    check_access,
    check_clock,
    check_retention,
    check_snapshots,
    check_cache,
    check_file_systems,
    check_records,
    check_slurm,
    check_conditions,
)
"""The checks in their order. A check has no result where it does not apply, and may use the results before it."""


def describe_slurm(env: Mapping[str, str]) -> str:
    """Return its version, its cluster, whether it keeps accounts, and the largest job array.

    Raises:
        EngineError: if its controller does not answer.
    """
    commands = Commands(env, SLURM_SECONDS)
    version = commands.ask("scontrol", "--version").split()[-1:]
    settings = dict(_SLURM_SETTING.findall(commands.ask("scontrol", "show", "config")))
    kind = settings.get("AccountingStorageType", "none").rpartition("/")[2]
    keeps = kind not in ("none", "(null)") and shutil.which("sacct", path=env.get("PATH")) is not None
    facts = [f"Slurm {' '.join(version)}", f"cluster {settings.get('ClusterName', '?')}"]
    facts.append("accounts by sacct" if keeps else "no accounts: Slurm forgets a job minutes after its end")
    if size := settings.get("MaxArraySize"):
        facts.append(f"up to {int(size) - 1:,} shards per job" if size.isdecimal() else f"MaxArraySize {size}")
    return ", ".join(facts)


def _known_problems(connection: sqlite3.Connection) -> list[Problem] | None:
    if "synced_at" not in job_queries.all_meta(connection):
        return None
    return [Problem(*found) for found in statistics.problems(connection)]


def _missing_file(app: App, path: str) -> CheckResult:
    """Return the result for an embedded registry without a file: a failure only if it had one before."""
    if (lost := app.embedded.evidence()) is not None:
        fix = f"mount its disk, or restore the file; to start a new one: {command_line('sync --full')}"
        return CheckResult("access", "fail", f"the file {path} is gone; {lost}", fix, EXIT_UNREACHABLE)
    fix = command_line(FIRST_JOB)
    if app.settings.registry.origin != "default":
        fix = f"check the path; if it is right: {fix}"
    return CheckResult("access", "warn", f"there is no file {path} yet; the first job creates it", fix)


def _check_cached(diagnosis: Diagnosis, connection: sqlite3.Connection) -> CheckResult:
    path = diagnosis.app.cache.path
    known = job_queries.all_meta(connection)
    size = os.path.getsize(path) / 1e6
    facts = f"{path}: {pluralize(job_queries.count_jobs(connection), 'job')}, {size:.1f} MB"
    synced_at = known.get("synced_at")
    if known.get("last_error"):
        detail = f"{facts}; the last sync failed: {known['last_error']}"
        return CheckResult("cache", "warn", detail, diagnosis.sync_fix)
    if synced_at is None:
        return CheckResult("cache", "warn", f"{facts}, never synced", diagnosis.sync_fix)
    age = human_age((diagnosis.app.now() - parse_time(synced_at)).total_seconds())
    return CheckResult("cache", "ok", f"{facts}, synced {age}")
