"""A session: one growing job whose workers stay loaded, with futures like those of `concurrent.futures`."""

from __future__ import annotations

import json
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from mopsjobs.engines.worker import real_numbers
from mopsjobs.errors import TaskFailedError, UsageError
from mopsjobs.registry.keys import LOGGED_NAME, NAMES_NAME

if TYPE_CHECKING:
    from types import TracebackType

    from mopsjobs.app.following.wait import QuietJob
    from mopsjobs.app.run.app import App
    from mopsjobs.studies.rounds import EndedTask
    from mopsjobs.submission.growing import GrowingJob

J = TypeVar("J")

LOOK_SECONDS = 10.0
"""How often a session without news looks whether the runner has ended on this machine."""

LEAVE_SECONDS = 5.0
"""How long a session that ends by an error may take to store what was asked for."""


class Evaluation(Future[Any]):
    """A parameter set that a session was asked for. Its result is what the model returned; of several tasks a list.

    asyncio awaits it by `asyncio.wrap_future`.
    """

    def __init__(self, params: Mapping[str, Any], count: int) -> None:
        """Wait for this many tasks. It cannot be cancelled."""
        super().__init__()
        self._count = count
        self.params = params
        """The parameters."""
        self.tasks: range = range(0)
        """The numbers of its tasks in the job, once they are stored."""
        self.set_running_or_notify_cancel()


