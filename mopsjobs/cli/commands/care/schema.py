"""`schema`: print the JSON Schema of an output. The schemas are in the package, and tests hold outputs to them."""

from __future__ import annotations

import argparse
import json

from mopsjobs.app.run.app import App
from mopsjobs.console.result import RawText, Result
from mopsjobs.utils.schemas import load_schema

HELP = "print the JSON Schema of an output"

DESCRIPTION = (
    "Print a JSON Schema of what the command of that name prints with --json. `job` also describes each line of list"
    " --jsonl, wait, watch and cancel, `event` of events --json, and `notification` what a webhook or a command gets."
    " `explain`, `contrast` and `calibration` are forms of results, `plan` is that of submit --dry-run."
)

EXAMPLES = (
    "mops-jobs schema",
    "mops-jobs schema job > job.schema.json",
)

NAMES = (
    "job", "list", "tasks", "sync", "doctor", "event", "summary", "failures", "provenance", "diff", "query", "prune",
    "results", "explain", "contrast", "calibration", "plan", "version", "notification",
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
    schema = load_schema(args.schema)
    if args.schema in ("list", "summary", "notification"):
        schema["$defs"] = {"job": load_schema("job")}
    return Result(RawText(json.dumps(schema, indent=2) + "\n"))
