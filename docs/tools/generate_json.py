"""Write the fields of a job in docs/reference/json.md from their schema; a test compares the two.

The fields of the record, which docs/reference/record.md describes, are not repeated.

    python docs/tools/generate_json.py
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(DOCS.parent))

from mopsjobs.registry.job_state import FIELDS  # noqa: E402 - found by the line above
from mopsjobs.utils.schemas import load_schema  # noqa: E402 - as above

PAGE = DOCS / "reference" / "json.md"
BEGIN = "<!-- Written by `python docs/tools/generate_json.py` from the schema of a job. Do not edit. -->\n"
END = "<!-- end -->\n"


def render() -> str:
    """Return the page with its table of fields written anew."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    rows = [
        f"| `{name}` | {field['description']} |\n"
        for name, field in load_schema("job")["properties"].items()
        if name not in FIELDS
    ]
    return head + BEGIN + "| field | meaning |\n|---|---|\n" + "".join(rows) + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
