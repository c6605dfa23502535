"""`register`, `update`, `progress`: any shell script or pod reports a job of its own."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from mopsjobs.app.app import App
from mopsjobs.app.job_arguments import parse_labels
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import Document, Result
from mopsjobs.errors import UsageError
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus, parse_status

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


_PROGRESS = re.compile(r"(\d{1,15})(?:/(\d{1,15}))?", re.ASCII)


_HELP = {
    "register": "register a job, as pending",
    "update": "move a job to another status, or set what is known of it",
    "progress": "tell how many tasks of a job are done",
}


_EXAMPLES = {
    "register": "example:\n  mops-jobs register nightly-1 --owner me --label exp=7 --total 10\n",
    "update": "examples:\n  mops-jobs update nightly-1 running\n"
    '  mops-jobs update nightly-1 failed --error-code OOM --error "killed at 12 GiB"\n',
    "progress": "example:\n  mops-jobs progress nightly-1 5/10\n",
}


_FIELDS = {
    "owner": ("--owner", "WHO", "whose job it is"),
    "k8s_name": ("--k8s-name", "NAME", "name of its Kubernetes Job"),
    "k8s_namespace": ("--namespace", "NS", "namespace of its Kubernetes Job"),
    "k8s_uid": ("--k8s-uid", "UID", "uid of its Kubernetes Job"),
    "engine": ("--engine", "NAME", "where its tasks run"),
    "parent_job_id": ("--parent", "JOB", "the job that it resumes"),
    "results_path": ("--results", "PATH", "where its results are"),
    "error_message": ("--error", "TEXT", "what went wrong"),
    "error_code": ("--error-code", "CODE", "a short word for it, like OOM"),
}


_AT_REGISTRATION = ("owner", "k8s_name", "k8s_namespace", "k8s_uid", "engine", "parent_job_id", "results_path")


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `register`, `update` or `progress`."""
    parser = add_command(
        commands,
        name,
        parents,
        help=_HELP[name],
        description=f"{_HELP[name][0].upper()}{_HELP[name][1:]}.",
        epilog=_EXAMPLES[name],
    )
    parser.add_argument("job", metavar="JOB", help="its id")
    if name == "progress":
        parser.add_argument(
            "done", metavar="DONE[/TOTAL]", help="tasks done so far, and in all; the job then is running"
        )
        parser.add_argument("--failed", metavar="N", type=_count, help="tasks that ended in an error")
    else:
        if name == "update":
            statuses = ", ".join(JobStatus)
            parser.add_argument("status", metavar="STATUS", nargs="?", help=f"its new status: {statuses}")
        for field in _AT_REGISTRATION if name == "register" else _FIELDS:
            flag, metavar, text = _FIELDS[field]
            parser.add_argument(flag, dest=field, metavar=metavar, help=text)
        parser.add_argument("--total", dest="tasks_total", metavar="N", type=_count, help="how many tasks it has")
        parser.add_argument("--label", metavar="K=V", action="append", default=[], help="a label; repeat for more")
        parser.add_argument("--metadata", metavar="JSON", help="anything else, as a JSON object")
    parser.add_argument("--json", action="store_true", help="the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Report a job."""
    state = {"register": _register, "update": _update, "progress": _progress}[args.command](args, app)
    if args.json:
        return Result(Document(job_json_from_state(state, now=app.now().timestamp())))
    done, total = state.tasks_completed, state.tasks_total
    progress = f", {done}/{total} tasks" if total else f", {done} tasks done" if done else ""
    return Result(notes=[f"{state.job_id}: {state.status}{progress}"])


def _register(args: argparse.Namespace, app: App) -> JobState:
    return app.registry.register_job(args.job, **_fields(args))


def _update(args: argparse.Namespace, app: App) -> JobState:
    fields = _fields(args)
    if args.status is not None:
        return app.registry.update_status(args.job, parse_status(args.status), **fields)
    if not fields:
        raise UsageError("Nothing to update: give a status, or a flag that sets something.")
    return app.registry.update_fields(args.job, **fields)


def _progress(args: argparse.Namespace, app: App) -> JobState:
    counts = _PROGRESS.fullmatch(args.done)
    if counts is None:
        raise UsageError(f"'{args.done}' is no progress: use DONE or DONE/TOTAL, like 5/10.")
    done, total = (None if count is None else int(count) for count in counts.groups())
    if total == 0:
        raise UsageError(f"'{args.done}' is no progress: there is at least one task, or leave the total out.")
    before = 0

    def look(state: JobState) -> None:
        nonlocal before
        before = state.tasks_completed

    failed = args.failed
    state = app.registry.update_progress(args.job, done, total, tasks_failed=failed, start=True, on_before=look)
    if done is not None and done < before:
        # Written all the same: a pod that was begun anew counts from the beginning, and its script must not end here.
        app.out.warn(f"{state.job_id}: progress went back from {before} to {done} tasks.")
    return state


def _fields(args: argparse.Namespace) -> dict[str, Any]:
    """The record's fields that the command line sets."""
    fields: dict[str, Any] = {
        name: getattr(args, name) for name in (*_FIELDS, "tasks_total") if getattr(args, name, None) is not None
    }
    if args.label:
        fields["labels"] = parse_labels(args.label)
    if args.metadata is not None:
        try:
            metadata = json.loads(args.metadata)
        except (ValueError, RecursionError):
            metadata = None
        if not isinstance(metadata, dict):
            raise UsageError("--metadata takes a JSON object, like '{\"seed\": 7}'.")
        fields["metadata"] = metadata
    return fields


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise argparse.ArgumentTypeError(f"'{text}' is no count: use a whole number")
    return int(text)
