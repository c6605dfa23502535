"""The templates of the page are readable: short lines, and values by their names."""

from __future__ import annotations

import re
from pathlib import Path

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
