"""`doctor`: check configuration, registry and cache. Each check names its fix."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sqlite3
from collections.abc import Iterator
from datetime import datetime

from mopsjobs import __version__
from mopsjobs.app.app import App
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.sync.identity import check_same_registry
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import styled
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, EXIT_UNREACHABLE, CacheError, MopsJobsError, UsageError
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import human_age, human_duration, parse_time

HELP = "check configuration, registry and cache, with a fix for each problem"

DESCRIPTION = (
    "Check configuration, registry and cache, and name a fix for each problem. The exit code is that of the first check"
    " that fails."
)

EXAMPLES = (
    "mops-jobs doctor",
    "mops-jobs doctor --json | jq '.checks[] | select(.state != \"ok\")'",
)

SCHEMA_VERSION = 1

SHOWN_PROBLEMS = 20

NETWORK_FILE_SYSTEMS = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "9p",
    "fuse.sshfs",
    "ceph",
    "lustre",
    "glusterfs",
)
"""SQLite's WAL needs shared memory between processes. These file systems do not have it across machines."""

PILING_DAYS = 7
"""Days. Syncs need announcements for one day; older ones pile up until `prune --store` removes them."""

SYNC = "mops-jobs sync"
"""The fix for a cache that is not up to date, if the registry can be reached."""

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


class Check:
    """The result of one check."""

    __slots__ = ("detail", "exit_code", "fix", "name", "state")

    def __init__(
        self, name: str, state: str, detail: str, *, fix: str | None = None, exit_code: int = EXIT_DONE
    ) -> None:
        self.name = name
        self.state = state
        self.detail = detail
        self.fix = fix
        self.exit_code = exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace, app: App) -> Result:
    """Check everything."""
    problems: list[tuple[str, str, str]] | None = None
    app.embedded.notes_missing = False  # the check `access` does
    if app.settings.is_local:
        with contextlib.suppress(MopsJobsError):  # the checks below say why
            app.cache.sync(wait=None)
    with contextlib.suppress(MopsJobsError):
        problems = app.cache.read_cached(_known_problems)
    checks = list(_checks(app, problems))
    problems = problems or []
    exit_code = next((check.exit_code for check in checks if check.state == "fail"), EXIT_DONE)
    if args.json:
        document = {
            "schema_version": SCHEMA_VERSION,
            "checks": [{"name": one.name, "state": one.state, "detail": one.detail, "fix": one.fix} for one in checks],
            "problems": [{"key": key, "kind": kind, "reason": reason} for key, kind, reason in problems],
        }
        return Result(Document(document), exit_code=exit_code)
    lines: list[str | list[str]] = []
    for check in checks:
        lines.append([styled(f"{check.state:<5}", STYLES[check.state]), f"{check.name:<12}", check.detail])
        if check.fix is not None:
            lines.append(f"{'':17}fix: {check.fix}")
    lines += [f"{'':17}{key}: {reason}" for key, _, reason in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"{'':17}and {len(problems) - SHOWN_PROBLEMS} more: mops-jobs doctor --json")
    return Result(Text(lines), exit_code=exit_code)


def _known_problems(connection: sqlite3.Connection) -> list[tuple[str, str, str]] | None:
    if "synced_at" not in job_queries.all_meta(connection):
        return None
    from mopsjobs.cache.queries import statistics

    return statistics.problems(connection)


def _checks(app: App, problems: list[tuple[str, str, str]] | None) -> Iterator[Check]:
    system = f"{platform.system()} {platform.machine()}"
    yield Check("version", "ok", f"mops-jobs {__version__}, Python {platform.python_version()}, {system}")
    yield Check("config", "ok", ", ".join(app.settings.files) or "no configuration file")
    registry = app.settings.registry
    yield Check("registry", "ok", f"{registry.value} (from {registry.origin})")
    access = _reachable(app)
    yield access
    yield from _clock(app)
    if access.state == "ok":
        yield _retention(app)
    for check in (_cache(app), *_running_sync(app), *_file_systems(app), _records(problems)):
        if access.state == "fail" and check.fix == SYNC:
            check.fix = "restore the access to the registry first"
        yield check


def _records(problems: list[tuple[str, str, str]] | None) -> Check:
    if problems is None:
        return Check("records", "warn", "not checked: never synced", fix=SYNC)
    if unreadable := sum(kind == "unreadable" for _, kind, _ in problems):
        return Check(
            "records",
            "fail",
            f"{unreadable} unreadable, {len(problems) - unreadable} with a warning",
            fix="repair the records below; until then, the cache keeps the last good state of each job",
            exit_code=EXIT_PARTLY_DONE,
        )
    if problems:
        return Check("records", "warn", f"{len(problems)} with a warning", fix="see the warnings below")
    return Check("records", "ok", "all readable as of the last sync")


def _reachable(app: App) -> Check:
    if (missing := app.embedded.missing_path()) is not None:
        return _missing(app, missing)
    try:
        registry = app.registry  # opened before the measurement, which is then that of the network
        start = app.monotonic()
        first = next(registry.scan(), None)
        seconds = app.monotonic() - start
        with contextlib.suppress(CacheError, UsageError):  # the check `cache` says why
            app.cache.read_cached(lambda cache: check_same_registry(registry, cache))
    except MopsJobsError as error:
        fix = error.hint or (
            "check the path"
            if app.settings.is_local
            else "check the network, the URL and the credentials in the environment"
        )
        return Check("access", "fail", str(error), fix=fix, exit_code=error.exit_code)
    source = getattr(app.store, "credential_source", None)
    signed = f", signed in by {source}" if source else ""
    if first is None:
        return Check("access", "warn", f"reachable, no jobs yet{signed}", fix="mops-jobs register JOB")
    return Check("access", "ok", f"reachable in {seconds * 1000:.0f} ms{signed}")


