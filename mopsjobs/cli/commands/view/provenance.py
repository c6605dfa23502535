"""`provenance`: show where the outputs of a job come from, or export that."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from mopsjobs.app.origins.provenance import (
    Provenance,
    calibration_json,
    origin_of_sets,
    read_provenance,
    replicates_of,
    study_json,
)
from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import add_job_names
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import TITLE_WIDTH, title_text
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE
from mopsjobs.ledger.environment import Environment
from mopsjobs.registry.calibration_counts import params_text
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.precision import Precision
from mopsjobs.studies.seeds import describe_seeds
from mopsjobs.utils.text import cut_to_length, describe_sets, pluralize, strip_control_characters
from mopsjobs.utils.times import whole_seconds

HELP = "show code, study, packages and machines of a job, or export them"

DESCRIPTION = (
    "Show where the outputs of a job come from: its code with the git commit, its study, Python and packages, its"
    " image, its machines, and the versions of mops-jobs. With --ro-crate, write all of it to a directory as an"
    " RO-Crate (Process Run Crate), with the study, the code and the outputs."
)

EXAMPLES = (
    "mops-jobs provenance @latest",
    "mops-jobs provenance nightly-1 --json | jq .environments[].packages.numpy",
    "mops-jobs provenance nightly-1 --ro-crate nightly-1-crate",
)

NOT_RECORDED = "not recorded"

SHOWN_PACKAGES = 40

SHOWN_HOSTS = 10

MAX_OBJECTIVE = 300
"""Characters of the objective of a calibration."""

Line = str | list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="print one JSON object, with all files and packages")
    what.add_argument("--ro-crate", metavar="DIRECTORY", help="write an RO-Crate to this new or empty directory")
    parser.add_argument(
        "--license", metavar="TEXT", help="license of the RO-Crate, a name or a URL (default: not stated)"
    )
    parser.add_argument("--without-results", action="store_true", help="leave the outputs out of the RO-Crate")


def run(args: argparse.Namespace, app: App) -> Result:
    """Show or export the provenance of a job."""
    if args.ro_crate is not None:
        return _export(args, app)
    found = read_provenance(args.job, app)
    body = Document(found.to_json()) if args.json else Text(_lines(found), indent=TITLE_WIDTH)
    return Result(body, warnings=found.problems, exit_code=EXIT_PARTLY_DONE if found.problems else EXIT_DONE)


def _export(args: argparse.Namespace, app: App) -> Result:
    from mopsjobs.app.origins.ro_crate import write_crate
    from mopsjobs.bundles.packing import METADATA_FILE

    directory = Path(args.ro_crate)
    with app.out.progress("files") as on_progress:
        with_results = not args.without_results
        files, problems = write_crate(
            args.job, directory, app, license_text=args.license, with_results=with_results, on_progress=on_progress
        )
    note = f"{pluralize(files, 'file')} in {directory}; {directory / METADATA_FILE} describes them"
    return Result(notes=[note], warnings=problems, exit_code=EXIT_PARTLY_DONE if problems else EXIT_DONE)


def _lines(found: Provenance) -> list[Line]:
    job = found.job
    lines: list[Line] = []

    def add(title: str, text: object) -> None:
        lines.append([title_text(title), str(text or NOT_RECORDED)])

    add("Job", found.job_id)
    add("Status", job["status"])
    if job["parent_job_id"] is not None:
        add("Parent", job["parent_job_id"])
    by = "" if job["owner"] is None else f" by {job['owner']}"
    add("Submitted", f"{whole_seconds(job['created_at'])}{by}{_with_version(found.submitter)}")
    add("Ran", _times(found))
    if found.reused:
        add("Reused", ", ".join(f"{pluralize(one.task_count, 'task')} of {one.job_id}" for one in found.reused))
    add("Study", _study(found))
    if found.manifest is not None:
        lines += _calibration(found.manifest)
    add("Code", _code(found))
    add("Git", found.git and found.git.commit + _CHANGES[found.git.is_dirty])
    if found.allows_old_checkpoints:
        add("Old code", "tasks could go on from checkpoints of other code or packages")
    if job["engine"] == "kubernetes" or found.image is not None:
        add("Image", found.image)
    hosts = found.hosts or []
    more = f" and {len(hosts) - SHOWN_HOSTS} more" if len(hosts) > SHOWN_HOSTS else ""
    add("Hosts", ", ".join(hosts[:SHOWN_HOSTS]) + more)
    for environment in found.environments:
        add("Python", _python(environment))
        add("Packages", _packages(environment))
    if not found.environments:
        add("Python", None)
    return lines


_CHANGES = {True: ", with changes", False: ", without changes", None: ", changes not known"}


def _with_version(version: str | None) -> str:
    return f", with mops-jobs {version}" if version else ""


def _times(found: Provenance) -> str | None:
    start, end = found.job["started_at"], found.job["ended_at"]
    if start is None and end is None:
        return None
    place = f" on {found.job['engine']}" if found.job["engine"] else ""
    words = ["?" if time is None else whole_seconds(str(time)) for time in (start, end)]
    return f"{words[0]} to {words[1]}{place}"


def _study(found: Provenance) -> str | None:
    if found.manifest is None:
        return None
    study, of = study_json(found.manifest), found.manifest.study
    replicates, at_most = replicates_of(found.manifest), "" if of.precision is None else "at most "
    most = replicates.max if isinstance(replicates, Precision) else replicates
    has_fewer = isinstance(replicates, Precision) or any(one.seed is not None for one in of.parameter_sets)
    up_to = "up to " if has_fewer and most > 1 else ""
    sets = describe_sets(study["parameter_sets"], study["different_parameter_sets"])
    counts = f"{pluralize(study['parameters'], 'parameter')}, {sets}"
    return (
        f"{study['digest']}: {study['model']}/{study['scenario']}, {counts},"
        f" {up_to}{pluralize(most, 'replicate')}, {at_most}{pluralize(study['tasks'], 'task')}"
        f", seeds: {describe_seeds(of.seeds)}"
    )


def _calibration(manifest: Manifest) -> Iterator[Line]:
    """Yield what a calibration searches and by which sampler, and where the sets of a study come from."""
    searched, origin = calibration_json(manifest), origin_of_sets(manifest)
    if searched is not None:
        options = params_text(searched["options"])
        words = [searched["sampler"], f"seed {searched['seed']}", searched["mode"], *([options] if options else [])]
        yield [title_text("Sampler"), ", ".join(words)]
        yield [title_text("Objective"), cut_to_length(json.dumps(searched["objective"]), MAX_OBJECTIVE)]
        if searched["extends"] is not None:
            yield [title_text("Extends"), str(searched["extends"])]
    if origin is not None:
        which = f", {origin['sets']}" if origin["sets"] else ""
        yield [title_text("Sets of"), strip_control_characters(f"calibration {origin['job_id']}{which}")]


def _code(found: Provenance) -> str | None:
    if found.manifest is None:
        return None
    if found.files is None:
        return f"{found.manifest.bundle}, which cannot be read"
    size = sum(file.size for file in found.files)
    read = "" if found.files_read is None else f", of which tasks read {len(found.files_read):,}"
    return f"{found.manifest.bundle}, {pluralize(len(found.files), 'file')} of {size:,} bytes{read}"


def _python(environment: Environment) -> str:
    words = [environment.implementation, environment.python]
    place = ", ".join(word for word in (environment.platform, environment.libc) if word)
    name = " ".join(word for word in words if word)
    return f"{name or '?'}{f' on {place}' if place else ''}{_with_version(environment.mops_jobs)}"


def _packages(environment: Environment) -> str:
    names = [f"{name} {version}".strip() for name, version in environment.packages.items()]
    more = f" and {len(names) - SHOWN_PACKAGES:,} more; --json has them all" if len(names) > SHOWN_PACKAGES else ""
    return f"{len(names):,}: {', '.join(names[:SHOWN_PACKAGES])}{more}" if names else "none"
