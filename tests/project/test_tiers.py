"""The tiers of the tests: which run in CI, which of them first, and which before a release alone."""

from __future__ import annotations

import pytest


def test_each_long_test_is_there(pytestconfig: pytest.Config) -> None:
    """One that has another name or file would run in CI again, or late. Only a run of all tests knows all names."""
    assert pytestconfig.option.unknown_long == []
