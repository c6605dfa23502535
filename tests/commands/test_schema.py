"""`schema`: the JSON Schemas of the output."""

from __future__ import annotations

import json

import pytest

from mopsjobs.cli.commands.care.schema import NAMES
from support.cli import Cli


@pytest.mark.parametrize("name", NAMES)
def test_schema_prints_a_schema(cli: Cli, name: str) -> None:
    """Each is a complete JSON Schema, with nothing to be fetched from elsewhere."""
    schema = cli.ok("schema", name).json
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = json.dumps(schema)
    assert text.count('"$ref"') == text.count('"$ref": "#/$defs/')


def test_schema_is_that_of_list_by_default(cli: Cli) -> None:
    """Without a name, it is the schema of `list --json`."""
    assert cli.ok("schema").out == cli.ok("schema", "list").out
