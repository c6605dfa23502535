"""What is known of a job at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class JobInfo(Mapping[str, Any]):
    """A job at one moment, with the fields of `status --json`, as members and as attributes."""

    __slots__ = ("_fields", "age")

    def __init__(self, fields: Mapping[str, Any], age: str) -> None:
        """Keep the fields.

        Args:
            fields: the job in its JSON form.
            age: how old the data is, in words.
        """
        self._fields = dict(fields)
        self.age = age
        """How old the data is, in words."""

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __getattr__(self, name: str) -> Any:
        if name != "_fields" and name in self._fields:
            return self._fields[name]
        raise AttributeError(f"a job has no field {name!r}")

    def __repr__(self) -> str:
        total = self["tasks_total"]
        counts = f", {self['tasks_completed']}/{total} tasks" if total else ""
        return f"<{self['job_id']}: {self['status']}{counts}; {self.age}>"
