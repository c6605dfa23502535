"""The journal of a calibration: the rounds that its sampler asked for, and what it was told of them.

A told round is an object beside the round, which is created once. So the sampler is rebuilt from the journal alone. Its
bytes follow from the calibration: they have neither times nor attempts. See docs/decisions/0128-calibrations.md.
The cache keeps a journal as a document, and the record has its counts.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import NoManifestError, RecordError, UsageError
from mopsjobs.ledger.scalars import extract_scalars
from mopsjobs.registry.calibration_counts import NO_VALUE
from mopsjobs.registry.keys import TOLD
from mopsjobs.store.base import ReadableStore
from mopsjobs.studies.calibration import Calibration, Objective, parse_calibration
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.rounds import EndedTask, read_rounds, read_values, round_key
from mopsjobs.studies.study import ParameterSet, Study
from mopsjobs.utils.intervals import mean, student_t
from mopsjobs.utils.json_strict import is_count, is_number, read_json
from mopsjobs.utils.scalar_keys import is_called, no_result_has, scalar_called, short_name

TOLD_VERSION = 1

SETS_OF = ("calibration", "calibration_sets")
"""The metadata of a study whose sets a calibration has found: its job, and which sets, for example `top=50`."""


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
    precise: bool | None = None
    """Whether its replicates are as precise as the calibration asks; None if it failed, or if they have a number."""

    @property
    def value(self) -> float | None:
        """Return the value of the first objective; None if the evaluation failed."""
        return None if self.values is None else self.values[0]

    def to_json(self) -> dict[str, object]:
        """Return the result as the journal has it."""
        values = None if self.values is None else list(self.values)
        fields = {**self._asdict(), "values": values}
        return {name: value for name, value in fields.items() if value is not None or name == "values"}


class ToldRound(NamedTuple):
    """The results that a sampler was told at once."""

    results: tuple[Told, ...]
    round: int | None = None
    """In asynchronous mode, the number of the round with the set. What was told is numbered in its own order then."""
    asked: int | None = None
    """In asynchronous mode, how many rounds the job had."""

    def to_json(self) -> bytes:
        """Return the bytes of an object of the journal, the same for the same results."""
        places = {} if self.round is None else {"round": self.round, "asked": self.asked}
        document = {"version": TOLD_VERSION, **places, "results": [one.to_json() for one in self.results]}
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def parse_told(value: bytes, key: str) -> ToldRound:
    """Return what was told at once.

    Raises:
        RecordError: if it is not that.
    """
    try:
        document: Any = read_json(value)
        if document["version"] != TOLD_VERSION:
            raise RecordError(f"unknown version of a told round {document['version']!r}: expected {TOLD_VERSION}")
        places = document.get("round"), document.get("asked")
        if not all(one is None or is_count(one) for one in places):
            raise TypeError("expected numbers")
        return ToldRound(tuple(told_of(one) for one in document["results"]), *places)
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
    known = None if values is None else tuple(values)
    precise = row.get("precise")
    is_known = isinstance(precise, bool)
    return Told(known, row["n"], half_width, None if error is None else str(error), precise if is_known else None)


def told_key(job_id: str, number: int) -> str:
    """Return the key of what was told of a round."""
    return TOLD.key(job=job_id, number=f"{number:06d}")


# --- values of sets ------------------------------------------------------------------------------------------------


def failed_replicate(replicates: Sequence[EndedTask]) -> Told | None:
    """Return the result of a set with a failed replicate: the others would tell of a milder model. None without one."""
    failed = [one for one in replicates if one.outputs is None]
    if not failed:
        return None
    error = failed[0].error or {}
    return Told(None, len(replicates) - len(failed), error=str(error.get("type", "Error")))


def judge_scalars(objective: Objective, replicates: Sequence[EndedTask]) -> Told:
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


def lacking_scalar(calibration: Calibration, replicates: Iterable[EndedTask]) -> str | None:
    """Return a sentence about a scalar of a calibration that no replicate has left, though they left others."""
    objective, precision = calibration.objective, calibration.study.precision
    left = [extract_scalars(one.outputs or {}) for one in replicates]
    keys = sorted({key for scalars in left for key, value in scalars.items() if isinstance(value, (int, float))})
    named = [(name, "The objective") for name in objective.scalars or tuple(objective.observed or ())]
    named += [(target.scalar, "n_replicates.until") for target in (precision.until if precision else ())]
    for name, where in named:
        if keys and not any(is_called(key, name) for key in keys):
            return f"{where} names '{name}', but {no_result_has(name, [*map(short_name, keys)])}"
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
    params: Mapping[str, Any]
    """All parameters of the model."""
    told: Told


class Round(NamedTuple):
    """A round of a job: sets that a sampler asked for."""

    job_id: str
    number: int
    """In its job, from 1. Rounds of further replicates have numbers, too."""
    sets: tuple[Mapping[str, Any], ...]
    told: tuple[Told, ...] | None
    """None if its tasks have not ended, or its client was not there."""
    tasks: tuple[tuple[int, ...], ...] = ()
    """The numbers of the tasks of each set, replicate by replicate. Empty if it was read from the cache."""
    asked: int | None = None
    """In asynchronous mode, how many rounds the job had when it was told."""


@dataclasses.dataclass(frozen=True, slots=True)
class Journal:
    """A calibration with all that was asked and told, those before it included: what views show of it."""

    calibration: Calibration
    rounds: tuple[Round, ...]
    """In the order in which they were told; those that were not told come last."""
    inherited: int = 0
    """How many of the rounds belong to the calibrations that it extends."""
    has_ended: bool = False
    """Whether its job takes no further rounds."""
    stored: int = 0
    """How many rounds its job has, those of further replicates included."""
    untold: tuple[Round, ...] = ()
    """Rounds that the calibrations before it were asked for and never told. Their samplers knew of them."""

    @property
    def rounds_done(self) -> int:
        """Count the rounds that were told."""
        return sum(one.told is not None for one in self.rounds)

    @property
    def rounds_planned(self) -> int:
        """Return how many rounds the calibration has at most."""
        return self.calibration.most_rounds

    def evaluations(self) -> Iterable[Evaluation]:
        """Yield the sets that were told, in their order."""
        for number, one in enumerate(self.rounds, 1):
            for params, told in zip(one.sets, one.told or (), strict=False):
                yield Evaluation(one.job_id, number, params, told)

    @property
    def best(self) -> Evaluation | None:
        """Return the evaluation with the smallest value, the earliest of several; None without one.

        With several objectives, it is that of the first one; see `front`.
        """
        return next(iter(self.top(1)), None)

    def top(self, count: int) -> list[Evaluation]:
        """Return the evaluations with the smallest values, each parameter set once."""
        known = [(one.told.value, place, one) for place, one in enumerate(self.evaluations())]
        top: dict[str, Evaluation] = {}
        for _, _, one in sorted((value, place, one) for value, place, one in known if value is not None):
            if len(top) == count:
                break
            top.setdefault(json.dumps(one.params, sort_keys=True), one)
        return [*top.values()]

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

    It costs two listings per job, and the values that these lack.

    Raises:
        RecordError: if a part of it is invalid.
        NoManifestError: if a calibration that it extends is gone.
        StoreError: if the store cannot be read.
    """
    calibration = calibration_of(manifest)
    if calibration is None:
        return None
    own, stored, has_ended = _read_rounds(store, manifest.job_id, calibration)
    inherited: list[Round] = []
    untold: list[Round] = []
    seen, earlier = {manifest.job_id}, (manifest.calibration or {}).get("extends")
    while earlier is not None:
        if earlier in seen:
            raise RecordError("the calibration extends itself")
        seen.add(earlier)
        before = load_manifest(store, earlier)
        searched = calibration_of(before)
        if searched is None:
            raise NoManifestError(f"Job {earlier} is not a calibration.", job_id=earlier)
        rounds = _read_rounds(store, earlier, searched)[0]
        inherited = [one for one in rounds if one.told is not None] + inherited
        untold += [one for one in rounds if one.told is None]
        earlier = (before.calibration or {}).get("extends")
    return Journal(calibration, (*inherited, *own), len(inherited), has_ended, stored, tuple(untold))


