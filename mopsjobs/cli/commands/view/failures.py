"""`failures`: group failed tasks by their errors, and say what separates them from the tasks that succeeded."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.run.job_arguments import DEFAULT_LIMIT
from mopsjobs.app.tasks.failures import (
    Failures,
    MergedGroup,
    commands_after,
    describe_condition,
    describe_suspicion,
    failures_of_filter,
    failures_of_jobs,
)
from mopsjobs.cli.flags import (
    add_filter_flags,
    add_freshness_flags,
    add_job_names,
    add_limit_flag,
    check_jobs_or_filters,
    filter_of,
    freshness_policy,
)
from mopsjobs.console.result import Document, RawText, Result, Text
from mopsjobs.console.terminal import style_text
from mopsjobs.errors import UsageError, command_line
from mopsjobs.utils.text import cut_to_length, join_first, pluralize
from mopsjobs.utils.times import human_age

HELP = "group failed tasks by their errors, and say what they have in common"

DESCRIPTION = (
    "Group the failed tasks of jobs by their errors. Of each group, print the condition on parameters that separates"
    " it from the tasks that succeeded, unless chance may explain it. A job without known failed tasks counts with the"
    " error of its record. Without a JOB, the filters select the jobs"
    " (default: all that no resume has taken up)."
)

EXAMPLES = (
    "mops-jobs failures @latest",
    "mops-jobs failures nightly-1 --design > more.json",
    "mops-jobs failures nightly-1 --json | jq -r '.groups[].separates[].condition'",
)

SHOWN_GROUPS = 20

SHOWN_JOBS = 3

MAX_MESSAGE = 300

INDENT = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser, nargs="*")
    add_filter_flags(parser)
    add_limit_flag(parser, "without a JOB, read the N jobs that changed last, 0 for all")
    parser.add_argument(
        "--resumed", action="store_true", help="without a JOB, read also jobs whose failures a resume has taken up"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON document")
    how.add_argument(
        "--design",
        action="store_true",
        help="print the study of one JOB with further parameter sets that would settle a suspected region, for"
        " submit --extend JOB",
    )
    parser.add_argument(
        "--within",
        metavar="SCALAR=WIDTH",
        action="append",
        default=[],
        help="with --design, add replicates instead, until the 95 %% interval of the mean of this result is this wide,"
        " plus or minus: 0.3, or 5%%; repeatable",
    )
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Group failed tasks."""
    policy = freshness_policy(args)
    check_jobs_or_filters(args)
    if args.design or args.within:
        return _design(args, app, policy)
    if args.job:
        failures = failures_of_jobs(args.job, app, policy)
    else:
        limit = DEFAULT_LIMIT if args.limit is None else args.limit
        failures = failures_of_filter(filter_of(args, app.now()), limit, app, policy, resumed=args.resumed)
    result = Result(warnings=failures.warnings, notes=_notes(failures), exit_code=failures.freshness.exit_code)
    if args.json:
        result.body = Document(failures.to_json(app))
        result.notes = []
    else:
        result.body = Text(_lines(failures, app), indent=INDENT)
    return result


def _design(args: argparse.Namespace, app: App, policy: FreshnessPolicy) -> Result:
    """Print a study with the next tasks.

    Raises:
        UsageError: if there is not one job, or nothing is suspected of it.
    """
    if not args.design:
        raise UsageError("--within needs --design.")
    if len(args.job) != 1:
        raise UsageError("--design needs one JOB.")
    if args.offline:
        raise UsageError("--design does not work with --offline: the cache has no study.")
    from mopsjobs.app.tasks.design import design_regions, design_replicates, parse_target  # here: most views have none

    targets = [parse_target(text) for text in args.within]
    if twice := [name for name, count in Counter(one.scalar for one in targets).items() if count > 1]:
        raise UsageError(f"--within names {twice[0]} twice.")
    if targets:
        design, warnings = design_replicates(args.job[0], targets, app, policy), []
    else:
        failures = failures_of_jobs(args.job, app, policy)
        design, warnings = design_regions(failures, app), failures.warnings
    run = command_line("submit", "more.json", f"--extend {design.job_id}")
    notes = [*design.notes, f"Run them from more.json, if this was written there: {run}"]
    text = json.dumps(design.document, indent=2, ensure_ascii=False) + "\n"
    return Result(RawText(text), notes=notes, warnings=warnings)


