"""Run a calibration from its first round to the end of its job, or go on with one; then submit the best sets."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from mopsjobs.app.following.wait import QuietJob, StopCondition, wait_for
from mopsjobs.app.jobs.reconcile import early_end_text
from mopsjobs.app.run.app import App
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import runner_end
from mopsjobs.engines.trust import Trust
from mopsjobs.errors import EXIT_DONE, EXIT_JOB_FAILED, JobBusyError, UsageError
from mopsjobs.registry.calibration_counts import failed_text, round_word
from mopsjobs.registry.status import SWEEP, JobStatus
from mopsjobs.studies.calibration import Calibration
from mopsjobs.studies.journal import SETS_OF, Evaluation, Journal, counts_of
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.study import ParameterSet, Study
from mopsjobs.studies.study_parser import parse_sets, parse_study
from mopsjobs.submission.calibrating import (
    Begun,
    begin_calibration,
    continue_calibration,
    draw_posterior,
    journal_of,
    note_counts,
)
from mopsjobs.submission.resume import ResumeRequest, resume
from mopsjobs.submission.submit import SubmitRequest, submit
from mopsjobs.utils.intervals import mean_text
from mopsjobs.utils.text import pluralize

CALIBRATION_LABEL = "calibration"
"""The label of a study of the best sets, with the job that found them."""


class Calibrated(NamedTuple):
    """A calibration that has done its rounds, and whose job has ended."""

    job_id: str
    journal: Journal
    status: str
    exit_code: int = EXIT_DONE
    """That of the job, if it was ended early; else whether there is a best set. Failed sets are usual."""
    notes: tuple[str, ...] = ()
    """Lines for the user: why it was ended early, and what comes next."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateRequest:
    """A calibration to run. Exactly one of `calibration` and `job_id` is set."""

    calibration: Calibration | None = None
    job_id: str | None = None
    """The full id of a calibration that goes on. With `rounds`, one that has ended goes on as a new job."""
    submit: Callable[[Study], SubmitRequest]
    """Returns how a study is run. Without code and bundle, it runs that of an earlier calibration."""
    extends: str | None = None
    """The full id of an earlier calibration, whose journal comes first."""
    rounds: int | None = None
    """The rounds in place of those of the calibration, those of earlier ones included."""
    draws: bool = False
    """Whether the sampler has to have draws from the posterior distribution."""


def calibrate(
    request: CalibrateRequest,
    app: App,
    trust: Trust,
    on_begin: Callable[[str], object],
    on_round: Callable[[str, Journal], object],
) -> Calibrated:
    """Run a calibration, or go on with one, until its job has ended. One that has ended is only read.

    Args:
        request: the calibration.
        app: the run.
        trust: the choices of a record that are accepted, if a lost runner is started again.
        on_begin: called with the job as soon as it was launched.
        on_round: called with the job and its journal after each round.

    Raises:
        UsageError: if the request is invalid, or if the job is not a calibration.
        MopsJobsError: if the job cannot be launched or ends early; see `begin_calibration` and `Coordinator.run`.
    """
    known = None if request.job_id is None else journal_of(request.job_id, app.session())
    has_ended = known is not None and (known.has_ended or app.registry.require_job(str(request.job_id)).is_terminal)
    if request.job_id is not None and known is not None and has_ended and request.rounds is None:
        note_counts(request.job_id, counts_of(known), app.session())
        return _ended(request.job_id, known, app)
    with _open(request, app, trust, known, has_ended=has_ended) as begun:
        app.out.warn_each(begun.warnings)
        on_begin(begun.job_id)
        if (earlier := request.job_id if has_ended else request.extends) is not None:
            _join_sweep(earlier, begun.job_id, app)
        journal = begun.coordinator.run(lambda journal: on_round(begun.job_id, journal))
    return _ended(begun.job_id, journal, app)


