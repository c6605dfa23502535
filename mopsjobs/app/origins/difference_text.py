"""The difference of two jobs as text: for `diff`, and for the page that compares jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mopsjobs.app.origins.compare_jobs import SHORT_HASH, ComparedResults, JobDifference, set_text, value_text
from mopsjobs.app.origins.provenance import Provenance
from mopsjobs.console.terminal import title_text
from mopsjobs.utils.text import pluralize, repeats_text

SHOWN = 10
"""Names of each kind in the text. The JSON has more."""

SAME = "equal"

UNREAD = ", which no task read"
"""After the name of a file, if it is known."""

Line = str | list[str]


def _line(title: str, text: str) -> Line:
    return [title_text(title), text]


def difference_lines(found: JobDifference) -> list[Line]:
    """Return the difference of two jobs as text; results, if they were compared."""
    return list(_lines(found))


def _lines(found: JobDifference) -> Iterator[Line]:
    yield _line("Jobs", f"{found.first.job_id} -> {found.second.job_id}")
    yield from _code_lines(found)
    yield from _study_lines(found)
    yield from _environment_lines(found)
    if found.images is not None:
        yield _line("Image", _arrow(found.images))
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
    read = code.added + code.removed + code.changed if code.read is None else code.read
    commits = found.parts.commits
    git = "" if len(set(commits)) == 1 else f"; git {_arrow(commits)}"
    kinds = (("changed", code.changed, "~"), ("added", code.added, "+"), ("removed", code.removed, "-"))
    counts = ", ".join(f"{pluralize(len(names), 'file')} {kind}" for kind, names, _ in kinds if names)
    yield _line("Code", (counts or SAME) + git)
    for _, names, mark in kinds:
        yield from _some(f"  {mark} {name}{'' if name in read else UNREAD}" for name in names)
    for name, lines in code.diffs.items():
        if lines is None:
            yield f"  {name} is too large for a diff, or not a text"
        yield from lines or ()


def _study_lines(found: JobDifference) -> Iterator[Line]:
    study = found.parts.study
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
        yield from _some(f"  {mark} {set_text(one)}" for one in sets)


def _environment_lines(found: JobDifference) -> Iterator[Line]:
    environment = found.parts.environment
    if environment is None:
        yield _line("Packages", _not_recorded(found, lambda job: not job.environments))
        return
    if environment.fields:
        yield _line("Python", "; ".join(f"{name} {_arrow(pair)}" for name, pair in environment.fields.items()))
    packages = environment.packages
    yield _line("Packages", pluralize(len(packages), "difference") if packages else SAME)
    yield from _some(f"  {name}: {_arrow(pair, 'none')}" for name, pair in packages.items())


def _result_lines(results: ComparedResults, found: JobDifference) -> Iterator[Line]:
    told = {
        "unreadable": "not readable",
        "only_first": f"only in {found.first.job_id}",
        "only_second": f"only in {found.second.job_id}",
    }
    words = ", ".join(
        f"{pluralize(count, 'task')} {told.get(kind, kind)}" for kind, count in results.counts.items() if count
    )
    yield _line("Results", words or "none")
    for job, count in zip((found.first, found.second), results.repeated, strict=True):
        if count:
            yield f"  {pluralize(count, 'task')} of {job.job_id} {repeats_text(count)}: not counted"
    for kind, mark in (("different", "~"), ("unreadable", "?"), ("only_first", "-"), ("only_second", "+")):
        yield from _some(
            f"  {mark} {task.name[:SHORT_HASH]}…/{task.name.rpartition('/')[2]}: {', '.join(task.outputs[:SHOWN])}"
            for task in results.named[kind]
        )


def _some(lines: Iterator[str]) -> Iterator[str]:
    """Yield the first few lines, and a mark if there are more."""
    for number, line in enumerate(lines):
        if number == SHOWN:
            yield "  …"
            return
        yield line


def _arrow(pair: Sequence[object], missing: str = "not recorded") -> str:
    return " -> ".join(missing if value is None else value_text(value) for value in pair)
