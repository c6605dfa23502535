"""The coordinator of a calibration: it asks the sampler, has the sets run, and tells the sampler what came of them.

It keeps nothing that is not in the journal, so it may be killed at any time. Another one rebuilds the sampler: it asks
and tells once more what the journal has. An asked round without results is waited for.

If a precision decides the number of replicates, a set is judged at its looks, as in an adaptive study. Its further
replicates are rounds of the growing job, whose sets name their seeds.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import math
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from mopsjobs.bundles.bundle import load_bundle
from mopsjobs.bundles.extraction import extract
from mopsjobs.engines.model_env import model_environment, python_here
from mopsjobs.engines.model_errors import ModelError, not_started_error
from mopsjobs.engines.model_process import (
    MAX_MESSAGE,
    broken_error,
    ended_error,
    kill_group,
    parse_answer,
    write_sampler,
)
from mopsjobs.engines.trust import python_of_launch
from mopsjobs.errors import JobBusyError, MopsJobsError, UsageError, command_line, shorten
from mopsjobs.ledger.scalars import extract_scalars, may_have_scalars
from mopsjobs.registry.calibration_counts import NO_VALUE, calibration_counts
from mopsjobs.registry.notes import CALIBRATION
from mopsjobs.studies.calibration import Calibration
from mopsjobs.studies.journal import (
    Journal,
    Round,
    Told,
    ToldRound,
    calibration_of,
    counts_of,
    failed_replicate,
    judge_scalars,
    lacking_scalar,
    parse_told,
    read_journal,
    told_key,
)
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.precision import FAILED, PRECISE, Judgement, judge
from mopsjobs.studies.rounds import EndedTask, Stopped, as_sets
from mopsjobs.studies.study import param_id
from mopsjobs.studies.validation import SAMPLER, TARGET
from mopsjobs.submission.growing import GrowingJob, continue_growing
from mopsjobs.submission.session import Session
from mopsjobs.submission.submit import SubmitRequest, prepare, submit_prepared


class SamplerProcess:
    """A sampler and an objective, which answer one question after the other. See engines/sampler_script.py."""

    def __init__(self, python: str, archive: bytes, setup: Mapping[str, object], env: Mapping[str, str]) -> None:
        """Start the process on the unpacked code.

        Args:
            python: the interpreter.
            archive: the bundle of the model's code.
            setup: the first line of its input, without `root`.
            env: the environment. The process gets none of its secrets.

        Raises:
            ModelError: if the sampler or the objective cannot be loaded.
            BundleError: if the code cannot be unpacked.
        """
        self._python = python
        self._directory = tempfile.TemporaryDirectory(prefix="mops-jobs-", ignore_cleanup_errors=True)
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process: subprocess.Popen[bytes] | None = None
        self.has_posterior = False
        """Whether the sampler has draws from the posterior distribution."""
        try:
            self._start(archive, setup, env)
        except BaseException:
            self.close()
            raise

    def _start(self, archive: bytes, setup: Mapping[str, object], env: Mapping[str, str]) -> None:
        directory = Path(self._directory.name)
        root = directory / "code"
        root.mkdir()
        extract(archive, str(root), sync=False)
        script = write_sampler(directory)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter is the user's own choice
                [self._python, "-u", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._lines,
                env={"PYTHONHASHSEED": "0", **model_environment(env)},  # a set has the same order each time
                start_new_session=True,
            )
        except OSError as error:
            raise not_started_error(self._python, error) from None
        answer = self._ask({"root": str(root), **setup})
        if isinstance(broken := answer.get("broken"), dict):
            raise broken_error(broken, root, "sampler")
        self.has_posterior = bool(answer.get("posterior"))

    def ask(self, count: int) -> list[dict[str, Any]]:
        """Return the next sets that the sampler asks for; none if it has finished.

        Raises:
            ModelError: if it fails.
        """
        sets: list[dict[str, Any]] = self._answer({"ask": count})["sets"]
        return sets

    def draw(self, count: int) -> list[dict[str, Any]]:
        """Return draws of the sampler from the posterior distribution.

        Raises:
            UsageError: if it has none.
            ModelError: if it fails.
        """
        self.require_posterior()
        sets: list[dict[str, Any]] = self._answer({"posterior": count})["sets"]
        return sets

    def require_posterior(self) -> None:
        """Refuse a sampler without draws from the posterior distribution.

        Raises:
            UsageError: if it has none.
        """
        if not self.has_posterior:
            raise UsageError(
                "The sampler has no posterior draws: it has no method posterior(n).",
                hint="The sets with the smallest values: --then top=N.",
            )

    def tell(self, results: Sequence[tuple[Mapping[str, Any], Sequence[float] | None, int, float | None]]) -> bool:
        """Tell the sampler the results of sets. Return whether it has finished.

        Raises:
            ModelError: if it fails.
        """
        return bool(self._answer({"tell": results})["finished"])

    def judge(self, params: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> float | dict[str, Any]:
        """Return the value of a set by the objective; its error, with `type` and `message`, if it fails.

        Args:
            params: the parameters of the model.
            tasks: its replicates, as a reduce function gets them.

        Raises:
            ModelError: if the process ends.
        """
        rows = [
            {**task, "outputs": {name: base64.b64encode(value).decode() for name, value in task["outputs"].items()}}
            for task in tasks
        ]
        answer = self._ask({"params": params, "tasks": rows})
        if isinstance(broken := answer.get("broken"), dict):
            return broken
        return float(answer["value"])

    def _answer(self, line: Mapping[str, object]) -> dict[str, Any]:
        answer = self._ask(line)
        if isinstance(broken := answer.get("broken"), dict):
            message = f"The sampler has failed: {broken['type']}: {shorten(str(broken['message']), MAX_MESSAGE)}"
            at = broken.get("at")
            raise ModelError(message, hint=f"See {at} in the packed code." if at else None, error=broken)
        return answer

    def _ask(self, line: Mapping[str, object]) -> dict[str, Any]:
        process = self._process
        assert process is not None  # noqa: S101 - it was started
        assert process.stdin is not None  # noqa: S101 - pipes
        assert process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise ended_error(process.wait(), self._lines)
        return parse_answer(answer, self._python)

    def close(self) -> None:
        """End the process, with what the code has started."""
        process, self._process = self._process, None
        if process is not None:
            kill_group(process)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        self._lines.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


IDLE_SECONDS = 3600.0
"""How long the job of a calibration waits for its client."""

LOOK_SECONDS = 10.0
"""How often a coordinator without news looks whether the runner has ended on this machine."""

MAX_REASON = 1000
"""Characters of the reason of an early end."""

ENOUGH_SETS = 20
"""Sets without a value that end a search in which none has one: where one in four has, this is 0.3 %."""

OnRound = Callable[[Journal], object]

Revive = Callable[[str], object]
"""Starts the runner of a job again if it has ended on this machine."""


class ObjectiveError(UsageError):
    """The objective names a scalar that no task leaves, or no set has a value."""


class _OpenRound:
    """A round that was asked, and not told."""

    def __init__(self, asked: Round) -> None:
        self.asked = asked
        self.ends: dict[int, EndedTask] = {}
        self.left = {number for numbers in asked.tasks for number in numbers}
        """The tasks that have not ended."""

    def replicates(self) -> list[list[EndedTask]]:
        """Return the replicates of each set. All of them have ended."""
        return [[self.ends[number] for number in numbers] for numbers in self.asked.tasks]


class Coordinator:
    """A client of the job of a calibration.

    Args:
        job: the growing job.
        journal: its journal so far.
        sampler: the sampler, which was not asked yet.
        warn: called with a warning.
        replays: for each inherited round, whether the sampler of its job asks as this one does.
        revive: called while no task ends.
        note: called with the counts of the journal after each round, for the record.
    """

    def __init__(
        self,
        job: GrowingJob,
        journal: Journal,
        sampler: SamplerProcess,
        warn: Callable[[str], object] = lambda _text: None,
        replays: Sequence[bool] = (),
        *,
        revive: Revive = lambda _job_id: None,
        note: Callable[[dict[str, Any]], object] = lambda _counts: None,
    ) -> None:
        self.journal = journal
        self._note = note
        self._counts: dict[str, Any] | None = None
        self._job, self._sampler, self._warn = job, sampler, warn
        self._replays, self._revive = replays, revive
        self._has_finished = self._is_other = False
        self._has_value = self._is_below = False
        """Whether a set has a value, and whether one has a value that ends the search."""
        self._n_told = self._n_sets = 0
        """How many rounds and sets were told."""
        self._stored = journal.stored
        self._open: dict[int, _OpenRound] = {}
        """By the numbers of their rounds, in this order."""
        self._owners: dict[int, _OpenRound] = {}
        """For each task that has not ended, its round."""
        self._ends: Iterator[EndedTask] = iter(())
        self._has_news = True
        self._failure: str | None = None
        """How the function of the objective has failed first."""

    @property
    def _calibration(self) -> Calibration:
        return self.journal.calibration

    def run(self, on_round: OnRound = lambda _journal: None) -> Journal:
        """Go on with the calibration until its budget is used, or its sampler has finished; then end the job.

        Args:
            on_round: called with the journal after each further round that was told. In asynchronous mode, it is called
                once per `sets_per_round` of these.

        Raises:
            ModelError: if the sampler fails. The job is then ended, as failed or partial.
            ObjectiveError: if none of the first sets has a value. The job is then ended too.
            JobEndError: if the job has ended before.
            JobBusyError: if another client has told or asked something else.
            StoreError: if the registry does not answer for too long.
        """
        try:
            self._add(self._replay())
            self._note_counts()
            while True:
                self._ask()
                if not self._open:
                    break
                self._finish(self._next_complete(), on_round)
        except (ModelError, ObjectiveError) as error:  # the code stays as it is packed: only another job can go on
            reason = " ".join(error.message.split())[:MAX_REASON].rstrip(".")
            with contextlib.suppress(MopsJobsError):  # another client has ended it
                self._end(Stopped(SAMPLER if isinstance(error, ModelError) else TARGET, reason))
            raise
        except MopsJobsError:  # for example, the job was cancelled
            self._note_counts()
            raise
        self._end()
        return self.journal

    def draw(self, count: int) -> list[dict[str, Any]]:
        """Return draws of the sampler from the posterior distribution, after all that the journal has.

        Raises:
            UsageError: if it has none.
            ModelError: if it fails, or draws something else than sets.
        """
        self._replay()
        draws = self._sampler.draw(count)
        for one in draws:
            self._check(one)
        return [*map(self._calibration.params_of, draws)]

    def _end(self, stopped: Stopped | None = None) -> None:
        self._note_counts()  # before: the record of a job that has ended is complete
        self._job.end(stopped)

    def _note_counts(self) -> None:
        counts = counts_of(self.journal)
        if counts != self._counts:
            self._counts = counts
            self._note(counts)

    # --- the sampler ------------------------------------------------------------------------------------------

    def _replay(self) -> list[dict[str, Any]]:
        """Ask and tell the sampler what the journal has, in the order in which it was asked and told.

        Returns:
            Sets that it asked for last, and which a client that was killed has not stored any more.
        """
        further: list[dict[str, Any]] = []
        rounds, inherited = self.journal.rounds, self.journal.inherited
        jobs = itertools.groupby(range(len(rounds)), lambda place: rounds[place].job_id)
        for _, places in jobs:
            own = [*places]
            first = own[0]
            asks = first >= inherited or first >= len(self._replays) or self._replays[first]
            further = self._replay_job([rounds[place] for place in own], first, asks=asks)
        return further if self._open and self._calibration.is_asynchronous else []

    def _replay_job(self, rounds: Sequence[Round], n_asked: int, *, asks: bool) -> list[dict[str, Any]]:
        of_job = [*rounds, *(one for one in self.journal.untold if one.job_id == rounds[0].job_id)]
        unasked = deque(sorted(of_job, key=lambda one: one.number) if asks else ())
        n_open = 0
        further: list[dict[str, Any]] = []
        for one in rounds:
            last: float = one.number
            if self._calibration.is_asynchronous:
                last = math.inf if one.asked is None else one.asked
            group = []
            while unasked and unasked[0].number <= last:
                group.append(unasked.popleft())
            if group:
                further = self._compare(group, n_open, n_asked)
                n_open += len(group)
                n_asked += len(group)
            if one.told is not None:
                n_open -= 1
                self._tell(one)
            else:
                self._open_round(one)
        return further

    def _compare(self, rounds: Sequence[Round], n_open: int, n_asked: int) -> list[dict[str, Any]]:
        """Ask the sampler for rounds of the journal, and warn once if it wants others.

        Args:
            rounds: the rounds; a single one in synchronous mode.
            n_open: how many rounds were open then.
            n_asked: how many rounds the journal had then.

        Returns:
            What it asks for beyond them.
        """
        asked = [] if self._has_finished else self._sampler.ask(self._wanted(n_open, n_asked))
        known = [self._calibration.asked_of(params) for one in rounds for params in one.sets]
        further = asked[len(known) :]
        if asked[: len(known)] == known and (not further or self._calibration.is_asynchronous):
            return further
        if not self._is_other:
            self._is_other = True
            self._warn(
                f"The sampler asks for other sets than in round {rounds[0].number} of {rounds[0].job_id}: it is told"
                " those of the journal. A sampler that follows from its seed alone goes on as if nothing had happened."
            )
        return []

    def _wanted(self, n_open: int, n_asked: int) -> int:
        """Return how many sets the sampler is asked for, while this many rounds are open of those in the journal."""
        size, left = self._calibration.sets_per_round, self._calibration.most_rounds - n_asked
        if self._calibration.is_asynchronous:
            return min(size - n_open, left)
        return 0 if n_open or left <= 0 else size

    def _ask(self) -> None:
        """Ask for further sets, if the budget has any and enough have ended."""
        wanted = self._wanted(len(self._open), len(self.journal.rounds))
        if wanted <= 0 or self._has_finished or self._is_below:
            return
        asked = self._sampler.ask(wanted)
        if not asked and not self.journal.rounds:
            raise ModelError("The sampler asks for no set in the first round.")
        self._add(asked)

    def _add(self, asked: Sequence[Mapping[str, Any]]) -> None:
        """Store sets that the sampler asks for: as one round, or as one each in asynchronous mode."""
        for params in asked:
            self._check(params)
        sets, count = [*map(self._calibration.params_of, asked)], self._calibration.first_study.max_replicates
        size = 1 if self._calibration.is_asynchronous else max(1, len(sets))
        for start in range(0, len(sets), size):
            group = sets[start : start + size]
            numbers = self._store([{"params": one} for one in group])
            tasks = tuple(tuple(numbers[first : first + count]) for first in range(0, len(numbers), count))
            one = Round(self._job.job_id, self._stored, tuple(group), None, tasks)
            self.journal = dataclasses.replace(self.journal, rounds=(*self.journal.rounds, one))
            self._open_round(one)

    def _store(self, sets: Sequence[Mapping[str, object]]) -> range:
        numbers = self._job.add(sets)
        self._stored += 1
        return numbers

    def _open_round(self, asked: Round) -> None:
        one = self._open[asked.number] = _OpenRound(asked)
        self._owners.update(dict.fromkeys(one.left, one))

    def _check(self, asked: Mapping[str, Any]) -> None:
        parameters = self._calibration.parameters
        wrong = sorted(set(parameters) ^ set(asked))
        wrong += [name for name, one in parameters.items() if name in asked and not one.has(asked[name])]
        if wrong:
            name = wrong[0]
            actual = repr(asked[name]) if name in asked else "nothing"
            expected = parameters[name].to_json() if name in parameters else "no such parameter"
            raise ModelError(f"The sampler asks for {name} = {actual}: expected {expected}.")

    def _tell(self, one: Round) -> None:
        results, limit = one.told or (), self._calibration.stop_below
        values = [told.value for told in results if told.value is not None]
        self._n_told += 1
        self._n_sets += len(results)
        self._has_value |= bool(values)
        self._is_below |= limit is not None and bool(values) and min(values) < limit
        rows = [
            (self._calibration.asked_of(params), told.values, told.n, told.half_width)
            for params, told in zip(one.sets, results, strict=True)
        ]
        self._has_finished = self._sampler.tell(rows)

    # --- tasks ------------------------------------------------------------------------------------------------

    def _next_complete(self) -> _OpenRound:
        """Wait for a round whose tasks have ended, and which needs no further ones."""
        while True:
            for one in self._open.values():
                if not one.left and not self._ask_for_more(one):
                    return one
            self._take_end()

    def _take_end(self) -> None:
        while (task := next(self._ends, None)) is None:
            if not self._has_news:
                self._revive(self._job.job_id)
            self._has_news, self._ends = False, self._job.ended(LOOK_SECONDS)
        self._has_news = True
        one = self._owners.pop(task.number, None)
        if one is not None:
            one.ends[task.number] = task
            one.left.discard(task.number)

    def _ask_for_more(self, one: _OpenRound) -> bool:
        """Ask for the replicates up to the next looks of the sets of a round. Return whether there are any."""
        study, asked = self._calibration.first_study, one.asked
        further = [
            (place, replicate)
            for place, replicates in enumerate(one.replicates())
            for replicate in range(len(replicates), self._look(replicates))
        ]
        if not further:
            return False
        sets = as_sets([{"params": params} for params in asked.sets])
        numbers = self._store(
            [
                {"params": asked.sets[place], "seed": study.seed_of(sets[place], replicate)}
                for place, replicate in further
            ]
        )
        tasks = [*map(list, asked.tasks)]
        for (place, _), number in zip(further, numbers, strict=True):
            tasks[place].append(number)
            self._owners[number] = one
            one.left.add(number)
        one.asked = asked._replace(tasks=tuple(map(tuple, tasks)))
        return True

    def _look(self, replicates: Sequence[EndedTask]) -> int:
        judgement = self._precision_of(replicates)
        return 0 if judgement is None else judgement.needed

    def _precision_of(self, replicates: Sequence[EndedTask]) -> Judgement | None:
        precision = self._calibration.study.precision
        if precision is None:
            return None
        return judge(precision, [None if one.outputs is None else extract_scalars(one.outputs) for one in replicates])

    def _finish(self, one: _OpenRound, on_round: OnRound) -> None:
        """Store the values of a round, and tell the sampler."""
        asked, replicates = one.asked, one.replicates()
        results = tuple(map(self._judge_set, asked.sets, replicates))
        is_asynchronous = self._calibration.is_asynchronous
        told = ToldRound(results, asked.number, self._stored) if is_asynchronous else ToldRound(results)
        own = self._n_told - self.journal.inherited
        key = told_key(asked.job_id, own + 1 if is_asynchronous else asked.number)
        told = self._keep(key, told)
        del self._open[asked.number]
        ended = asked._replace(told=told.results, asked=told.asked)
        rounds = [other for other in self.journal.rounds if other.told is not None or other.number != asked.number]
        rounds.insert(self._n_told, ended)
        self.journal = dataclasses.replace(self.journal, rounds=tuple(rounds), stored=self._stored)
        is_due = not is_asynchronous or not self._open or (own + 1) % self._calibration.sets_per_round == 0
        if is_due:
            self._note_counts()
        self._tell(ended)
        if is_due:
            on_round(self.journal)
        if not self._has_value:
            self._refuse_to_go_on(told.results, [*itertools.chain(*replicates)])

    def _keep(self, key: str, told: ToldRound) -> ToldRound:
        value = told.to_json()
        stored = self._job.keep(key, value)
        if stored == value:
            return told
        other = parse_told(stored, key)
        is_same = (len(other.results), *other[1:]) == (len(told.results), *told[1:])
        if self._calibration.objective.function is None or not is_same:  # it may differ from call to call
            raise JobBusyError(f"Another client has told other values of {self._job.job_id}.", job_id=self._job.job_id)
        return other

    def _refuse_to_go_on(self, results: Sequence[Told], replicates: Sequence[EndedTask]) -> None:
        """End a search in which no set has a value, by the fault of the objective or after enough sets.

        Raises:
            ObjectiveError: if it should end.
        """
        has_numbers = any(told.error == NO_VALUE for told in results)  # a NaN is an answer of the function
        lacks = lacking_scalar(self._calibration, replicates)
        if lacks is None and not has_numbers and self._n_sets >= self._calibration.sets_per_round:
            lacks = self._failure
        if lacks is None and self._n_sets >= ENOUGH_SETS:
            why = next((_error_text(one.error or {}) for one in replicates if one.outputs is None), "it is not finite")
            lacks = f"None of the first {self._n_sets} sets has a value: {why}"
        if lacks is not None:
            raise ObjectiveError(lacks)

    def _judge_set(self, params: Mapping[str, Any], replicates: Sequence[EndedTask]) -> Told:
        failed, judgement = failed_replicate(replicates), self._precision_of(replicates)
        if failed is not None:
            return failed
        if judgement is not None and judgement.verdict == FAILED:
            return Told(None, len(replicates), error=NO_VALUE)
        told = self._value_of(params, replicates)
        is_known = judgement is not None and told.values is not None
        return told._replace(precise=judgement.verdict == PRECISE) if judgement is not None and is_known else told

    def _value_of(self, params: Mapping[str, Any], replicates: Sequence[EndedTask]) -> Told:
        objective = self._calibration.objective
        if objective.scalars or objective.observed is not None:
            return judge_scalars(objective, replicates)
        tasks = [
            {"task": one.number, "params": one.params, "param_id": param_id(one.params), "seed": one.seed,
             "outputs": one.outputs}
            for one in replicates
        ]  # fmt: skip
        value = self._sampler.judge(params, tasks)
        if isinstance(value, dict):
            if self._failure is None:  # the journal has the type alone, since messages may differ from run to run
                self._failure = f"The objective fails: {_error_text(value)}"
                self._warn(self._failure)
            return Told(None, len(replicates), error=str(value["type"]))
        if not math.isfinite(value):
            return Told(None, len(replicates), error=NO_VALUE)
        return Told((value,), len(replicates))


def _error_text(error: Mapping[str, object]) -> str:
    """Return an error in words, with its type and its place."""
    at = f" (at {error['at']})" if error.get("at") else ""
    return f"{error.get('type', 'Error')}: {shorten(str(error.get('message', '')), MAX_REASON)}{at}"


# --- jobs ------------------------------------------------------------------------------------------------------------


def sampler_setup(calibration: Calibration) -> dict[str, object]:
    """Return the first line of the sampler's process; see engines/sampler_script.py."""
    objective = calibration.objective
    return {
        "sampler": calibration.sampler,
        "space": {name: [one.kind, list(one.bounds)] for name, one in calibration.parameters.items()},
        "seed": calibration.seed,
        "options": dict(calibration.options),
        "objectives": max(1, len(objective.scalars)),
        "function": objective.function,
        "target": objective.target,
    }


