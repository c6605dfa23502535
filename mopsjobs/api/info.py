"""What is known of a job at one moment, and of a task that has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mopsjobs.utils.text import error_line, out_of


class _Fields(Mapping[str, Any]):
    """A JSON object that nothing changes. Its members are attributes too."""

    __slots__ = ("_fields",)
    _kind = "job"

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = dict(fields)

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    if not TYPE_CHECKING:  # a type checker would take any name for a field

        def __getattr__(self, name: str) -> Any:
            if name != "_fields" and name in self._fields:
                return self._fields[name]
            raise AttributeError(f"a {self._kind} has no field {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._fields]


class JobInfo(_Fields):
    """A job at one moment, with the fields of `status --json`, as members and as attributes.

    `info["status"]` and `info.status` are the same. A field that is not known is None.
    """

    __slots__ = ("age",)

    # The fields, for editors and type checkers; a test compares them with the schema.
    job_id: str
    status: str | None
    created_at: str | None
    updated_at: str | None
    k8s_name: str | None
    k8s_namespace: str | None
    k8s_uid: str | None
    tasks_total: int | None
    tasks_completed: int | None
    error_message: str | None
    error_code: str | None
    results_path: str | None
    expected_outputs: list[Any] | None
    verified_outputs: list[Any] | None
    missing_outputs: list[Any] | None
    tasks_verified: int | None
    validation_started_at: str | None
    validation_completed_at: str | None
    validation_attempts: int | None
    last_validation_error: str | None
    metadata: dict[str, Any] | None
    write_id: str | None
    revision: int | None
    transitions: list[dict[str, Any]] | None
    tasks_failed: int | None
    heartbeat_at: str | None
    shards: dict[str, list[int]] | None
    owner: str | None
    labels: dict[str, str] | None
    engine: str | None
    parent_job_id: str | None
    usage: dict[str, Any] | None
    forecast: dict[str, Any] | None
    progress: float | None
    is_active: bool | None
    status_since: str | None
    started_at: str | None
    ended_at: str | None
    duration_seconds: float | None
    queued_seconds: float | None
    run_seconds: float | None
    max_cpu_hours: float | None
    precision: dict[str, Any] | None
    calibration: dict[str, Any] | None
    suspect: str | None
    cpu_seconds: float | None
    task_seconds: float | None
    held_core_seconds: float | None
    saved_seconds: float | None
    cpu_efficiency: float | None
    max_rss_bytes: float | None
    eta_earliest: str | None
    eta_latest: str | None
    eta_basis: dict[str, Any] | None
    stragglers: dict[str, Any] | None
    time_limit_at: str | None
    engine_says: dict[str, Any]
    engine_stop: str | None
    family: dict[str, Any]

    def __init__(self, fields: Mapping[str, Any], age: str) -> None:
        """Keep the fields.

        Args:
            fields: the job in its JSON form.
            age: how old the data is, in words.
        """
        super().__init__(fields)
        self.age: str = age
        """How old the data is, in words."""

    def __repr__(self) -> str:
        total = self["tasks_total"]
        counts = f", {out_of(self['tasks_completed'], total)} tasks" if total else ""
        return f"<{self['job_id']}: {self['status']}{counts}; {self.age}>"


class TaskInfo(_Fields):
    """A task that has ended, with the fields of `tasks --json` as members and as attributes.

    It equals a row of `Job.tasks()`.
    """

    __slots__ = ("scalars",)
    _kind = "task"

    param_id: str
    """The id of its parameter set."""
    params: Mapping[str, Any]
    """Its parameters."""
    seed: int
    """Its seed."""
    seconds: float | None
    """The duration of the last attempt, in seconds; None if it was not measured."""

    def __init__(self, fields: Mapping[str, Any], scalars: Mapping[str, Any]) -> None:
        """Keep the fields.

        Args:
            fields: the task in its JSON form.
            scalars: the scalars of its outputs.
        """
        super().__init__(fields)
        self.scalars = scalars
        """The scalars of its outputs, by the columns of `Job.results()`; none unless it has succeeded."""

    @property
    def number(self) -> int:
        """Return the number of the task in its study, from 0: the field `task`."""
        return int(self["task"])

    @property
    def status(self) -> str:
        """Return the field `outcome`: `succeeded`, `failed`, …; `missing` if the job ended without an attempt at it."""
        return str(self["outcome"])

    @property
    def error(self) -> str | None:
        """Return the error as `type: message`; None without one."""
        return error_line(self["error_type"], self["error_message"])

    def __repr__(self) -> str:
        return f"<Task {self.number}: {self.status}{f', {self.error}' if self.error else ''}>"