def _notes(failures: Failures) -> list[str]:
    """Return what the groups lack, and the age of the data."""
    too_large = [job_id for job_id, one in failures.by_job.items() if one.left_out != 0]
    hidden = len(failures.groups) - SHOWN_GROUPS
    return [
        *(f"{one} has more parameters or tasks than are compared." for one in too_large[:SHOWN_JOBS]),
        *failures.notes,
        *([_unexplained(failures)] if failures.unexplained and failures.groups else []),
        *([f"and {hidden:,} more groups; --json lists them"] if hidden > 0 else []),
        f"Data: {failures.freshness.describe_with_staleness()}",
    ]


def _lines(failures: Failures, app: App) -> Iterator[Sequence[str]]:
    """Yield the failures for people: a summary, a block for each group, and what to type."""
    jobs = [job_id for job_id, one in failures.by_job.items() if one.total]
    failed = sum(one.failed for one in failures.by_job.values())
    where = jobs[0] if len(jobs) == 1 else pluralize(len(jobs), "job")
    unknown = failures.without_reason
    if not failures.groups and unknown:
        where = where if jobs else pluralize(len(failures.by_job), "job")
        yield [f"{pluralize(unknown, 'task')} of {where} failed, for reasons that are not known."]
        return
    if not failures.groups:
        none = f"No task of {where} has failed." if jobs else "No task has failed."
        yield [_unexplained(failures) if failures.unexplained else none]
        return
    total, groups = sum(one.total for one in failures.by_job.values()), len(failures.groups)
    more = f" {unknown:,} more failed, for reasons that are not known." if unknown else ""
    counts = [f"{failed:,} of {pluralize(total, 'task')} of {where}"] if failed else []
    if failures.by_record:
        counts.append(pluralize(failures.by_record, "job") + (" without known failed tasks" if failed else ""))
    yield [f"{' and '.join(counts)} failed, for {pluralize(groups, 'reason')}.{more}"]
    for group in failures.groups[:SHOWN_GROUPS]:
        yield [""]
        yield from _block(group, app, has_one_job=len(jobs) == 1)
    yield [""]
    for purpose, command in commands_after(failures, app):
        yield [style_text(f"{purpose}: ", "dim"), command]


def _unexplained(failures: Failures) -> str:
    names = failures.unexplained
    return f"{pluralize(len(names), 'job')} failed without a known error: {join_first(names)}."


def _block(group: MergedGroup, app: App, *, has_one_job: bool) -> Iterator[Sequence[str]]:
    place = "" if group.first.where is None else f" in {group.first.where}"
    yield [f"{group.size:>{INDENT - 2},}  ", style_text(group.first.type, "red"), place]
    blank = " " * INDENT
    if group.message:
        yield [blank, cut_to_length(group.message, MAX_MESSAGE)]
    if group.example is not None and group.example != group.message:
        yield [blank, style_text("for example: ", "dim"), cut_to_length(group.example, MAX_MESSAGE)]
    for one in group.separates:
        job = "" if has_one_job else f" (in {one['job_id']})"
        yield [blank, style_text(describe_condition(one), "bold"), job]
    for one in group.suspected:
        job = "" if has_one_job else f" (in {one['job_id']})"
        yield [blank, describe_suspicion(one), job]
    yield [blank, style_text(_samples(group, app, has_one_job=has_one_job), "dim")]


def _samples(group: MergedGroup, app: App, *, has_one_job: bool) -> str:
    """Return the first tasks of a group, its jobs, and when its tasks failed."""
    tasks = group.first.tasks
    more = ", …" if group.first.size > len(tasks) else ""
    text = f"{'task' if len(tasks) == 1 else 'tasks'} {', '.join(map(str, tasks))}{more}"
    if not tasks:
        text = join_first(group.jobs)
    elif not has_one_job:
        text += f" of {group.jobs[0]}"
        others = group.jobs[1:SHOWN_JOBS]
        if others:
            text += f"; also in {', '.join(others)}{', …' if len(group.jobs) > SHOWN_JOBS else ''}"
    if group.first_ts is None or group.last_ts is None:
        return text
    now = app.now().timestamp()
    first, last = (human_age(max(now - moment, 0.0)) for moment in (group.first_ts, group.last_ts))
    return f"{text}; failed {first if first == last else f'{first} to {last}'}"
