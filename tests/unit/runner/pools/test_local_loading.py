"""Models and interpreters that cannot be loaded: why, and that no worker is started again for ever."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mopsjobs.engines.model_errors import ModelError
from mopsjobs.engines.model_process import WORKER
from mopsjobs.runner.pools.local import WorkerPool
from support.runs import all_of, code, pool_of, sets_of


@pytest.mark.parametrize(
    ("source", "told", "hint"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'", "--python"),
        ("import sys; sys.exit('no licence')", "SystemExit: no licence", "line 1 of model.py"),
        ("def other(): pass", "AttributeError: there is no 'simulate' in {code}/model.py", None),
        ("def simulate(", "SyntaxError: ", "line 1 of model.py"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path, source: str, told: str, hint: str | None) -> None:
    pool = pool_of(code(tmp_path / "code", source))
    with pytest.raises(ModelError) as caught:
        all_of(pool, sets_of(4))
    assert str(caught.value).startswith(f"The model cannot be loaded: {told.format(code=tmp_path / 'code')}")
    assert (caught.value.hint is None) if hint is None else (hint in (caught.value.hint or ""))


def test_a_model_that_kills_its_interpreter_on_loading_is_given_up(tmp_path: Path) -> None:
    directory = code(tmp_path / "code", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ModelError, match=r"ends before it is ready \(SIGKILL\)"):
        all_of(pool_of(directory), sets_of(50))


@pytest.mark.parametrize("kind", ["missing", "directory", "no program", "not executable"])
def test_an_interpreter_that_does_not_start_is_named(model: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "python"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_text("no program\n")
        path.chmod(0o755 if kind == "no program" else 0o644)
    pool = WorkerPool([str(path), str(WORKER)], {"root": str(model), "entrypoint": "m:f/b", "spool": "."}, 2)
    with pytest.raises(ModelError) as caught:
        all_of(pool, sets_of(4))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("says", ["hello", "[1]", "7"])
def test_a_program_that_is_no_python_is_told_by_what_it_says(model: Path, says: str) -> None:
    """It may well answer, and end with 0."""
    setup = {"root": str(model), "entrypoint": "model:simulate/b", "spool": "."}
    with pytest.raises(ModelError, match="is not a Python interpreter; it says: ") as caught:
        all_of(WorkerPool(["/bin/echo", says], setup, 2), sets_of(4))
    assert repr(says) in str(caught.value)


def test_an_interpreter_that_ends_at_once_is_given_up(model: Path) -> None:
    setup = {"root": str(model), "entrypoint": "model:simulate/b", "spool": "."}
    pool = WorkerPool([sys.executable, "-c", "raise SystemExit(3)"], setup, 2)
    with pytest.raises(ModelError, match=r"ends before it is ready \(exit code 3\)"):
        all_of(pool, sets_of(50))
