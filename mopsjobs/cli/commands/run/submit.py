"""`submit`: run a study on this machine, or on a cluster of Kubernetes, Dask or Slurm."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from mopsjobs.app.following.follow import follow
from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import add_label_flags, full_id_type, labels_of, positive_number
from mopsjobs.cli.launch_flags import add_launch_flags, code_to_pack
from mopsjobs.console.result import Document, RawText, Result, Text
from mopsjobs.engines import ENGINES, LOCAL_ENGINES
from mopsjobs.engines.base import Launch
from mopsjobs.errors import UsageError, command_line
from mopsjobs.studies.outputs import results_prefix
from mopsjobs.studies.seeds import MOPS_JOBS, describe_seeds
from mopsjobs.studies.study import Study
from mopsjobs.studies.study_parser import load_study, read_study
from mopsjobs.submission.launching import no_effect_error
from mopsjobs.submission.submit import PreparedJob, SubmitRequest, prepare, submit_prepared
from mopsjobs.utils.text import describe_duplicates, describe_sets, pluralize

HELP = "run a study: pack the code, register the job, launch it"

DESCRIPTION = (
    "Run a study: pack the model's code, register the job and launch it. If the registry does not answer, the job still"
    " runs, and this machine keeps what is to be stored."
)

EXAMPLES = (
    "mops-jobs submit study.json --auto",
    "mops-jobs submit study.yaml --extend nightly-1 --label exp=7 --wait && echo 'plot the results'",
    "mops-jobs submit study.json --auto --engine kubernetes --image registry.example/mops-jobs:1 --shards 8",
)


AUTO_HELP = "pack the current directory as the model's code"

BUNDLE_HELP = "use this bundle, which the registry already has"


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of a new job: its code, its engine, its id, its owner and its labels."""
    code = parser.add_mutually_exclusive_group()
    code.add_argument("--auto", action="store_true", help=AUTO_HELP)
    code.add_argument("--bundle", metavar="SHA256", help=f"{BUNDLE_HELP} (default: that of --extend JOB)")
    parser.add_argument(
        "--engine",
        metavar="ENGINE",
        choices=ENGINES,
        default="local",
        help=f"where the tasks run: {', '.join(ENGINES)} (default: local)",
    )
    parser.add_argument("--job-id", metavar="ID", help="id of the job (default: from model and time)")
    parser.add_argument("--owner", metavar="OWNER", help="owner of the job (default: the current user)")
    add_label_flags(parser)


def require_code(args: argparse.Namespace) -> None:
    """Refuse a new job without code.

    Raises:
        UsageError: if no flag names some.
    """
    if not args.auto and args.bundle is args.extend is None:
        raise UsageError(f"one of these flags is required: --auto ({AUTO_HELP}), --bundle ({BUNDLE_HELP}).")