def _ended(job_id: str, journal: Journal, app: App) -> Calibrated:
    waited = wait_for([job_id], app, StopCondition())
    state = waited.states[0]
    is_whole = state.status != JobStatus.CANCELLED and early_end_text(state.to_dict()) is None
    code = (EXIT_JOB_FAILED if journal.best is None else EXIT_DONE) if is_whole else waited.exit_code
    return Calibrated(job_id, journal, str(state.status), code, waited.notes)


def _open(
    request: CalibrateRequest, app: App, trust: Trust, known: Journal | None, *, has_ended: bool
) -> AbstractContextManager[Begun]:
    session, calibration, extends = app.session(), request.calibration, request.extends
    quiet: list[QuietJob] = []

    def revive(job_id: str) -> None:
        if runner_end(JobDir.for_job(job_id, app.env)) is not None:
            with contextlib.suppress(JobBusyError):
                resume(ResumeRequest(job_id=job_id), session, trust)
                app.out.warn(f"The runner of {job_id} had ended, and was started again.")
            return
        quiet[:] = quiet or [QuietJob(job_id, app)]
        quiet[0].look()

    if request.job_id is not None and known is not None:
        if not has_ended:
            if request.rounds is not None:
                raise UsageError(f"Job {request.job_id} goes on: its rounds can be changed when it has ended.")
            with contextlib.suppress(JobBusyError):  # the usual case: its runner is at work
                resume(ResumeRequest(job_id=request.job_id), session, trust)
            return continue_calibration(request.job_id, session, revive)
        calibration, extends = known.calibration, request.job_id
    assert calibration is not None  # noqa: S101 - one of the two is given
    if request.rounds is not None:
        calibration = dataclasses.replace(calibration, rounds=request.rounds)
    submitted = request.submit(calibration.first_study)
    labels = dict(submitted.labels)
    if extends is not None:
        labels = {SWEEP: _sweep_of(extends, app, labels.get(SWEEP)), **labels}
        if submitted.code is None and submitted.bundle is None:
            submitted = dataclasses.replace(submitted, bundle=load_manifest(session.store, extends).bundle)
    submitted = dataclasses.replace(submitted, labels=labels)
    return begin_calibration(calibration, submitted, session, extends=extends, revive=revive, draws=request.draws)


TOP, DRAWS = "top", "draws"

MAX_PREFIX = 90
"""Characters of the id of a calibration that the id of a following study begins with."""


class Then(NamedTuple):
    """The study that follows a calibration."""

    kind: str
    """`TOP` for the sets with the smallest values, or `DRAWS` for those that the sampler draws."""
    size: int
    document: Mapping[str, Any]
    """The study. Model and scenario are those of the calibration unless it has its own. If it has parameter sets, each
    is combined with each one of the calibration."""
    source: str
    """Where the document is from, for messages."""


def submit_then(done: Calibrated, then: Then, request: CalibrateRequest, app: App) -> tuple[str, str | None]:
    """Submit sets of a calibration as a study, on its code, unless the same sets were submitted for the same study.

    The id of the job follows from these. So repeating the command launches no second one.

    Args:
        done: the calibration.
        then: the study.
        request: how it is run.
        app: the run.

    Returns:
        The job, and its status if it was submitted before.

    Raises:
        StudyError: if the study is invalid.
        UsageError: if no evaluation has succeeded, or if the sampler has no draws.
        MopsJobsError: if the sampler or the submission fails.
    """
    if done.journal.best is None:
        raise UsageError(f"Calibration {done.job_id} has no set with a value.")
    name = f"{then.kind}={then.size}"
    content = json.dumps([done.job_id, name, then.document], sort_keys=True).encode()
    digest = hashlib.blake2b(content, digest_size=4).hexdigest()
    job_id = f"{done.job_id[:MAX_PREFIX]}-{then.kind}-{then.size}-{digest}"
    if (before := app.registry.get_job(job_id)) is not None:
        _join_sweep(done.job_id, job_id, app)
        return job_id, before.status
    found = sets_of(done, then.kind, then.size, app)
    rows = parse_sets(then.document.get("parameter_sets") or [{}], then.source)
    spec = done.journal.calibration.study
    of = dict(zip(SETS_OF, (done.job_id, name), strict=True))
    study = parse_study(
        {
            "model": spec.model,
            "scenario": spec.scenario,
            "sampling_method": "calibration",
            **then.document,
            "metadata": {**(then.document.get("metadata") or {}), **of},
            "parameter_sets": [{"params": {**one, **row.params}} for one in found for row in rows],
        },
        then.source,
    )
    if then.kind == DRAWS:
        study = _with_own_seeds(study)
    session = app.session()
    submitted = request.submit(study)
    labels = {
        SWEEP: _sweep_of(done.job_id, app, submitted.labels.get(SWEEP)),
        CALIBRATION_LABEL: done.job_id,
        **submitted.labels,
    }
    bundle = load_manifest(session.store, done.job_id).bundle
    submit(
        dataclasses.replace(submitted, code=None, bundle=bundle, job_id=job_id, labels=labels, foreground=False),
        session,
    )
    _join_sweep(done.job_id, job_id, app)
    return job_id, None


