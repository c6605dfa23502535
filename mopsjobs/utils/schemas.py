"""The JSON Schemas of the output. That of a job is the table of its fields: what is printed and documents follow."""

from __future__ import annotations

import json
import os
from typing import Any

DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "schemas")


def load_schema(name: str) -> dict[str, Any]:
    """Return the schema of this name."""
    with open(os.path.join(DIRECTORY, f"{name}.json"), encoding="utf-8") as file:
        schema: dict[str, Any] = json.load(file)
    return schema