def _clock(app: App) -> Iterator[Check]:
    """Compare this machine's clock with the registry's, if the store has one."""
    from mopsjobs.registry.announcements import MAX_CLOCK_SKEW

    # After the check of the access, which opens the store and reports its errors.
    server_time: datetime | None = None
    with contextlib.suppress(MopsJobsError):
        server_time = getattr(app.store, "server_time", None)
    if server_time is None:
        return
    ahead = (app.now() - server_time).total_seconds()
    direction = "ahead of" if ahead > 0 else "behind"
    detail = f"this machine's clock is {human_duration(abs(ahead))} {direction} the registry's"
    if abs(ahead) <= MAX_CLOCK_SKEW.total_seconds():
        yield Check("clock", "ok", detail)
        return
    limit = human_duration(MAX_CLOCK_SKEW.total_seconds())
    yield Check(
        "clock",
        "warn",
        f"{detail}; above {limit}, syncs may miss changes for an hour, and ages are wrong",
        fix="synchronize the clock, for example by NTP: timedatectl set-ntp true",
    )


def _missing(app: App, path: str) -> Check:
    """Return the check of an embedded registry without a file: a failure only if it had one before."""
    if (lost := app.embedded.evidence()) is not None:
        return Check(
            "access",
            "fail",
            f"the file {path} is gone; {lost}",
            fix="mount its disk, or restore the file; to start a new one: mops-jobs sync --full",
            exit_code=EXIT_UNREACHABLE,
        )
    fix = "mops-jobs register JOB"
    if app.settings.registry.origin != "default":
        fix = f"check the path; if it is right: {fix}"
    return Check("access", "warn", f"there is no file {path} yet; the first job creates it", fix=fix)


def _retention(app: App) -> Check:
    from mopsjobs.events.retention import oldest_times

    try:
        announced, first_event = oldest_times(app.store)
    except MopsJobsError as error:
        return Check("retention", "fail", str(error), fix=error.hint, exit_code=error.exit_code)
    since = f"{first_event:%Y-%m-%d}" if first_event else None
    facts = f"events since {since}" if since else "no events"
    if announced is not None and (app.now() - announced).days >= PILING_DAYS:
        return Check(
            "retention",
            "warn",
            f"{facts}, and announcements since {announced:%Y-%m-%d}; no sync needs those older than a day",
            fix="mops-jobs prune --store --older-than 30d",
        )
    return Check("retention", "ok", facts)


def _cache(app: App) -> Check:
    try:
        app.cache.check_writable()
        found = app.cache.read_cached(lambda connection: _mirrored(app, connection))
    except MopsJobsError as error:
        return Check("cache", "fail", str(error), fix=error.hint, exit_code=error.exit_code)
    return found or Check("cache", "warn", f"{app.cache.path}: no file yet", fix=SYNC)


def _mirrored(app: App, connection: sqlite3.Connection) -> Check:
    known = job_queries.all_meta(connection)
    size = os.path.getsize(app.cache.path) / 1e6
    facts = f"{app.cache.path}: {pluralize(job_queries.count_jobs(connection), 'job')}, {size:.1f} MB"
    synced_at = known.get("synced_at")
    if known.get("last_error"):
        return Check("cache", "warn", f"{facts}; the last sync failed: {known['last_error']}", fix=SYNC)
    if synced_at is None:
        return Check("cache", "warn", f"{facts}, never synced", fix=SYNC)
    age = human_age((app.now() - parse_time(synced_at)).total_seconds())
    return Check("cache", "ok", f"{facts}, synced {age}")


def _running_sync(app: App) -> Iterator[Check]:
    holder, now = app.cache.sync_holder(), app.now()
    if holder is None:
        return
    detail = f"a sync is running{holder.describe(now)}"
    if holder.is_stalled(now):
        yield Check("sync", "warn", f"{detail}; no other sync can start", fix=holder.fix())
    else:
        yield Check("sync", "ok", detail)


def _file_systems(app: App) -> Iterator[Check]:
    paths = {"cache": app.cache.path}
    if app.embedded.path is not None:
        paths["registry"] = app.embedded.path
    for name, path in paths.items():
        kind = _file_system(path)
        if kind in NETWORK_FILE_SYSTEMS:
            detail = f"the {name} {path} is on a network file system ({kind}), where SQLite cannot lock it safely"
            yield Check("file system", "warn", detail, fix=f"put the {name} on a local disk")


def _file_system(path: str) -> str | None:
    """Return the type of the file system that holds `path`; None on a system without /proc/self/mounts."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            mounts = [line.split(" ")[1:3] for line in file]
    except OSError:
        return None
    real = os.path.realpath(path) + "/"
    holding = [(point, kind) for point, kind in mounts if real.startswith(point.rstrip("/") + "/")]
    return max(holding, key=lambda mount: len(mount[0]), default=("", None))[1]
