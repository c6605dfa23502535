"""Report a program's own work as a job: register it, count its steps, and end it as its block ends."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mopsjobs.api.arguments import labels_to_set
from mopsjobs.api.registry import Job, Registry, connect
from mopsjobs.errors import JobExistsError, MopsJobsError, StoreError, TooManyRetriesError, UsageError, shorten
from mopsjobs.utils.backoff import Backoff
from mopsjobs.utils.json_strict import check_surrogates

if TYPE_CHECKING:
    from datetime import datetime

T = TypeVar("T")

REPORT_SECONDS = 1.0
"""The shortest time between two reports of progress."""

MAX_OUTAGE_DELAY = 60.0
"""Seconds. The longest pause between two attempts while the registry does not answer: each may hold up the program."""

END_SECONDS = 30.0
"""How long the end of a block tries to report it while the registry does not answer."""

MAX_ERROR_CHARACTERS = 1000

MAX_SHOWN = 60
"""Characters of a value in an error."""

TOKEN = "report"  # noqa: S105 - the name of a field
"""The field of the metadata by which a report knows its own job, if the reply to the registration was lost."""

_PASSING = (StoreError, TooManyRetriesError)


class Report:
    """The report of one block as a job. For one thread.

    An outage never raises an error in the block. The report is tried again later, and a warning is logged once.
    """

    def __init__(
        self,
        job_id: str,
        *,
        owner: str | None = None,
        total: int | None = None,
        labels: Mapping[str, object] | None = None,
        registry: Registry | None = None,
    ) -> None:
        """Prepare a report; nothing is sent before the block begins.

        Args:
            job_id: the id of the new job.
            owner: the owner of the job.
            total: the number of steps; None if it is not known.
            labels: labels of the job.
            registry: an open registry; None to open one with the settings of the command, for the time of the block.
        """
        self.id: str = job_id
        """The id of the job."""
        self.done: int = 0
        """Steps done so far."""
        self.total: int | None = None if total is None else _whole(total)
        """Number of steps; None if it is not known."""
        self._fields: dict[str, object] = {"labels": labels_to_set(labels)}
        if owner is not None:
            self._fields["owner"] = owner
        self._token = secrets.token_hex(8)
        self._callers_registry = registry
        self._opened: Registry | None = None
        self._is_registered = False
        self._has_stopped = False
        self._started_at: datetime | None = None
        self._next_at = 0.0
        self._backoff = Backoff(2 * REPORT_SECONDS, MAX_OUTAGE_DELAY)

    @property
    def job(self) -> Job:
        """Return a handle on the job."""
        return Job(self._registry, self.id)

    @property
    def _registry(self) -> Registry:
        registry = self._callers_registry or self._opened
        if registry is None:
            raise UsageError("The report has not begun.", hint="Use it in a with statement.")
        return registry

    def __enter__(self) -> Self:
        """Register the job.

        Raises:
            ConfigError: if a setting is invalid.
            JobExistsError: if the id is taken.
            UsageError: if the id, the total or a label is invalid.
        """
        if self._callers_registry is None:
            self._opened = connect()
        self._started_at = self._registry.app.now()
        try:
            self._report(is_first=True)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the job: `succeeded`, or `failed` with the type and the message of the exception."""
        try:
            if error is None:
                self._end("succeeded", {})
            else:
                self._end("failed", {"error_code": type(error).__name__, "error_message": _message_of(error)})
        finally:
            self._close()

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and count each as a step once its turn is over.

        Without a total, the number of items is the total, if it is known.
        """
        if self.total is None and isinstance(items, Sized):
            self.total = self.done + len(items)
        for item in items:
            yield item
            self.advance()

    def advance(self, steps: int = 1) -> None:
        """Count steps as done. A total that is exceeded grows with them."""
        done = self.done + steps
        self.progress(done, None if self.total is None else max(self.total, done))

    def progress(self, done: int, total: int | None = None) -> None:
        """Set how many steps are done, and report it unless a report was sent within a second.

        Raises:
            UsageError: if a count is negative or not whole, or if more steps are done than there are.
        """
        done, total = _whole(done), self.total if total is None else _whole(total)
        if done < 0 or (total is not None and done > total):
            raise UsageError(f"invalid progress {done}/{total}: expected steps from 0 to the total.")
        self.done, self.total = done, total
        if self._registry.app.monotonic() >= self._next_at:
            self._report()

    def _report(self, *, is_first: bool = False) -> None:
        """Send the counts. After a failure, wait longer before the next attempt."""
        if self._has_stopped:
            return
        app = self._registry.app
        try:
            self._register()
            app.registry.update_progress(self.id, self.done, self.total, start=True)
        except _PASSING as outage:
            self._next_at = app.monotonic() + self._backoff.next_delay()
            if self._backoff.failures == 1:
                app.out.warn(f"{outage} The progress of job {self.id} is reported later.")
        except MopsJobsError as error:
            if is_first:
                raise
            self._stop(error)
        else:
            self._backoff.reset()
            self._next_at = app.monotonic() + REPORT_SECONDS

    def _register(self) -> None:
        """Register the job, as of the beginning of the block, if that was not done yet."""
        if self._is_registered:
            return
        registry = self._registry.app.registry
        fields: dict[str, Any] = dict(self._fields)
        if self.total is not None:
            fields["tasks_total"] = self.total
        try:
            registry.backdated_to(self._started_at).register_job(self.id, metadata={TOKEN: self._token}, **fields)
        except JobExistsError:
            state = registry.get_job(self.id)
            if state is None or state.metadata.get(TOKEN) != self._token:
                raise
        self._is_registered = True

    def _end(self, status: str, fields: Mapping[str, object]) -> None:
        """Report the end. While the registry does not answer, try again for a while."""
        app = self._registry.app
        deadline, backoff = app.monotonic() + END_SECONDS, Backoff(2 * REPORT_SECONDS, END_SECONDS / 3)
        counts = {"tasks_completed": self.done} | ({} if self.total is None else {"tasks_total": self.total})
        while not self._has_stopped:
            try:
                self._register()
                app.registry.update_status(self.id, status, **counts, **fields)
            except _PASSING as outage:
                delay = backoff.next_delay()
                if app.monotonic() + delay > deadline:
                    app.out.warn(f"{outage} The end of job {self.id} ({status}) was not reported.")
                    return
                app.sleep(delay)
            except MopsJobsError as error:
                self._stop(error)
            else:
                return

    def _stop(self, error: MopsJobsError) -> None:
        """Send no more reports: the job was cancelled or removed meanwhile, or its record is unreadable."""
        self._has_stopped = True
        self._registry.app.out.warn(f"{error} Nothing more is reported of it.")

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def __repr__(self) -> str:
        return f"<Report of {self.id}: {self.done}{'' if self.total is None else f'/{self.total}'}>"


def _whole(count: Any) -> int:
    """Return a count as an `int`, also one of numpy.

    Raises:
        UsageError: if it is not whole.
    """
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        whole = int(count)
        if whole == count:
            return whole
    raise UsageError(f"invalid steps {shorten(repr(count), MAX_SHOWN)}: expected a whole number.")


def _message_of(error: BaseException) -> str:
    """Return the message of an exception as text that a record can have: it may quote a path that is not UTF-8."""
    return str(check_surrogates(shorten(str(error) or type(error).__name__, MAX_ERROR_CHARACTERS), "replace"))


report = Report
"""Report a block as a job: `with report("nightly-1", total=10) as r`."""