def submit_request(args: argparse.Namespace, app: App, study: Study, file: str) -> SubmitRequest:
    """Return the request for a study by the flags of a new job. The file is that of the study or its calibration."""
    return SubmitRequest(
        study=study,
        code=code_to_pack(args, app),
        bundle=args.bundle,
        engine=args.engine,
        options=app.launch_options(vars(args)),
        job_id=args.job_id,
        owner=args.owner,
        labels=labels_of(args),
        study_directory=None if file == "-" else Path(file).resolve().parent,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("study", metavar="STUDY", help="study file, JSON or YAML; - for standard input")
    add_job_flags(parser)
    parser.add_argument(
        "--extend",
        metavar="JOB",
        type=full_id_type(parser),
        help="reuse the outputs of the job with this full id (literally after ./), and run only the tasks that it has"
        " not done (default: run all)",
    )
    parser.add_argument(
        "--without-targets",
        action="store_true",
        help="run the simulations of a study with targets, which are not evaluated (default: refuse the study)",
    )
    add_launch_flags(parser, "with --engine")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait until the job has ended, and exit as wait does; on this machine, run it in the foreground",
    )
    flags = parser.add_mutually_exclusive_group()
    flags.add_argument(
        "--dry-run", action="store_true", help="print what would be submitted, and what it will cost; submit nothing"
    )
    flags.add_argument(
        "--print-manifest",
        action="store_true",
        help="print the Job of Kubernetes that would be created, as YAML, or as JSON with --json; submit nothing",
    )
    parser.add_argument(
        "--probe",
        metavar="N",
        type=positive_number,
        help="with --dry-run: run N tasks here to learn their costs, and store nothing (default: by earlier jobs)",
    )
    parser.add_argument("--json", action="store_true", help="print the job's id in one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Submit a study."""
    require_code(args)
    if args.probe is not None and not args.dry_run:
        raise UsageError("--probe has no effect without --dry-run.")
    study = load_study(sys.stdin.buffer.read(), "-") if args.study == "-" else read_study(args.study)
    request = dataclasses.replace(
        submit_request(args, app, study, args.study),
        foreground=args.wait and args.engine in LOCAL_ENGINES,
        without_targets=args.without_targets,
        extend=args.extend,
    )
    if args.print_manifest and args.engine != "kubernetes":
        raise no_effect_error("print_manifest", args.engine)
    session = app.session()
    with prepare(request, session) as prepared:
        if args.print_manifest:
            return _manifest(prepared.launch, app, as_json=args.json)
        if args.dry_run:
            return _plan(prepared, app, args.probe, as_json=args.json)
        submitted = submit_prepared(prepared, session)
    if args.wait:
        app.out.warn_each(submitted.warnings)
        app.out.note(f"{submitted.job_id}: {_tasks_text(prepared)}")
        ending = follow(submitted.launch, app)
        body = _body(prepared, ending.status, as_json=args.json)
        return Result(body, notes=ending.notes, exit_code=ending.exit_code)
    following = f"Next: {command_line('wait', submitted.job_id)}"
    if submitted.warnings:
        following = f"Without the registry: {submitted.launched.show_command}"
    return Result(
        _body(prepared, None, as_json=args.json),
        notes=[f"Launched {_tasks_text(prepared)}", following],
        warnings=submitted.warnings,
    )


def _body(prepared: PreparedJob, status: str | None, *, as_json: bool) -> Document | Text:
    request, launch = prepared.request, prepared.launch
    if not as_json:
        return Text([launch.job_id])
    document = {"job_id": launch.job_id, "engine": request.engine, **prepared.counts()}
    return Document({**document, "status": status, "python": prepared.python})


def _count_tasks(study: Study, how: str = "") -> str:
    seeds = "" if study.seeds == MOPS_JOBS else f", seeds: {describe_seeds(study.seeds)}"
    most = "" if study.precision is None else "at most "
    return most + pluralize(study.tasks_total, "task") + how + describe_duplicates(len(study.duplicate_tasks())) + seeds


def _tasks_text(prepared: PreparedJob) -> str:
    """Return how many tasks were launched, and with which interpreter."""
    study, extension, python = prepared.request.study, prepared.extension, prepared.python
    reused = 0 if extension is None else extension.task_count
    if reused == study.tasks_total:
        return f"none of {pluralize(reused, 'task')}: all are reused"
    launched = f"{study.tasks_total - reused:,} of " if reused else ""
    return launched + _count_tasks(study, "" if python is None else f" with {python}")


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1e3:.1f} kB" if count < 999_950 else f"{count / 1e6:.1f} MB"


def _plan(prepared: PreparedJob, app: App, probe: int | None, *, as_json: bool) -> Result:
    """Show what a submission would do, and cost."""
    from mopsjobs.app.jobs.plan import make_plan, plan_document, plan_lines, plan_warnings  # here: few need it

    plan = make_plan(prepared, app, probe=probe)
    warnings = plan_warnings(plan, prepared.launch.max_cpu_hours)
    if as_json:
        return Result(Document(plan_document(prepared, plan)), warnings=warnings)
    request, launch, bundle, packed, _ = prepared
    study, job_id = request.study, launch.job_id
    code = bundle
    if packed is not None:
        code = f"{bundle} ({Path.cwd()}: {pluralize(packed.files, 'file')}, {_size(packed.bytes)} packed)"
    outputs = "every file that a task leaves" if study.outputs is None else ", ".join(study.outputs)
    sets = describe_sets(len(study.parameter_sets), study.different_sets)
    lines = [
        f"Job      {job_id}",
        f"Study    {study.entrypoint}: {sets}, {_count_tasks(study)}",
        f"Bundle   {code}",
        f"Engine   {request.engine}",
        f"Python   {prepared.python or 'the default of the engine'}",
        f"Outputs  {outputs}, under {results_prefix(job_id)}",
        *([] if study.reduce is None else [f"Reduce   {study.reduce}, after the tasks"]),
        *plan_lines(plan, request.engine, app),
    ]
    notes = ["Nothing was submitted." if probe else "Nothing was done."]
    return Result(Text(lines, indent=9), notes=notes, warnings=warnings)


def _manifest(launch: Launch, app: App, *, as_json: bool) -> Result:
    """Show the Kubernetes Job of a launch."""
    from mopsjobs.engines.kubernetes.manifest import preview_manifest  # here: few submissions show it
    from mopsjobs.utils.yaml_strict import format_yaml

    manifest = preview_manifest(launch, app.env)
    notes = ["Nothing was done. The pods wait for the bundle and the manifest of the job, which submit stores."]
    return Result(Document(manifest) if as_json else RawText(format_yaml(manifest)), notes=notes)