def sets_of(done: Calibrated, kind: str, count: int, app: App) -> list[dict[str, Any]]:
    """Return parameter sets of a calibration: see `Then`."""
    if kind == DRAWS:
        return draw_posterior(done.job_id, count, app.session())
    return [dict(one.params) for one in done.journal.top(count)]


def _with_own_seeds(study: Study) -> Study:
    """Give a set that was drawn again further seeds: it would else be the same simulation."""
    if study.precision is not None or isinstance(study.seeds, tuple):
        return study
    seen: Counter[str] = Counter()
    sets: list[ParameterSet] = []
    for one in study.parameter_sets:
        first = seen[one.param_id]
        seen[one.param_id] += study.max_replicates
        seeds = (study.seed_of(one, first + number) for number in range(study.max_replicates))
        sets += [one] if not first else (one._replace(seed=seed) for seed in seeds)
    return dataclasses.replace(study, parameter_sets=tuple(sets))


def _sweep_of(job_id: str, app: App, chosen: str | None) -> str:
    """Return the sweep of a calibration, for a second job: by default its own, which `_join_sweep` then names there."""
    return app.registry.require_job(job_id).labels.get(SWEEP, chosen or job_id)


def _join_sweep(job_id: str, second: str, app: App) -> None:
    """Put a calibration into the sweep of its second job. Nothing is written before that job is there."""
    if SWEEP not in app.registry.require_job(job_id).labels:
        app.registry.change_labels(job_id, {SWEEP: app.registry.require_job(second).labels[SWEEP]})


# --- words -----------------------------------------------------------------------------------------------------------


def value_text(one: Evaluation) -> str:
    """Return the value of an evaluation in words, with its half-width: `12.5 ± 0.4`."""
    values = one.told.values or ()
    return ", ".join([mean_text(values[0], one.told.half_width), *(f"{value:.4g}" for value in values[1:])])


def describe_round(journal: Journal) -> str:
    """Return a sentence about the last round."""
    counts, best = counts_of(journal), journal.best
    found = "no set has a value" if best is None else f"best {value_text(best)}"
    sets = "" if counts["asynchronous"] else f"; {pluralize(counts['sets'], 'set')}"
    word = round_word(counts).capitalize()
    return f"{word} {journal.rounds_done} of {journal.rounds_planned}: {found}{sets}{failed_text(counts)}."


def document_of(done: Calibrated) -> dict[str, Any]:
    """Return a calibration as one JSON object."""
    best, counts = done.journal.best, counts_of(done.journal)
    return {
        "job_id": done.job_id,
        "status": done.status,
        "rounds": done.journal.rounds_done,
        "evaluations": counts["sets"],
        "failed": counts["failed"],
        "best": None if best is None else evaluation_json(best),
    }


def evaluation_json(one: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON."""
    told = {"values": None, "half_width": None, "error": None, **one.told.to_json()}
    return {"job_id": one.job_id, "round": one.round, "params": dict(one.params), **told}
