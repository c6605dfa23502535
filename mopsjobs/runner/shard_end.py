"""The end of a run over a shard: deliver, report, and as the last shard reduce and decide how the job ends."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

from mopsjobs.errors import EngineError, MopsJobsError, StoreError
from mopsjobs.registry import transitions
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.keys import OUTPUT, belongs_to
from mopsjobs.registry.status import JobStatus
from mopsjobs.runner.output_sender import OutputSender
from mopsjobs.runner.reducer import ReduceEnd
from mopsjobs.runner.reporter import Counts, Reporter
from mopsjobs.runner.result_handler import ResultHandler, error_fields
from mopsjobs.runner.retry import TRANSIENT_ERRORS, OutageRetry
from mopsjobs.runner.shard import Shard, ShardResult
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.studies.validation import EarlyEnd, validate


def shard_end_class(shard: Shard) -> type[ShardEnd]:
    """Return the class of the end of a run over a shard. In a drop, that ends no job."""
    return ShardEnd if shard.drop is None else DropEnd


@dataclasses.dataclass
class ShardEnd:
    """The end of one run over a shard.

    Args:
        _shard: the shard.
        _store: where the outputs belong.
        _registry: where the record is.
        _retry: how long to wait for both.
        _counts: those of the shard.
        _on_log: called with each message.
    """

    _shard: Shard
    _store: VersionedStore
    _registry: JobRegistry
    _retry: OutageRetry
    _counts: Counts
    _on_log: Callable[[str], None]
    kept_text: ClassVar = "Outputs are kept in the directory of the job. To deliver them, run it again."

    def finish(
        self,
        reporter: Reporter,
        sender: OutputSender,
        handler: ResultHandler,
        early: EarlyEnd | None,
        reduce: Callable[[], ReduceEnd] | None,
        *,
        is_done: bool,
    ) -> ShardResult:
        """Deliver the outbox and report. The last shard, or one that ends early, compares outputs and manifest.

        Args:
            reporter: reports the shard.
            sender: delivers outputs.
            handler: knows the first error of a task.
            early: why the job is to end before all its tasks were tried; None if it is not.
            reduce: runs the reduce function, if the study names one. The last shard calls it.
            is_done: whether each task of the shard was run.
        """
        if not is_done and early is None:
            self._retry.stop()  # the job has ended, or a stop was requested: one attempt at each call, no more
        state = None
        reduced: ReduceEnd | None = ReduceEnd(True)
        try:
            is_done = self._deliver_outbox(sender, handler) and is_done
        except TRANSIENT_ERRORS:
            is_done = False
            self._on_log(f"The registry does not answer. {self.kept_text}")
        else:
            if is_done and early is None and reduce is not None:
                reduced = self._reduce(reporter, reduce)
                is_done = reduced is None or reduced.is_done
            try:
                state = self._retry.call(functools.partial(reporter.finish, is_done=is_done))
            except TRANSIENT_ERRORS:
                if self._retry.is_stopping:
                    raise
        is_last = is_done and reduced is not None and self._is_last(state)
        if state is not None and not state.is_terminal:
            end_job = functools.partial(self._end_job, state, handler.first_error, early, reduced, is_last=is_last)
            state = self._retry.call(end_job)
        completed, failed = self._counts.snapshot()
        return ShardResult(None if state is None else state.status, completed, failed, is_done)

    def fail(self, error: MopsJobsError, manifest: Manifest) -> None:
        """End the job with an error of the run.

        The status is `failed`. But if an earlier run has completed tasks, the outputs decide, as for any other job.
        """
        if not isinstance(error, StoreError) and find_complete_tasks(self._store, manifest).count:
            validate(self._store, self._registry, self._shard.job_id, first_error=str(error))
        else:
            code = "STORE" if isinstance(error, StoreError) else "ENGINE" if isinstance(error, EngineError) else "MODEL"
            info = {"code": code, "message": str(error)}
            self._registry.finalize_job(self._shard.job_id, JobStatus.FAILED, error_info=info)

    def _end_job(
        self, state: JobState, error: str | None, early: EarlyEnd | None, reduced: ReduceEnd | None, *, is_last: bool
    ) -> JobState:
        """End the job by its outputs, if no other shard has work left. Return the record."""
        if not is_last and early is None:
            return state
        job_id, reduce_error = self._shard.job_id, reduced and reduced.error
        return validate(
            self._store, self._registry, job_id, first_error=error, early=early, reduce_error=reduce_error
        ).state

    def _is_last(self, state: JobState | None) -> bool:
        return state is not None and transitions.all_shards_done(state, self._shard.shards)

    def _reduce(self, reporter: Reporter, reduce: Callable[[], ReduceEnd]) -> ReduceEnd | None:
        """Run the reduce function if this shard is the last one. None: it is not, so another one does it."""
        try:
            state = self._retry.call(reporter.report_done)
            if state is None or state.is_terminal or not self._is_last(state):
                return None
            return reduce()
        except TRANSIENT_ERRORS:
            if self._retry.is_stopping:
                raise
            self._on_log("The registry does not answer. To run the rest of the reduce function, run the job again.")
            self._retry.stop()  # it was waited for long enough
            return ReduceEnd(False)

    def _deliver_outbox(self, sender: OutputSender, handler: ResultHandler) -> bool:
        """Move the outputs in the outbox into the store. Return whether none is left."""
        given_up: set[str] = set()

        def on_refused(key: str, reason: StoreError) -> None:
            if not belongs_to(key, self._shard.job_id, [OUTPUT]):
                self._on_log(f"{key} cannot be delivered, and is removed: {reason}")
                return
            # Its task was counted as completed when the outbox took the outputs. Correct that once per task.
            task = key.rpartition("/")[0]
            if task not in given_up:
                given_up.add(task)
                self._counts.add(completed=-1, failed=1)
                handler.report_failure(task, error_fields(reason))

        return self._retry.call(lambda: sender.deliver(self._shard.job_id, on_refused, lambda: self._retry.is_over))


class DropEnd(ShardEnd):
    """The end of one run over a shard in a drop, whose record never ends.

    The command that delivers the drop ends the job. The record has the error for it.
    """

    kept_text: ClassVar = "Outputs are kept in the directory of the job. Commands on the login node deliver them."

    def fail(self, error: MopsJobsError, manifest: Manifest) -> None:
        """Note the error of the run."""
        self._note(str(error))

    def _end_job(
        self, state: JobState, error: str | None, early: EarlyEnd | None, reduced: ReduceEnd | None, *, is_last: bool
    ) -> JobState:
        if error is None:
            return state
        return self._note(error if early is None else f"{early.reason}; {error}")

    def _note(self, error: str) -> JobState:
        return self._registry.update_fields(self._shard.job_id, error_message=error)