class Begun(NamedTuple):
    """A calibration whose job was launched or found, and what goes on with it."""

    job_id: str
    coordinator: Coordinator
    warnings: tuple[str, ...] = ()


@contextlib.contextmanager
def begin_calibration(
    calibration: Calibration,
    request: SubmitRequest,
    session: Session,
    *,
    extends: str | None = None,
    revive: Revive = lambda _job_id: None,
    draws: bool = False,
) -> Iterator[Begun]:
    """Submit the job of a calibration, and start its sampler for the time of the block. The sampler is loaded first.

    Args:
        calibration: the calibration.
        request: how its sets are run; it has the study of the calibration.
        session: the registry and the environment.
        extends: an earlier calibration, whose journal is told first.
        revive: see `Coordinator`.
        draws: whether the sampler has to have draws from the posterior distribution.

    Raises:
        UsageError: if the request is not valid, or if sampler or objective cannot be loaded.
        MopsJobsError: if the submission fails; see `client.submit_job`.
    """
    earlier = None if extends is None else journal_of(extends, session)
    if earlier is not None:
        _check_fork(calibration, earlier, extends or "")
    described = {"spec": calibration.to_dict(), **({} if extends is None else {"extends": extends})}
    request = dataclasses.replace(request, study=calibration.first_study, grows=IDLE_SECONDS, calibration=described)
    with prepare(request, session) as prepared:
        archive = prepared.load_archive(session.store)
        python = python_here(prepared.launch.python, session.env)
        try:
            sampler = SamplerProcess(python, archive, sampler_setup(calibration), session.env)
        except ModelError as error:
            raise UsageError(error.message, hint=error.hint) from None
        with sampler:
            if draws:
                sampler.require_posterior()
            submitted = submit_prepared(prepared, session)
            yield _open(submitted.job_id, sampler, session, revive, submitted.warnings)


