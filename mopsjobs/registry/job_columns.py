"""What views need of a record, computed once, when it is mirrored. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mopsjobs.engines import LOCAL_ENGINES
from mopsjobs.engines.base import kubernetes_name
from mopsjobs.registry.foreign_values import NOT_FINITE, finite
from mopsjobs.registry.job_state import FIELDS, JobState, JsonObject
from mopsjobs.registry.notes import SUSPECT, TASK_HANGS, WAITS_FOR
from mopsjobs.registry.status import TERMINAL, TRANSITIONS, JobStatus
from mopsjobs.registry.transitions import end_of, reported_steps
from mopsjobs.registry.usage import has_hanging_task, job_forecast, usage_json
from mopsjobs.utils.times import parse_time, rfc3339

JobColumns = tuple[
    str, int, float, float | None, float | None, float | None, str | None, int, float | None, str | None,
    str | None, str | None,
]  # fmt: skip
"""The values of `job_json.COLUMNS`, in their order."""

# Created once: json.dumps creates an encoder for each call with options, and a sync makes one call per record.
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)

_TIMES = tuple(name for name in FIELDS if name.endswith("_at"))


def job_columns(state: JobState) -> JobColumns:
    """Return the columns from which `job_json` makes a job."""
    history = tuple(reported_steps(state.transitions))
    started, is_start_known = _start(state, history)
    since = next((step["at"] for step in reversed(state.transitions) if step["status"] == state.status), None)
    suspect = state.metadata.get(SUSPECT)
    reason = suspect.get("reason") if isinstance(suspect, Mapping) else None
    heartbeat = last_sign_of_life(state)
    # After the last sign of life, nothing tells whether the task ended.
    is_hanging = heartbeat is not None and not state.is_terminal and has_hanging_task(state, heartbeat)
    return (
        _ENCODER.encode(_public_record(state, history)),
        int(not state.is_terminal),
        parse_time(state.created_at).timestamp(),
        started,
        parse_time(end_of(state)).timestamp() if state.is_terminal else None,
        min(1.0, state.tasks_completed / state.tasks_total) if state.tasks_total else None,
        None if since is None else rfc3339(str(since)),
        int(is_start_known),
        heartbeat,
        reason if isinstance(reason, str) else TASK_HANGS if is_hanging else None,
        usage_json(state),
        _forecast_column(state),
    )


def _public_record(state: JobState, history: Sequence[tuple[JsonObject, bool]]) -> dict[str, Any]:
    """Return the record as scripts see it: every field, null if missing, times in RFC 3339 with `Z`.

    A step that no program reported has no time. An end has one, as `ended_at`, though another program wrote it.
    """
    public: dict[str, Any] = state.fields() if state.is_finite else finite(state.fields())  # type: ignore[assignment]
    public["k8s_name"] = kubernetes_name(public)
    for name in _TIMES:
        if public[name] is not None:
            public[name] = rfc3339(public[name])
    for step, (_, is_reported) in zip(public["transitions"], history, strict=True):
        step["at"] = rfc3339(step["at"]) if is_reported or step["status"] in TERMINAL else None
    return public


def _forecast_column(state: JobState) -> str | None:
    """Return what `job_json` needs to tell the end of a job that runs; None if the record has no forecast."""
    forecast = None if state.is_terminal else job_forecast(state)
    if forecast is None:
        return None
    late = forecast.stragglers
    column = {name: getattr(forecast, name) for name in ("earliest", "latest", "time_limit")}
    column["basis"] = {"tasks_done": state.tasks_completed + state.tasks_failed, "at_work": forecast.at_work}
    column["stragglers"] = None if late is None else late._asdict()
    return _ENCODER.encode(column)


def _start(state: JobState, history: Sequence[tuple[JsonObject, bool]]) -> tuple[float | None, bool]:
    """Return when the first task ran, and whether the record tells that or tells that none has run yet."""
    for step, is_reported in history:
        if step["status"] == JobStatus.RUNNING:
            return (_time_of(step), True) if is_reported else (None, False)
    # If another program has set a status, a task may have run at any time. The id of such a step is null.
    is_ours = bool(history) and history[0][1] and all(step.get("id", "") is not None for step, _ in history)
    return None, is_ours and history[-1][0]["status"] == state.status


def last_sign_of_life(state: JobState) -> float | None:
    """Return when the runner of a job last gave a sign of life; None if it need not give any.

    A runner that is a process of the launching machine reports within seconds. So the launch counts as a sign of life.
    While a job waits on its cluster, such as one that is suspended, it has no runner. A report drops what it waits for.
    """
    if state.metadata.get(WAITS_FOR) is not None and state.engine not in LOCAL_ENGINES:
        return None
    if state.heartbeat_at is not None:
        return parse_time(state.heartbeat_at).timestamp()
    is_launched = state.status == JobStatus.SCHEDULED and state.engine in LOCAL_ENGINES and "bundle" in state.metadata
    steps = reversed(state.transitions) if is_launched else ()
    return next((_time_of(step) for step in steps if step["status"] == state.status), None)


def _time_of(step: Mapping[str, object]) -> float:
    return parse_time(str(step["at"])).timestamp()


def state_from_row(record: str) -> JobState:
    """Return the state of a record as the cache has it. A step without a time gets that of the next one.

    Raises:
        RecordError: if it is not a valid record.
    """
    values = json.loads(record)
    following = values["updated_at"]
    for step in reversed(values["transitions"]):
        following = step["at"] = step["at"] or following
    return JobState.from_dict(values)


def read_remarks(state: JobState) -> list[str]:
    """Return how a record is shown where it has values that this version reads as something near to them."""
    remarks = [] if state.status in TRANSITIONS else [f"unknown status {state.status!r}; shown as it is"]
    remarks += [found.reason for found in state.foreign.values()]
    return remarks if state.is_finite else [*remarks, NOT_FINITE]
