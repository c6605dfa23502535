"""The coordinator of a calibration: it asks the sampler, has the sets run, and tells the sampler what came of them.

It keeps nothing that is not in the journal, so it may be killed at any time. Another one rebuilds the sampler: it asks
and tells once more what the journal has. An asked round without results is waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from mopsjobs.bundles.bundle import load_bundle
from mopsjobs.engines.model_env import python_here
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.engines.trust import python_of_launch
from mopsjobs.errors import JobBusyError, MopsJobsError, NoManifestError, UsageError, command_line, shorten
from mopsjobs.ledger.scalars import may_have_scalars
from mopsjobs.registry.notes import CALIBRATION
from mopsjobs.studies.calibration import Calibration
from mopsjobs.studies.journal import (
    NO_VALUE,
    Journal,
    Replicate,
    Round,
    Told,
    encode_told,
    failed_replicate,
    judge_scalars,
    lacking_scalar,
    parse_told,
    read_journal,
    told_key,
)
from mopsjobs.studies.journal_document import counts_of
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.rounds import Stopped
from mopsjobs.studies.study import param_id
from mopsjobs.studies.validation import SAMPLER, TARGET
from mopsjobs.submission.growing import EndedTask, continue_growing
from mopsjobs.submission.sampler_process import SamplerProcess
from mopsjobs.submission.session import Session
from mopsjobs.submission.submit import SubmitRequest, prepare, submit_prepared

IDLE_SECONDS = 3600.0
"""How long the job of a calibration waits for its client."""

LOOK_SECONDS = 10.0
"""How often a coordinator without news looks whether the runner has ended on this machine."""

MAX_REASON = 1000
"""Characters of the reason of an early end."""

OnRound = Callable[[Journal], object]

Revive = Callable[[str], object]
"""Starts the runner of a job again if it has ended on this machine."""


class Sampler(Protocol):
    """The part of a sampler that the coordinator uses; see `SamplerProcess`."""

    def ask(self, count: int) -> list[dict[str, Any]]:
        """Return the next sets."""

    def tell(self, results: Sequence[tuple[Mapping[str, Any], Sequence[float] | None, int, float | None]]) -> bool:
        """Tell results, and return whether the sampler has finished."""

    def judge(self, params: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> float | dict[str, Any]:
        """Return the value of a set, or an error."""


class GrowingRounds(Protocol):
    """The part of a growing job that the coordinator uses; see `submission.growing`."""

    job_id: str

    def add(self, sets: Sequence[Mapping[str, object]], replicates: int | None = None) -> range:
        """Store a round."""

    def keep(self, key: str, value: bytes) -> bytes:
        """Store a value unless the key has one, and return that of the store."""

    def ended(self, timeout: float | None) -> Iterator[EndedTask]:
        """Yield tasks as they end."""

    def end(self, stopped: Stopped | None = None) -> None:
        """Store the end mark."""


class ObjectiveError(UsageError):
    """The objective names a scalar that no task leaves, or fails for each set."""


class Coordinator:
    """A client of the job of a calibration.

    Args:
        job: the growing job.
        journal: its journal so far.
        sampler: the sampler, which was not asked yet.
        warn: called with a warning.
        replays: for each inherited round, whether the sampler of its job asks as this one does.
        revive: called while no task ends.
        note: called with the counts of the journal as soon as it has grown, for the record.
    """

    def __init__(
        self,
        job: GrowingRounds,
        journal: Journal,
        sampler: Sampler,
        warn: Callable[[str], object] = lambda _text: None,
        replays: Sequence[bool] = (),
        *,
        revive: Revive = lambda _job_id: None,
        note: Callable[[dict[str, Any]], object] = lambda _counts: None,
    ) -> None:
        self.journal = journal
        self._note = note
        self._job, self._sampler, self._warn = job, sampler, warn
        self._replays, self._revive = replays, revive
        self._has_finished = self._is_other = False
        self._failure: str | None = None
        """How the function of the objective has failed first."""

    @property
    def _calibration(self) -> Calibration:
        return self.journal.calibration

    def run(self, on_round: OnRound = lambda _journal: None) -> Journal:
        """Go on with the calibration until its budget is used, or its sampler has finished; then end the job.

        Args:
            on_round: called with the journal after each further round that was told.

        Raises:
            ModelError: if the sampler fails. The job is then ended, as failed or partial.
            ObjectiveError: if no set of the first round has a value, by the fault of the objective. The job is then
                ended too.
            JobEndError: if the job has ended before.
            JobBusyError: if another client has told or asked something else.
            StoreError: if the registry does not answer for too long.
        """
        try:
            self._replay(on_round)
            while self._goes_on():
                asked = self._sampler.ask(self._calibration.sets_per_round)
                if not asked:
                    break
                for params in asked:
                    self._check(params)
                sets = tuple(map(self._calibration.params_of, asked))
                self._job.add([{"params": one} for one in sets])
                following = self._next_round(sets)
                self._note(counts_of(self.journal))  # here: its tasks are at work meanwhile
                self._finish(following, on_round)
        except (ModelError, ObjectiveError) as error:  # the code stays as it is packed: only another job can go on
            reason = " ".join(error.message.split())[:MAX_REASON].rstrip(".")
            with contextlib.suppress(MopsJobsError):  # another client has ended it
                self._end(Stopped(SAMPLER if isinstance(error, ModelError) else TARGET, reason))
            raise
        self._end()
        return self.journal

    def _end(self, stopped: Stopped | None = None) -> None:
        self._note(counts_of(self.journal))
        self._job.end(stopped)

    def _replay(self, on_round: OnRound) -> None:
        """Ask and tell the sampler what the journal has, and wait for a round that was not told."""
        for number, one in enumerate(self.journal.rounds):
            asks = self._replays[number] if number < len(self._replays) else True
            if asks:
                self._compare(one)
            if one.told is None:
                self._finish(one, on_round)
            else:
                self._tell(one)

    def _goes_on(self) -> bool:
        journal, limit = self.journal, self._calibration.stop_below
        if limit is not None and journal.rounds:
            values = [one.value for one in journal.rounds[-1].told or () if one.value is not None]
            if values and min(values) < limit:
                return False
        return not self._has_finished and len(journal.rounds) < self._calibration.rounds

    def _check(self, asked: Mapping[str, Any]) -> None:
        parameters = self._calibration.parameters
        wrong = sorted(set(parameters) ^ set(asked))
        wrong += [name for name, one in parameters.items() if name in asked and not one.has(asked[name])]
        if wrong:
            name = wrong[0]
            actual = repr(asked[name]) if name in asked else "nothing"
            expected = parameters[name].to_json() if name in parameters else "no such parameter"
            raise ModelError(f"The sampler asks for {name} = {actual}: expected {expected}.")

    def _next_round(self, sets: tuple[dict[str, Any], ...]) -> Round:
        own = self.journal.rounds[self.journal.inherited :]
        one = Round(self._job.job_id, len(own) + 1, sum(len(other.sets) for other in own), sets, None)
        self.journal = dataclasses.replace(self.journal, rounds=(*self.journal.rounds, one))
        return one

    def _compare(self, one: Round) -> None:
        """Ask the sampler for a round of the journal, and warn once if it wants another one."""
        asked = [] if self._has_finished else self._sampler.ask(self._calibration.sets_per_round)
        known = [self._calibration.asked_of(params) for params in one.sets]
        if asked != known and not self._is_other:
            self._is_other = True
            self._warn(
                f"The sampler asks for other sets than in round {one.number} of {one.job_id}: it is told those of the"
                " journal. A sampler that follows from its seed alone goes on as if nothing had happened."
            )

    def _tell(self, one: Round) -> None:
        rows = [
            (self._calibration.asked_of(params), told.values, told.n, told.half_width)
            for params, told in zip(one.sets, one.told or (), strict=True)
        ]
        self._has_finished = self._sampler.tell(rows)

    def _finish(self, one: Round, on_round: OnRound) -> None:
        """Wait for the tasks of a round, store their values, and tell the sampler."""
        replicates = self._wait_for(one)
        results = self._judge(one, replicates)
        is_without = all(told.values is None for told in results) and self.journal.best is None
        lacks = None
        if is_without:
            has_numbers = any(told.error == NO_VALUE for told in results)  # a NaN is an answer of the function
            lacks = lacking_scalar(self._calibration.objective, replicates) or (None if has_numbers else self._failure)
        value = encode_told(results)
        key = told_key(one.job_id, one.number)
        stored = self._job.keep(key, value)
        if stored != value:
            if self._calibration.objective.function is None or len(parse_told(stored, key)) != len(results):
                raise JobBusyError(f"Another client has told other values of {one.job_id}.", job_id=one.job_id)
            results = parse_told(stored, key)  # of a function that is not the same each time
        told = one._replace(told=tuple(results))
        rounds = [told if other is one else other for other in self.journal.rounds]
        self.journal = dataclasses.replace(self.journal, rounds=tuple(rounds))
        self._tell(told)
        on_round(self.journal)
        if lacks is not None:
            raise ObjectiveError(lacks)

    def _wait_for(self, one: Round) -> Sequence[Replicate]:
        count = self._calibration.study.max_replicates
        first = one.first * count
        wanted = range(first, first + len(one.sets) * count)
        ends: dict[int, EndedTask] = {}
        while len(ends) < len(wanted):
            known = len(ends)
            for task in self._job.ended(LOOK_SECONDS):
                if task.number in wanted:
                    ends[task.number] = task
            if len(ends) == known:
                self._revive(self._job.job_id)
        return [Replicate(*ends[number][:5]) for number in wanted]

    def _judge(self, one: Round, replicates: Sequence[Replicate]) -> Sequence[Told]:
        count = self._calibration.study.max_replicates
        return [
            self._judge_set(params, replicates[place * count : (place + 1) * count])
            for place, params in enumerate(one.sets)
        ]

    def _judge_set(self, params: Mapping[str, Any], replicates: Sequence[Replicate]) -> Told:
        failed, objective = failed_replicate(replicates), self._calibration.objective
        if failed is not None:
            return failed
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
                at = f" (at {value['at']})" if value.get("at") else ""
                message = shorten(str(value["message"]), MAX_REASON)
                self._failure = f"The objective fails: {value['type']}: {message}{at}"
                self._warn(self._failure)
            return Told(None, len(replicates), error=str(value["type"]))
        if not math.isfinite(value):
            return Told(None, len(replicates), error=NO_VALUE)
        return Told((value,), len(replicates))


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
) -> Iterator[Begun]:
    """Submit the job of a calibration, and start its sampler for the time of the block. The sampler is loaded first.

    Args:
        calibration: the calibration.
        request: how its sets are run; it has the study of the calibration.
        session: the registry and the environment.
        extends: an earlier calibration, whose journal is told first.
        revive: see `Coordinator`.

    Raises:
        UsageError: if the request is not valid, or if sampler or objective cannot be loaded.
        MopsJobsError: if the submission fails; see `JobSubmissionClient.submit`.
    """
    earlier = None if extends is None else journal_of(extends, session)
    if earlier is not None:
        _check_fork(calibration, earlier, extends or "")
    described = {"spec": calibration.to_dict(), **({} if extends is None else {"extends": extends})}
    request = dataclasses.replace(request, study=calibration.study, grows=IDLE_SECONDS, calibration=described)
    with prepare(request, session) as prepared:
        archive = prepared.load_archive(session.store)
        python = python_here(prepared.launch.python, session.env)
        try:
            sampler = SamplerProcess(python, archive, sampler_setup(calibration), session.env)
        except ModelError as error:
            raise UsageError(error.message, hint=error.hint) from None
        with sampler:
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
    manifest, journal = load_manifest(session.store, job_id), journal_of(job_id, session)
    archive = load_bundle(session.store, manifest.bundle)
    python = python_of_launch(job_id, session.env)
    with SamplerProcess(python, archive, sampler_setup(journal.calibration), session.env) as sampler:
        yield _open(job_id, sampler, session, revive)


def _open(job_id: str, sampler: Sampler, session: Session, revive: Revive, warnings: tuple[str, ...] = ()) -> Begun:
    journal = journal_of(job_id, session)
    inherited = [one.job_id for one in journal.rounds[: journal.inherited]]
    same = {one: journal_of(one, session).calibration.searches_as(journal.calibration) for one in set(inherited)}
    replays = [same[one] for one in inherited]
    objective = journal.calibration.objective
    needs_all = objective.function is not None or objective.target is not None
    job = continue_growing(session, job_id, (lambda _name: True) if needs_all else may_have_scalars)
    if job.rounds != len(journal.rounds) - journal.inherited:  # its next round would be none of this journal
        raise JobBusyError(f"Another client continues {job_id}.", job_id=job_id)

    def note(counts: dict[str, Any]) -> None:
        with contextlib.suppress(MopsJobsError):  # the journal has it; the next round is noted too
            session.registry.update_fields(job_id, metadata={CALIBRATION: counts})

    return Begun(job_id, Coordinator(job, journal, sampler, session.warn, replays, revive=revive, note=note), warnings)


def journal_of(job_id: str, session: Session) -> Journal:
    """Return the journal of a calibration.

    Raises:
        UsageError: if the job is not one.
        JobNotFoundError: if the job does not exist.
        NoManifestError, RecordError, StoreError: if it cannot be read.
    """
    try:
        manifest: Manifest = load_manifest(session.store, job_id)
    except NoManifestError:
        session.registry.require_job(job_id)
        raise
    journal = read_journal(session.store, manifest)
    if journal is None:
        raise UsageError(f"Job {job_id} is not a calibration.", hint=f"Its results: {command_line('results', job_id)}")
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
    ):
        if one != other:
            raise UsageError(f"Job {job_id} cannot be extended: its {name} is another one.")
    if calibration.rounds <= earlier.rounds_done:
        raise UsageError(
            f"Job {job_id} has {earlier.rounds_done} rounds: expected more in the new calibration, not"
            f" {calibration.rounds}.",
            hint="rounds counts those of the earlier calibration too.",
        )
