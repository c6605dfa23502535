"""The cells, rows and sections of the page that compares jobs. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mopsjobs.utils.text import cut_to_length
from mopsjobs.web.queries.view_models import Status

MAX_TEXT = 300

MAX_FOLDED = 60
"""Characters of a value that is equal."""

NONE = "none"


class Cell(NamedTuple):
    """The value of a job in a row."""

    text: str
    notes: Sequence[str] = ()
    status: Status | None = None
    to: str | None = None
    is_weak: bool = False
    """Whether the text says that there is nothing."""


class Row(NamedTuple):
    """An aspect."""

    name: str
    cells: list[Cell]
    differs: bool
    is_name: bool = False
    """Whether the name comes from a record."""
    same: str | None = None
    """The values of all jobs in one text, if they are not exactly equal and do not differ either."""

    @property
    def is_known(self) -> bool:
        """Return whether each job has a value here."""
        return not any(cell.is_weak for cell in self.cells)


class Section(NamedTuple):
    """Rows of one kind."""

    key: str
    title: str
    rows: list[Row]
    equal: list[str]
    """What is equal, besides rows: counts of files and packages."""
    gap: str | None
    """Why there are no rows."""

    @property
    def differing(self) -> int:
        """Return how many rows differ."""
        return sum(row.differs for row in self.rows)

    @property
    def folded(self) -> list[tuple[str, str]]:
        """Return the names of rows that are equal, with the value of all jobs."""
        return [
            (row.name, cut_to_length(row.same or row.cells[0].text, MAX_FOLDED))
            for row in self.rows
            if not row.differs and row.is_known
        ]


class Missing(NamedTuple):
    """A text in place of a value that is not known."""

    text: str


Values = Sequence[object]
"""A value of each job: None if it has none."""


def make_row(name: str, values: Values, text: Callable[[Any], str] = str, *, is_name: bool = False) -> Row | None:
    """Return a row of values; None if no job has one. None as a value is shown as none."""
    known = [value for value in values if not isinstance(value, Missing)]
    if all(value is None for value in known):
        return None
    cells = [
        Cell(value.text, is_weak=True)
        if isinstance(value, Missing)
        else Cell(NONE, is_weak=True)
        if value is None
        else Cell(cut_to_length(text(value), MAX_TEXT))
        for value in values
    ]
    return Row(name, cells, len({_identity(value) for value in known}) > 1, is_name)


def _identity(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
