"""`label`: set and remove labels of a job, or of all jobs with a label."""

from __future__ import annotations

import argparse

from mopsjobs.app.run.app import App
from mopsjobs.app.run.job_arguments import job_filter
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries.jobs import list_jobs, pruned_note
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import FULL_ID_HELP, full_id_type, parse_label_changes
from mopsjobs.cli.record_flags import report_result
from mopsjobs.console.result import JsonLines, Result
from mopsjobs.errors import EXIT_PARTLY_DONE, MopsJobsError, StoreError, UsageError, command_line
from mopsjobs.registry.job_state import JobState
from mopsjobs.utils.text import pluralize

HELP = "set and remove labels of jobs, also after their end"

DESCRIPTION = (
    "Set and remove labels of a job, also after its end, or of all jobs that a label matches. list, watch and the"
    " page leave out ended jobs with the label archived=true, and show jobs with one value of the label sweep as one"
    " row."
)

EXAMPLES = (
    "mops-jobs label nightly-1 paper=fig2 draft-",
    "mops-jobs label --match sweep=old archived=true",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "job", metavar="JOB", type=full_id_type(parser), help=f"{FULL_ID_HELP}; leave it out with --match"
    )
    parser.add_argument(
        "changes", metavar="KEY=VALUE|KEY-", nargs="*", help="set a label to a value, or remove the label before the -"
    )
    parser.add_argument(
        "--match",
        metavar="KEY[=VALUE]",
        action="append",
        default=[],
        help="change all jobs with this label, of this value if given; repeat for more",
    )
    parser.add_argument("--json", action="store_true", help="print each job as one JSON object per line")


def run(args: argparse.Namespace, app: App) -> Result:
    """Change labels of jobs."""
    changes = [*([args.job] if args.match else []), *args.changes]
    if not changes:
        example = command_line("label", args.job, "paper=fig2")
        raise UsageError(
            "No label is named: expected KEY=VALUE to set it, or KEY- to remove it.", hint=f"For example: {example}"
        )
    labels, removed = parse_label_changes(changes)
    if args.match:
        return _change_matching(args, app, labels, removed)
    state = app.registry.change_labels(args.job, labels, remove=removed)
    return report_result(args, app, state, change=_labels_text(state))


def _change_matching(args: argparse.Namespace, app: App, labels: dict[str, str], removed: list[str]) -> Result:
    """Change labels of all jobs that the labels of `--match` select, after one sync."""
    chosen = job_filter(app.now(), label=args.match)
    app.cache.sync_to_change("No label was changed.")
    order, now = filters.parse_sort("name"), app.now().timestamp()
    job_ids = app.cache.read_cached(lambda cache: list_jobs(cache, chosen, order=order, limit=0, now=now).ids()) or []
    changed: list[JobState] = []
    problems: list[str] = []
    for (job_id,) in job_ids:
        try:
            changed.append(app.registry.change_labels(job_id, labels, remove=removed))
            app.out.note(f"{job_id}: {_labels_text(changed[-1])}")  # at once: many jobs take a while
        except StoreError as error:
            if not changed:
                raise
            left = len(job_ids) - len(changed) - len(problems)
            problems.append(f"{job_id}: {error} {pluralize(left, 'job')} not changed; repeat the command to go on.")
            break  # the other jobs would fail in the same way
        except MopsJobsError as error:
            problems.append(str(error))
    summed = f"{pluralize(len(changed), 'job')} changed." if job_ids else "No job matches; no label was changed."
    return Result(
        JsonLines([job_json_from_state(state, now=now) for state in changed]) if args.json else None,
        notes=[summed, *(app.cache.read_cached(lambda cache: pruned_note(cache, chosen)) or [])],
        warnings=problems,
        exit_code=EXIT_PARTLY_DONE if problems else 0,
    )


def _labels_text(state: JobState) -> str:
    shown = ", ".join(f"{label}={value}" for label, value in sorted(state.labels.items()))
    return f"labels {shown}" if shown else "no labels"
