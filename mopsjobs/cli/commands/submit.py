"""`submit`: run a study, on this machine or where it belongs."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mopsjobs.app.app import App
from mopsjobs.app.exit_codes import exit_code_of
from mopsjobs.app.foreground import run_here, stopped_code
from mopsjobs.app.job_arguments import parse_labels, positive_number
from mopsjobs.app.wait import Until, wait_for
from mopsjobs.bundles.bundle import parse_bundle_ref
from mopsjobs.bundles.extraction import BundleError
from mopsjobs.bundles.packing import ALWAYS_IN, PackedBundle
from mopsjobs.cli.flags import add_command
from mopsjobs.cli.launch_flags import (
    SCHEDULER_HELP,
    add_cluster_options,
    add_runner_flags,
    cluster_options,
    dask_options,
    launched_as,
    packed_here,
)
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.engines import ENGINES, open_engine
from mopsjobs.engines.base import Launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import HERE
from mopsjobs.errors import EXIT_JOB_FAILED, EXIT_NOT_FINISHED, EXIT_UNREACHABLE, EngineError, UsageError
from mopsjobs.registry.job_state import check_new_job_id
from mopsjobs.runner.model_errors import ModelError
from mopsjobs.runner.shard import Shard
from mopsjobs.studies.study import Study
from mopsjobs.studies.study_parser import load_study
from mopsjobs.submission.client import JobSubmissionClient, Submission, Submitted, new_job_id
from mopsjobs.utils.text import pluralize

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


EXAMPLES = """examples:
  mops-jobs submit study.json --auto
  mops-jobs submit study.yaml --auto --workers 4 --owner me --label exp=7
  mops-jobs submit study.json --auto --wait && echo plot the results
  mops-jobs submit study.json --bundle sha256:… --dry-run
  mops-jobs submit study.json --auto --engine kubernetes --image registry.example/mops-jobs:1 --shards 8
  mops-jobs submit study.json --auto --engine dask --scheduler tcp://10.0.0.5:8786
"""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `submit`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="run a study: pack the code, register the job, launch it",
        description="Run a study. A registry that does not answer never stops the launch.",
        epilog=EXAMPLES,
    )
    parser.add_argument("study", metavar="STUDY", help="the study, JSON or YAML; - for standard input")
    code = parser.add_mutually_exclusive_group(required=True)
    code.add_argument("--auto", action="store_true", help="pack the current directory as the model's code")
    code.add_argument("--bundle", metavar="SHA256", help="use this bundle, which is there already")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="where it runs (default: local)")
    parser.add_argument("--job-id", metavar="ID", help="its id (default: from model and time)")
    parser.add_argument("--owner", metavar="WHO", help="whose job it is (default: you)")
    parser.add_argument("--label", metavar="K=V", action="append", default=[], help="a label; repeat for more")
    add_runner_flags(parser)
    cluster = parser.add_argument_group("with --engine kubernetes")
    cluster.add_argument(
        "--shards", metavar="N", type=positive_number, help="parts, each a pod of its own (default: 1)"
    )
    add_cluster_options(cluster)
    dask = parser.add_argument_group("with --engine dask")
    dask.add_argument("--scheduler", metavar="URL", help=SCHEDULER_HELP)
    parser.add_argument(
        "--wait",
        action="store_true",
        help="until it has ended; the exit code tells how, as that of wait. On this machine it runs in the foreground",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="the job's id, as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Submit a study."""
    study = load_study(_read(args.study), args.study)
    labels = parse_labels(args.label)
    job_id = check_new_job_id(args.job_id or new_job_id(study, app.now()))
    launch = Launch(
        job_id=job_id,
        registry_url=app.settings.registry.value,
        **launched_as(args, args.engine, app.env, {})._asdict(),
        shards=1 if args.shards is None else args.shards,
        foreground=args.wait and args.engine in HERE,
        options=_engine_options(args, app),
    )
    if args.engine == "kubernetes":
        from mopsjobs.engines.kubernetes.manifest import check_launch

        check_launch(launch, app.env)
    with contextlib.ExitStack() as stack:
        packed = stack.enter_context(packed_here(app) if args.auto else contextlib.nullcontext(None))
        bundle = parse_bundle_ref(args.bundle) if packed is None else packed.digest
        if packed is not None and ALWAYS_IN not in packed.names:
            _check_model(study.model, packed, args.study, app)
        if args.dry_run:
            return _plan(args, study, launch, bundle, packed)
        client = JobSubmissionClient(
            app.store,
            app.registry,
            open_engine(args.engine, app.env),
            directory_of=lambda job: JobDir.of(job, app.env),
        )
        submission = Submission(
            job_id=job_id,
            study=study,
            bundle=bundle,
            packed=packed,
            owner=args.owner or _user(app.env),
            labels=labels,
        )
        submitted = client.submit(submission, launch)
    if args.wait:
        return _followed(args, app, launch, study, submitted)
    notes = [f"Launched {pluralize(study.tasks_total, 'task')}", f"Next: mops-jobs wait {job_id}"]
    if submitted.warnings:
        notes[1] = f"Without the registry: {submitted.launched.look}"
    return Result(_body(args, launch, study), notes=notes, warnings=submitted.warnings)


