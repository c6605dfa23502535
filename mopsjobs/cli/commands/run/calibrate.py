"""`calibrate`: search the parameters of a model for small values of an objective, as one job."""

from __future__ import annotations

import argparse

from mopsjobs.app.following.calibrate import (
    DRAWS,
    TOP,
    Calibrated,
    CalibrateRequest,
    Then,
    calibrate,
    describe_round,
    document_of,
    submit_then,
    value_text,
)
from mopsjobs.app.run.app import App
from mopsjobs.app.run.user_trust import user_trust
from mopsjobs.cli.commands.run.submit import add_job_flags, require_code, submit_request
from mopsjobs.cli.flags import add_trust, flag_of, full_id_type, positive_number
from mopsjobs.cli.launch_flags import add_launch_flags
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.errors import UsageError, command_line
from mopsjobs.registry.calibration_counts import failed_text, params_text, round_word
from mopsjobs.studies.calibration import read_calibration
from mopsjobs.studies.field_values import MAX_TASKS
from mopsjobs.studies.journal import Journal, counts_of
from mopsjobs.studies.study_parser import StudyError, read_document, read_file
from mopsjobs.utils.text import parse_whole_number, pluralize

HELP = "search parameters round by round, in one job"

DESCRIPTION = (
    "Search the parameters of a model for small values of an objective. A sampler asks for parameter sets, round by"
    " round, in one job. After an interrupt or a crash, calibrate JOB goes on."
)

EXAMPLES = (
    "mops-jobs calibrate spec.json --auto --workers 8",
    "mops-jobs calibrate seir-1",
    "mops-jobs calibrate spec.json --auto --then top=50 predict.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "spec",
        metavar="SPEC|JOB",
        help="file of a calibration, whose name ends in .json, .yaml or .yml; or the full id of one to go on with",
    )
    add_job_flags(parser)
    parser.add_argument(
        "--extend",
        metavar="JOB",
        type=full_id_type(parser),
        help="tell the sampler first what this earlier calibration found (default: begin anew)",
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=positive_number,
        help="rounds of the calibration, those of earlier ones included (default: those of SPEC)",
    )
    parser.add_argument(
        "--then",
        metavar=("top=N", "STUDY"),
        nargs=2,
        help="afterwards, submit the best N sets, or with draws=N posterior draws of the sampler, with replicates,"
        " outputs and other fields of STUDY (default: nothing)",
    )
    add_trust(parser)
    add_launch_flags(parser, "with --engine")
    parser.add_argument("--json", action="store_true", help="print the result in one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Run a calibration."""
    is_file, names_file = (str(name).lower().endswith((".json", ".yaml", ".yml")) for name in (args.spec, args.job_id))
    if names_file:  # to go on with it, its id would be read as a file
        raise UsageError(f"invalid --job-id '{args.job_id}': expected another ending, since SPEC ends so.")
    calibration = read_calibration(args.spec) if is_file else None
    if is_file:
        require_code(args)
    else:
        _check_going_on(args)
    then = None if args.then is None else _read_then(*args.then)
    request = CalibrateRequest(
        calibration=calibration,
        job_id=None if is_file else args.spec,
        submit=lambda study: submit_request(args, app, study, args.spec),
        extends=args.extend,
        rounds=args.rounds,
        draws=then is not None and then.kind == DRAWS,
    )

    def on_begin(job_id: str) -> None:
        app.out.note(f"Calibrating as {job_id}. After an interrupt: {command_line('calibrate', job_id)}")

    def on_round(_job_id: str, journal: Journal) -> None:
        app.out.note(describe_round(journal))

    done = calibrate(request, app, user_trust(args.trust, app), on_begin, on_round)
    document, notes = document_of(done), done.notes
    if then is not None:
        job_id, status = submit_then(done, then, request, app)
        document["then"] = job_id
        how, verb = f"Launched {job_id}", "wait"
        if status is not None:
            how, verb = f"{job_id} was submitted before, and is {status}", "status"
        notes = (f"{how}. Next: {command_line(verb, job_id)}",)
    body = Document(document) if args.json else Text(_lines(done), indent=9)
    return Result(body, notes=notes, exit_code=done.exit_code)


def _check_going_on(args: argparse.Namespace) -> None:
    """Refuse flags of a new job for a calibration that goes on in its own.

    Raises:
        UsageError: if there is one.
    """
    given = [name for name in ("auto", "bundle", "job_id", "owner", "label", "sweep") if getattr(args, name)]
    if args.extend is not None:
        raise UsageError("--extend has no effect with the id of a calibration.")
    if given and args.rounds is None:
        raise UsageError(f"{flag_of(given[0])} has no effect with the id of a calibration, unless --rounds is given.")


def _read_then(sets: str, path: str) -> Then:
    kind, _, number = sets.partition("=")
    size = parse_whole_number(number, 1, MAX_TASKS)
    if kind not in (TOP, DRAWS) or size is None:
        raise UsageError(f"invalid --then '{sets[:100]}': expected top=N or draws=N, with a number of parameter sets.")
    document = read_document(read_file(path, "study"), path)
    if not isinstance(document, dict):
        raise StudyError(path, ["expected an object"])
    return Then(kind, size, document, path)


def _lines(done: Calibrated) -> list[str]:
    best, counts = done.journal.best, counts_of(done.journal)
    rounds = "" if counts["asynchronous"] else f" in {pluralize(counts['rounds'], 'round')}"
    sets = f"{pluralize(counts['sets'], 'set')}{rounds}{failed_text(counts) or ', 0 failed'}"
    lines = [f"Job      {done.job_id}", f"Sets     {sets}"]
    if best is not None:
        params = params_text(done.journal.calibration.asked_of(best.params))
        lines += [f"Best     {value_text(best)} in {round_word(counts)} {best.round}", f"With     {params}"]
    return lines
