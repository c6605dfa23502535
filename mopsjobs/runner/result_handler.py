"""Take the results of attempts: send outputs, count tasks, report failures, and write the ledger."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping

from mopsjobs.errors import StoreError
from mopsjobs.events.format import RUNNER, TASK_FAILED
from mopsjobs.events.writer import EventLog
from mopsjobs.ledger.attempt import Attempt, AttemptError, Outcome, attempt_error
from mopsjobs.ledger.scalars import scalars_for_chunk
from mopsjobs.ledger.writer import Begun, Ledger
from mopsjobs.runner.output_sender import OutputSender
from mopsjobs.runner.pools.base import Pool, TaskResult
from mopsjobs.runner.reporter import Counts
from mopsjobs.studies.manifest import NAMES_NAME, Manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.study import LOGGED_NAME, Task, Varying, find_varying, is_output_name, task_name

NOTE_SECONDS = 0.2
"""How often attempts that run are noted."""


class ResultHandler:
    """Takes the results of one run over a shard."""

    def __init__(
        self,
        manifest: Manifest,
        counts: Counts,
        sender: OutputSender,
        ledger: Ledger,
        events: EventLog,
        on_log: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to take results.

        Args:
            manifest: that of the job.
            counts: to which ended tasks are added.
            sender: sends the outputs.
            ledger: takes the attempts.
            events: take the failures.
            on_log: called with the first failure.
            clock: a monotonic clock in seconds.
        """
        self._manifest = manifest
        self._duplicates_of = Counter(manifest.duplicate_tasks().values())
        self._counts = counts
        self._sender = sender
        self._ledger = ledger
        self._events = events
        self._on_log = on_log
        self._clock = clock
        self._noted_at = clock()
        self.first_error: str | None = None

    def note_begun(self, pool: Pool, *, is_last: bool = False) -> None:
        """Note in the ledger which attempts run now, a few times per second at most, and for the last time."""
        now = self._clock()
        if now - self._noted_at < NOTE_SECONDS and not is_last:
            return
        self._noted_at = now
        self._ledger.begin(
            Begun(one.task.number, one.attempt, one.started_at, one.host)
            for one in pool.at_work()
            if one.started_at is not None
        )

    def take(self, result: TaskResult) -> bool:
        """Take the result of an attempt. Return whether it failed, also by the outputs that it left.

        Raises:
            StoreError: if the store takes no outputs.
        """
        task, error, outcome = result.task, result.error, result.outcome
        if error is None and (problem := self._problem_of(result.outputs or {})) is not None:
            error, outcome = problem, Outcome.FAILED
        if error is not None:
            reason = _reason(error)
            self._ledger.add(_attempt(result, outcome, reason), is_settled=True)
            if result.is_final:
                self._counts.add(failed=1 + self._duplicates_of[result.position])
                self.report_failure(self._name(task), error, key=reason.key, task=task.number, seed=task.seed)
            else:
                text = f"{self._name(task)}: {error['message']}; it is tried again"
                self._events.emit(RUNNER, text=text)
            return True
        self._send(result)
        return False

    def report_failure(self, name: str, error: Mapping[str, str], *, key: str | None = None, **fields: int) -> None:
        """Report that a task has failed.

        Args:
            name: the name of the task.
            error: `type`, `message` and maybe more.
            key: the signature of the error; None: made of the error.
            fields: more fields of the event.
        """
        text = f"{name}: {error['type']}: {error['message']}"
        if self.first_error is None:
            self.first_error = text
            self._on_log(text)
        self._events.emit(TASK_FAILED, **fields, error_key=key or _reason(error).key, error=dict(error))

    def _problem_of(self, outputs: Mapping[str, bytes]) -> dict[str, str] | None:
        """Return what is wrong with the names of the outputs; None if they are those that the study names."""
        bad = [name for name in outputs if not is_output_name(name)]
        if bad:
            return {"type": "BadOutput", "message": f"{bad[0]!r} cannot be the name of an output"}
        lacking = set(self._manifest.study.outputs or ()) - outputs.keys()
        if lacking:
            return {"type": "MissingOutput", "message": f"it left no output {', '.join(sorted(lacking))}"}
        return None

    def _send(self, result: TaskResult) -> None:
        count, task = 1 + self._duplicates_of[result.position], result.task
        study = self._manifest.study
        # What was logged comes first: without it, a task whose run is killed in between may look complete.
        outputs = sorted((result.outputs or {}).items(), key=lambda output: (output[0] != LOGGED_NAME, output[0]))
        if study.outputs is not None:
            outputs = [(name, value) for name, value in outputs if study.keeps_output(name)]
        size = sum(len(value) for _, value in outputs)
        if study.outputs is None and len(outputs) != 1:
            # The names come first: a task whose run is killed in between does not look complete.
            outputs.insert(0, (NAMES_NAME, json.dumps([name for name, _ in outputs]).encode()))
        # Before the outputs: so each task that is complete is in the ledger.
        attempt = _attempt(result, result.outcome, None, output_bytes=size)
        ticket = self._ledger.add(attempt, scalars_for_chunk(dict(outputs)), is_settled=False)

        def on_done() -> None:
            self._counts.add(completed=count)
            self._ledger.settle(ticket)

        def on_refused(reason: StoreError) -> None:
            self._counts.add(failed=count)
            error = error_fields(reason)
            self._ledger.refuse(ticket, _reason(error))
            self.report_failure(self._name(task), error, task=task.number, seed=task.seed)

        self._sender.put(
            [(output_key(self._manifest.job_id, task, name), value) for name, value in outputs],
            on_done,
            on_refused,
            before=functools.partial(self._ledger.write, ticket),
        )

    def _name(self, task: Task) -> str:
        return task_name(task, self._varying)

    @functools.cached_property
    def _varying(self) -> Varying:
        return find_varying(self._manifest.study)


def error_fields(error: StoreError) -> dict[str, str]:
    """Return the fields of an error of the store, as the model's errors have them."""
    return {"type": type(error).__name__, "message": str(error)}


def _reason(error: Mapping[str, str]) -> AttemptError:
    return attempt_error(error["type"], error.get("at"), error["message"])


def _attempt(
    result: TaskResult, outcome: Outcome, error: AttemptError | None, *, output_bytes: int | None = None
) -> Attempt:
    return Attempt(result.task.number, result.attempt, outcome, result.started_at, *result.usage, error, output_bytes)