def _body(args: argparse.Namespace, launch: Launch, study: Study, status: str | None = None) -> Document | Text:
    told = {"job_id": launch.job_id, "engine": args.engine, "tasks_total": study.tasks_total, "status": status}
    return Document(told) if args.json else Text([launch.job_id])


def _followed(args: argparse.Namespace, app: App, launch: Launch, study: Study, submitted: Submitted) -> Result:
    """The job until its end: worked through by this very process, or looked at from here."""
    for warning in submitted.warnings:
        app.out.warn(warning)
    app.out.note(f"{launch.job_id}: {pluralize(study.tasks_total, 'task')}")
    if not launch.foreground:
        waited = wait_for([launch.job_id], app, Until())
        return Result(_body(args, launch, study, waited.states[0].status), exit_code=waited.exit_code)
    shard = Shard(
        launch.job_id,
        workers=launch.workers,
        python=launch.python,
        task_timeout=launch.task_timeout,
        scheduler=launch.options.get("scheduler"),
    )
    try:
        ran = run_here(shard, app, total=study.tasks_total)
    except (
        ModelError,
        BundleError,
        EngineError,
    ) as error:  # the record says so, or `partial` if tasks were complete before
        app.out.error(error)
        return Result(_body(args, launch, study, "failed"), exit_code=EXIT_JOB_FAILED)
    note = f"{launch.job_id}: {ran.status or 'state unknown'}, {ran.completed} tasks done, {ran.failed} failed"
    code = EXIT_UNREACHABLE if ran.status is None else exit_code_of({"status": ran.status})
    if code == EXIT_NOT_FINISHED or ran.signal is not None:
        code, note = stopped_code(ran), f"{note}. Go on: mops-jobs resume {launch.job_id}"
    return Result(_body(args, launch, study, ran.status), notes=[note], exit_code=code)


def _engine_options(args: argparse.Namespace, app: App) -> dict[str, str]:
    """What is asked of one engine alone. A flag that would have no effect is refused, not ignored."""
    given = cluster_options(args, args.engine)
    if args.engine == "dask":
        return dask_options(args, app)
    if args.scheduler is not None:
        raise UsageError(f"--scheduler has no effect with the {args.engine} engine.")
    return given


def _user(env: Mapping[str, str]) -> str | None:
    """Who submits: as the environment has it, else as the system knows whom the process belongs to."""
    if env.get("USER"):
        return env["USER"]
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    return None


def _read(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read the study {path}: {error.strerror}.") from None


def _check_model(model: str, packed: PackedBundle, study: str, app: App) -> None:
    """Whether a bundle without a wire function can have this model.

    A module that was not packed may be installed in the model's interpreter: that is worth a warning, no more.

    Raises:
        UsageError: no bundle can: it names no function.
    """
    module, _, function = model.partition(":")
    if not (function and module):
        raise UsageError(
            f"The study's model should be package.module:function, not {model}: {Path.cwd()}, which was packed, has no"
            f" {ALWAYS_IN} that names a wire function."
        )
    first = module.partition(".")[0]
    if any(name.startswith((f"{first}/", f"{first}.")) for name in packed.names):
        return
    beside = "" if study == "-" else str(Path(study).resolve().parent)
    where = f"; the study is in {beside}" if beside not in ("", str(Path.cwd().resolve())) else ""
    app.out.warn(f"The model's module {first} is not in {Path.cwd()}, which was packed{where}. Is it installed?")


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1e3:.1f} kB" if count < 999_950 else f"{count / 1e6:.1f} MB"


def _plan(args: argparse.Namespace, study: Study, launch: Launch, bundle: str, packed: PackedBundle | None) -> Result:
    job_id = launch.job_id
    python = launch.python or (sys.executable if args.engine == "local" else None)
    code = bundle
    if packed is not None:
        code = f"{bundle} ({Path.cwd()}: {pluralize(packed.files, 'file')}, {_size(packed.bytes)} packed)"
    outputs = "whatever each task leaves" if study.outputs is None else ", ".join(study.outputs)
    sets = pluralize(len(study.parameter_sets), "parameter set")
    lines = [
        f"Job      {job_id}",
        f"Study    {study.entrypoint}: {sets}, {pluralize(study.tasks_total, 'task')}",
        f"Bundle   {code}",
        f"Engine   {args.engine}",
        f"Python   {python or 'that of where it runs'}",
        f"Outputs  {outputs}, under results/{job_id}/",
    ]
    if args.json:
        plan = {"job_id": job_id, "tasks_total": study.tasks_total, "bundle": bundle, "engine": args.engine}
        files, size = (None, None) if packed is None else (packed.files, packed.bytes)
        return Result(
            Document({**plan, "bundle_files": files, "bundle_bytes": size, "python": python, "dry_run": True})
        )
    return Result(Text(lines), notes=["Nothing was done."])
