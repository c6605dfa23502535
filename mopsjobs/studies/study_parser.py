"""Read and check a study: YAML or JSON in, a `Study` out, or one error that names every wrong field."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopsjobs.errors import RecordError, UsageError, shorten
from mopsjobs.studies.study import ParameterSet, Study, is_output_name, param_id
from mopsjobs.utils.json_strict import read_json

MAX_STUDY_BYTES = 256 * 2**20

MAX_SHOWN_PROBLEMS = 10

MAX_SHOWN_CHARACTERS = 200
"""Of one problem."""

MAX_NUMBER_BITS = 4096
"""Of a whole number: more than any model needs, and within what every JSON reader of a Python reads."""

MAX_TASKS = 10**7
"""Of a job. Each reader of a manifest counts the tasks and draws their seeds: half a minute for this number."""

_FIELDS = tuple(field.name for field in dataclasses.fields(Study) if field.init)

_FUNCTION = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")

KIND = "SimulationStudy"
"""The `kind` of a study in ModelOps. Its documents may omit the field."""

_SET_FIELDS = ("params", "seed", "param_id")
"""Fields of a parameter set whose `params` is an object. ModelOps' `UniqueParameterSet` has the first and the last."""

NAME_HINT = "A study is JSON, or YAML if its name ends in .yaml or .yml."


class StudyError(UsageError):
    """An invalid study. `problems` lists everything that is wrong with it, each by its field."""

    def __init__(self, source: str, problems: list[str], *, hint: str | None = None) -> None:
        shown = [shorten(problem, MAX_SHOWN_CHARACTERS) for problem in problems[:MAX_SHOWN_PROBLEMS]]
        more = f"; and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        message = f"invalid study {source}".rstrip() + f": {'; '.join(shown)}{more}"
        super().__init__(message if message.endswith("?") else f"{message}.", hint=hint)
        self.problems = tuple(problems)


def load_study(text: bytes, source: str) -> Study:
    """Read a study from the bytes of a file: YAML if `source` ends in .yaml or .yml, else JSON.

    Standard input, `-`, has no file name: it is JSON if it begins with a brace, else YAML.

    Raises:
        StudyError: if it is invalid. The message names every wrong field and what is expected there.
    """
    if len(text) > MAX_STUDY_BYTES:
        raise StudyError(source, [f"{len(text):,} bytes: expected at most {MAX_STUDY_BYTES:,}"])
    try:
        if source.lower().endswith((".yaml", ".yml")) or (source == "-" and text.lstrip()[:1] not in (b"{", b"")):
            from mopsjobs.utils.yaml_strict import read_yaml

            document = read_yaml(text)
        else:
            document = read_json(text)
    except RecordError as error:
        if problems := getattr(error, "problems", None):  # of YAML, whose reader is imported only when needed
            raise StudyError(source, problems) from None
        subject = "it " if error.reason.startswith("has ") else ""
        is_named = source == "-" or source.lower().endswith((".json", ".yaml", ".yml"))
        raise StudyError(source, [subject + error.reason], hint=None if is_named else NAME_HINT) from None
    return parse_study(document, source)


def read_study(path: str) -> Study:
    """Read a study file.

    Raises:
        UsageError: if the file cannot be read.
        StudyError: if it is invalid; see `load_study`.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read the study {path}: {error.strerror}.") from None
    return load_study(text, path)


def parse_study(document: object, source: str = "") -> Study:
    """Make a study of a JSON document.

    Raises:
        StudyError: if it is invalid. The message names every wrong field and what is expected there.
    """
    if isinstance(document, dict) and _is_calibration(document):
        raise StudyError(
            source,
            ["it is a CalibrationSpec, whose algorithm chooses the parameters; expected a SimulationStudy"],
            hint="Submit it with mops jobs submit. Or sample parameter sets with cb sampling sobol, and submit those.",
        )
    problems: list[str] = []
    study = None
    try:
        study = _parse(document, problems)
    except RecursionError:  # YAML may contain itself
        problems = ["nested too deeply"]
    if problems:
        raise StudyError(source, problems)
    assert study is not None  # noqa: S101 - without a problem there is a study
    return study


def _parse(document: object, problems: list[str]) -> Study | None:
    if not isinstance(document, dict):
        problems.append(f"expected an object with {', '.join(_FIELDS)}, not {_describe(document)}")
        return None
    for name in document:
        if name not in (*_FIELDS, "kind"):
            problems.append(f"{name}: unknown field{_nearest(name, _FIELDS, problems)}")
    if document.get("kind") not in (None, KIND):
        problems.append(f"kind: expected {KIND}, not {_describe(document['kind'])}")
    study = Study(
        model=_parse_text(document, "model", None, problems),
        scenario=_parse_text(document, "scenario", "baseline", problems),
        parameter_sets=_parse_parameter_sets(document.get("parameter_sets"), problems),
        sampling_method=_parse_text(document, "sampling_method", "manual", problems),
        n_replicates=_parse_replicates(document.get("n_replicates", 1), problems),
        outputs=_parse_output_names(document.get("outputs"), "outputs", problems),
        targets=_parse_texts(document.get("targets"), "targets", problems),
        reduce=_parse_reduce(document.get("reduce"), problems),
        scratch=_parse_switch(document, "scratch", problems),
        allow_nan=_parse_switch(document, "allow_nan", problems, default=True),
        packs=_parse_switch(document, "packs", problems, default=True),
        metadata=_parse_metadata(document.get("metadata"), problems),
    )
    if not problems and study.tasks_total > MAX_TASKS:
        problems.append(f"{study.tasks_total:,} tasks: expected at most {MAX_TASKS:,} in one job")
    return study


def _is_calibration(document: Mapping[str, object]) -> bool:
    """Return True for ModelOps' other kind of document, by its `kind`, or by fields as ModelOps does."""
    if document.get("kind") is not None:
        return document["kind"] == "CalibrationSpec"
    return "algorithm" in document or ("parameter_sets" not in document and "target_data" in document)


