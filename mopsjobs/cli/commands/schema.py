"""`schema`: the JSON Schemas of what `--json` prints. They ship inside and are tested against real output."""

from __future__ import annotations

import argparse
import json
import os

import mopsjobs
from mopsjobs.app.app import App
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import RawText, Result

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(mopsjobs.__file__)), "schemas")


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


def run(args: argparse.Namespace, app: App) -> Result:
    """Print the schema."""
    schema = _load(args.name)
    if args.name in ("list", "summary"):
        schema["$defs"] = {"job": _load("job")}
    return Result(RawText(json.dumps(schema, indent=2) + "\n"))


def _load(name: str) -> dict[str, object]:
    with open(os.path.join(DIRECTORY, f"{name}.json"), encoding="utf-8") as file:
        schema: dict[str, object] = json.load(file)
    return schema
