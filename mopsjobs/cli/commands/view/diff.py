"""`diff`: name what differs between two jobs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mopsjobs.app.origins.compare_jobs import CompareOptions, JobDifference, compare_jobs
from mopsjobs.app.run.app import App
from mopsjobs.app.run.job_arguments import ShortName
from mopsjobs.cli.flags import add_job_names
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import TITLE_WIDTH, title_text
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, shorten
from mopsjobs.utils.text import pluralize

if TYPE_CHECKING:
    from mopsjobs.app.origins.provenance import Provenance
    from mopsjobs.bundles.git_state import GitState
    from mopsjobs.studies.compare_results import ComparedResults

HELP = "name what differs between two jobs: code, study, packages, results"

DESCRIPTION = (
    "Name what differs between two jobs: files of the code, the study and its parameter sets, Python and packages, the"
    " image, and the outputs of the tasks that both have, by parameter set and seed. Outputs of equal size are read and"
    " compared. The exit code does not tell whether the jobs differ."
)

EXAMPLES = (
    "mops-jobs diff nightly-1 nightly-2",
    "mops-jobs diff nightly-1 nightly-2 --code --without-results",
    "mops-jobs diff nightly-1 @latest --json | jq .environment.packages",
)

SHOWN = 10
"""Names of each kind in the text. The JSON has more."""

MAX_VALUE = 60
"""Characters of a value in the text."""

SHORT_ID = 12

SAME = "equal"

Line = str | list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser, "first")
    parser.add_argument(
        "second", metavar="OTHER", type=ShortName, help="the job to compare with, named in the same way"
    )
    parser.add_argument("--code", action="store_true", help="print the changed lines of the code")
    parser.add_argument("--without-results", action="store_true", help="leave out the outputs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Compare two jobs."""
    options = CompareOptions(with_lines=args.code, with_results=not args.without_results)
    with app.out.progress("tasks") as on_progress:
        found = compare_jobs(args.first, args.second, options, app, on_progress)
    warnings = list(dict.fromkeys([*found.first.problems, *found.second.problems]))
    exit_code = EXIT_PARTLY_DONE if warnings else EXIT_DONE
    if args.json:
        return Result(Document(found.to_json()), warnings=warnings, exit_code=exit_code)
    return Result(Text(list(_lines(found)), indent=TITLE_WIDTH), warnings=warnings, exit_code=exit_code)


def _line(title: str, text: str) -> Line:
    return [title_text(title), text]


def _lines(found: JobDifference) -> Iterator[Line]:
    yield _line("Jobs", f"{found.first.job_id} -> {found.second.job_id}")
    yield from _code_lines(found)
    yield from _study_lines(found)
    yield from _environment_lines(found)
    if found.image is not None:
        yield _line("Image", _arrow(found.image))
    if found.results is not None:
        yield from _result_lines(found.results, found)


def _not_recorded(found: JobDifference, lacks: Callable[[Provenance], bool]) -> str:
    """Return which job lacks a part, so that it is not compared."""
    lacking = [job.job_id for job in (found.first, found.second) if lacks(job)]
    return f"not recorded of {lacking[0] if len(lacking) == 1 else 'either job'}"


def _code_lines(found: JobDifference) -> Iterator[Line]:
    code = found.code
    if code is None:
        yield _line("Code", _not_recorded(found, lambda job: job.files is None))
        return
    commits = [_commit(job.git) for job in (found.first, found.second)]
    git = "" if commits[0] == commits[1] else f"; git {_arrow((commits[0], commits[1]))}"
    kinds = (("changed", code.changed, "~"), ("added", code.added, "+"), ("removed", code.removed, "-"))
    counts = ", ".join(f"{pluralize(len(names), 'file')} {kind}" for kind, names, _ in kinds if names)
    yield _line("Code", (counts or SAME) + git)
    for _, names, mark in kinds:
        yield from _some(f"  {mark} {name}" for name in names)
    for name, lines in code.diffs.items():
        if lines is None:
            yield f"  {name} is too large for a diff, or not a text"
        yield from lines or ()


def _commit(git: GitState | None) -> str | None:
    return git and git.commit[:SHORT_ID] + (" with changes" if git.is_dirty else "")


def _study_lines(found: JobDifference) -> Iterator[Line]:
    study = found.study
    if study is None:
        yield _line("Study", _not_recorded(found, lambda job: job.manifest is None))
        return
    counts = [
        f"{pluralize(count, 'parameter set')} only in {job.job_id}"
        for count, job in zip(study.others, (found.first, found.second), strict=True)
        if count
    ]
    fields = [f"other {', '.join(study.fields)}"] if study.fields else []
    common = [f"{study.common:,} in both"] if counts else []
    yield _line("Study", ", ".join([*fields, *counts, *common]) or SAME)
    for name, pair in study.fields.items():
        yield f"  {name}: {_arrow(pair, 'none')}"
    for mark, sets in zip("-+", study.other_sets, strict=True):
        yield from _some(f"  {mark} {_set_text(one)}" for one in sets)


def _set_text(one: Mapping[str, Any]) -> str:
    params = ", ".join(f"{name}={_value(value)}" for name, value in one["params"].items())
    return shorten(params if one["seed"] is None else f"{params}, seed {one['seed']}", 2 * MAX_VALUE)


def _environment_lines(found: JobDifference) -> Iterator[Line]:
    environment = found.environment
    if environment is None:
        yield _line("Packages", _not_recorded(found, lambda job: not job.environments))
        return
    if environment.fields:
        yield _line("Python", "; ".join(f"{name} {_arrow(pair)}" for name, pair in environment.fields.items()))
    packages = environment.packages
    yield _line("Packages", pluralize(len(packages), "difference") if packages else SAME)
    yield from _some(f"  {name}: {_arrow(pair, 'none')}" for name, pair in packages.items())


def _result_lines(results: ComparedResults, found: JobDifference) -> Iterator[Line]:
    counts = (
        (results.equal, "equal"),
        (results.different, "different"),
        (results.unreadable, "not readable"),
        (results.only_first, f"only in {found.first.job_id}"),
        (results.only_second, f"only in {found.second.job_id}"),
    )
    words = ", ".join(f"{pluralize(count, 'task')} {word}" for count, word in counts if count)
    yield _line("Results", words or "none")
    for kind, mark in (("different", "~"), ("unreadable", "?"), ("only_first", "-"), ("only_second", "+")):
        yield from _some(
            f"  {mark} {task.name[:SHORT_ID]}…/{task.name.rpartition('/')[2]}: {', '.join(task.outputs[:SHOWN])}"
            for task in results.named[kind]
        )


def _some(lines: Iterator[str]) -> Iterator[str]:
    """Yield the first few lines, and a mark if there are more."""
    for number, line in enumerate(lines):
        if number == SHOWN:
            yield "  …"
            return
        yield line


def _arrow(pair: tuple[object, object], missing: str = "not recorded") -> str:
    return " -> ".join(missing if value is None else _value(value) for value in pair)


def _value(value: object) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value), MAX_VALUE)