@contextlib.contextmanager
def continue_calibration(job_id: str, session: Session, revive: Revive = lambda _job_id: None) -> Iterator[Begun]:
    """Start the sampler of a calibration that goes on, for the time of the block.

    Raises:
        UsageError: if the job is not a calibration.
        ModelError: if sampler or objective cannot be loaded.
        NoManifestError, RecordError, StoreError: if its journal cannot be read.
    """
    with _sampler_of(job_id, session) as sampler:
        yield _open(job_id, sampler, session, revive)


def draw_posterior(job_id: str, count: int, session: Session) -> list[dict[str, Any]]:
    """Rebuild the sampler of a calibration from its journal, and return its draws from the posterior distribution.

    Raises:
        UsageError: if the job is not a calibration, or if the sampler has no draws.
        ModelError: if the sampler fails.
        NoManifestError, RecordError, StoreError: if its journal cannot be read.
    """
    with _sampler_of(job_id, session) as sampler:
        return _open(job_id, sampler, session, lambda _job_id: None).coordinator.draw(count)


def _sampler_of(job_id: str, session: Session) -> SamplerProcess:
    """Start the sampler of a calibration, on its packed code.

    Raises: as `continue_calibration`.
    """
    calibration, manifest = calibration_of_job(job_id, session)
    archive = load_bundle(session.store, manifest.bundle)
    return SamplerProcess(python_of_launch(job_id, session.env), archive, sampler_setup(calibration), session.env)


