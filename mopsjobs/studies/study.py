"""The study: what a scientist asks for, read and checked, and the tasks that follow from it.

The file is ModelOps' `SimulationStudy`, a contract with programs outside this project. Parameter ids and seeds are
computed as ModelOps does it (modelops-contracts: `make_param_id`, `SimulationStudy._generate_seed`), so that the same
study gives the same tasks wherever it runs.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mopsjobs.errors import RecordError, UsageError, shortened
from mopsjobs.studies.seeds import SeedIndex
from mopsjobs.utils.json_strict import read_json

MAX_STUDY_BYTES = 256 * 2**20


MAX_SHOWN_PROBLEMS = 10


MAX_SHOWN_CHARACTERS = 200


MAX_NUMBER_BITS = 4096
"""Of a whole number: far beyond what a model is told, and what every JSON reader of a Python takes."""


MAX_TASKS = 10**7
"""Of a job. Whoever reads a manifest counts its tasks and draws their seeds: half a minute for so many."""


_OUTPUT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


class StudyError(UsageError):
    """A study that cannot be used. `problems` are all that is wrong with it, each naming the field."""

    def __init__(self, source: str, problems: list[str]) -> None:
        shown = [shortened(problem, MAX_SHOWN_CHARACTERS) for problem in problems[:MAX_SHOWN_PROBLEMS]]
        more = f"; and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        super().__init__(f"The study {source}".rstrip() + f" cannot be used: {'; '.join(shown)}{more}.")
        self.problems = tuple(problems)


class Task(NamedTuple):
    """One simulation: one parameter set with one seed. `number` counts the tasks of the study from 0."""

    number: int
    param_id: str
    seed: int
    params: Mapping[str, Any]


class ParameterSet(NamedTuple):
    """Parameters of a model, their id, and the one seed that was asked for, if one was."""

    param_id: str
    params: Mapping[str, Any]
    seed: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study, as its file tells it."""

    model: str
    scenario: str
    parameter_sets: tuple[ParameterSet, ...]
    sampling_method: str = "manual"
    n_replicates: int = 1
    outputs: tuple[str, ...] | None = None
    """The outputs that each task must leave; None: whatever it leaves."""
    targets: tuple[str, ...] | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        """What a wire function is told to run."""
        return f"{self.model}/{self.scenario}"

    @property
    def tasks_total(self) -> int:
        """How many simulations the study asks for."""
        return sum(self.replicates(one) for one in self.parameter_sets)

    def replicates(self, one: ParameterSet) -> int:
        """How many tasks a parameter set gives: one with the seed it names, else one a replicate."""
        return self.n_replicates if one.seed is None else 1

    def tasks(self) -> Iterator[Task]:
        """The tasks in their order, made one by one: a study of millions needs no list of them."""
        number = 0
        for one in self.parameter_sets:
            for replicate in range(self.replicates(one)):
                yield Task(number, one.param_id, seed_of(one, replicate), one.params)
                number += 1

    def sets_by_id(self) -> dict[str, list[tuple[int, ParameterSet]]]:
        """The parameter sets of each id, which differ in their seeds alone, each with the number of its first task."""
        sets: dict[str, list[tuple[int, ParameterSet]]] = {}
        number = 0
        for one in self.parameter_sets:
            sets.setdefault(one.param_id, []).append((number, one))
            number += self.replicates(one)
        return sets

    def duplicate_tasks(self) -> dict[int, int]:
        """The tasks that are the same simulation as an earlier one, parameters and seed; and the number of that.

        A study is refused if it names a simulation twice. But seeds that are drawn have 32 bits, so that of 100,000
        replicates two are alike more often than not, and one may be alike with a seed that was named: that is one
        simulation, run once, and each of its tasks is complete with it.
        """
        found: dict[int, int] = {}
        for sets in self.sets_by_id().values():
            if len(sets) == 1 and self.replicates(sets[0][1]) == 1:
                continue
            for first, *others in self.seed_index(sets).duplicate_groups():
                found.update(dict.fromkeys(others, first))
        return found

    def seed_index(self, sets: Iterable[tuple[int, ParameterSet]]) -> SeedIndex:
        """The tasks of some parameter sets of one id, as `sets_by_id` has them, by their seeds."""
        sets = list(sets)
        drawn = (
            (seed_of(one, replicate), first + replicate)
            for first, one in sets
            if one.seed is None
            for replicate in range(self.n_replicates)
        )
        return SeedIndex(drawn, ((one.seed, first) for first, one in sets if one.seed is not None))

    def to_dict(self) -> dict[str, Any]:
        """The study as its file would have it."""
        return {
            "model": self.model,
            "scenario": self.scenario,
            "parameter_sets": [
                {"params": dict(one.params)} | ({} if one.seed is None else {"seed": one.seed})
                for one in self.parameter_sets
            ],
            "sampling_method": self.sampling_method,
            "n_replicates": self.n_replicates,
            "outputs": None if self.outputs is None else list(self.outputs),
            "targets": None if self.targets is None else list(self.targets),
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_dict(cls, document: object, source: str = "") -> Study:
        """The study in a JSON document.

        Raises:
            StudyError: it is none; names every field that is wrong and what it should be.
        """
        problems: list[str] = []
        study = None
        try:
            study = _read(document, problems)
        except RecursionError:  # YAML may even hold itself
            problems = ["it is nested too deeply"]
        if problems:
            raise StudyError(source, problems)
        assert study is not None  # noqa: S101 - without a problem there is one
        return study


def param_id(params: Mapping[str, Any]) -> str:
    """The id of a parameter set, ModelOps' own: BLAKE2b-256 over its canonical JSON, in hex."""
    canonical = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(f"contracts:param:v1|{canonical}".encode(), digest_size=32).hexdigest()


def seed_of(one: ParameterSet, replicate: int) -> int:
    """The seed of a replicate: the one asked for; else from BLAKE2b-64 of `<param_id>:<replicate>`, modulo 2^32."""
    if one.seed is not None:
        return one.seed
    digest = hashlib.blake2b(f"{one.param_id}:{replicate}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**32


def load_study(text: bytes, source: str) -> Study:
    """The study in a file's bytes: YAML where `source` ends in .yaml or .yml, else JSON.

    What comes from standard input, `-`, has no name to tell it by: JSON begins with a brace.

    Raises:
        StudyError: it is none; names every field that is wrong and what it should be.
    """
    if len(text) > MAX_STUDY_BYTES:
        raise StudyError(source, [f"it has {len(text):,} bytes, and at most {MAX_STUDY_BYTES:,} are read"])
    try:
        if source.lower().endswith((".yaml", ".yml")) or (source == "-" and text.lstrip()[:1] not in (b"{", b"")):
            from mopsjobs.utils.yaml_strict import read_yaml

            document = read_yaml(text)
        else:
            document = read_json(text)
    except RecordError as error:
        verb = "" if error.reason.startswith("has ") else "is "
        raise StudyError(source, [f"it {verb}{error.reason}"]) from None
    return Study.from_dict(document, source)


def is_output_name(name: str) -> bool:
    """Whether an output may have this name: it becomes the end of a key and the name of a file."""
    return _OUTPUT_NAME.fullmatch(name) is not None


_FIELDS = tuple(field.name for field in dataclasses.fields(Study))


def _read(document: object, problems: list[str]) -> Study | None:
    if not isinstance(document, dict):
        problems.append(f"it should be an object with {', '.join(_FIELDS)}, not {_kind(document)}")
        return None
    for name in document:
        if name not in _FIELDS:
            # Each takes a while, and nobody reads more.
            few = len(problems) < MAX_SHOWN_PROBLEMS
            close = difflib.get_close_matches(str(name), _FIELDS, 1) if few else ()
            problems.append(f"{name} is no field of a study" + (f"; is it {close[0]}?" if close else ""))
    study = Study(
        model=_text(document, "model", None, problems),
        scenario=_text(document, "scenario", "baseline", problems),
        parameter_sets=_parameter_sets(document.get("parameter_sets"), problems),
        sampling_method=_text(document, "sampling_method", "manual", problems),
        n_replicates=_replicates(document.get("n_replicates", 1), problems),
        outputs=_names(document.get("outputs"), "outputs", problems),
        targets=_texts(document.get("targets"), "targets", problems),
        metadata=_metadata(document.get("metadata"), problems),
    )
    if not problems and study.tasks_total > MAX_TASKS:
        problems.append(f"it asks for {study.tasks_total:,} tasks, and at most {MAX_TASKS:,} go into a job")
    return study


def _text(document: Mapping[str, object], name: str, default: str | None, problems: list[str]) -> str:
    value = document.get(name, default)
    if isinstance(value, str) and value and value.isprintable():
        return value
    problems.append(f"{name} should be a text" + (f", not {_kind(value)}" if name in document else ", and is missing"))
    return ""


def _replicates(value: object, problems: list[str]) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_TASKS:
        return value
    problems.append(f"n_replicates should be a whole number from 1 to {MAX_TASKS:,}, not {_kind(value)}")
    return 1


def _parameter_sets(value: object, problems: list[str]) -> tuple[ParameterSet, ...]:
    if not isinstance(value, list) or not value:
        told = "and is missing" if value is None else "not an empty one" if value == [] else f"not {_kind(value)}"
        problems.append(f"parameter_sets should be a list of at least one object of parameters, {told}")
        return ()
    found: list[ParameterSet] = []
    first: dict[tuple[str, int | None], int] = {}
    for number, item in enumerate(value):
        where = f"parameter_sets[{number}]"
        one = _parameter_set(item, where, problems)
        if one is None:
            continue
        same = first.setdefault((one.param_id, one.seed), number)
        if same != number:
            problems.append(f"{where} is the same as parameter_sets[{same}]")
        found.append(one)
    return tuple(found)


def _parameter_set(item: object, where: str, problems: list[str]) -> ParameterSet | None:
    if not isinstance(item, dict):
        problems.append(f"{where} should be an object of parameters, not {_kind(item)}")
        return None
    params, seed = item, None
    # A model may well have a parameter called params: it takes an object there, and nothing beside it but a seed.
    if isinstance(item.get("params"), dict) and item.keys() <= {"params", "seed"}:
        params, seed = item["params"], item.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64):
        problems.append(f"{where}.seed should be a whole number from 0 and below 2^64, not {_kind(seed)}")
        return None
    before = len(problems)
    _check_json(params, f"{where}.params" if params is not item else where, problems)
    return ParameterSet(param_id(params), params, seed) if len(problems) == before else None


def _check_json(value: object, where: str, problems: list[str]) -> None:
    """Parameters are hashed and sent to another process as JSON: so they must be what JSON can hold."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                problems.append(f"{where} should have texts as names, not {_kind(name)}")
            elif not _is_text(name):
                problems.append(f"{where} should have texts as names, not {name!r}, half a character")
            else:
                _check_json(item, f"{where}.{name}", problems)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_json(item, f"{where}[{number}]", problems)
    elif isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
        problems.append(f"{where} should be a number that is smaller")
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{where} should be a finite number")
    elif isinstance(value, str) and not _is_text(value):
        problems.append(f"{where} should be a text, not {value!r}, which has half a character")
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        problems.append(f"{where} should be a number, a text, true, false or null, not {_kind(value)}")


def _is_text(value: str) -> bool:
    """JSON can write half of a surrogate pair; UTF-8, which parameters are hashed in, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _names(value: object, where: str, problems: list[str]) -> tuple[str, ...] | None:
    names = _texts(value, where, problems)
    problems += [
        f"{where} should be names of letters, digits and . _ -, not {name!r}"
        for name in names or ()
        if not is_output_name(name)
    ]
    if names is not None and len(set(names)) != len(names):
        problems.append(f"{where} should name each output once")
    return names or None  # none named is none named: with nothing to wait for, no task would ever be complete


def _texts(value: object, where: str, problems: list[str]) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    problems.append(f"{where} should be a list of texts, or null")
    return None


def _metadata(value: object, problems: list[str]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.append(f"metadata should be an object, not {_kind(value)}")
        return {}
    _check_json(value, "metadata", problems)
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false"}
    if value is None:
        return "null"
    if isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
        return "a number of very many digits"
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        shown = json.dumps(value)
        return shown if len(shown) <= 40 else shown[:37] + "…"
    return names.get(type(value), type(value).__name__)
