"""Studies of a Python program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.api.study import Study, grid
from mopsjobs.errors import UsageError
from mopsjobs.studies.study_parser import parse_study


class Number:
    """A number as numpy has it: JSON cannot hold it, and it knows the number of Python."""

    def __init__(self, value: float) -> None:
        self.value = value

    def tolist(self) -> float:
        return self.value


def test_a_grid_has_every_combination() -> None:
    """The last parameter varies fastest. Values may come from any iterable."""
    assert grid(beta=[0.1, 0.2], days=range(1, 3)) == [
        {"beta": 0.1, "days": 1},
        {"beta": 0.1, "days": 2},
        {"beta": 0.2, "days": 1},
        {"beta": 0.2, "days": 2},
    ]
    assert grid() == [{}]


@pytest.mark.parametrize("values", ["exit", [], 3, None])
def test_a_parameter_without_a_list_is_refused(values: Any) -> None:
    """A text would become its characters, a parameter without values an empty study; a number has no items."""
    with pytest.raises(UsageError, match="invalid values of mode: expected a list with at least one value"):
        grid(mode=values)


def test_a_study_has_the_ids_and_seeds_of_its_file(tmp_path: Path) -> None:
    """The constructor, the file and the parser give equal tasks."""
    sets: list[dict[str, Any]] = [{"x": 1}, {"params": {"x": 2}, "seed": 7}]
    study = Study("model:simulate", sets, replicates=2, outputs=["result.json"], metadata={"by": "ada"})
    document = {
        "model": "model:simulate",
        "parameter_sets": sets,
        "n_replicates": 2,
        "outputs": ["result.json"],
        "metadata": {"by": "ada"},
    }
    (tmp_path / "study.json").write_text(json.dumps(document))
    assert study == Study.from_file(tmp_path / "study.json")
    assert list(study.definition.tasks()) == list(parse_study(document).tasks())
    assert study.tasks_total == 3
    assert parse_study(study.to_dict()) == study.definition


def test_numbers_of_numpy_are_numbers() -> None:
    """They have the ids of the numbers of Python, also in lists."""
    there = Study("model:simulate", grid(beta=[Number(0.5)], ages=[[Number(1), 2]]))
    assert there == Study("model:simulate", grid(beta=[0.5], ages=[[1, 2]]))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_the_rows_of_a_frame_are_parameter_sets(library: str) -> None:
    """Its iteration gives the names of its columns, so the error was about a text."""
    frame = pytest.importorskip(library).DataFrame({"beta": [0.2, 0.4], "n": [1, 2]})
    rows = [{"beta": 0.2, "n": 1}, {"beta": 0.4, "n": 2}]
    assert Study("m:f", frame).to_dict() == Study("m:f", rows).to_dict()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """So is what the system says."""
    with pytest.raises(UsageError, match=r"Cannot read the study .*none\.json: No such file"):
        Study.from_file(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"sets": 5}, "parameter_sets: expected a list .* not 5"),
        ({"sets": [{"x": 1}, 5]}, r"parameter_sets\[1\]: expected an object of parameters, not 5"),
        ({"outputs": "result.json"}, "outputs: expected a list of texts"),
        ({"metadata": 3}, "metadata: expected an object, not 3"),
        ({"replicates": 0, "outputs": ["../x"]}, r"n_replicates: expected a whole number.*outputs: expected names"),
    ],
)
def test_a_field_of_another_type_is_named(fields: dict[str, Any], problem: str) -> None:
    """No error of Python comes out of the constructor, and no text is taken for its characters."""
    with pytest.raises(UsageError, match=problem):
        Study("model:simulate", **({"sets": [{"x": 1}]} | fields))
