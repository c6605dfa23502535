"""Read from the registry what the page of a job needs and the cache lacks, in the thread of the syncer.

A request for a page never waits for the registry. It asks for the job to be read, and shows what there is. Each job is
read once, one after the other, and again only when more is known of it. A job that mops-jobs did not submit has nothing
to read, until its record changes. See
docs/decisions/0054-what-a-page-asks-for.md and docs/decisions/0062-previews-of-outputs.md.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.errors import MopsJobsError, NoManifestError
from mopsjobs.web.site.background import ChangeSignal

FAILURES = "failures"
"""What to read: the ledger of a job, with its failed tasks compared."""

RESULTS = "results"
"""What to read: the scalars of a job's outputs."""

PROVENANCE = "provenance"
"""What to read: the study, the code and the environments of a job."""

JOURNAL = "journal"
"""What to read: the rounds of a calibration, and what its sampler was told."""

OUTPUT = "output"
"""What to read: an output of a task."""

MAX_OUTPUTS = 600
"""Outputs that are read per hour, at most: there are more tasks than jobs, and each read costs up to four requests."""

HOUR = 3600.0

MAX_WAITING = 32
"""Jobs that wait to be read. A request beyond them is asked again by the next page load."""

MAX_REMEMBERED = 1000

PAUSE_SECONDS = 10.0
"""Time until a job is read again, at least."""

MAX_SHARE = 0.05
"""The share of time for one job, at most: what takes a second is read again after 20."""

PAUSE_AFTER_PROBLEM_SECONDS = 60.0

Key = tuple[str, ...]
"""What to read, of which job, and which part of it."""


class ReadState(NamedTuple):
    """The state of a request to read."""

    is_waiting: bool
    """Whether it waits, or is at work."""
    problem: str | None = None
    """Why the last read failed; None if it did not."""
    is_foreign: bool = False
    """Whether the last read found that mops-jobs did not submit the job."""


class _Ended(NamedTuple):
    at: float
    seconds: float
    problem: str | None
    foreign_at: str | None
    """At which state of its record the job had no manifest; None if it had one, or that is not known."""


class JobReads:
    """The requests of pages to read jobs, and how they ended."""

    def __init__(self, app: App, changes: ChangeSignal, actions: Mapping[str, Callable[..., object]]) -> None:
        """Prepare.

        Args:
            app: the run.
            changes: counts a change after each read.
            actions: what to do for each kind of request, with the id of a job, and with the part of it.
        """
        self._app = app
        self._changes = changes
        self._actions = actions
        self._condition = threading.Condition()
        self._waiting: OrderedDict[Key, str] = OrderedDict()
        self._at_work: Key | None = None
        self._ended: OrderedDict[Key, _Ended] = OrderedDict()
        self._outputs: deque[float] = deque(maxlen=MAX_OUTPUTS)
        """When the last outputs were asked for."""

    def ask(self, kind: str, job_id: str, *part: str, state: str = "") -> ReadState:
        """Ask for a job to be read, unless that was done a moment ago.

        Args:
            kind: `FAILURES`, `RESULTS`, `PROVENANCE`, `JOURNAL` or `OUTPUT`.
            job_id: the full id of a job that the cache has.
            part: for `OUTPUT`, the number of a task and the name of its output.
            state: differs after each write to the record, such as its `updated_at`.
        """
        key = (kind, job_id, *part)
        with self._condition:
            last = self._ended.get(key)
            is_known = key in self._waiting or key == self._at_work
            if not is_known and len(self._waiting) < MAX_WAITING and self._is_due(last, state):
                if kind == OUTPUT and not self._count_output():
                    return ReadState(False, f"Pages have asked for {MAX_OUTPUTS} outputs within an hour.")
                self._waiting[key] = state
                self._condition.notify_all()
                is_known = True
            return ReadState(is_known) if last is None else ReadState(is_known, last.problem, last.foreign_at == state)

    def run_next(self, seconds: float) -> bool:
        """Read the job that waits longest; wait up to `seconds` for a request. Return whether there was one."""
        with self._condition:
            self._condition.wait_for(lambda: bool(self._waiting), seconds)
            if not self._waiting:
                return False
            key, state = self._waiting.popitem(last=False)
            self._at_work = key
        started_at = self._app.monotonic()
        problem, is_foreign = self._read(*key)
        with self._condition:
            self._at_work = None
            ended_at = self._app.monotonic()
            self._ended[key] = _Ended(ended_at, ended_at - started_at, problem, state if is_foreign else None)
            self._ended.move_to_end(key)
            if len(self._ended) > MAX_REMEMBERED:
                self._ended.popitem(last=False)
        self._changes.add()
        return True

    def _count_output(self) -> bool:
        """Count a request for an output. Return False if there were too many within an hour."""
        now = self._app.monotonic()
        if len(self._outputs) == MAX_OUTPUTS and now - self._outputs[0] < HOUR:
            return False
        self._outputs.append(now)
        return True

    def _is_due(self, last: _Ended | None, state: str) -> bool:
        if last is None or last.foreign_at is not None:
            return last is None or last.foreign_at != state
        least = PAUSE_SECONDS if last.problem is None else PAUSE_AFTER_PROBLEM_SECONDS
        return self._app.monotonic() - last.at >= max(least, last.seconds / MAX_SHARE)

    def _read(self, kind: str, *job_and_part: str) -> tuple[str | None, bool]:
        """Return why a read failed, and whether mops-jobs did not submit the job."""
        try:
            self._actions[kind](*job_and_part)
        except MopsJobsError as error:
            return str(error), isinstance(error, NoManifestError)
        except Exception as error:  # noqa: BLE001 - the server goes on after any error, and shows it
            return f"Unexpected: {type(error).__name__}: {error}", False
        return None, False
