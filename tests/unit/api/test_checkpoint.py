"""What a task saves of its state comes back as it was, in this process and in its directory."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import mopsjobs as mj
from mopsjobs.api.checkpoint import EXIT_CODE, Checkpoint
from mopsjobs.errors import UsageError


def _again(directory: Path) -> Checkpoint:
    """Return the checkpoints of the next attempt, for which the runner has moved the last one."""
    (new,) = (directory / "new").iterdir()
    shutil.rmtree(directory / "last", ignore_errors=True)
    (directory / "last").mkdir()
    new.rename(directory / "last" / new.name)
    return Checkpoint(directory, 600.0)


@pytest.mark.parametrize(
    ("state", "at"),
    [
        ({"day": 3, "x": [0.1, float("inf"), None, True], "rng": random.Random(1).getstate()}, 3),
        (b"\x00\xff", "2026-03-01"),
        ((1, ("a", b"b"), {}), 0.5),
        ("text", "400"),
        (None, 1),
    ],
)
def test_a_state_comes_back_as_it_was(tmp_path: Path, state: Any, at: float | str) -> None:
    """With its types, as far as JSON, tuples and bytes have them; and where it was saved."""
    first = Checkpoint(tmp_path, 600.0)
    assert (first.load(), first.at) == (None, None)
    first.save(state, at=at)
    again = _again(tmp_path)
    assert (again.load(), again.at) == (state, at)
    assert type(again.at) is type(at)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("part")] == []


def test_arrays_keep_their_types_and_values(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    rng = numpy.random.default_rng(7)
    rng.random(3)
    state = {"s": numpy.arange(3, dtype="float32"), "one": numpy.float32(0.1), "rng": rng.bit_generator.state}
    Checkpoint(tmp_path, 600.0).save(state, at=numpy.int64(2))
    again = _again(tmp_path)
    found = again.load()
    assert again.at == 2
    assert (found["s"].dtype, found["s"].tolist()) == ("float32", [0.0, 1.0, 2.0])
    assert (type(found["one"]), found["one"]) == (numpy.float32, numpy.float32(0.1))
    copy = numpy.random.default_rng()
    copy.bit_generator.state = found["rng"]
    assert copy.random() == rng.random()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_path_comes_back_as_that_of_a_copy(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "model.dat"
    if kind == "file":
        source.write_text("x")
    else:
        (source / "sub").mkdir(parents=True)
        (source / "sub" / "a").write_text("x")
    directory = tmp_path / "task"
    Checkpoint(directory, 600.0).save(source, at=1)
    found = _again(directory).load()
    assert isinstance(found, Path)
    assert (found.name, found != source) == ("model.dat", True)
    assert (found if kind == "file" else found / "sub" / "a").read_text() == "x"


def test_what_another_program_left_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "17").write_text("x")
    again = Checkpoint(tmp_path, 600.0)
    assert (again.load(), again.at) == (tmp_path / "last" / "17", "17")


@pytest.mark.parametrize(
    ("state", "at", "problem"),
    [
        ({"rng": random.Random()}, 1, "state['rng'] is a Random: expected values of JSON"),
        ({1: 2}, 1, "state has the key 1: expected texts"),
        ([object()], 1, "state[0] is a object"),
        ({}, "a/b", "invalid at 'a/b'"),
        ({}, "", "invalid at ''"),
        ({}, True, "invalid at True"),
    ],
)
def test_what_cannot_be_saved_is_an_error_also_outside(state: Any, at: Any, problem: str) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError) as caught:
        mj.checkpoint().save(state, at=at)
    assert str(caught.value).startswith(problem)


def test_it_is_due_after_the_interval_or_when_told_to_stop(tmp_path: Path) -> None:
    """A save after that ends the task, by the exit code that asks for another start."""
    now = [0.0]
    ck = Checkpoint(tmp_path, 600.0, clock=lambda: now[0])
    assert not ck.due()
    now[0] = 600.0
    assert ck.due()
    ck.save({}, at=1)
    assert not ck.due()
    (tmp_path / "stop").touch()
    now[0] = 601.0
    assert ck.due()
    with pytest.raises(SystemExit) as caught:
        ck.save({}, at=2)
    assert caught.value.code == EXIT_CODE
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["1", "2"]


def test_outside_of_a_task_nothing_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOPS_JOBS_CHECKPOINT_DIR", raising=False)
    ck = mj.checkpoint()
    assert (ck.load(), ck.at, ck.due()) == (None, None, False)
    ck.save({"x": 1}, at=3)
    assert ck.at == 3
