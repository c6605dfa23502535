"""`doctor`: check configuration, registry and cache. Each check names its fix."""

from __future__ import annotations

import argparse

from mopsjobs.app.care.checks import run_checks
from mopsjobs.app.run.app import App
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import style_text
from mopsjobs.engines import CLUSTER_ENGINES
from mopsjobs.errors import UsageError, command_line

HELP = "check configuration, registry and cache, with a fix for each problem"

DESCRIPTION = (
    "Check configuration, registry and cache, and name a fix for each problem. The exit code is that of the first check"
    " that fails. A server of S3's API other than Amazon's is probed for conditional writes, with keys of its own."
)

EXAMPLES = (
    "mops-jobs doctor",
    "mops-jobs doctor --engine kubernetes",
    "mops-jobs doctor --json | jq '.checks[] | select(.state != \"ok\")'",
)

SCHEMA_VERSION = 1

SHOWN_PROBLEMS = 20

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


PLACES = {
    "namespace": ("kubernetes", "the namespace of the cluster (default: that of the kubeconfig)"),
    "partition": ("slurm", "the partition of Slurm to check (default: that of the cluster)"),
    "account": ("slurm", "the account of Slurm to check (default: that of the user)"),
}
"""Flags about the place of jobs on a cluster: the engine of each, and its help."""

DETAIL_COLUMN = 17


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    engine = "check also that this user can run jobs on a cluster; nothing is created"
    parser.add_argument("--engine", choices=CLUSTER_ENGINES, help=engine)
    for name, (_, text) in PLACES.items():
        parser.add_argument(f"--{name}", metavar="NAME", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace, app: App) -> Result:
    """Check everything."""
    for name, (engine, _) in PLACES.items():
        if getattr(args, name) is not None and args.engine != engine:
            raise UsageError(f"--{name} has no effect without --engine {engine}.")
    diagnosis = run_checks(app)
    if args.engine is not None:
        from mopsjobs.app.care import engine_checks  # here: the other checks need no client of clusters

        diagnosis.results += (
            engine_checks.check_kubernetes(app, args.namespace)
            if args.engine == "kubernetes"
            else engine_checks.check_slurm_launch(app.env, args.partition, args.account)
        )
    problems, exit_code = diagnosis.problems or [], diagnosis.exit_code
    if args.json:
        document = {
            "schema_version": SCHEMA_VERSION,
            "checks": [
                {"name": one.name, "state": one.state, "detail": one.detail, "fix": one.fix}
                for one in diagnosis.results
            ],
            "problems": [problem._asdict() for problem in problems],
        }
        return Result(Document(document), exit_code=exit_code)
    lines: list[str | list[str]] = []
    for check in diagnosis.results:
        lines.append([style_text(f"{check.state:<5}", STYLES[check.state]), f"{check.name:<12}", check.detail])
        if check.fix is not None:
            lines.append(f"{'':{DETAIL_COLUMN}}fix: {check.fix}")
    lines += [f"{'':{DETAIL_COLUMN}}{key}: {reason}" for key, _, reason in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        lines.append(f"{'':{DETAIL_COLUMN}}and {len(problems) - SHOWN_PROBLEMS} more: {command_line('doctor --json')}")
    return Result(Text(lines, indent=DETAIL_COLUMN), exit_code=exit_code)
