"""Read and check a study: YAML or JSON in, a `Study` out, or one error that names every wrong field."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mopsjobs.errors import RecordError, UsageError, command_line, shorten
from mopsjobs.studies.field_values import MAX_TASKS, check_json, describe
from mopsjobs.studies.precision import Precision
from mopsjobs.studies.seeds import MAX_SEED, MODELOPS, comes_from_modelops
from mopsjobs.studies.study import FIELDS, ParameterSet, Study, param_id, parse_fields
from mopsjobs.utils.json_strict import read_json

MAX_STUDY_BYTES = 256 * 2**20

MAX_SHOWN_PROBLEMS = 10

MAX_SHOWN_CHARACTERS = 200
"""Of one problem."""

_NAMES = tuple(field.name for field in dataclasses.fields(Study) if field.init)

KIND = "SimulationStudy"
"""The `kind` of a study in ModelOps. Its documents may omit the field."""

_SET_FIELDS = ("params", "seed", "param_id")
"""Fields of a parameter set whose `params` is an object. ModelOps' `UniqueParameterSet` has the first and the last."""

NAME_HINT = "A study is JSON, or YAML if its name ends in .yaml or .yml."


class StudyError(UsageError):
    """An invalid study. `problems` lists everything that is wrong with it, each by its field."""

    what = "study"
    expected = "model and parameter_sets"

    def __init__(self, source: str, problems: list[str], *, hint: str | None = None) -> None:
        shown = [shorten(problem, MAX_SHOWN_CHARACTERS) for problem in problems[:MAX_SHOWN_PROBLEMS]]
        more = f"; and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        message = f"invalid {self.what} {source}".rstrip() + f": {'; '.join(shown)}{more}"
        super().__init__(message if message.endswith("?") else f"{message}.", hint=hint)
        self.problems = tuple(problems)


def load_study(text: bytes, source: str) -> Study:
    """Read a study from the bytes of a file: YAML if `source` ends in .yaml or .yml, else JSON.

    Standard input, `-`, has no file name: it is JSON if it begins with a brace, else YAML.

    Raises:
        StudyError: if it is invalid. The message names every wrong field and what is expected there.
    """
    document = read_document(text, source)
    if isinstance(document, dict) and comes_from_modelops(document):
        document = {"seeds": MODELOPS} | document
    return parse_study(document, source)


def read_document(text: bytes, source: str, error_type: type[StudyError] = StudyError) -> object:
    """Return the JSON document in the bytes of a file, as `load_study` reads it.

    Raises:
        StudyError: if it has none.
    """
    if len(text) > MAX_STUDY_BYTES:
        raise error_type(source, [f"{len(text):,} bytes: expected at most {MAX_STUDY_BYTES:,}"])
    if not text.strip():
        raise error_type(source, [f"empty: expected an object with {error_type.expected}"])
    try:
        if source.lower().endswith((".yaml", ".yml")) or (source == "-" and text.lstrip()[:1] not in (b"{", b"")):
            from mopsjobs.utils.yaml_strict import read_yaml

            return read_yaml(text)
        return read_json(text)
    except RecordError as error:
        if problems := getattr(error, "problems", None):  # of YAML, whose reader is imported only when needed
            raise error_type(source, problems) from None
        subject = "it " if error.reason.startswith("has ") else ""
        is_named = source == "-" or source.lower().endswith((".json", ".yaml", ".yml"))
        raise error_type(source, [subject + error.reason], hint=None if is_named else NAME_HINT) from None


def read_study(path: str) -> Study:
    """Read a study file.

    Raises:
        UsageError: if the file cannot be read.
        StudyError: if it is invalid; see `load_study`.
    """
    return load_study(read_file(path, "study"), path)


