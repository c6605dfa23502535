"""The job of a calibration, as its journal and its record have it at some round, without tasks that ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.notes import CALIBRATION
from mopsjobs.studies.calibration import Calibration, parse_calibration
from mopsjobs.studies.journal import Journal, Round, Told, ToldRound, counts_of, told_key
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.rounds import as_sets, encode_round, round_key

SPEC: dict[str, Any] = {
    "model": "seir.model:run",
    "parameters": {"beta": {"uniform": [0, 1]}, "gamma": {"log": [0.01, 1]}, "mode": {"choice": ["a", "b"]}},
    "fixed": {"days": 90},
    "objective": "loss",
    "rounds": 20,
    "sets_per_round": 8,
    "n_replicates": 2,
}


def evaluate(number: int) -> tuple[dict[str, Any], Told]:
    """Return a set and its result: the loss is smallest at beta = 0.3, and sets with a large gamma fail."""
    beta, gamma = (number * 37 % 100) / 100, 0.01 + (number * 61 % 99) / 100
    params = {"days": 90, "beta": beta, "gamma": gamma, "mode": "ab"[number % 2]}
    if gamma > 0.9:
        return params, Told(None, 1, error="ValueError")
    return params, Told((round((beta - 0.3) ** 2 + 0.001 * number % 0.01, 6),), 2, 0.002)


def journal_of(
    job_id: str, rounds: int, *, asked: bool = False, renames: Mapping[str, str] | None = None, **changes: Any
) -> Journal:
    """Return a journal with this many told rounds, and with one more that was only asked.

    Args:
        job_id: the job.
        rounds: how many.
        asked: whether there is one more.
        renames: other names of parameters. Then sets have no others.
        changes: fields of `SPEC` that differ.
    """
    calibration: Calibration = parse_calibration({**SPEC, **changes})
    size, found = calibration.sets_per_round, []
    for number in range(rounds + asked):
        rows = [evaluate(number * size + place) for place in range(size)]
        if renames is not None:
            rows = [({renames[name]: params[name] for name in renames}, one) for params, one in rows]
        if calibration.study.precision is not None:
            rows = [(params, one._replace(precise=one.values and one.values[0] < 0.1)) for params, one in rows]
        told = tuple(one for _, one in rows) if number < rounds else None
        found.append(Round(job_id, number + 1, tuple(params for params, _ in rows), told))
    return Journal(calibration, tuple(found))


def put_calibration(jobs: JobRegistry, job_id: str, rounds: int, *, status: str = "running", **more: Any) -> Journal:
    """Store the job of a calibration with this many told rounds; `labels` go into its record, others into its spec."""
    labels, extends = more.pop("labels", {}), more.pop("extends", None)
    journal = journal_of(job_id, rounds, **more)
    study = journal.calibration.first_study
    manifest = Manifest(
        job_id=job_id, study=study, bundle=f"sha256:{'0' * 64}", engine="local", owner="ada", labels=labels,
        grows=3600.0, calibration={"spec": journal.calibration.to_dict(), **({"extends": extends} if extends else {})},
    )  # fmt: skip
    jobs.store.create_if_absent(f"jobs/{job_id}/manifest.json", manifest.to_json())
    jobs.register_job(job_id, **manifest.record_fields())
    jobs.update_fields(job_id, metadata={CALIBRATION: counts_of(journal_of(job_id, 0, **more))})
    grow_calibration(jobs, journal)
    if status != "pending":
        jobs.update_status(job_id, status)
    return journal


def grow_calibration(jobs: JobRegistry, journal: Journal) -> None:
    """Bring the job of a calibration to this journal."""
    for one in journal.rounds:
        job_id = one.job_id
        sets = as_sets([{"params": params} for params in one.sets])
        jobs.store.create_if_absent(round_key(job_id, one.number), encode_round(sets))
        if one.told is not None:
            jobs.store.create_if_absent(told_key(job_id, one.number), ToldRound(one.told).to_json())
        jobs.update_fields(one.job_id, metadata={CALIBRATION: counts_of(journal)})