def _read_rounds(store: ReadableStore, job_id: str, calibration: Calibration) -> tuple[list[Round], int, bool]:
    """Return the rounds of a job in the order of `Journal.rounds`, how many it has stored, and whether it has ended."""
    told = _read_told(store, job_id)  # first: a round is stored before what is told of it
    asked = read_rounds(store, job_id)
    rounds = {one.number: one for one in _asked_rounds(job_id, asked.sets, calibration)}
    objectives = len(calibration.objective.scalars or (None,))
    ordered = []
    for number, found in sorted(told.items()):
        one = rounds.pop(number if found.round is None else found.round, None)
        lengths = [len(told.values or range(objectives)) for told in found.results]
        if one is None or lengths != [objectives] * len(one.sets):
            raise RecordError("its values are not those of its round", key=told_key(job_id, number))
        ordered.append(one._replace(told=found.results, asked=found.asked))
    return [*ordered, *rounds.values()], len(asked.sets), asked.has_ended


def _read_told(store: ReadableStore, job_id: str) -> dict[int, ToldRound]:
    values = read_values(store, TOLD, job_id)
    return {int((TOLD.parse(key) or {})["number"]): parse_told(value, key) for key, value in values}


def _asked_rounds(job_id: str, stored: Sequence[Sequence[ParameterSet]], calibration: Calibration) -> Iterator[Round]:
    """Yield the rounds that a sampler asked for. Sets that name a seed are further replicates of these.

    Raises:
        RecordError: if a round is neither.
    """
    study, count = calibration.first_study, 0
    by_set: defaultdict[str, list[tuple[ParameterSet, list[int]]]] = defaultdict(list)
    rounds: dict[int, tuple[Sequence[ParameterSet], list[list[int]]]] = {}
    for number, sets in enumerate(stored, 1):
        if not all(calibration.parameters.keys() <= one.params.keys() for one in sets):
            raise RecordError("a set lacks parameters of the calibration", key=round_key(job_id, number))
        is_asked = all(one.seed is None for one in sets)
        if is_asked:
            rounds[number] = sets, []
        for one in sets:
            if is_asked:
                tasks = [*range(count, count + study.max_replicates)]
                rounds[number][1].append(tasks)
                by_set[one.param_id].append((one, tasks))
            else:
                known = reversed(by_set[one.param_id])
                following = (tasks for first, tasks in known if further_seed(study, first, len(tasks)) == one.seed)
                tasks = next(following, [])
                if not tasks:
                    raise RecordError("a seed that follows those of no set", key=round_key(job_id, number))
                tasks.append(count)
            count += study.replicates(one)
    for number, (sets, numbers) in rounds.items():
        yield Round(job_id, number, tuple(one.params for one in sets), None, tuple(map(tuple, numbers)))


