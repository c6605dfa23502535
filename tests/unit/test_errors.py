"""The errors of mops-jobs."""

from __future__ import annotations

import pickle
import traceback

from mopsjobs.errors import JobNotFoundError, command_line, repeat_registry


def test_a_traceback_ends_with_the_hint() -> None:
    """A program that does not catch the error shows nothing else. A new hint replaces the old one; notes stay."""
    error = JobNotFoundError("a", hint="Look at the list.")
    error.add_note("Seen on Monday.")
    error.hint = "Give the full id."
    lines = traceback.format_exception(error)
    assert [line.rstrip() for line in lines[-2:]] == ["hint: Give the full id.", "Seen on Monday."]
    assert lines[-3].endswith("JobNotFoundError: Job a not found.\n")
    error.hint = None
    assert error.__notes__ == ["Seen on Monday."]


def test_a_hint_crosses_processes() -> None:
    """Its note comes along, once."""
    error = pickle.loads(pickle.dumps(JobNotFoundError("a", hint="Give the full id.")))
    assert (error.hint, error.__notes__) == ("Give the full id.", ["hint: Give the full id."])


def test_a_suggested_command_keeps_a_flag_beside_its_value() -> None:
    """The registry that was named stands between command and flags."""
    repeat_registry(registry="sqlite:///a.db", env=None)
    try:
        assert command_line("list --label", "sweep=a") == "mops-jobs list --registry sqlite:///a.db --label sweep=a"
    finally:
        repeat_registry(registry=None, env=None)
