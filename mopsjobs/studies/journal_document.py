"""The journal of a calibration as a document, which the cache keeps; and its counts, which the record has."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.studies.calibration import parse_calibration
from mopsjobs.studies.journal import Evaluation, Journal, Round, told_of

MAX_PARAMS = 4000
"""Characters of the parameters of the best set in a record, as JSON. Larger ones are left out: records stay small."""


MAX_ERRORS = 3
"""Types of errors in a record, the most frequent first."""


def counts_of(journal: Journal) -> dict[str, Any]:
    """Return the counts of a calibration, and its best set; see `registry.calibration_counts`."""
    told = [one.told for one in journal.evaluations()]
    errors = Counter(str(one.error) for one in told if one.values is None)
    best = journal.best
    return {
        "rounds": journal.rounds_done,
        "at_most": journal.rounds_planned,
        "inherited": journal.inherited,
        "sets": len(told),
        "failed": errors.total(),
        "errors": dict(errors.most_common(MAX_ERRORS)),
        "not_precise": sum(one.precise is False for one in told),
        "asynchronous": journal.calibration.is_asynchronous,
        "best": None if best is None else _best(journal, best),
    }


def _best(journal: Journal, best: Evaluation) -> dict[str, Any]:
    params = journal.calibration.asked_of(best.params)
    is_small = len(json.dumps(params)) <= MAX_PARAMS
    told = best.told
    return {
        "value": told.value, "half_width": told.half_width, "round": best.round, "params": params if is_small else {},
    }  # fmt: skip


def encode_journal(journal: Journal) -> str:
    """Return a journal as JSON."""
    rounds = [
        [
            one.job_id,
            one.number,
            one.sets,
            None if one.told is None else [told.to_json() for told in one.told],
        ]
        for one in journal.rounds
    ]
    return json.dumps(
        {
            "spec": journal.calibration.to_dict(),
            "rounds": rounds,
            "inherited": journal.inherited,
            "has_ended": journal.has_ended,
        },
        separators=(",", ":"),
    )


def decode_journal(text: str) -> Journal:
    """Return the journal that `encode_journal` has written.

    Raises:
        RecordError: if it is not one.
    """
    try:
        document: Any = json.loads(text)
        rounds = [
            Round(job_id, number, tuple(sets), None if told is None else tuple(map(told_of, told)))
            for job_id, number, sets, told in document["rounds"]
        ]
        calibration = parse_calibration(document["spec"], "in the cache")
        return Journal(calibration, tuple(rounds), document["inherited"], document["has_ended"])
    except (ValueError, TypeError, KeyError, UsageError) as error:
        raise RecordError(f"not a journal ({type(error).__name__}: {error})") from None
