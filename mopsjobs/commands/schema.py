"""`schema`: the JSON Schemas of what `--json` prints. They ship inside and are tested against real output."""

from __future__ import annotations

import argparse
import json
import os

from mopsjobs.commands.arguments import add_command
from mopsjobs.context import Context
from mopsjobs.output import Result, Verbatim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands

DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "schemas")
NAMES = ("job", "list", "sync", "doctor", "event", "summary", "query", "prune", "version")


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `schema`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="print the JSON Schema of what --json prints",
        description="Print a JSON Schema: of one job (status, register, update, progress; each line of list --jsonl, "
        "wait, watch, export and cancel), of the document that list, sync, doctor, summary, query, prune --store "
        "or version prints with --json, or of each line of events --json.",
    )
    parser.add_argument("name", nargs="?", choices=NAMES, default="list", help="whose (default: list)")


def run(args: argparse.Namespace, context: Context) -> Result:
    """Print the schema."""
    schema = _load(args.name)
    if args.name in ("list", "summary"):
        schema["$defs"] = {"job": _load("job")}
    return Result(Verbatim(json.dumps(schema, indent=2) + "\n"))


def _load(name: str) -> dict[str, object]:
    with open(os.path.join(DIRECTORY, f"{name}.json"), encoding="utf-8") as file:
        schema: dict[str, object] = json.load(file)
    return schema