def read_file(path: str, what: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read the {what} {path}: {error.strerror}.") from None


def parse_study(document: object, source: str = "", *, may_grow: bool = False) -> Study:
    """Make a study of a JSON document.

    Args:
        document: the document.
        source: where it is from, for an error.
        may_grow: whether its sets may be an empty list, to which others are added later.

    Raises:
        StudyError: if it is invalid. The message names every wrong field and what is expected there.
    """
    if isinstance(document, dict) and (is_calibration(document) or "objective" in document):
        raise StudyError(
            source,
            ["it is a calibration, whose sampler chooses the parameters; expected a study"],
            hint=f"Run it with {command_line('calibrate', source or 'SPEC', '--auto')}.",
        )
    problems: list[str] = []
    study = None
    try:
        study = _parse(document, problems, may_grow=may_grow)
    except RecursionError:  # YAML may contain itself
        problems = ["nested too deeply"]
    if study is not None and study.precision is not None:
        worst = max(study.precision.until, key=lambda target: target.least, default=None)
        if not problems and worst is not None and worst.least > study.precision.max:
            interval = f"the {100 * worst.confidence:g} % interval of {worst.name}"
            problems.append(
                f"n_replicates.max: expected at least {worst.least:,} for {interval}, not {study.precision.max:,}"
            )
    if problems:
        raise StudyError(source, problems)
    assert study is not None  # noqa: S101 - without a problem there is a study
    return study


def parse_sets(sets: object, source: str = "") -> tuple[ParameterSet, ...]:
    """Return the parameter sets in a JSON document, which may be an empty list.

    Raises:
        StudyError: if one is invalid.
    """
    problems: list[str] = []
    parsed = _parse_parameter_sets(sets, problems, may_grow=True)
    if problems:
        raise StudyError(source, problems)
    return parsed


def _parse(document: object, problems: list[str], *, may_grow: bool) -> Study | None:
    if not isinstance(document, dict):
        problems.append(f"expected an object with {', '.join(_NAMES)}, not {describe(document)}")
        return None
    for name in document:
        if name not in (*_NAMES, "kind"):
            likely = f", did you mean n_replicates.{name}?" if name in Precision._fields else ""
            problems.append(f"{name}: unknown field{likely or nearest(name, _NAMES, problems)}")
    if document.get("kind") not in (None, KIND):
        problems.append(f"kind: expected {KIND}, not {describe(document['kind'])}")
    values = parse_fields(FIELDS, document, problems)
    sets = _parse_parameter_sets(document.get("parameter_sets"), problems, may_grow=may_grow)
    study = Study(parameter_sets=sets, **values)
    if not problems and study.tasks_total > MAX_TASKS:
        problems.append(f"{study.tasks_total:,} tasks: expected at most {MAX_TASKS:,} in one job")
    if isinstance(study.seeds, tuple) and len(study.seeds) < study.max_replicates:
        problems.append(
            f"seeds: expected one for each of {study.max_replicates:,} replicates, not {len(study.seeds):,}"
        )
    firsts = ((study.first_seed(one), study.replicates(one)) for one in study.parameter_sets)
    if any(first is not None and first + count - 1 > MAX_SEED for first, count in firsts):
        problems.append("seeds: expected all below 2^64")
    return study


def is_calibration(document: Mapping[str, object]) -> bool:
    """Return True for ModelOps' other kind of document, by its `kind`, or by fields as ModelOps does."""
    if document.get("kind") is not None:
        return document["kind"] == "CalibrationSpec"
    return "algorithm" in document or ("parameter_sets" not in document and "target_data" in document)


def nearest(name: object, fields: Sequence[str], problems: list[str]) -> str:
    """Return `, did you mean x?` for the field nearest to an unknown one; an empty text if none is near."""
    # A search for close names takes a while; only the first problems are shown.
    close = difflib.get_close_matches(str(name), fields, 1) if len(problems) < MAX_SHOWN_PROBLEMS else ()
    return f", did you mean {close[0]}?" if close else ""


def _parse_parameter_sets(value: object, problems: list[str], *, may_grow: bool) -> tuple[ParameterSet, ...]:
    if not isinstance(value, list) or not (value or may_grow):
        is_empty = isinstance(value, list)
        actual = "but it is missing" if value is None else f"not {'an empty list' if is_empty else describe(value)}"
        problems.append(f"parameter_sets: expected a list of at least one object of parameters, {actual}")
        return ()
    sets = (_parse_parameter_set(item, f"parameter_sets[{number}]", problems) for number, item in enumerate(value))
    return tuple(parameter_set for parameter_set in sets if parameter_set is not None)


def _parse_parameter_set(item: object, where: str, problems: list[str]) -> ParameterSet | None:
    if not isinstance(item, dict):
        problems.append(f"{where}: expected an object of parameters, not {describe(item)}")
        return None
    if not isinstance(item.get("params"), dict):  # else a model's own parameter named params
        return _make_parameter_set(item, None, where, problems)
    before = len(problems)
    for name in item:
        if name not in _SET_FIELDS:
            likely = nearest(name, _SET_FIELDS, problems) or ", expected seed or param_id"
            problems.append(f"{where}.{name}: unknown field beside params{likely}")
    seed = item.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64):
        problems.append(f"{where}.seed: expected a whole number from 0 and below 2^64, not {describe(seed)}")
    parameter_set = _make_parameter_set(item["params"], seed, f"{where}.params", problems)
    named_id = item.get("param_id")
    if parameter_set is not None and named_id not in (None, parameter_set.param_id):
        problems.append(
            f'{where}.param_id: expected "{parameter_set.param_id}", the id of params, not {describe(named_id)}'
        )
    return parameter_set if len(problems) == before else None


def _make_parameter_set(
    params: Mapping[str, Any], seed: int | None, where: str, problems: list[str]
) -> ParameterSet | None:
    before = len(problems)
    check_json(params, where, problems)
    return ParameterSet(param_id(params), params, seed) if len(problems) == before else None
