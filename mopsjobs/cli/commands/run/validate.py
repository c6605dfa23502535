"""`validate`: check the outputs of a job."""

from __future__ import annotations

import argparse

from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.validate_job import validate_job
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import add_full_ids
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, command_line
from mopsjobs.studies.validation import Validation
from mopsjobs.utils.text import pluralize

HELP = "check a job's outputs, and end the job accordingly unless its runner is at work"

DESCRIPTION = (
    "Compare a job's outputs with its manifest, and their sizes with its ledger. If all exist, the job is succeeded;"
    " if some do, partial; if none does, failed. The status does not change if the job has ended, or if its runner has"
    " reported within a minute. Outputs that were lost or damaged after the end are told (exit code 7)."
)

EXAMPLES = (
    "mops-jobs validate nightly-1",
    "mops-jobs validate nightly-1 --json | jq .missing_outputs",
)

SHOWN = 5
"""Tasks with damaged outputs that are named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_full_ids(parser)
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Validate a job."""
    found, is_at_work, can_resume = validate_job(args.job, app)
    state = found.state
    notes = [f"The runner of {state.job_id} is at work, and will end the job."] if is_at_work else []
    again = f"To run them again: {command_line('resume', state.job_id)}" if can_resume else ""
    warnings = _problems(found, again)
    exit_code = EXIT_PARTLY_DONE if warnings else EXIT_DONE
    if args.json:
        # Decisions since the last report may have added tasks to those that the record of an adaptive study counts.
        compared = {
            "tasks_total": found.tasks_total,
            "tasks_verified": found.tasks_verified,
            "missing_outputs": list(found.missing_outputs),
        }
        job = job_json_from_state(state, now=app.now().timestamp()) | compared
        return Result(Document(job), notes=notes, warnings=warnings, exit_code=exit_code)
    verified = f"{found.tasks_verified:,} of {found.tasks_total:,} tasks"
    if found.reductions:
        verified += f", {found.reductions_verified:,} of {pluralize(found.reductions, 'reduction')}"
    line = f"{state.job_id}: {verified} verified; {state.status}"
    return Result(Text([line], indent=2), notes=notes, warnings=warnings, exit_code=exit_code)


def _problems(found: Validation, again: str) -> list[str]:
    """Return which outputs are damaged, and how many tasks have lost theirs since the end of the job, as sentences.

    Args:
        found: the result of the comparison.
        again: how to have the lost outputs again.
    """
    problems = [*found.damaged[:SHOWN]]
    if (more := len(found.damaged) - SHOWN) > 0:
        problems.append(f"{more:,} more tasks have outputs of another size.")
    if found.has_lost_outputs:
        lost = f"The outputs of {pluralize(found.state.tasks_verified - found.tasks_verified, 'task')} were"
        problems.append(f"{lost} lost or damaged since the job ended. {again}".rstrip())
    return problems
