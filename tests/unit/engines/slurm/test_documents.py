"""What `squeue --json` prints, in the forms of the data parsers of Slurm. Text of the same job has the same values."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mopsjobs.engines.slurm.documents import parse_squeue
from mopsjobs.engines.slurm.tasks import parse_scontrol
from mopsjobs.errors import RecordError
from support.slurm_commands import task, waiting

NAME = "seir-1.mops-jobs"

BEGAN, ENDED = 1795723200, 1795723260


def _plain(number: int | None) -> object:
    """Return a number as before v0.0.39."""
    return number or 0


def _wrapped(number: int | None) -> object:
    """Return a number as since v0.0.39."""
    return {"set": number is not None, "infinite": False, "number": number or 0}


FORMS: dict[str, tuple[Callable[[int | None], object], bool, str]] = {
    "v0.0.38": (_plain, False, "signal_id"),
    "v0.0.39": (_wrapped, False, "signal_id"),
    "v0.0.40": (_wrapped, True, "id"),
    "v0.0.42": (_wrapped, True, "id"),
    "v0.0.43": (_wrapped, True, "id"),
}
"""For each data parser: its numbers, whether states are lists, and where the number of a signal is."""


def _document(form: str, **fields: Any) -> str:
    """Return a document about one entry, with a shard that has begun by default."""
    number, has_lists, signal_id = FORMS[form]
    values = {
        "job_id": 15, "task": 2, "tasks": "", "states": ["RUNNING"], "reason": "None", "description": "", "code": 0,
        "signal": None, "restarts": 0, "began": BEGAN, "ended": ENDED, "dependency": "", **fields,
    }  # fmt: skip
    code, signal = values["code"], values["signal"]
    job = {
        "array_job_id": number(12),
        "array_task_id": number(values["task"]),
        "array_task_string": values["tasks"],
        "job_id": values["job_id"],
        "name": NAME,
        "job_state": values["states"] if has_lists else values["states"][0],
        "state_reason": values["reason"],
        "state_description": values["description"],
        "exit_code": {
            "status": ["SUCCESS"] if has_lists else "SUCCESS",
            "return_code": number(None if signal else code),
            "signal": {signal_id: number(signal), "name": ""},
        },
        "restart_cnt": values["restarts"],
        "start_time": number(values["began"]),
        "end_time": number(values["ended"]),
        "partition": "main",
        "dependency": values["dependency"],
        "comment": "JobState=FAILED",
    }
    return json.dumps({"jobs": [job], "meta": {"plugin": {"data_parser": f"data_parser/{form}"}}, "errors": []})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, task(2, "RUNNING")),
        ({"states": ["COMPLETED"]}, task(2, "COMPLETED")),
        (
            {"states": ["FAILED"], "reason": "NonZeroExitCode", "code": 3, "restarts": 1},
            task(2, "FAILED", reason="NonZeroExitCode", exit_code="3:0", restarts=1),
        ),
        ({"states": ["CANCELLED"], "signal": 15}, task(2, "CANCELLED", exit_code="0:15")),
        ({"states": ["TIMEOUT"], "reason": "TimeLimit"}, task(2, "TIMEOUT", reason="TimeLimit")),
        (
            {"job_id": 12, "task": None, "tasks": "0-3%2", "states": ["PENDING"], "began": 0, "ended": 0,
             "reason": "ReqNodeNotAvail", "description": "ReqNodeNotAvail, UnavailableNodes:n1"},
            waiting("ReqNodeNotAvail,_UnavailableNodes:n1"),
        ),
        (
            {"job_id": 12, "task": None, "tasks": "0-3%2", "states": ["PENDING"], "began": 0, "ended": 0,
             "reason": "Dependency", "dependency": "afterok:3_*(unfulfilled)"},
            waiting("Dependency").replace("Dependency=(null)", "Dependency=afterok:3_*(unfulfilled)"),
        ),
    ],
)  # fmt: skip
def test_a_document_gives_what_text_gives(form: str, fields: dict[str, Any], line: str) -> None:
    assert parse_squeue(_document(form, **fields)) == parse_scontrol(line)


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["CANCELLED", "COMPLETING"], "COMPLETING"),
        (["PENDING", "REQUEUED", "COMPLETING"], "COMPLETING"),
        (["RUNNING", "CONFIGURING"], "CONFIGURING"),
        (["PENDING", "SPECIAL_EXIT"], "SPECIAL_EXIT"),
        (["RUNNING", "POWER_UP_NODE"], "RUNNING"),
        (["PENDING", "SOMETHING_NEW"], "PENDING"),
    ],
)
def test_a_flag_stands_for_the_state_as_in_text(states: list[str], state: str) -> None:
    """Flags that text never shows change nothing."""
    assert [one.state for one in parse_squeue(_document("v0.0.42", states=states))] == [state]


def test_the_numbers_of_waiting_shards_keep_their_holes() -> None:
    (found,) = parse_squeue(_document("v0.0.42", task=None, tasks="3,5-7%2", states=["PENDING"]))
    assert list(found.numbers) == [3, 5, 6, 7]


def test_a_job_that_is_no_array_has_its_own_number() -> None:
    text = _document("v0.0.42").replace('"number": 12', '"number": 0')
    assert [one.array_id for one in parse_squeue(text)] == [15]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not JSON"),
        ("[]", "has no list of jobs"),
        ('{"jobs": {}}', "has no list of jobs"),
        ('{"jobs": [{"job_id": 3}]}', "has a job without a name"),
        ('{"jobs": [{"name": "a", "job_state": ["RUNNING"]}]}', "has a job without a number"),
        ('{"jobs": [{"name": "a", "job_id": 3, "job_state": {"current": "RUNNING"}}]}', "has a job without a state"),
    ],
)
def test_a_document_of_another_form_is_refused(text: str, reason: str) -> None:
    """Text is read then. A state that is guessed would be worse."""
    with pytest.raises(RecordError) as caught:
        parse_squeue(text)
    assert reason in str(caught.value) or reason == "is not JSON"
