"""A budget as records and views have it."""

from __future__ import annotations

import pytest

from mopsjobs.registry.cpu_budget import budget_of, budget_text


@pytest.mark.parametrize(
    ("used", "hours", "text"),
    [
        (44640.0, 50.0, "12.4 of 50 CPU-hours"),
        (None, 5.0, "0.00 of 5 CPU-hours"),
        (1.8, 0.001, "0.00050 of 0.001 CPU-hours"),
    ],
)
def test_use_and_budget_have_three_digits_of_the_budget(used: float | None, hours: float, text: str) -> None:
    assert budget_text(used, hours) == text


@pytest.mark.parametrize(
    "metadata", [None, [], {}, {"local_max_cpu_hours": 5}, *({"local_max_cpu_hours": text} for text in ("x", "1e-300"))]
)
def test_a_record_without_a_valid_budget_has_none(metadata: object) -> None:
    """It may hold anything."""
    assert budget_of({"engine": "local", "metadata": metadata}) is None
    assert budget_of({"engine": "local", "metadata": {"local_max_cpu_hours": "5"}}) == 5.0
