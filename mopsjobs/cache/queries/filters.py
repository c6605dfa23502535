"""Which jobs a view shows, and in which order: one WHERE clause for rows, totals and counts alike."""

from __future__ import annotations

import re
import sqlite3

from mopsjobs.errors import UsageError
from mopsjobs.registry.status import ACTIVE

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    pass


SORTS = {
    "updated": "changed_ts",
    "created": "created_ts",
    "name": "job_id",
    "status": "status",
    "owner": "owner",
    "progress": "progress",
    "duration": "coalesce(ended_ts, 1e12) - created_ts",
}
"""What `--sort` may name, and the column behind it."""


DEFAULT_SORT = "-updated"


Condition = tuple[str, list[object]]


# Each from an index that has it, instead of OR over the rows, which would read every record. Owners from the sums.
_TEXTS = (
    r"SELECT rowid FROM job WHERE job_id LIKE ? ESCAPE '\' UNION SELECT rowid FROM job WHERE name LIKE ? ESCAPE '\'"
    r" UNION SELECT rowid FROM job WHERE owner IN (SELECT owner FROM tally WHERE owner LIKE ? ESCAPE '\')"
    r" UNION SELECT job.rowid FROM job_label CROSS JOIN job USING (job_id) WHERE job_label.value LIKE ? ESCAPE '\'"
)


class Filter:
    """Which jobs to show. Every condition that is set must hold; within one, any of its values will do."""

    __slots__ = (
        "keeps_active", "labels", "match", "name", "namespace", "owner", "silent_since", "since", "statuses", "text",
        "until",
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
        text: str | None = None,
    ) -> None:
        """Set the conditions.

        Args:
            statuses: one of these statuses.
            since: created or changed at or after this time (seconds since 1970), or still active.
            until: created at or before this time.
            name: id or Kubernetes name fits this glob.
            match: this regular expression is found in the id or the Kubernetes name.
            labels: has each of these labels, with this value, or with any where it is None.
            namespace: runs in this namespace.
            owner: belongs to this owner.
            silent_since: active and suspect: marked so, or its runner has given no sign of life since this time.
            text: is found, in any ASCII case, in its id, Kubernetes name, owner, or the value of a label.

        Raises:
            UsageError: `match` is no regular expression.
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
        self.text = text
        self.keeps_active = True
        """Whether active jobs pass a window whenever they changed, as a listing wants it."""
        if match is not None:
            try:
                re.compile(match)
            except (re.error, OverflowError, RecursionError) as error:
                raise UsageError(f"'{match}' is no regular expression: {error}.") from None

    @property
    def is_everything(self) -> bool:
        """Whether all jobs pass: then the sums that the cache keeps have the counts."""
        return self.parts() == [("true", [])]

    def parts(self) -> list[Condition]:
        """WHERE clauses with their parameters; the jobs that pass are those of all parts, which have none in common.

        A window has two parts: what changed in it, and what did not and is still active. As one condition with OR,
        SQLite would read the whole table; apart, each reads an index as far as it must.
        """
        condition, values = self._where()
        if self.since is None:
            return [(condition, values)]
        inside = (f"changed_ts >= ? AND {condition}", [self.since, *values])
        if not self.keeps_active:
            return [inside]
        return [
            inside,
            (f"changed_ts < ? AND is_active = 1 AND {condition}", [self.since, *values]),
        ]

    def _where(self) -> Condition:
        conditions: list[str] = []
        values: list[object] = []

        def add(condition: str, *parameters: object) -> None:
            conditions.append(condition)
            values.extend(parameters)

        if self.statuses is not None:
            # The group of the active ones also takes statuses that this version does not know.
            group = self.statuses >= ACTIVE
            named = sorted(self.statuses - ACTIVE if group else self.statuses)
            named_ones = f"status IN ({', '.join('?' * len(named))})"
            # Alone where it can be: an OR hides the index of the active ones.
            add("is_active = 1" if group and not named else f"({'is_active = 1 OR ' * group}{named_ones})", *named)
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
            add("namespace = ?", self.namespace)
        if self.owner is not None:
            add("owner = ?", self.owner)
        if self.silent_since is not None:
            add("is_active = 1 AND (suspect IS NOT NULL OR heartbeat_ts < ?)", self.silent_since)
        if self.text is not None:
            pattern = "%" + re.sub(r"([\\%_])", r"\\\1", self.text) + "%"
            add(f"rowid IN ({_TEXTS})", *[pattern] * _TEXTS.count("?"))
        return " AND ".join(conditions) or "true", values


def parse_sort(text: str) -> str:
    """The ORDER BY clause for something like `-updated,name`; a leading `-` means descending.

    Raises:
        UsageError: a name is none that can be sorted by. Lists those that can.
    """
    terms: dict[str, str] = {}
    for word in text.split(","):
        name = word.strip().removeprefix("-").removeprefix("+")
        if name not in SORTS:
            raise UsageError(f"Cannot sort by '{name}': use {', '.join(SORTS)}, with - in front for descending.")
        # A name that comes again decides nothing; SQLite takes 2,000 terms.
        terms.setdefault(name, f"{SORTS[name]} {'DESC' if word.strip().startswith('-') else 'ASC'}")
    return ", ".join([*terms.values(), "job_id ASC"])


def where_clauses(connection: sqlite3.Connection, chosen: Filter) -> list[Condition]:
    """`chosen.parts()`, ready to be run on this connection."""
    if chosen.match is not None:
        from mopsjobs.cache.queries.matching import add_regexp  # few listings match

        add_regexp(connection, chosen.match)
    return chosen.parts()
