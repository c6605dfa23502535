"""The report: one line a figure, with what it is compared with and whether it reaches its goals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
REASONS = {
    "full sync, 10,000 of our records": "0.15 ms of processor a record, and 0.5 s to start and import the SDK, all on"
    " one core: ours is the limit, the server needs half as long. Of a record, reading it strictly and making its row"
    " take 65 %, in steps of a few percent each; writing takes 20 %, XML and unpacking 12 %. 0.2 x asks for 0.12 ms.",
    "full sync, 10,000 foreign records": "a GET each, which Azurite serves in one thread. On a busy machine, it"
    " took 18 s of its processor time for rclone, and 24 s for a plain reader. Both needed 9 to 10 s themselves, so its"
    " share alone is above the goal.",
    "full sync, 10,000 foreign records, 30 ms later": "as without the delay; the proxy shares the two cores besides."
    " 32 reads ran at once, and took 2.3 ms each; 64 take 1.2 to 1.8 ms (docs/decisions/0043).",
    "scan, nothing changed among 10,000": "the wait for Azurite, which lists 10,000 names in one thread; of processor"
    " time it takes a fifth of a first sync, and half of rclone's.",
    "scan, nothing changed among 10,000, 30 ms later": "as without the delay.",
    "sync, nothing new, minutes after 10,000 registrations": "each announced record may have changed again, so 10,000"
    " names are listed, which is most of what rclone does, too (docs/decisions/0064).",
    "serve: first page, 100,000 cached": "what is not SQL is the page's own: its template, its head and its gzip.",
    "serve: 50 browsers, a change each 1 s, 100,000 cached: busiest tab": "an open page asks every four seconds, and"
    " gets all of itself after a change: 5 kB, and 1.2 kB of headers both ways. Without a change, it gets the headers"
    " alone. Rows alone took a stream, which held a connection of the browser, and a comparison of rendered pages.",
    "summary --json, 1,000,000 against 10,000 cached": "the jobs are read. Sums and three indexes made it 2.04 x, at"
    " the cost of each write, and most summaries are of a window (docs/decisions/0022).",
    "start to first result: mops-jobs": "interpreters start for the command, for a check of the model and for each"
    " worker. joblib checks nothing, and HyperQueue starts one for its task alone.",
    "5,000 Python tasks of nothing: mops-jobs": "joblib keeps nothing, and sends tasks by the batch. The runner takes"
    " 0.3 ms of its processor per task to hand it out, to take its outputs and scalars, and to write its ledger; no"
    " step of these takes more than a tenth.",
}
"""Why a goal was missed, by the figure."""
HEADERS = (
    "what", "median", "compared with", "ratio", "of processor time", "goal", "next goal",
    "after the start", "overhead", "kept on disk",
)  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """A limit, and whether it is kept."""

    text: str
    reached: bool

    def __str__(self) -> str:
        return f"{self.text}: {'reached' if self.reached else 'MISSED'}"


def at_most(limit: float | None, figure: float, unit: str) -> Goal | None:
    """Return the goal that `figure` be at most `limit`; None where there is no limit."""
    return None if limit is None else Goal(f"at most {limit:g}{unit}", figure <= limit)


@dataclass(frozen=True)
class Line:
    """One figure."""

    what: str
    measured: str
    against: str
    ratio: float | None
    cpu_ratio: float | None = None
    goal: Goal | None = None
    next_goal: Goal | None = None
    after_start: str = ""
    overhead: str = ""
    kept: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the line as text, in the order of the headers."""
        ratios = ("" if ratio is None else f"{ratio:.2f}" for ratio in (self.ratio, self.cpu_ratio))
        goals = (str(goal or "") for goal in (self.goal, self.next_goal))
        return (self.what, self.measured, self.against, *ratios, *goals, self.after_start, self.overhead, self.kept)


def markdown(sections: Mapping[str, Sequence[Line]], machine: dict[str, str], settings: str, previous: str = "") -> str:
    """Return the whole report: a table per section, without the columns that it does not use.

    A section of the previous report stays as it was if it was not measured again.
    """
    _, *parts = re.split(r"^## (.*)\n", previous, flags=re.MULTILINE)
    bodies = dict(zip(parts[::2], (body.strip("\n") for body in parts[1::2]), strict=True))
    bodies |= {title: "\n".join(_section(lines, settings)) for title, lines in sections.items()}
    return "\n".join(
        [
            "# Measured",
            "",
            "Written by `python -m bench --write`. Whole processes, run in turn after a warm-up; medians, and ratios",
            "taken within each round. Compare ratios: the times are those of one machine, which may have been busy.",
            "",
            *(f"- {name}: {value}" for name, value in machine.items()),
            "",
            *(text for title, body in bodies.items() for text in (f"## {title}", "", body, "")),
        ]
    )


def _section(lines: Sequence[Line], settings: str) -> Iterator[str]:
    yield from (f"Measured on {datetime.now(UTC):%Y-%m-%d}; {settings}.", "", *_table(lines))
    missed = dict.fromkeys(line.what for line in lines if line.goal is not None and not line.goal.reached)
    if missed:
        yield from ("", "Goals missed:", "", *(f"- {what}: {REASONS.get(what, 'no reason known')}" for what in missed))


def _table(lines: Sequence[Line]) -> Iterator[str]:
    rows = [line.cells() for line in lines]
    used = [column for column in range(len(HEADERS)) if any(row[column] for row in rows)]
    shown = [[row[column] for column in used] for row in (HEADERS, *rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(used))]
    for row in (shown[0], ["-" * width for width in widths], *shown[1:]):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
