"""`doctor`: is everything in place, and if not, what to do. Each check names its fix."""

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
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import styled
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, EXIT_UNREACHABLE, CacheError, MopsJobsError, UsageError
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import human_age, human_duration, parse_time

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


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
"""SQLite's WAL needs shared memory between the processes at a file, which none of these gives across machines."""


PILING_DAYS = 7
"""Announcements are of no use after a day; older than so many days, they pile up and nobody removes them."""


SYNC = "mops-jobs sync"
"""The fix of what has not been mirrored: of no use while the registry cannot be reached."""


STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


class Check:
    """One thing looked at."""

    __slots__ = ("detail", "exit_code", "fix", "name", "state")

    def __init__(
        self, name: str, state: str, detail: str, *, fix: str | None = None, exit_code: int = EXIT_DONE
    ) -> None:
        self.name = name
        self.state = state
        self.detail = detail
        self.fix = fix
        self.exit_code = exit_code


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `doctor`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="check configuration, registry and cache, with a fix for what is wrong",
        description="Check configuration, registry and cache. The exit code is that of the first thing that fails.",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON document")


def run(args: argparse.Namespace, app: App) -> Result:
    """Check everything."""
    problems: list[tuple[str, str, str]] | None = None
    app.embedded.notes_missing = False  # a check of its own does
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
            check.fix = "first mend the access"
        yield check


def _records(problems: list[tuple[str, str, str]] | None) -> Check:
    if problems is None:
        return Check("records", "warn", "not looked at: never synced", fix=SYNC)
    if unreadable := sum(kind == "unreadable" for _, kind, _ in problems):
        return Check(
            "records",
            "fail",
            f"{unreadable} unreadable, {len(problems) - unreadable} to note",
            fix="look at the records below; each job keeps its last good row until its record is mended",
            exit_code=EXIT_PARTLY_DONE,
        )
    if problems:
        return Check("records", "warn", f"{len(problems)} to note", fix="look at them below")
    return Check("records", "ok", "all sound as of the last sync")


def _reachable(app: App) -> Check:
    if (missing := app.embedded.missing_path()) is not None:
        return _missing(app, missing)
    try:
        registry = app.registry  # opened before the clock starts: what takes time then is the network
        begun = app.monotonic()
        first = next(registry.scan(), None)
        taken = app.monotonic() - begun
        with contextlib.suppress(CacheError, UsageError):  # a check of its own says why
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
        return Check("access", "warn", f"reachable, no jobs there yet{signed}", fix="mops-jobs register JOB")
    return Check("access", "ok", f"reachable in {taken * 1000:.0f} ms{signed}")


def _clock(app: App) -> Iterator[Check]:
    """Compare this machine's clock with the registry's, where that tells the time."""
    from mopsjobs.registry.announcements import MAX_CLOCK_SKEW

    # After the access: a store that is not open has told nothing, and whatever opening says is said there.
    told: datetime | None = None
    with contextlib.suppress(MopsJobsError):
        told = getattr(app.store, "server_time", None)
    if told is None:
        return
    ahead = (app.now() - told).total_seconds()
    direction = "ahead of" if ahead > 0 else "behind"
    detail = f"this machine's clock is {human_duration(abs(ahead))} {direction} the registry's"
    if abs(ahead) <= MAX_CLOCK_SKEW.total_seconds():
        yield Check("clock", "ok", detail)
        return
    most = human_duration(MAX_CLOCK_SKEW.total_seconds())
    yield Check(
        "clock",
        "warn",
        f"{detail}; above {most}, syncs may miss changes for an hour, and ages are wrong",
        fix="set the clock, such as by NTP: timedatectl set-ntp true",
    )


def _missing(app: App, path: str) -> Check:
    """What it means that there is no embedded registry: where nobody has used it yet, nothing."""
    if (lost := app.embedded.evidence()) is not None:
        return Check(
            "access",
            "fail",
            f"there is no file {path} any more; {lost}",
            fix="mount its disk, or bring the file back; to begin a new one: mops-jobs sync --full",
            exit_code=EXIT_UNREACHABLE,
        )
    fix = "mops-jobs register JOB"
    if app.settings.registry.origin != "default":
        fix = f"check the path; if it is right: {fix}"
    return Check("access", "warn", f"there is no file {path} yet; the first job makes it", fix=fix)


def _retention(app: App) -> Check:
    from mopsjobs.events.retention import oldest_times

    try:
        announced, told = oldest_times(app.store)
    except MopsJobsError as error:
        return Check("retention", "fail", str(error), fix=error.hint, exit_code=error.exit_code)
    since = f"{told:%Y-%m-%d}" if told else None
    facts = f"events since {since}" if since else "no events"
    if announced is not None and (app.now() - announced).days >= PILING_DAYS:
        return Check(
            "retention",
            "warn",
            f"{facts}, and announcements since {announced:%Y-%m-%d}, which nobody needs after a day",
            fix="mops-jobs prune --store --older-than 30d",
        )
    return Check("retention", "ok", facts)


def _cache(app: App) -> Check:
    try:
        app.cache.check_writable()
        found = app.cache.read_cached(lambda connection: _mirrored(app, connection))
    except MopsJobsError as error:
        return Check("cache", "fail", str(error), fix=error.hint, exit_code=error.exit_code)
    return found or Check("cache", "warn", f"{app.cache.path}: nothing there yet", fix=SYNC)


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
    told = f"a sync is running{holder.describe(now)}"
    if holder.is_stalled(now):
        yield Check("sync", "warn", f"{told}; no other can begin", fix=holder.fix())
    else:
        yield Check("sync", "ok", told)


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
    """The type of the file system that holds `path`; None where the system does not tell as Linux does."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            mounts = [line.split(" ")[1:3] for line in file]
    except OSError:
        return None
    real = os.path.realpath(path) + "/"
    holding = [(point, kind) for point, kind in mounts if real.startswith(point.rstrip("/") + "/")]
    return max(holding, key=lambda mount: len(mount[0]), default=("", None))[1]
