"""What is known of a job at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mopsjobs.utils.text import out_of


class JobInfo(Mapping[str, Any]):
    """A job at one moment, with the fields of `status --json`, as members and as attributes.

    `info["status"]` and `info.status` are the same. A field that is not known is None.
    """

    __slots__ = ("_fields", "age")

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
        self._fields = dict(fields)
        self.age: str = age
        """How old the data is, in words."""

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
            raise AttributeError(f"a job has no field {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._fields]

    def __repr__(self) -> str:
        total = self["tasks_total"]
        counts = f", {out_of(self['tasks_completed'], total)} tasks" if total else ""
        return f"<{self['job_id']}: {self['status']}{counts}; {self.age}>"