def _nearest(name: object, fields: tuple[str, ...], problems: list[str]) -> str:
    """Return `, did you mean x?` for the field nearest to an unknown one; an empty text if none is near."""
    # A search for close names takes a while; only the first problems are shown.
    close = difflib.get_close_matches(str(name), fields, 1) if len(problems) < MAX_SHOWN_PROBLEMS else ()
    return f", did you mean {close[0]}?" if close else ""


def _parse_text(document: Mapping[str, object], name: str, default: str | None, problems: list[str]) -> str:
    value = document.get(name, default)
    if isinstance(value, str) and value and value.isprintable():
        return value
    actual = f"not {_describe(value)}" if name in document else "but it is missing"
    problems.append(f"{name}: expected a text, {actual}")
    return ""


def _parse_replicates(value: object, problems: list[str]) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_TASKS:
        return value
    problems.append(f"n_replicates: expected a whole number from 1 to {MAX_TASKS:,}, not {_describe(value)}")
    return 1


def _parse_parameter_sets(value: object, problems: list[str]) -> tuple[ParameterSet, ...]:
    if not isinstance(value, list) or not value:
        is_empty = isinstance(value, list)
        actual = "but it is missing" if value is None else f"not {'an empty list' if is_empty else _describe(value)}"
        problems.append(f"parameter_sets: expected a list of at least one object of parameters, {actual}")
        return ()
    sets = (_parse_parameter_set(item, f"parameter_sets[{number}]", problems) for number, item in enumerate(value))
    return tuple(parameter_set for parameter_set in sets if parameter_set is not None)


def _parse_parameter_set(item: object, where: str, problems: list[str]) -> ParameterSet | None:
    if not isinstance(item, dict):
        problems.append(f"{where}: expected an object of parameters, not {_describe(item)}")
        return None
    if not isinstance(item.get("params"), dict):  # else a model's own parameter named params
        return _make_parameter_set(item, None, where, problems)
    before = len(problems)
    for name in item:
        if name not in _SET_FIELDS:
            nearest = _nearest(name, _SET_FIELDS, problems) or ", expected seed or param_id"
            problems.append(f"{where}.{name}: unknown field beside params{nearest}")
    seed = item.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64):
        problems.append(f"{where}.seed: expected a whole number from 0 and below 2^64, not {_describe(seed)}")
    parameter_set = _make_parameter_set(item["params"], seed, f"{where}.params", problems)
    named_id = item.get("param_id")
    if parameter_set is not None and named_id not in (None, parameter_set.param_id):
        problems.append(
            f'{where}.param_id: expected "{parameter_set.param_id}", the id of params, not {_describe(named_id)}'
        )
    return parameter_set if len(problems) == before else None


def _make_parameter_set(
    params: Mapping[str, Any], seed: int | None, where: str, problems: list[str]
) -> ParameterSet | None:
    before = len(problems)
    _check_json(params, where, problems)
    return ParameterSet(param_id(params), params, seed) if len(problems) == before else None


def _parse_output_names(value: object, where: str, problems: list[str]) -> tuple[str, ...] | None:
    names = _parse_texts(value, where, problems)
    problems += [
        f"{where}: expected names of letters, digits, spaces and . _ -, not {name!r}"
        for name in names or ()
        if not is_output_name(name)
    ]
    if names is not None and len(set(names)) != len(names):
        problems.append(f"{where}: expected each name once")
    return names or None  # an empty list means the same as none: else no task would ever be complete


def _parse_texts(value: object, where: str, problems: list[str]) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    problems.append(f"{where}: expected a list of texts, or null")
    return None


def _parse_reduce(value: object, problems: list[str]) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and _FUNCTION.fullmatch(value) and ".py:" not in value:
        return value
    problems.append(f"reduce: expected package.module:function, not {_describe(value)}")
    return None


def _parse_switch(document: Mapping[str, object], name: str, problems: list[str], *, default: bool = False) -> bool:
    value = document.get(name, default)
    if not isinstance(value, bool):
        problems.append(f"{name}: expected true or false, not {_describe(value)}")
    return value is True


def _parse_metadata(value: object, problems: list[str]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.append(f"metadata: expected an object, not {_describe(value)}")
        return {}
    _check_json(value, "metadata", problems)
    return value


def _check_json(value: object, where: str, problems: list[str]) -> None:
    """Note what JSON cannot hold: parameters are hashed, and sent to another process, as JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                problems.append(f"{where}: expected texts as names, not {_describe(name)}")
            elif not _is_encodable(name):
                problems.append(f"{where}: expected texts as names, not {name!r}, which has half a character")
            else:
                _check_json(item, f"{where}.{name}", problems)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_json(item, f"{where}[{number}]", problems)
    elif isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
        problems.append(f"{where}: expected a smaller number")
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{where}: expected a finite number")
    elif isinstance(value, str) and not _is_encodable(value):
        problems.append(f"{where}: expected a text, not {value!r}, which has half a character")
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        problems.append(f"{where}: expected a number, a text, true, false or null, not {_describe(value)}")


def _is_encodable(text: str) -> bool:
    """Return True if UTF-8 can encode it. JSON can write half of a surrogate pair; UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _describe(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false"}
    if value is None:
        return "null"
    if isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
        return "a number of very many digits"
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        shown = json.dumps(value)
        return shown if len(shown) <= 40 else shown[:37] + "…"
    return names.get(type(value), type(value).__name__)