def further_seed(study: Study, one: ParameterSet, replicate: int) -> int | None:
    """Return the seed of a further replicate of a set; None if the study lists fewer."""
    is_listed = isinstance(study.seeds, tuple)
    return None if is_listed and replicate >= len(study.seeds) else study.seed_of(one, replicate)


MAX_PARAMS = 4000
"""Characters of the parameters of the best set in a record, as JSON. Larger ones are left out: records stay small."""


MAX_ERRORS = 3
"""Types of errors in a record, the most frequent first."""


def counts_of(journal: Journal) -> dict[str, Any]:
    """Return the counts of a calibration, and its best set; see `registry.calibration_counts`."""
    told = [one.told for one in journal.evaluations()]
    errors = Counter(str(one.error) for one in told if one.values is None)
    best = journal.best
    return {
        "rounds": journal.rounds_done,
        "at_most": journal.rounds_planned,
        "inherited": journal.inherited,
        "sets": len(told),
        "failed": errors.total(),
        "errors": dict(errors.most_common(MAX_ERRORS)),
        "not_precise": sum(one.precise is False for one in told),
        "asynchronous": journal.calibration.is_asynchronous,
        "best": None if best is None else _best(journal, best),
    }


def _best(journal: Journal, best: Evaluation) -> dict[str, Any]:
    params = journal.calibration.asked_of(best.params)
    is_small = len(json.dumps(params)) <= MAX_PARAMS
    told = best.told
    return {
        "value": told.value, "half_width": told.half_width, "round": best.round, "params": params if is_small else {},
    }  # fmt: skip


def encode_journal(journal: Journal) -> str:
    """Return a journal as JSON."""
    rounds = [
        [
            one.job_id,
            one.number,
            one.sets,
            None if one.told is None else [told.to_json() for told in one.told],
        ]
        for one in journal.rounds
    ]
    return json.dumps(
        {
            "spec": journal.calibration.to_dict(),
            "rounds": rounds,
            "inherited": journal.inherited,
            "has_ended": journal.has_ended,
        },
        separators=(",", ":"),
    )


def decode_journal(text: str) -> Journal:
    """Return the journal that `encode_journal` has written.

    Raises:
        RecordError: if it is not one.
    """
    try:
        document: Any = json.loads(text)
        rounds = [
            Round(job_id, number, tuple(sets), None if told is None else tuple(map(told_of, told)))
            for job_id, number, sets, told in document["rounds"]
        ]
        calibration = parse_calibration(document["spec"], "in the cache")
        return Journal(calibration, tuple(rounds), document["inherited"], document["has_ended"])
    except (ValueError, TypeError, KeyError, UsageError) as error:
        raise RecordError(f"not a journal ({type(error).__name__}: {error})") from None
