"""Tell of jobs by the rules of the user: decide what is due, claim each message, and send it beside the work.

Each message is claimed and sent in a thread of its own, which nothing waits for longer than `BOUND_SECONDS`. What was
not sent by then, another watcher sends later. So a server that hangs delays a command by that time, and a job never:
its record has ended before. Three watchers use this: a sync, a wait, and the process that runs a job.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.app.following.notify import claims
from mopsjobs.app.run.app import App
from mopsjobs.app.run.cache_access import MAX_LOCK_WAIT
from mopsjobs.app.run.notify_rules import ALL, END, FAILED, FAILURES, MINE, OCCASIONS, SUSPECT, SWEEP_END, Rule
from mopsjobs.cache.job_json import COLUMNS, job_json
from mopsjobs.cache.queries.jobs import find_exact
from mopsjobs.cache.queries.sweeps import Sweep, ended_sweeps
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cache.sync_state import known_to, transaction
from mopsjobs.engines import runner_process
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.trust import remembered_names
from mopsjobs.errors import ConfigError, MopsJobsError, StoreError, command_line
from mopsjobs.events.format import NOTIFIED
from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import END_STATUSES, SWEEP, JobStatus
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import parse_time
from mopsjobs.utils.user_dirs import user_name

if TYPE_CHECKING:
    from mopsjobs.app.following.notify.recipients import Recipient

Job = Mapping[str, Any]

BOUND_SECONDS = 10.0
"""Seconds that a command waits at its end for messages under way."""

MAX_MESSAGES = 10
"""Messages per recipient in `RATE_SECONDS`. The others wait."""

RATE_SECONDS = 60.0

RECENT = timedelta(minutes=10)
"""How long before a watcher began a job may have ended or fallen silent, for a rule that the job does not name."""

LOOK_SECONDS = 30.0
"""Time between two looks at a job that runs here."""

SWEEP_SECONDS = 60.0
"""How long the jobs of a sweep must have ended until that is told: another job may follow."""

END_SECONDS = 5.0
"""Time to read a record at the end."""

FIRST = "first sync for "
"""Begins the name of the time of the first sync for a rule, in the cache."""

_ENDED = ", ".join(f"'{status}'" for status in END_STATUSES)

_JOBS = (
    f"SELECT {COLUMNS} FROM job WHERE is_active = 1 UNION ALL"  # noqa: S608 - constant names
    f" SELECT {COLUMNS} FROM job WHERE is_active = 0 AND status IN ({_ENDED}) AND ended_ts >= ?"
)

FAILURE_RATE = 0.1
"""Share of the ended tasks from which on many have failed."""

LEAST_ENDED = 10
"""Tasks that have to end before their rate of failures counts, or all tasks of a smaller job."""


class Due(NamedTuple):
    """A message that is due."""

    key: str
    """The key of its claim."""
    rule: Rule
    recipient: Recipient
    job: Job
    occasion: str
    sweep: Sweep | None = None
    """The sweep that has ended; its last job is `job`."""


class _Outcome(NamedTuple):
    due: Due
    is_final: bool
    """Whether it was sent or given up."""
    problem: str | None


def occasions_of(rule: Rule, job: Job) -> list[str]:
    """Return what a rule tells of a job in its present state: `END`, or some of `FAILURES` and `SUSPECT`."""
    occasions = rule.occasions
    if not job["is_active"]:
        is_failed = job["status"] in (JobStatus.FAILED, JobStatus.PARTIAL)
        return [END] if END in occasions or (FAILED in occasions and is_failed) else []
    failed, total = job["tasks_failed"] or 0, job["tasks_total"] or 0
    ended = failed + (job["tasks_completed"] or 0)
    has_failures = failed > 0 and ended >= min(LEAST_ENDED, total or LEAST_ENDED) and failed >= FAILURE_RATE * ended
    found = [FAILURES] if FAILURES in occasions and has_failures else []
    return [*found, SUSPECT] if SUSPECT in occasions and job["suspect"] is not None else found


def _occasions_told(rule: Rule, job: Job) -> list[str]:
    """Return what a rule tells of a job in its present state. Of a job in a sweep, that is not a success."""
    is_part = not job["is_active"] and job["status"] not in (JobStatus.FAILED, JobStatus.PARTIAL)
    return [] if is_part and SWEEP in (job["labels"] or {}) else occasions_of(rule, job)


def _failure_key(job: Job, occasion: str, recipient: Recipient) -> str | None:
    """Return the key of a failure in a sweep, of which the first one of a day is told; None for any other message."""
    sweep = (job["labels"] or {}).get(SWEEP)
    if sweep is None or occasion not in (END, FAILURES):
        return None
    return claims.failure_key(str(sweep), str(job["ended_at"] or job["created_at"])[:10], occasion, recipient.digest)


def _tells_of_end(rule: Rule, sweep: Sweep) -> bool:
    """Return whether a rule tells of the end of a sweep: one for failures does so if several of its jobs failed."""
    failed = sum(sweep.statuses.get(status, 0) for status in (JobStatus.FAILED, JobStatus.PARTIAL))
    return END in rule.occasions or (FAILED in rule.occasions and failed > 1)


def covers(rule: Rule, job: Job, names: Iterable[str], user: str | None) -> bool:
    """Return whether a rule is about a job.

    Args:
        rule: the rule.
        job: the job in its JSON form.
        names: the rules that were named for it at its submission from this machine.
        user: the user of this process.
    """
    if rule.name in names:
        return True
    if rule.jobs != ALL and not (rule.jobs == MINE and user is not None and job["owner"] == user):
        return False
    labels = job["labels"] or {}
    wanted = (label.partition("=") for label in rule.labels)
    return all(labels.get(key) == value if equals else key in labels for key, equals, value in wanted)


class Notifier:
    """Tells of the jobs that a watcher sees. One thread calls it."""

    def __init__(self, app: App) -> None:
        """Find the recipients by the rules of the configuration. Nothing is sent yet."""
        from mopsjobs.app.following.notify.recipients import find_recipient  # here: most users have no rules

        self._app = app
        self._user = user_name(app.env)
        self._began_at = app.now()
        self._outcomes: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self._under_way: dict[str, Due] = {}
        self._not_before: dict[str, float] = {}
        """When a message that was not sent may be looked at again."""
        self._sent_at: dict[str, deque[float]] = {}
        self._waiting: set[str] = set()
        """Messages that are over the limit for now."""
        self._known_reasons: set[str] = set()
        self._problems: list[str] = []
        self.settled: set[str] = set()
        """Keys of claims that need nothing more: their messages were sent, or given up."""
        self.since: dict[str, float] = {}
        """From when on a rule tells news, by its mark, in seconds since 1970; else from shortly before now."""
        self.recipients: dict[str, Recipient] = {}
        self.marks: dict[str, str] = {}
        """What tells each rule from those before it, by name: one that covers or tells more is a new rule."""
        for rule in app.settings.rules:
            try:
                recipient = self.recipients[rule.name] = find_recipient(rule, app.env)
                self.marks[rule.name] = f"{recipient.digest} {rule.describe()}"
            except ConfigError as error:
                self._say(str(error))

    def offer(self, job: Job, sweep: Sweep | None = None) -> None:
        """Begin to send what is due about a job, or about a sweep that ended with the job. It takes no time."""
        if not self.recipients:
            return
        while not self._outcomes.empty():
            self._take(self._outcomes.get())
        for due in self._due(job, sweep):
            if self._may_begin(due):
                self._under_way[due.key] = due
                self._app.registry  # noqa: B018 - opened here: two threads would open it twice
                threading.Thread(target=self._deliver, args=(due,), name="notify", daemon=True).start()

    def look(self, states: Iterable[JobState | None]) -> None:
        """Begin to send what is due about jobs, as the registry has them."""
        now = self._app.now().timestamp()
        for state in states:
            if state is not None:
                self.offer(job_json_from_state(state, now=now))

    def is_due(self, job: Job) -> bool:
        """Return whether anything is to be told of a job."""
        return next(iter(self._due(job)), None) is not None

    def finish(self, seconds: float | None = None) -> list[str]:
        """Wait for what is under way. Return what the user should know, each once.

        Args:
            seconds: how long to wait at most; None for `BOUND_SECONDS`. With 0, a later call tells what became of it.
        """
        seconds = BOUND_SECONDS if seconds is None else seconds
        deadline = self._app.monotonic() + seconds
        while self._under_way:
            try:
                self._take(self._outcomes.get(timeout=max(0.0, deadline - self._app.monotonic())))
            except queue.Empty:
                break
        for due in self._under_way.values() if seconds else ():
            problem = f"no answer within {seconds:g} s"
            self._say(f"The rule {due.rule.name} may not have told of {due.job['job_id']}: {problem}")
        if self._waiting:
            self._say(
                f"{pluralize(len(self._waiting), 'notification')} more than {MAX_MESSAGES} per minute: the next"
                f" {command_line('sync')} goes on."
            )
        problems, self._problems = self._problems, []
        return problems

    def _due(self, job: Job, sweep: Sweep | None = None) -> Iterable[Due]:
        """Yield what is due about a job, or about a sweep that ended with it, and not known to be settled."""
        names = None
        for rule in self._app.settings.rules:
            recipient = self.recipients.get(rule.name)
            if recipient is None:
                continue
            occasions = _occasions_told(rule, job) if sweep is None else [SWEEP_END] * _tells_of_end(rule, sweep)
            new = {
                key: occasion
                for occasion in occasions
                for own in [claims.claim_key(str(job["job_id"]), occasion, recipient.digest)]
                if own not in self.settled
                for key in [_failure_key(job, occasion, recipient) or own]
                if key not in self.settled and key not in self._under_way
            }
            if not new:
                continue
            if names is None:
                names = remembered_names(JobDir.for_job(str(job["job_id"]), self._app.env))
            if covers(rule, job, names, self._user) and not self._is_old(job, rule, is_named=rule.name in names):
                for key, one in new.items():
                    yield Due(key, rule, recipient, job, one, sweep)

    def _is_old(self, job: Job, rule: Rule, *, is_named: bool) -> bool:
        """Return whether a job has ended too long ago, or has not changed since before the first sync with the rule."""
        ended_at = job["ended_at"]
        # Of a job that is silent, the last write is what it is silent since.
        changed = parse_time(job["updated_at"] if ended_at is None else ended_at).timestamp()
        if ended_at is not None and changed < (self._app.now() - claims.WINDOW).timestamp():
            return True
        first = self.since.get(self.marks[rule.name], (self._began_at - RECENT).timestamp())
        return not is_named and changed < first

    def _may_begin(self, due: Due) -> bool:
        now = self._app.monotonic()
        if self._not_before.get(due.key, now) > now:
            return False
        sent = self._sent_at.setdefault(due.recipient.digest, deque())
        while sent and sent[0] <= now - RATE_SECONDS:
            sent.popleft()
        if len(sent) >= MAX_MESSAGES:
            self._waiting.add(due.key)
            return False
        self._waiting.discard(due.key)
        sent.append(now)
        return True

    def _deliver(self, due: Due) -> None:
        """Claim and send one message, in a thread of its own."""
        try:
            self._outcomes.put(self._claim_and_send(due))
        except Exception as error:  # noqa: BLE001 - else nothing would ever be heard of it
            self._outcomes.put(_Outcome(due, False, f"unexpected: {type(error).__name__}"))

    def _claim_and_send(self, due: Due) -> _Outcome:
        # Here: without a message, no view is needed.
        from mopsjobs.app.following.notify.message import notification, sweep_notification

        app = self._app
        try:
            claimed = claims.claim(app.store, due.key, app.now)
        except StoreError as error:
            return _Outcome(due, False, f"it could not be claimed: {error}")
        if isinstance(claimed, claims.Settled):
            return _Outcome(due, claimed.is_final, None)
        problem = None
        try:
            due.recipient.send(
                notification(due.job, due.occasion, app)
                if due.sweep is None
                else sweep_notification(due.sweep, due.job, app)
            )
        except MopsJobsError as error:  # a `SendError`, or a `ConfigError` of the TLS authorities
            problem = str(error).rstrip(".")
        try:
            claims.mark(app.store, claimed, app.now, is_sent=problem is None)
        except StoreError as error:
            app.out.debug(f"The claim {due.key} was not marked: {error}")
        if problem is None:
            record_event(
                app.store,
                str(due.job["job_id"]),
                NOTIFIED,
                now=app.now,
                text=OCCASIONS[due.occasion] if due.sweep is None else f"the sweep {due.sweep.name} has ended",
                recipient=due.rule.type,
            )
        return _Outcome(due, problem is None, problem)

    def _take(self, outcome: _Outcome) -> None:
        due, is_final, problem = outcome
        self._under_way.pop(due.key, None)
        if is_final:
            self.settled.add(due.key)
            return
        self._not_before[due.key] = self._app.monotonic() + claims.RETRY.total_seconds()
        if problem is not None:
            self._say(f"The rule {due.rule.name} has not told of {due.job['job_id']}: {problem}.")

    def _say(self, text: str) -> None:
        """Note a problem, unless it was said before: the reason of one rule is said once for all jobs."""
        reason = text.rpartition(": ")[2] if text.startswith("The rule") else text
        if reason not in self._known_reasons:
            self._known_reasons.add(reason)
            self._problems.append(text)


class CacheNotifier:
    """Tells of the jobs of the cache, each time after a sync; nothing without rules.

    The cache remembers which messages need nothing more, so a sync without news sends no request for them. It also has
    the time of the first sync with each rule, before which nothing is told. A new cache learns the former from the
    claims.
    """

    def __init__(self, app: App) -> None:
        """Find the recipients. Nothing is sent yet."""
        self._app = app
        self._notifier = Notifier(app) if app.settings.rules else None

    def tell(self, seconds: float | None = None) -> list[str]:
        """Tell what is due, and return what the user should know. See `Notifier.finish`."""
        try:
            return [] if self._notifier is None else self._tell(self._notifier, seconds)
        except (MopsJobsError, OSError) as error:
            return [f"No notifications: {error}"]

    def tell_at_once(self) -> None:
        """Tell what is due, and wait for nothing. What the user should know is a warning, at the next call."""
        self._app.out.warn_each(self.tell(seconds=0))

    def _tell(self, notifier: Notifier, seconds: float | None) -> list[str]:
        app, now = self._app, self._app.now().timestamp()
        if not notifier.since.keys() >= {*notifier.marks.values()}:
            app.cache.write(lambda connection: _begin(connection, notifier, now))
        cached = set(notifier.settled)

        def view(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            known = known_to(connection, now)
            rows = connection.execute(_JOBS, (now - claims.WINDOW.total_seconds(),))
            return [job for row in rows if notifier.is_due(job := job_json(row, now=now, known_to=known))]

        def view_sweeps(connection: sqlite3.Connection) -> list[tuple[Sweep, dict[str, Any] | None]]:
            sql = "SELECT DISTINCT sweep FROM job WHERE sweep IS NOT NULL AND is_active = 0 AND ended_ts >= ?"
            names = [name for (name,) in connection.execute(sql, (now - claims.WINDOW.total_seconds(),))]
            ended = ended_sweeps(connection, names, now)
            return [
                (sweep, find_exact(connection, last, now=now))
                for sweep, last in ended
                if (sweep.ended or now) <= now - SWEEP_SECONDS
            ]

        for job in app.cache.read_cached(view) or ():
            notifier.offer(job)
        for sweep, last in app.cache.read_cached(view_sweeps) or ():
            if last is not None:
                notifier.offer(last, sweep)
        problems = notifier.finish(seconds)
        if new := notifier.settled - cached:
            app.cache.write(lambda connection: _keep(connection, new, now))
        return problems


def _begin(connection: sqlite3.Connection, notifier: Notifier, now: float) -> None:
    """Read what the cache remembers, note rules that it does not know, and forget what is too old."""
    forgotten, begin = now - 2 * claims.WINDOW.total_seconds(), now - RECENT.total_seconds()
    marks = [(FIRST + mark, begin) for mark in notifier.marks.values()]
    with transaction(connection):
        connection.execute("DELETE FROM notified WHERE at_ts < ? AND name NOT LIKE ?", (forgotten, f"{FIRST}%"))
        connection.executemany("INSERT OR IGNORE INTO notified (name, at_ts) VALUES (?, ?)", marks)
        for name, at in connection.execute("SELECT name, at_ts FROM notified").fetchall():
            if name.startswith(FIRST):
                notifier.since[name.removeprefix(FIRST)] = at
            else:
                notifier.settled.add(name)


def _keep(connection: sqlite3.Connection, keys: set[str], now: float) -> None:
    with transaction(connection):
        rows = [(key, now) for key in keys]
        connection.executemany("INSERT OR REPLACE INTO notified (name, at_ts) VALUES (?, ?)", rows)


@contextlib.contextmanager
def telling_of_run(job_id: str, app: App) -> Iterator[None]:
    """Tell of a job that the block runs by the rules, from a thread of its own, and of its end after the block."""
    is_over, problems = threading.Event(), list[str]()
    registry = app.registry

    def watch() -> None:
        notifier, has_ended = Notifier(app), False
        while not has_ended:
            has_ended = is_over.wait(LOOK_SECONDS)
            with contextlib.suppress(MopsJobsError):  # an outage: the next look, or another watcher, tells
                notifier.look([registry.get_job(job_id)])
        problems.extend(notifier.finish())

    thread = threading.Thread(target=watch, name="notify", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(END_SECONDS + BOUND_SECONDS)
        with contextlib.suppress(MopsJobsError, OSError):  # else the next sync tells
            problems.extend(_tell_of_sweep(job_id, app))
        app.out.warn_each(problems)


def _tell_of_sweep(job_id: str, app: App) -> list[str]:
    """Tell of the sweep of a job whose run is over here, if it was the last one, when it is late enough for that.

    Only the process that an engine has launched on this machine stays so long. A foreground run ends at once, and a
    place in a cluster costs something. There, the next sync tells.
    """
    note = runner_process.read_note(JobDir.for_job(job_id, app.env).runner)
    state = app.registry.get_job(job_id) if note.get("pid") == os.getpid() else None
    name = None if state is None or not state.is_terminal else state.labels.get(SWEEP)
    if name is None or all({END, FAILED}.isdisjoint(rule.occasions) for rule in app.settings.rules):
        return []

    def has_ended() -> bool:
        app.cache.sync(wait=MAX_LOCK_WAIT)
        now = app.now().timestamp()
        return bool(app.cache.read_cached(lambda connection: ended_sweeps(connection, [name], now)))

    if not has_ended():
        return []
    app.sleep(SWEEP_SECONDS)
    return CacheNotifier(app).tell() if has_ended() else []