class Session(Generic[J]):
    """A growing job, as a program asks it for parameter sets. Several threads may use it."""

    def __init__(self, job: J, app: App, growing: GrowingJob) -> None:
        """Use a growing job; see `Registry.session`."""
        self.job = job
        """The job, which other programs see as any other."""
        self._app, self._id = app, growing.job_id
        self._growing = growing
        self._first = growing.tasks_total
        """Tasks that earlier clients have asked for."""
        self._requests: queue.SimpleQueue[tuple[Evaluation, int | None] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        """Guards what follows."""
        self._done: deque[Evaluation] = deque()
        """What `as_completed` may yield."""
        self._evaluations: dict[int, Evaluation] = {}
        """The evaluations that wait for tasks, by the numbers of these."""
        self._ended: dict[int, EndedTask] = {}
        """The ends of tasks whose evaluations wait for others, or are just being stored."""
        self._open: set[Evaluation] = set()
        self._untold: set[Evaluation] = set()
        """What `as_completed` has to yield."""
        self._is_closed = False
        self._failure: BaseException | None = None
        self._quiet: QuietJob | None = None
        self._writer = threading.Thread(target=self._store_rounds, name=f"rounds of {self._id}", daemon=True)
        self._reader = threading.Thread(target=self._read_ends, name=f"ends of {self._id}", daemon=True)
        self._writer.start()
        self._reader.start()

    def submit(self, params: Mapping[str, Any], replicates: int | None = None) -> Evaluation:
        """Ask for a parameter set, and return at once. What is asked for at the same time shares a round.

        Args:
            params: the parameters.
            replicates: its tasks, which differ in their seeds; None for those of the session.

        Raises:
            UsageError: if a value is invalid, or the session is closed.
            MopsJobsError: if the session has failed, by another client for example.
        """
        return self._ask([params], replicates)[0]

    def map(self, sets: Iterable[Mapping[str, Any]], replicates: int | None = None) -> Iterator[Any]:
        """Ask for parameter sets at once, and return an iterator over their results, in their order.

        Args:
            sets: the parameter sets.
            replicates: see `submit`.

        Raises:
            TaskFailedError: if a task has failed, when its result is due.
            UsageError: if `submit` would raise it.
        """
        evaluations = self._ask(list(sets), replicates, is_told=True)
        return (evaluation.result() for evaluation in evaluations)

    def as_completed(self) -> Iterator[Evaluation]:
        """Yield what `submit` returned as it ends, each once, until nothing is left. More may be submitted meanwhile.

        A failed task raises nothing before `result` is called.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done or not self._untold)
                if not self._done:
                    return
                evaluation = self._done.popleft()
                self._untold.discard(evaluation)
                self._changed.notify_all()
            yield evaluation

    def close(self) -> None:
        """Wait until all that was asked for has ended. The job then ends. Closing twice is harmless.

        Raises:
            MopsJobsError: if what was asked for, or the end, could not be stored.
        """
        try:  # shards that are left may have to run the tasks of another one: the end mark comes last
            with self._changed:
                self._is_closed = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._open)
        except BaseException:  # Ctrl-C
            self._leave()
            raise
        self._requests.put(None)
        self._writer.join()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._leave()

    def __repr__(self) -> str:
        return f"<Session {self._id}{', closed' if self._is_closed else ''}>"

    def _ask(
        self, sets: Sequence[Mapping[str, Any]], replicates: int | None, *, is_told: bool = False
    ) -> list[Evaluation]:
        from mopsjobs.api.study import as_plain

        if replicates is not None and (type(replicates) is not int or replicates < 1):
            raise UsageError(f"invalid replicates {replicates!r}: expected a number from 1.")
        plain = [as_plain(params) for params in sets]
        counts = self._growing.count_tasks(plain, replicates)
        evaluations = [Evaluation(params, count) for params, count in zip(plain, counts, strict=True)]
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if self._is_closed:
                raise UsageError(f"The session of {self._id} is closed.")
            self._open.update(evaluations)
            if not is_told:
                self._untold.update(evaluations)
            for evaluation in evaluations:
                self._requests.put((evaluation, replicates))
            self._changed.notify_all()
        return evaluations

    def _leave(self) -> None:
        """Store what was asked for, and the end mark, for a moment. What was asked for is done all the same."""
        with self._changed:
            self._is_closed = True
            self._requests.put(None)
            self._changed.notify_all()
        self._writer.join(LEAVE_SECONDS)

    # --- the threads -----------------------------------------------------------------------------------------

    def _store_rounds(self) -> None:
        """Store what was asked for, and the end. What comes while a round is stored gathers in the next one."""
        is_over = False
        while not is_over:
            batch = [self._requests.get()]
            while not self._requests.empty():
                batch.append(self._requests.get())
            is_over = batch[-1] is None
            asked = [request for request in batch if request is not None]
            try:
                while asked:
                    replicates = asked[0][1]
                    alike = next((place for place, (_, count) in enumerate(asked) if count != replicates), len(asked))
                    self._store_round([one for one, _ in asked[:alike]], replicates)
                    del asked[:alike]
                if is_over:
                    self._growing.end()
            except BaseException as error:  # noqa: BLE001 - the futures tell it to the thread that waits
                self._fail(error)

    def _store_round(self, evaluations: Sequence[Evaluation], replicates: int | None) -> None:
        if self._failure is not None:
            return
        numbers = self._growing.add([one.params for one in evaluations], replicates)
        with self._changed:
            for evaluation in evaluations:
                count = evaluation._count  # noqa: SLF001 - of the same module
                evaluation.tasks, numbers = numbers[:count], numbers[count:]
                self._evaluations.update(dict.fromkeys(evaluation.tasks, evaluation))
            self._changed.notify_all()
        for evaluation in evaluations:  # their tasks may have ended meanwhile
            self._settle(evaluation)

    def _read_ends(self) -> None:
        """Take the tasks as they end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._evaluations or self._is_over)
                if self._is_over:
                    return
            has_news = False
            try:
                for ended in self._growing.ended(LOOK_SECONDS):
                    has_news = True
                    with self._changed:
                        if ended.number >= self._first:
                            self._ended[ended.number] = ended
                        evaluation = self._evaluations.get(ended.number)
                    if evaluation is not None:
                        self._settle(evaluation)
                if not has_news:
                    self._look()
            except BaseException as error:  # noqa: BLE001 - as above
                self._fail(error)
                return

    @property
    def _is_over(self) -> bool:
        return self._failure is not None or (self._is_closed and not self._open)

    def _settle(self, evaluation: Evaluation) -> None:
        """Give an evaluation its result, if all its tasks have ended."""
        with self._changed:
            if evaluation not in self._open or not all(number in self._ended for number in evaluation.tasks):
                return
            ends = [self._ended.pop(number) for number in evaluation.tasks]
            for number in evaluation.tasks:
                del self._evaluations[number]
            self._open.discard(evaluation)
            is_told = evaluation not in self._untold
            self._changed.notify_all()
        failed = next((end for end in ends if end.error is not None), None)
        if failed is not None:
            evaluation.set_exception(_error_of(failed, self._id))
        else:
            values = [value_of(end.outputs or {}) for end in ends]
            evaluation.set_result(values[0] if len(values) == 1 else values)
        self._tell([] if is_told else [evaluation])

    def _fail(self, error: BaseException) -> None:
        """Give an error to all that wait, and take no further sets."""
        with self._changed:
            self._failure = self._failure or error
            waiting, self._open, self._evaluations = self._open, set(), {}
            untold = self._untold & waiting
            self._changed.notify_all()
        for evaluation in waiting:
            evaluation.set_exception(error)
        self._tell(untold)

    def _tell(self, evaluations: Iterable[Evaluation]) -> None:
        with self._changed:
            self._done += evaluations
            self._changed.notify_all()

    def _look(self) -> None:
        """Look at a job without news. Its record gets which shards have ended, and others do their tasks."""
        if not self._evaluations:
            return
        if self._quiet is None:
            from mopsjobs.app.following.wait import QuietJob  # here: most sessions have news

            self._quiet = QuietJob(self._id, self._app, quiet_seconds=LOOK_SECONDS)
        self._quiet.look()


def value_of(outputs: Mapping[str, bytes]) -> Any:
    """Return what the model returned, by the outputs of a task.

    JSON is read, a table stays CSV, and other outputs stay bytes. Several outputs are a dict.
    """
    values = {name: _read(name, value) for name, value in outputs.items() if name not in (LOGGED_NAME, NAMES_NAME)}
    name, *others = values or [""]
    return values[name] if name.startswith("result.") and not others else values


def _read(name: str, value: bytes) -> Any:
    if name.endswith(".json"):
        return real_numbers(json.loads(value))
    return value.decode() if name == "result.csv" else value


def _error_of(ended: EndedTask, job_id: str) -> TaskFailedError:
    error = ended.error or {}
    text = f"Task {ended.number} of {job_id} failed: {error.get('type')}: {error.get('message')}"
    return TaskFailedError(text, job_id=job_id, task=ended.number, error=dict(error))