def _open(
    job_id: str, sampler: SamplerProcess, session: Session, revive: Revive, warnings: tuple[str, ...] = ()
) -> Begun:
    journal = journal_of(job_id, session)
    inherited = [one.job_id for one in journal.rounds[: journal.inherited]]
    same = {one: calibration_of_job(one, session)[0].searches_as(journal.calibration) for one in set(inherited)}
    replays = [same[one] for one in inherited]
    objective = journal.calibration.objective
    needs_all = objective.function is not None or objective.target is not None
    job = continue_growing(session, job_id, (lambda _name: True) if needs_all else may_have_scalars)
    job.leave_out(_told_tasks(journal))
    if job.rounds != journal.stored:  # its next round would be none of this journal
        raise JobBusyError(f"Another client continues {job_id}.", job_id=job_id)

    def note(counts: dict[str, Any]) -> None:
        with contextlib.suppress(MopsJobsError):  # the journal has them
            session.registry.update_fields(job_id, metadata={CALIBRATION: counts})

    return Begun(job_id, Coordinator(job, journal, sampler, session.warn, replays, revive=revive, note=note), warnings)


def note_counts(job_id: str, counts: Mapping[str, Any], session: Session) -> None:
    """Note counts of a journal in the record of its job, unless it has them: its last client may have been killed."""
    with contextlib.suppress(MopsJobsError):
        if calibration_counts(session.registry.require_job(job_id).metadata) != counts:
            session.registry.update_fields(job_id, metadata={CALIBRATION: dict(counts)})


