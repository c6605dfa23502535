"""A value that must be there."""

from __future__ import annotations

from typing import TypeVar

Value = TypeVar("Value")


def existing(value: Value | None) -> Value:
    """Return a value, which must not be None."""
    assert value is not None
    return value
