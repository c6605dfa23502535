"""The templates of the page are readable, and its style sheets do nothing that a test of a page would not see."""

from __future__ import annotations

import re
from pathlib import Path

import mopsjobs

MAX_WIDTH = 120
"""Characters of a line, as in Python."""

MAX_NAMES = 3
"""Values that a loop of a template unpacks by their positions."""

TEMPLATES = sorted((Path(__file__).parents[2] / "mopsjobs/web/templates").glob("*.html"))


def test_lines_of_templates_are_short() -> None:
    long = [
        f"{path.name}:{number}: {len(line)} characters"
        for path in TEMPLATES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > MAX_WIDTH
    ]
    assert TEMPLATES
    assert long == []


def test_templates_name_the_values_of_rows() -> None:
    """A field that is added to a row then moves no other."""
    loops = [
        f"{path.name}: {names}"
        for path in TEMPLATES
        for names in re.findall(r"{%-? for (.+?) in ", path.read_text(encoding="utf-8"))
        if names.count(",") >= MAX_NAMES
    ]
    assert loops == []


SHEETS = sorted(Path(mopsjobs.__file__).parent.rglob("*.css"))
_RULE_OF_UNFOLDED = re.compile(r"[^{}]*(?:\[open\b|:open\b)[^{}]*\{[^{}]*\}")
_COLOUR = re.compile(r"--[\w-]+\s*:|\b(?:color|background|border|fill|stroke|opacity|filter)\b")


def test_no_element_has_another_colour_when_it_is_unfolded() -> None:
    """Pages are judged with all unfolded, so the colours of what is folded are those."""
    assert SHEETS
    rules = [rule for sheet in SHEETS for rule in _RULE_OF_UNFOLDED.findall(sheet.read_text("utf-8"))]
    assert [rule for rule in rules if _COLOUR.search(rule.partition("{")[2])] == []
