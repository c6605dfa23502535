"""Parse what `squeue --json` prints about the shards of a job, in the forms of Slurm's data parsers.

Each version of Slurm has a data parser of its own. Of the fields that are read here, these forms are known:

- Numbers: `7`, or `{"set": true, "infinite": false, "number": 7}`, from v0.0.39 on.
- States: `"RUNNING"`, or a list with flags behind the state, such as `["RUNNING", "COMPLETING"]`, from v0.0.40 on.
- Signals: a number under `signal_id`, or under `id`, from v0.0.40 on.
- Results of a shard: 0 or more beside each other: `return_code`, and `signal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mopsjobs.engines.slurm.tasks import MAX_ID, MAX_SECONDS, SlurmShards, parse_tasks
from mopsjobs.errors import RecordError
from mopsjobs.utils.json_strict import parse_json
from mopsjobs.utils.times import from_timestamp

FLAGS = (
    "COMPLETING", "STAGE_OUT", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT",
    "STOPPED", "REVOKED", "RESV_DEL_HOLD", "SIGNALING",
)  # fmt: skip
"""Flags that text shows in place of the state, the first one that is set. Text never shows others."""


def parse_squeue(text: str) -> list[SlurmShards]:
    """Return the shards that `squeue --json` lists, with the same values as `scontrol` has in text.

    Raises:
        RecordError: if the document has another form.
    """
    document = parse_json(text)
    jobs = document.get("jobs") if isinstance(document, dict) else None
    if not isinstance(jobs, list):
        raise RecordError("has no list of jobs")
    return [_shards(job) for job in jobs]


def _shards(job: object) -> SlurmShards:
    if not isinstance(job, dict) or not isinstance(job.get("name"), str):
        raise RecordError("has a job without a name")
    array_id = _number(job.get("array_job_id")) or _number(job.get("job_id"))
    if array_id is None or array_id > MAX_ID:
        raise RecordError("has a job without a number")
    waiting = _text(job.get("array_task_string"))
    first, count, parts = parse_tasks(waiting or str(_number(job.get("array_task_id")) or 0))
    exit_code, signal = _exit(job.get("exit_code"))
    # A description has the reason and more: `ReqNodeNotAvail, UnavailableNodes:n1`.
    reason = _text(job.get("state_description")) or _text(job.get("state_reason"))
    return SlurmShards(
        array_id,
        job["name"],
        _state(job.get("job_state")),
        first,
        count,
        None if reason in ("None", None) else "_".join(reason.split()),
        exit_code,
        signal,
        _number(job.get("restart_cnt")) or 0,
        _time(job.get("start_time")),
        _time(job.get("end_time")),
        _text(job.get("partition")),
        _text(job.get("dependency")),
        parts,
    )


def _state(value: object) -> str:
    """Return a state as text has it.

    Raises:
        RecordError: if there is none.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise RecordError("has a job without a state")
    return next((flag for flag in FLAGS if flag in names), names[0])


def _number(value: object) -> int | None:
    """Return a whole number; None if it is not set, or infinite."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set") and not value.get("infinite") else None
    return value if type(value) is int and value >= 0 else None


def _exit(value: object) -> tuple[int, int]:
    """Return the exit code and the signal."""
    found: Mapping[str, Any] = value if isinstance(value, dict) else {}
    signal = found.get("signal")
    named = signal if isinstance(signal, dict) else {}
    return _number(found.get("return_code")) or 0, _number(named.get("id", named.get("signal_id"))) or 0


def _time(value: object) -> datetime | None:
    seconds = _number(value)
    return from_timestamp(seconds) if seconds and seconds <= MAX_SECONDS else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
