"""The Python API as a user's checker and a user's interpreter see it."""

from __future__ import annotations

import builtins
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mopsjobs
from support.docs import ROOT, python_examples
from support.runs import PATIENCE

PROGRAM = (ROOT / "tests" / "project" / "typed_program.py").read_text(encoding="utf-8")
PAGES = ("python", "modelops")
MISTAKES = {
    "an unknown name": ("mj.grid(", "mj.grids("),
    "an unknown method": ("job.wait(", "job.wat("),
    "an unknown field": ("info.progress", "info.progressed"),
    "an unknown argument": ("offline=True", "offlin=True"),
    "a wrong type": ("workers=4", 'workers="4"'),
    "a wrong type of an option": ('memory="8G"', "memory=8"),
    "a text that may be missing": ("-> str | None:", "-> str:"),
    "an unknown attribute of an error": ("error.candidates", "error.candidate"),
    "a path that is none": ('to_csv("tasks.csv")', "to_csv(7)"),
}
"""What a type checker should find, and how to put it into the program."""

LOOK = """
import sys
before = set(sys.modules)
import mopsjobs as mj
ours = {name for name in set(sys.modules) - before if name.startswith("mopsjobs")}
for name in mj.__all__: getattr(mj, name)
print(*sorted(ours))
print(*sorted(name for name in set(sys.modules) - before if "." not in name))
"""


def test_the_typed_program_has_each_public_name() -> None:
    """A new name is a promise about types too."""
    assert {name for name in mopsjobs.__all__ if f"mj.{name}" not in PROGRAM} == set()


@pytest.fixture(name="programs", scope="module")
def _programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the program, with one file per mistake, and with the examples of the documents."""
    directory = tmp_path_factory.mktemp("programs")
    for page in PAGES:
        for number, example in enumerate(python_examples(f"docs/reference/{page}.md")):
            if "def " not in example:  # functions of an example have no types
                (directory / f"{page}_{number}.py").write_text(example)
    (directory / "right.py").write_text(PROGRAM)
    for number, (right, wrong) in enumerate(MISTAKES.values()):
        assert PROGRAM.count(right) >= 1, right
        (directory / f"wrong_{number}.py").write_text(PROGRAM.replace(right, wrong))
    return directory


def _found_by_mypy(programs: Path, interpreter: Path) -> set[str]:
    """Return the names of the files in which mypy finds something."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    command += ["--python-executable", str(interpreter), "--cache-dir", str(programs / "cache"), "."]
    ran = subprocess.run(command, cwd=programs, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode in {0, 1}, ran.stderr
    return {line.partition(":")[0] for line in ran.stdout.splitlines() if ": error: " in line}


def _found_by_pyright(programs: Path, interpreter: Path) -> set[str]:
    """Return the names of the files in which pyright finds something in its strict mode.

    An example may import a name to show the import, and end with an expression that a notebook shows.
    """
    (programs / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "reportUnusedImport": False, "reportUnusedExpression": False})
    )
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", str(interpreter)]
    ran = subprocess.run(command, cwd=programs, capture_output=True, text=True, check=False, timeout=600)
    return {os.path.basename(found["file"]) for found in json.loads(ran.stdout)["generalDiagnostics"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "find",
    [
        pytest.param(_found_by_mypy, id="mypy"),
        pytest.param(_found_by_pyright, id="pyright", marks=pytest.mark.long),
    ],
)
def test_a_program_of_a_user_is_typed(
    find: Callable[[Path, Path], set[str]], programs: Path, interpreter: Path
) -> None:
    """Strict checkers accept it, with the installed package, and the examples. They find each mistake in it."""
    found = find(programs, interpreter)
    mistakes = {f"wrong_{number}.py": mistake for number, mistake in enumerate(MISTAKES)}
    assert {mistake for name, mistake in mistakes.items() if name not in found} == set()
    assert found <= set(mistakes)


def test_the_fields_of_a_job_have_the_types_of_its_schema() -> None:
    """The attributes of `JobInfo` that editors know are the fields of `status --json`."""
    schema = json.loads((ROOT / "mopsjobs" / "schemas" / "job.json").read_text(encoding="utf-8"))
    assert mopsjobs.JobInfo.__annotations__ == {name: _type(field) for name, field in schema["properties"].items()}


def _type(field: dict[str, Any]) -> str:
    """Return the type of Python for a field of a schema."""
    if "enum" in field:
        return "str | None"
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    return " | ".join(_NAMES[kind](field) for kind in kinds)


_NAMES: dict[str, Callable[[dict[str, Any]], str]] = {
    "string": lambda _: "str",
    "integer": lambda _: "int",
    "number": lambda _: "float",
    "boolean": lambda _: "bool",
    "null": lambda _: "None",
    "array": lambda field: f"list[{_type(field['items']) if 'items' in field else 'Any'}]",
    "object": lambda field: (
        f"dict[str, {_type(field['additionalProperties']) if 'additionalProperties' in field else 'Any'}]"
    ),
}


def test_errors_that_methods_raise_are_public() -> None:
    """Each error that the docstring of a public name tells is one import away."""
    named = set()
    for name in mopsjobs.__all__:
        public = getattr(mopsjobs, name)
        for one in [public, *(vars(public).values() if isinstance(public, type) else ())]:
            told = inspect.getdoc(one.fget if isinstance(one, property) else one) or ""
            named |= set(re.findall(r"\b[A-Z]\w+Error\b", told.partition("Raises:")[2]))
    assert named - set(mopsjobs.__all__) - set(dir(builtins)) == set()


def test_the_import_is_light() -> None:
    """`import mopsjobs` imports no other module of it; all names together import neither a client nor a data frame."""
    ran = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    ours, others = ran.stdout.splitlines()
    assert ours == "mopsjobs"
    assert not {"azure", "boto3", "distributed", "flask", "lightkube", "numpy", "pandas", "requests"} & set(
        others.split()
    )