def _told_tasks(journal: Journal) -> Iterator[int]:
    """Yield the tasks of the job whose outputs nothing needs: those of sets that have a value."""
    for one in journal.rounds[journal.inherited :]:
        for numbers, told in zip(one.tasks, one.told or (), strict=False):
            yield from numbers if told.values is not None else ()


def calibration_of_job(job_id: str, session: Session) -> tuple[Calibration, Manifest]:
    """Return a calibration with the manifest of its job. Errors are those of `journal_of`."""
    manifest = session.load_manifest(job_id)
    calibration = calibration_of(manifest)
    if calibration is None:
        raise UsageError(f"Job {job_id} is not a calibration.", hint=f"Its results: {command_line('results', job_id)}")
    return calibration, manifest


def journal_of(job_id: str, session: Session) -> Journal:
    """Return the journal of a calibration.

    Raises:
        UsageError: if the job is not one.
        JobNotFoundError: if the job does not exist.
        NoManifestError, RecordError, StoreError: if it cannot be read.
    """
    journal = read_journal(session.store, calibration_of_job(job_id, session)[1])
    assert journal is not None  # noqa: S101 - it is a calibration
    return journal


def _check_fork(calibration: Calibration, earlier: Journal, job_id: str) -> None:
    """Refuse to go on with a journal whose values mean something else.

    Raises:
        UsageError: if objective, fixed parameters or names of parameters differ.
    """
    before = earlier.calibration
    for name, one, other in (
        ("objective", calibration.objective, before.objective),
        ("fixed", calibration.fixed, before.fixed),
        ("parameters", set(calibration.parameters), set(before.parameters)),
        ("model", calibration.study.entrypoint, before.study.entrypoint),
        ("mode", calibration.mode, before.mode),
    ):
        if one != other:
            raise UsageError(f"Job {job_id} cannot be extended: its {name} is another one.")
    if calibration.most_rounds <= earlier.rounds_done:
        word = "sets" if calibration.is_asynchronous else "rounds"
        raise UsageError(
            f"Job {job_id} has {earlier.rounds_done} {word}: expected more in the new calibration, not"
            f" {calibration.most_rounds}.",
            hint="rounds counts those of the earlier calibration too.",
        )
