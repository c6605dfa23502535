"""What style sheets may not do, since a test of a page would not see it."""

from __future__ import annotations

import re
from pathlib import Path

import mopsjobs

SHEETS = sorted(Path(mopsjobs.__file__).parent.rglob("*.css"))
_RULE_OF_UNFOLDED = re.compile(r"[^{}]*(?:\[open\b|:open\b)[^{}]*\{[^{}]*\}")
_COLOUR = re.compile(r"--[\w-]+\s*:|\b(?:color|background|border|fill|stroke|opacity|filter)\b")


def test_no_element_has_another_colour_when_it_is_unfolded() -> None:
    """Pages are judged with all unfolded, so the colours of what is folded are those."""
    assert SHEETS
    rules = [rule for sheet in SHEETS for rule in _RULE_OF_UNFOLDED.findall(sheet.read_text("utf-8"))]
    assert [rule for rule in rules if _COLOUR.search(rule.partition("{")[2])] == []
