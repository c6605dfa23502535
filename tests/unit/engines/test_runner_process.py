"""The process of a runner: when it is known to have ended, and when it may be alive where it cannot be seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines import runner_process
from support.runs import is_alive, until


@pytest.fixture
def ended() -> dict[str, Any]:
    """Return the note of a process that has ended."""
    with subprocess.Popen(["sleep", "600"]) as process:
        note = runner_process.note_of(process.pid)
        process.kill()
    return note


@pytest.fixture
def alive() -> Iterator[dict[str, Any]]:
    """Yield the note of a process that is alive."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield runner_process.note_of(process.pid)
        process.kill()


def test_a_process_that_was_killed_has_ended(ended: dict[str, Any]) -> None:
    assert runner_process.end_of(ended) == runner_process.BY_ITSELF


LASTING = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_has_ended_with_its_last_thread() -> None:
    """Until then it has its locks. Its first thread is that of the process: it looks like one that has ended."""
    with subprocess.Popen([sys.executable, "-c", LASTING], stdin=subprocess.PIPE) as process:
        until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].startswith("Z"))
        note = runner_process.note_of(process.pid)
        assert (runner_process.end_of(note), is_alive(process.pid)) == (None, True)
        process.kill()
        until(lambda: not is_alive(process.pid), "its last thread to end")
        assert runner_process.end_of(note) == runner_process.BY_ITSELF


def test_a_process_whose_number_another_one_has_ended(ended: dict[str, Any]) -> None:
    """The start of a process tells it from a later one of that number."""
    assert runner_process.end_of({**ended, "pid": os.getpid(), "started": 1}) == runner_process.BY_ITSELF


@pytest.mark.parametrize("other", [{"machine": "other pid:[1]"}, {"machine": None}, {}], ids=str)
def test_a_process_elsewhere_may_be_alive(ended: dict[str, Any], other: dict[str, Any]) -> None:
    """On another machine, in another container, or without a word about that."""
    note = {name: value for name, value in ended.items() if name != "machine"}
    assert runner_process.end_of({**note, **other}) is None


@pytest.mark.parametrize(
    ("namespace", "end"), [(runner_process.FIRST_NAMESPACE, runner_process.WITH_MACHINE), ("pid:[4026532999]", None)]
)
def test_only_a_machine_is_known_to_have_restarted(
    ended: dict[str, Any], monkeypatch: pytest.MonkeyPatch, namespace: str, end: str | None
) -> None:
    """A container of the same name and number may be another one, on another machine."""
    monkeypatch.setattr(runner_process, "_namespace", lambda: namespace)
    note = {**ended, "machine": runner_process.machine()}
    assert runner_process.end_of(note) == runner_process.BY_ITSELF
    assert runner_process.end_of({**note, "boot": "an earlier one"}) == end


def test_a_process_of_another_user_is_alive(alive: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to it is not permitted."""

    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", refuse)
        assert runner_process.end_of(alive) is None


@pytest.mark.parametrize("note", [{}, {"pid": "x"}, {"pid": 10**30}], ids=str)
def test_a_damaged_note_tells_no_end(note: dict[str, Any]) -> None:
    assert runner_process.end_of(note) is None
