"""Comparing what was sent with what came back."""

from __future__ import annotations

from typing import Any

import pytest

from mopsjobs.engines.kubernetes.fields import differences

SENT = {
    "limit": 3,
    "policy": {"rules": [{"action": "Ignore", "on": [{"type": "A"}]}]},
    "empty": [],
    "pods": [{"name": "r", "args": ["a"]}],
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"more": 1, "pods": [{"name": "proxy"}, {"name": "r", "args": ["a"], "tty": False}]}, []),
        ({"limit": 4}, [("limit", False)]),
        ({"limit": None}, [("limit", True)]),
        ({"policy": {"rules": [{"action": "Ignore"}]}}, [("policy.rules[0].on", True)]),
        ({"policy": {"rules": []}}, [("policy.rules[0]", True)]),
        ({"pods": [{"name": "r", "args": ["a", "b"]}]}, [("pods[r].args", False)]),
        ({"pods": [{"name": "other"}]}, [("pods[r]", True)]),
        ({"pods": 7}, [("pods", False)]),
    ],
)
def test_what_is_lacking_or_other_is_named(changes: dict[str, Any], expected: list[tuple[str, bool]]) -> None:
    """Further fields and items do not count, nor does the order of named items. An empty value may be left out."""
    found = {name: value for name, value in {**SENT, **changes}.items() if value is not None and name != "empty"}
    assert [tuple(one) for one in differences(SENT, found)] == expected
