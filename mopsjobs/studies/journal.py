"""The journal of a calibration: the rounds that its sampler asked for, and what it was told of them.

A told round is an object beside the round, which is created once. So the sampler is rebuilt from the journal alone. Its
bytes follow from the calibration: they have neither times nor attempts. See docs/decisions/0128-calibrations.md.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import NoManifestError, RecordError, UsageError
from mopsjobs.ledger.scalars import extract_scalars
from mopsjobs.registry.keys import ROUND, TOLD
from mopsjobs.store.base import ReadableStore
from mopsjobs.studies.calibration import Calibration, Objective, parse_calibration
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.rounds import read_rounds, round_key
from mopsjobs.utils.intervals import mean, student_t
from mopsjobs.utils.json_strict import is_count, is_number, read_json
from mopsjobs.utils.scalar_keys import is_called, no_result_has, scalar_called, short_name

TOLD_VERSION = 1

NO_VALUE = "NoValue"
"""The error of a set whose replicates have no finite value of what the objective names."""


class Told(NamedTuple):
    """The result of a parameter set, as the sampler is told it."""

    values: tuple[float, ...] | None
    """The value of each objective; None if the evaluation failed."""
    n: int
    """The replicates that have outputs."""
    half_width: float | None = None
    """Half of the 95 % confidence interval of a single objective; None if the replicates do not tell it."""
    error: str | None = None
    """The type of the error of a set that failed."""

    @property
    def value(self) -> float | None:
        """Return the value of the first objective; None if the evaluation failed."""
        return None if self.values is None else self.values[0]

    def to_json(self) -> dict[str, object]:
        """Return the result as the journal has it."""
        values = None if self.values is None else list(self.values)
        fields = {"values": values, "n": self.n, "half_width": self.half_width, "error": self.error}
        return {name: value for name, value in fields.items() if value is not None or name == "values"}


def encode_told(results: Sequence[Told]) -> bytes:
    """Return the bytes of a told round, the same for the same results."""
    document = {"version": TOLD_VERSION, "results": [one.to_json() for one in results]}
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def parse_told(value: bytes, key: str) -> tuple[Told, ...]:
    """Return the results of a told round.

    Raises:
        RecordError: if it is not one.
    """
    try:
        document: Any = read_json(value)
        if document["version"] != TOLD_VERSION:
            raise RecordError(f"unknown version of a told round {document['version']!r}: expected {TOLD_VERSION}")
        return tuple(told_of(one) for one in document["results"])
    except RecordError as error:
        raise RecordError(error.reason, key=key) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecordError(f"not a told round ({type(error).__name__}: {error})", key=key) from None


def told_of(row: Mapping[str, Any]) -> Told:
    """Return the result that `Told.to_json` has described.

    Raises:
        TypeError, KeyError: if it is none.
    """
    values, half_width, error = row["values"], row.get("half_width"), row.get("error")
    is_sound = is_count(row["n"]) and (half_width is None or (is_number(half_width) and half_width >= 0))
    if values == [] or not is_sound or not all(map(is_number, values or ())):
        raise TypeError("expected finite numbers")
    return Told(None if values is None else tuple(values), row["n"], half_width, None if error is None else str(error))


def told_key(job_id: str, number: int) -> str:
    """Return the key of what was told of a round."""
    return TOLD.key(job=job_id, number=f"{number:06d}")


# --- values of sets ------------------------------------------------------------------------------------------------


class Replicate(NamedTuple):
    """A task of a set that has ended."""

    number: int
    params: Mapping[str, object]
    seed: int
    outputs: Mapping[str, bytes] | None
    """None if it has failed."""
    error: Mapping[str, object] | None


def failed_replicate(replicates: Sequence[Replicate]) -> Told | None:
    """Return the result of a set with a failed replicate: the others would tell of a milder model. None without one."""
    failed = [one for one in replicates if one.outputs is None]
    if not failed:
        return None
    error = failed[0].error or {}
    return Told(None, len(replicates) - len(failed), error=str(error.get("type", "Error")))


def judge_scalars(objective: Objective, replicates: Sequence[Replicate]) -> Told:
    """Return the value of a set whose objective names scalars. Each replicate has outputs."""
    names = objective.scalars or tuple(objective.observed or ())
    rows = []
    for one in replicates:
        scalars = extract_scalars(one.outputs or {})
        rows.append([_number(scalar_called(scalars, name)) for name in names])
    if not all(math.isfinite(value) for row in rows for value in row):
        return Told(None, len(rows), error=NO_VALUE)
    values = _values(objective, rows)
    if not all(map(math.isfinite, values)):
        return Told(None, len(rows), error=NO_VALUE)
    return Told(values, len(rows), _half_width(objective, rows) if len(values) == 1 else None)


def lacking_scalar(objective: Objective, replicates: Iterable[Replicate]) -> str | None:
    """Return a sentence about a scalar of the objective that no replicate has left, though they left others."""
    left = [extract_scalars(one.outputs or {}) for one in replicates]
    keys = sorted({key for scalars in left for key, value in scalars.items() if isinstance(value, (int, float))})
    for name in objective.scalars or tuple(objective.observed or ()):
        if keys and not any(is_called(key, name) for key in keys):
            return f"The objective names '{name}', but {no_result_has(name, [*map(short_name, keys)])}"
    return None


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _values(objective: Objective, rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    means = [mean(column) for column in zip(*rows, strict=True)]
    if objective.observed is None:
        return tuple(means)
    pairs = zip(means, objective.observed.values(), strict=True)
    try:
        return (math.fsum(((value - one.observed) / one.sd) ** 2 for value, one in pairs),)
    except OverflowError:  # of a model that diverges
        return (math.inf,)


def _half_width(objective: Objective, rows: Sequence[Sequence[float]]) -> float | None:
    """Return half of the interval of a value by the jackknife: for a mean, it is the one of Student's t."""
    n = len(rows)
    if n < 2:
        return None
    without = [_values(objective, [*rows[:place], *rows[place + 1 :]])[0] for place in range(n)]
    center = mean(without)
    half_width = student_t(n - 1) * math.sqrt((n - 1) / n) * math.hypot(*(value - center for value in without))
    return half_width if math.isfinite(half_width) else None


