"""Whether a job was ended by its cluster, by the code of its error."""

from __future__ import annotations

import pytest

from mopsjobs.app.jobs.engine_watch import is_ended_by_engine
from mopsjobs.studies import validation

CODES = [
    value
    for name, value in sorted(vars(validation).items())
    if name.isupper() and isinstance(value, str) and value == name
]


@pytest.mark.parametrize("engine", ["kubernetes", "slurm"])
def test_codes_of_a_validation_are_no_words_of_a_cluster(engine: str) -> None:
    """Each of its codes has the name of its constant."""
    assert {"FAILURES", "FIRST", "INCOMPLETE", "REDUCE"} <= set(CODES)
    assert [code for code in CODES if is_ended_by_engine({"error_code": code, "engine": engine})] == []
    assert is_ended_by_engine({"error_code": "DEADLINE", "engine": engine})
