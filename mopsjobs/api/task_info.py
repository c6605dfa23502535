"""What is known of a task that has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mopsjobs.utils.text import error_line


class TaskInfo(Mapping[str, Any]):
    """A task that has ended, with the fields of `tasks --json` as members: it equals a row of `Job.tasks()`."""

    __slots__ = ("_fields", "scalars")

    def __init__(self, fields: Mapping[str, Any], scalars: Mapping[str, Any]) -> None:
        """Keep the fields.

        Args:
            fields: the task in its JSON form.
            scalars: the scalars of its outputs.
        """
        self._fields = dict(fields)
        self.scalars = scalars
        """The scalars of its outputs, by the columns of `Job.results()`; none unless it has succeeded."""

    @property
    def number(self) -> int:
        """Return the number of the task in its study, from 0: the field `task`."""
        return int(self["task"])

    @property
    def param_id(self) -> str:
        """Return the id of its parameter set."""
        return str(self["param_id"])

    @property
    def params(self) -> Mapping[str, Any]:
        """Return its parameters."""
        params: Mapping[str, Any] = self["params"]
        return params

    @property
    def seed(self) -> int:
        """Return its seed."""
        return int(self["seed"])

    @property
    def status(self) -> str:
        """Return the field `outcome`: `succeeded`, `failed`, …; `missing` if the job ended without an attempt at it."""
        return str(self["outcome"])

    @property
    def seconds(self) -> float | None:
        """Return the duration of the last attempt, in seconds; None if it was not measured."""
        seconds: float | None = self["seconds"]
        return seconds

    @property
    def error(self) -> str | None:
        """Return the error as `type: message`; None without one."""
        return error_line(self["error_type"], self["error_message"])

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"<Task {self.number}: {self.status}{f', {self.error}' if self.error else ''}>"
