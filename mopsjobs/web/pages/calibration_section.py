"""The drawings of a calibration on the page of its job: the best value over time, and each parameter against it."""

from __future__ import annotations

import math
import sqlite3
from typing import Any

from mopsjobs.app.tasks.journals import stored_journal, value_name
from mopsjobs.registry.calibration_counts import round_word
from mopsjobs.studies.journal import Journal
from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.drawings.plots import Plot, Series, draw, plotted
from mopsjobs.web.pages.readings import ask
from mopsjobs.web.queries.view_models import Job
from mopsjobs.web.site.job_reads import JOURNAL
from mopsjobs.web.site.site import Site

SHOWN_PARAMETERS = 12
"""Parameters that are drawn."""


def draw_calibration(site: Site, connection: sqlite3.Connection, job: Job) -> dict[str, Any] | None:
    """Return the drawings of a calibration, and what to say if they lack rounds; None for any other job."""
    if job["calibration"] is None:
        return None
    journal = stored_journal(connection, str(job["job_id"]))
    reading = None
    if (journal.rounds_done if journal else 0) < job["calibration"]["rounds"]:
        reading = ask(site, JOURNAL, job, "results", "--best")
    names = [] if journal is None else [*plotted([*journal.calibration.parameters], _sets(journal))]
    return {
        "reading": reading,
        "over_time": None if journal is None else _over_time(journal, round_word(job["calibration"])),
        "by_parameter": [] if journal is None else _by_parameter(journal, names[:SHOWN_PARAMETERS]),
        "more": max(0, len(names) - SHOWN_PARAMETERS),
        "value": None if journal is None else value_name(journal),
    }


def _over_time(journal: Journal, word: str) -> Plot | None:
    """Return the best value up to each round, which is called so; None without two of them."""
    values = [math.nan if value is None else value for value in journal.best_by_round()]
    sets = [{word: number} for number in range(1, len(values) + 1)]
    if len(values) < 2:
        return None
    return draw(f"best {value_name(journal)}", Axis(word, sets), Series(sets, range(len(sets)), values))


def _by_parameter(journal: Journal, names: list[str]) -> list[tuple[str, Plot]]:
    evaluations = [*journal.evaluations()]
    sets = [one.params for one in evaluations]
    values = [math.nan if one.told.value is None else one.told.value for one in evaluations]
    failed = [one.told.value is None for one in evaluations]
    numbers = range(len(sets))
    drawn = ((name, draw(value_name(journal), Axis(name, sets), Series(sets, numbers, values, numbers, failed)))
             for name in names)  # fmt: skip
    return [(name, plot) for name, plot in drawn if plot is not None]


def _sets(journal: Journal) -> list[Any]:
    return [one.params for one in journal.evaluations()]
