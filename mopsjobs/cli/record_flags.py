"""The fields of a record as flags: shared by register, update and progress."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any

from mopsjobs.app.run.app import App
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import full_id_type, parse_labels
from mopsjobs.console.result import Document, Result
from mopsjobs.errors import UsageError
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import NOTE
from mopsjobs.utils.text import out_of, parse_whole_number, pluralize

_FLAGS = {
    "owner": ("--owner", "OWNER", "owner of the job"),
    "k8s_name": ("--k8s-name", "NAME", "name of its Kubernetes Job"),
    "k8s_namespace": ("--namespace", "NAMESPACE", "namespace of its Kubernetes Job"),
    "k8s_uid": ("--k8s-uid", "UID", "uid of its Kubernetes Job"),
    "engine": ("--engine", "ENGINE", "engine that runs its tasks"),
    "parent_job_id": ("--parent", "JOB", "full id (literally after ./) of the job that it resumes"),
    "results_path": ("--results", "PATH", "place of its results"),
    "error_message": ("--error", "TEXT", "error message"),
    "error_code": ("--error-code", "CODE", "short word for the error, like OOM"),
}

MAX_TASKS = 10**15 - 1


def add_record_flags(parser: argparse.ArgumentParser, *, with_error: bool = True) -> None:
    """Declare a flag for each field, and those of the total, labels and metadata. A new job has no error."""
    for field, (flag, metavar, text) in _FLAGS.items():
        if field.startswith("error") and not with_error:
            continue
        kind = full_id_type(parser) if metavar == "JOB" else str
        parser.add_argument(flag, dest=field, metavar=metavar, type=kind, help=text)
    parser.add_argument("--total", dest="tasks_total", metavar="N", type=reported_count, help="number of its tasks")
    label_help = "set a label; repeat for more"
    parser.add_argument("--label", metavar="KEY=VALUE", action="append", default=[], help=label_help)
    parser.add_argument("--note", metavar="TEXT", help="note about the job, in place of an earlier one")
    parser.add_argument("--metadata", metavar="JSON", help="any other facts, as a JSON object")


def record_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Return the record's fields that the command line sets.

    Raises:
        UsageError: if a label or the metadata is malformed.
    """
    fields: dict[str, Any] = {
        name: getattr(args, name) for name in (*_FLAGS, "tasks_total") if getattr(args, name, None) is not None
    }
    if args.label:
        fields["labels"] = parse_labels(args.label)
    if args.metadata is not None:
        metadata = None
        with contextlib.suppress(ValueError, RecursionError):
            metadata = json.loads(args.metadata)
        if not isinstance(metadata, dict):
            raise UsageError("invalid --metadata: expected a JSON object, like '{\"seed\": 7}'.")
        fields["metadata"] = metadata
    if args.note is not None:
        fields["metadata"] = {**fields.get("metadata", {}), NOTE: args.note}
    return fields


def reported_count(text: str) -> int:
    """Read a number of tasks that a program reports: the type of an argument.

    Raises:
        ArgumentTypeError: if it is not a whole number.
    """
    number = parse_whole_number(text, 0, MAX_TASKS)
    if number is None:
        raise argparse.ArgumentTypeError(f"invalid number '{text}': expected a whole number, 0 or more")
    return number


def report_result(args: argparse.Namespace, app: App, state: JobState, *, change: str | None = None) -> Result:
    """Return the result of a report: the job as it is now; for people, the change, or else its status."""
    if args.json:
        return Result(Document(job_json_from_state(state, now=app.now().timestamp())))
    if change is not None:
        return Result(notes=[f"{state.job_id}: {change}"])
    done, total = state.tasks_completed, state.tasks_total
    progress = f", {out_of(done, total)} tasks" if total else f", {pluralize(done, 'task')} done" if done else ""
    return Result(notes=[f"{state.job_id}: {state.status}{progress}"])
