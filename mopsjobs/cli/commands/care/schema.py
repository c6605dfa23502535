"""`schema`: print the JSON Schema of an output. The schemas are in the package, and tests hold outputs to them."""

from __future__ import annotations

import argparse
import json
import os

import mopsjobs
from mopsjobs.app.run.app import App
from mopsjobs.console.result import RawText, Result

HELP = "print the JSON Schema of an output"

DESCRIPTION = (
    "Print a JSON Schema. `job` describes one job: what status, register, update, progress, note and label print, and"
    " each line of list --jsonl, wait, watch and cancel. `event` describes each line of events --json, and"
    " `$defs/task` in `tasks` each line of tasks --jsonl. `notification` describes what a webhook or a command gets."
    " The others describe the document that the command prints with --json."
)

EXAMPLES = (
    "mops-jobs schema",
    "mops-jobs schema job > job.schema.json",
)

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(mopsjobs.__file__)), "schemas")

NAMES = (
    "job", "list", "tasks", "sync", "doctor", "event", "summary", "failures", "provenance", "diff", "query", "prune",
    "version", "notification",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "schema",
        metavar="SCHEMA",
        nargs="?",
        choices=NAMES,
        default="list",
        help=f"one of {', '.join(NAMES)} (default: list)",
    )


def run(args: argparse.Namespace, app: App) -> Result:
    """Print the schema."""
    schema = _load(args.schema)
    if args.schema in ("list", "summary", "notification"):
        schema["$defs"] = {"job": _load("job")}
    return Result(RawText(json.dumps(schema, indent=2) + "\n"))


def _load(name: str) -> dict[str, object]:
    with open(os.path.join(DIRECTORY, f"{name}.json"), encoding="utf-8") as file:
        schema: dict[str, object] = json.load(file)
    return schema
