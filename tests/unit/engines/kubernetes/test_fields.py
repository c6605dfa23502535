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


@pytest.mark.parametrize(
    ("sent", "found", "is_other"),
    [("0.5", "500m", False), ("1024Mi", "1Gi", False), ("2", 2, False), ("4Gi", "4G", True), ("2", "two", True)],
)
def test_a_quantity_is_compared_as_a_number(sent: str, found: object, *, is_other: bool) -> None:
    """An API server writes it in a form of its own. Another field is compared as a text."""
    paths = list(
        differences({"resources": {"cpu": sent}, "image": "a:1"}, {"resources": {"cpu": found}, "image": "a:1"}, "pod")
    )
    assert [one.path for one in paths] == (["pod.resources.cpu"] if is_other else [])
    assert list(differences({"version": "0.5"}, {"version": "500m"}, "pod"))