# --- reading ---------------------------------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """A parameter set that was told to the sampler."""

    job_id: str
    """The job that has its tasks."""
    round: int
    """The number of its round in the whole journal, from 1."""
    place: int
    """Its place among the sets of that job, from 0."""
    params: Mapping[str, Any]
    """All parameters of the model."""
    told: Told


class Round(NamedTuple):
    """A round of a job."""

    job_id: str
    number: int
    """In its job, from 1."""
    first: int
    """How many sets of the job come before."""
    sets: tuple[Mapping[str, Any], ...]
    told: tuple[Told, ...] | None
    """None if its tasks have not ended, or its client was not there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Journal:
    """A calibration with all that was asked and told, those before it included: what views show of it."""

    calibration: Calibration
    rounds: tuple[Round, ...]
    inherited: int = 0
    """How many of the rounds belong to the calibrations that it extends."""
    has_ended: bool = False
    """Whether its job takes no further rounds."""

    @property
    def rounds_done(self) -> int:
        """Count the rounds that were told."""
        return sum(one.told is not None for one in self.rounds)

    @property
    def rounds_planned(self) -> int:
        """Return how many rounds the calibration has at most."""
        return self.calibration.rounds

    def evaluations(self) -> Iterable[Evaluation]:
        """Yield the sets that were told, in their order."""
        for number, one in enumerate(self.rounds, 1):
            for place, (params, told) in enumerate(zip(one.sets, one.told or (), strict=False), one.first):
                yield Evaluation(one.job_id, number, place, params, told)

    @property
    def best(self) -> Evaluation | None:
        """Return the evaluation with the smallest value, the earliest of several; None without one.

        With several objectives, it is that of the first one; see `front`.
        """
        known = [(one.told.value, place, one) for place, one in enumerate(self.evaluations())]
        ranked = [(value, place, one) for value, place, one in known if value is not None]
        return min(ranked)[2] if ranked else None

    def top(self, count: int) -> list[Evaluation]:
        """Return the evaluations with the smallest values, each parameter set once."""
        known = [(one.told.value, place, one) for place, one in enumerate(self.evaluations())]
        ranked = sorted((value, place, one) for value, place, one in known if value is not None)
        different = {json.dumps(one.params, sort_keys=True): one for _, _, one in reversed(ranked)}
        return [one for _, _, one in ranked if different[json.dumps(one.params, sort_keys=True)] is one][:count]

    def front(self) -> list[Evaluation]:
        """Return the evaluations that no other one beats in each of several objectives."""
        known = [(one, one.told.values) for one in self.evaluations() if one.told.values is not None]
        return [
            one
            for one, values in known
            if not any(
                other != values and all(b <= a for a, b in zip(values, other, strict=True)) for _, other in known
            )
        ]

    def best_by_round(self) -> list[float | None]:
        """Return the smallest value up to each told round."""
        best: float | None = None
        series = []
        for one in self.rounds:
            if one.told is not None:
                values = [told.value for told in one.told if told.value is not None]
                best = min([*values, *([] if best is None else [best])], default=None)
                series.append(best)
        return series


def calibration_of(manifest: Manifest) -> Calibration | None:
    """Return the calibration whose sets a job runs; None for any other job.

    Raises:
        RecordError: if the manifest has an invalid one.
    """
    if manifest.calibration is None:
        return None
    try:
        return parse_calibration(manifest.calibration["spec"], "in the manifest")
    except (UsageError, KeyError) as error:
        raise RecordError(f"invalid calibration: {error}") from None


def read_journal(store: ReadableStore, manifest: Manifest) -> Journal | None:
    """Read the journal of a job, with those of the calibrations that it extends; None for any other job.

    It costs a listing per job, and the values that this lacks.

    Raises:
        RecordError: if a part of it is invalid.
        NoManifestError: if a calibration that it extends is gone.
        StoreError: if the store cannot be read.
    """
    calibration = calibration_of(manifest)
    if calibration is None:
        return None
    own, has_ended = _read_rounds(store, manifest.job_id, calibration)
    inherited: list[Round] = []
    seen, earlier = {manifest.job_id}, (manifest.calibration or {}).get("extends")
    while earlier is not None:
        if earlier in seen:
            raise RecordError("the calibration extends itself")
        seen.add(earlier)
        before = load_manifest(store, earlier)
        searched = calibration_of(before)
        if searched is None:
            raise NoManifestError(f"Job {earlier} is not a calibration.", job_id=earlier)
        inherited = [one for one in _read_rounds(store, earlier, searched)[0] if one.told is not None] + inherited
        earlier = (before.calibration or {}).get("extends")
    return Journal(calibration, (*inherited, *own), len(inherited), has_ended)


def _read_rounds(store: ReadableStore, job_id: str, calibration: Calibration) -> tuple[list[Round], bool]:
    asked = read_rounds(store, job_id)
    told: dict[int, tuple[Told, ...]] = {}
    for entry in store.scan(ROUND.prefix_of(job_id)):
        parts = TOLD.parse(entry.key)
        if parts is not None:
            value = entry.value
            if value is None:
                found = store.get(entry.key)
                value = None if found is None else found.value
            if value is not None:
                told[int(parts["number"])] = parse_told(value, entry.key)
    rounds, first, objectives = [], 0, calibration.objective.scalars or (None,)
    for number, sets in enumerate(asked.sets, 1):
        if not all(calibration.parameters.keys() <= one.params.keys() for one in sets):
            raise RecordError("a set lacks parameters of the calibration", key=round_key(job_id, number))
        results = told.get(number)
        if results is not None and [len(one.values or objectives) for one in results] != [len(objectives)] * len(sets):
            raise RecordError("its values are not those of its round", key=told_key(job_id, number))
        rounds.append(Round(job_id, number, first, tuple(one.params for one in sets), results))
        first += len(sets)
    return rounds, asked.has_ended
