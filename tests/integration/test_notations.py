"""Numbers and words of a study in YAML and JSON, as a model's own process receives them: the tables of its page."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.studies.study import Study
from mopsjobs.studies.study_parser import StudyError, load_study
from support.runs import code, pool_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "studies.md"

MODEL = "def simulate(params, seed):\n    return {'type': type(params['x']).__name__, 'repr': repr(params['x'])}\n"


def _rows(head: str) -> list[list[list[str]]]:
    """Return the rows of a table: for each cell, what stands in backticks."""
    lines = PAGE.read_text("utf-8").splitlines()
    rows = []
    for line in lines[lines.index(head) + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([re.findall("`([^`]+)`", cell) for cell in line.strip("|").split("|")])
    return rows


ACCEPTED = [
    (notation, ast.literal_eval(received[0]))
    for notations, received in _rows("| in YAML | the model receives |")
    for notation in notations
]

REFUSED = [
    notation
    for notations, *_ in _rows("| refused | for a number or a constant | for a text |")
    for notation in notations
]


def _yaml(value: str) -> Study:
    return load_study(f"model: model:simulate\nparameter_sets:\n- x: {value}\n".encode(), "study.yaml")


def _json(value: str) -> Study:
    return load_study(f'{{"model": "model:simulate", "parameter_sets": [{{"x": {value}}}]}}'.encode(), "study.json")


def _in_json(notation: str, value: object) -> str:
    """Return the notation itself if it is JSON, else the JSON of the value."""
    with contextlib.suppress(ValueError):
        json.loads(notation)
        return notation
    return json.dumps(value)


def _received(studies: list[Study], directory: Path) -> list[Any]:
    """Run one task of each study in one process of the model; what it received, in order."""
    tasks = [next(study.tasks())._replace(number=number) for number, study in enumerate(studies)]
    with contextlib.closing(pool_of(code(directory, MODEL), 1).run(iter(enumerate(tasks)))) as results:
        ended = sorted((result for result in results if result is not None), key=lambda result: result.position)
    return [json.loads((result.outputs or {})["result.json"]) for result in ended]


def test_a_model_receives_what_the_guide_says_from_yaml_and_json(tmp_path: Path) -> None:
    """More than 40 studies in each form: the same parameters, the same ids, the same values in the model."""
    assert len(ACCEPTED) >= 40
    from_yaml = [_yaml(notation) for notation, _ in ACCEPTED]
    from_json = [_json(_in_json(notation, value)) for notation, value in ACCEPTED]
    assert from_yaml == from_json
    expected = [{"type": type(value).__name__, "repr": repr(value)} for _, value in ACCEPTED]
    assert _received(from_yaml, tmp_path / "yaml") == expected
    assert _received(from_json, tmp_path / "json") == expected


def test_an_ambiguous_value_is_refused_with_its_line_and_two_ways() -> None:
    for notation in REFUSED:
        with pytest.raises(StudyError) as caught:
            _yaml(notation)
        (problem,) = caught.value.problems
        assert problem.startswith(f"line 3: {notation} is ambiguous: write ")
        assert problem.endswith(f', or "{notation}" for a text')
        assert _yaml(f'"{notation}"') == _json(json.dumps(notation))
