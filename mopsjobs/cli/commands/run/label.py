"""`label`: set and remove labels of a job."""

from __future__ import annotations

import argparse

from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import add_full_ids, parse_label_changes
from mopsjobs.cli.record_flags import report_result
from mopsjobs.console.result import Result

HELP = "set and remove labels of a job, also after its end"

DESCRIPTION = (
    "Set and remove labels of a job, also after its end. list, watch and the page leave out ended jobs with the label"
    " archived=true, unless a filter names that label."
)

EXAMPLES = (
    "mops-jobs label nightly-1 paper=fig2 draft-",
    "mops-jobs label nightly-1 archived=true",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_full_ids(parser)
    parser.add_argument(
        "changes", metavar="KEY=VALUE|KEY-", nargs="+", help="set a label to a value, or remove the label before the -"
    )
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Change labels of a job."""
    labels, removed = parse_label_changes(args.changes)
    state = app.registry.change_labels(args.job, labels, remove=removed)
    shown = ", ".join(f"{label}={value}" for label, value in sorted(state.labels.items()))
    return report_result(args, app, state, change=f"labels {shown}" if shown else "no labels")
