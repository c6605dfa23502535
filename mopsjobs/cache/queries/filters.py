"""Filter and order jobs: one WHERE clause for rows, totals and counts alike."""

from __future__ import annotations

import re
import sqlite3

from mopsjobs.errors import UsageError
from mopsjobs.registry.status import ACTIVE
from mopsjobs.utils.text import compile_pattern, invalid_choice

SORTS = {
    "updated": "changed_ts",
    "created": "created_ts",
    "name": "job_id",
    "status": "status",
    "owner": "owner",
    "progress": "progress",
    "duration": "coalesce(ended_ts, 1e12) - created_ts",
}
"""The names for `--sort`, with their columns."""

DEFAULT_SORT = "-updated"

Condition = tuple[str, list[object]]

# Each SELECT reads an index; an OR over the rows would read every record. Owners come from the sums.
_TEXT_MATCHES = (
    r"SELECT rowid FROM job WHERE job_id LIKE ? ESCAPE '\' UNION SELECT rowid FROM job WHERE name LIKE ? ESCAPE '\'"
    r" UNION SELECT rowid FROM job WHERE owner IN (SELECT owner FROM tally WHERE owner LIKE ? ESCAPE '\')"
    r" UNION SELECT job.rowid FROM job_label CROSS JOIN job USING (job_id) WHERE job_label.value LIKE ? ESCAPE '\'"
)


class Filter:
    """Conditions on jobs. Every condition that is set must hold; within a condition, any of its values will do."""

    __slots__ = (
        "ended_since", "keeps_active", "labels", "match", "name", "namespace", "owner", "silent_since", "since",
        "statuses", "text", "until",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - one argument a condition, all by name
        self,
        *,
        statuses: frozenset[str] | None = None,
        since: float | None = None,
        until: float | None = None,
        name: str | None = None,
        match: str | None = None,
        labels: tuple[tuple[str, str | None], ...] = (),
        namespace: str | None = None,
        owner: str | None = None,
        silent_since: float | None = None,
        ended_since: float | None = None,
        text: str | None = None,
    ) -> None:
        """Set the conditions.

        Args:
            statuses: the status is one of these.
            since: created or changed at or after this time (seconds since 1970), or still active.
            until: created at or before this time.
            name: the id or the Kubernetes name matches this glob.
            match: the id or the Kubernetes name contains a match of this regular expression.
            labels: each of these labels is set to this value, or to any if it is None.
            namespace: runs in this namespace, or in one of these, separated by commas.
            owner: belongs to this owner, or to one of these, separated by commas.
            silent_since: active and suspect: marked so, or without a heartbeat since this time.
            ended_since: ended at or after this time, or still active, as in the charts.
            text: the id, the Kubernetes name, the owner or the value of a label contains it, in any ASCII case.

        Raises:
            UsageError: if `match` is not a regular expression.
        """
        self.statuses = statuses
        self.since = since
        self.until = until
        self.name = name
        self.match = match
        self.labels = labels
        self.namespace = namespace
        self.owner = owner
        self.silent_since = silent_since
        self.ended_since = ended_since
        self.text = text
        self.keeps_active = True
        """Whether active jobs pass a window whenever they changed, as in a listing."""
        if match is not None:
            compile_pattern(match)

    @property
    def is_everything(self) -> bool:
        """Return True if all jobs pass. Then the sums of the cache have the counts."""
        return self.clauses() == [("true", [])]

    def clauses(self) -> list[Condition]:
        """Return WHERE clauses with their parameters. Each job that passes meets exactly one of them.

        A window has two clauses: jobs that changed in it, and older ones that are still active. As one condition with
        OR, SQLite would read the whole table; apart, each clause reads as much of an index as it needs.
        """
        condition, values = self._condition()
        if self.since is None:
            return [(condition, values)]
        inside = (f"changed_ts >= ? AND {condition}", [self.since, *values])
        if not self.keeps_active:
            return [inside]
        return [
            inside,
            (f"changed_ts < ? AND is_active = 1 AND {condition}", [self.since, *values]),
        ]

    def _condition(self) -> Condition:
        conditions: list[str] = []
        values: list[object] = []

        def add(condition: str, *parameters: object) -> None:
            conditions.append(condition)
            values.extend(parameters)

        if self.statuses is not None:
            # The group of active statuses includes those that this version does not know.
            has_active = self.statuses >= ACTIVE
            names = sorted(self.statuses - ACTIVE if has_active else self.statuses)
            named = f"status IN ({', '.join('?' * len(names))})"
            # Alone if possible: an OR hides the index of active jobs.
            add("is_active = 1" if has_active and not names else f"({'is_active = 1 OR ' * has_active}{named})", *names)
        if self.until is not None:
            add("created_ts <= ?", self.until)
        if self.name is not None:
            add("(job_id GLOB ? OR name GLOB ?)", self.name, self.name)
        if self.match is not None:
            add("(job_id REGEXP ? OR name REGEXP ?)", self.match, self.match)
        for label, value in self.labels:
            if value is None:
                add("job_id IN (SELECT job_id FROM job_label WHERE label = ?)", label)
            else:
                add("job_id IN (SELECT job_id FROM job_label WHERE label = ? AND value = ?)", label, value)
        if self.namespace is not None:
            add(*_is_one_of("namespace", self.namespace))
        if self.owner is not None:
            add(*_is_one_of("owner", self.owner))
        if self.silent_since is not None:
            add("is_active = 1 AND (suspect IS NOT NULL OR heartbeat_ts < ?)", self.silent_since)
        if self.ended_since is not None:
            add("(is_active = 1 OR ended_ts >= ?)", self.ended_since)
        if self.text is not None:
            pattern = "%" + re.sub(r"([\\%_])", r"\\\1", self.text) + "%"
            add(f"rowid IN ({_TEXT_MATCHES})", *[pattern] * _TEXT_MATCHES.count("?"))
        return " AND ".join(conditions) or "true", values


def _is_one_of(column: str, text: str) -> tuple[str, *tuple[str, ...]]:
    """Return the condition that a column has a value, or one of a list. The value itself may have a comma."""
    names = list(dict.fromkeys([text, *filter(None, (name.strip() for name in text.split(",")))]))
    return (f"{column} = ?", text) if len(names) == 1 else (f"{column} IN ({', '.join('?' * len(names))})", *names)


def parse_sort(text: str) -> str:
    """Convert a list like `-updated,name` to an ORDER BY clause; a leading `-` means descending.

    Raises:
        UsageError: if jobs cannot be sorted by a name. The message lists the valid names.
    """
    terms: dict[str, str] = {}
    for word in text.split(","):
        name = word.strip().removeprefix("-").removeprefix("+")
        if name not in SORTS:
            hint = "For descending order, put a - in front, as in -updated."
            raise UsageError(invalid_choice("sort column", name, SORTS), hint=hint)
        # A repeated name has no effect, and SQLite has a limit of 2,000 terms.
        terms.setdefault(name, f"{SORTS[name]} {'DESC' if word.strip().startswith('-') else 'ASC'}")
    return ", ".join([*terms.values(), "job_id ASC"])


def where_clauses(connection: sqlite3.Connection, job_filter: Filter) -> list[Condition]:
    """Return the WHERE clauses of a filter, after preparing this connection for them."""
    if job_filter.match is not None:
        from mopsjobs.cache.queries.matching import add_regexp  # few listings need it

        add_regexp(connection, job_filter.match)
    return job_filter.clauses()
