"""Turn jobs into the rows of the page that compares them: an aspect per row, a job per column. Pure.

What differs is found by the functions of `diff`. A part of a job that is not known has a text that says so. It makes
no difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from mopsjobs.app.jobs.job_texts import memory_text, note_text
from mopsjobs.app.origins.compare_jobs import STUDY_FIELDS, compare_environments, compare_files, compare_studies
from mopsjobs.app.origins.provenance import printable
from mopsjobs.bundles.extraction import BundleFile
from mopsjobs.bundles.git_state import GitState
from mopsjobs.cache.job_json import count_run, reused_text
from mopsjobs.cache.rows import error_of
from mopsjobs.engines.base import engine_of
from mopsjobs.ledger.environment import Environment
from mopsjobs.studies.study import Study
from mopsjobs.utils.text import cut_to_length, pluralize
from mopsjobs.utils.times import human_duration
from mopsjobs.web.pages.compare_cells import MAX_TEXT, NONE, Cell, Missing, Row, Section, Values, make_row
from mopsjobs.web.pages.compare_scalars import ScalarDifference, ScalarStatistics, compare_scalar
from mopsjobs.web.queries.view_models import Job, job_path, status
from mopsjobs.web.site.job_provenance import KeptProvenance

SHOWN_FILES = 20

SHOWN_PACKAGES = 40

SHOWN_SETS = 3
"""Parameter sets of a job that others lack."""

MAX_VALUE = 60
"""Characters of a value that is named beside others."""

SAME_COST = 1.1
"""How many times as much as another an amount may be that does not differ: no two runs take the same time."""

SHORT_HASH = 12

NOT_RECORDED = "not recorded"

RESULTS_KEY = "results"
"""The key of the section of scalars."""

TITLES = {
    "model": "Model",
    "scenario": "Scenario",
    "sampling_method": "Sampling",
    "n_replicates": "Replicates",
    "outputs": "Outputs",
    "targets": "Targets",
    "reduce": "Reduce function",
}

FIELD_TITLES = {
    "python": "Python",
    "implementation": "Implementation",
    "platform": "Platform",
    "libc": "C library",
    "mops_jobs": "mops-jobs",
}


class Side(NamedTuple):
    """A job, and what is known of it."""

    job: Job
    provenance: KeptProvenance | None
    """None if it is not kept."""
    scalars: Mapping[str, ScalarStatistics] | None
    """None if they are not kept."""
    missing: str = NOT_RECORDED
    """In place of what a provenance would tell."""
    scalars_missing: str = NOT_RECORDED

    @property
    def study(self) -> Study | None:
        """Return the study; None if it is not known."""
        return None if self.provenance is None else self.provenance.study

    @property
    def gap(self) -> str:
        """Return what stands in place of a part that the provenance lacks."""
        return self.missing if self.provenance is None else NOT_RECORDED


def sections(sides: Sequence[Side], names: Sequence[str]) -> list[Section]:
    """Return all rows.

    Args:
        sides: the jobs, two or more. Scalars are compared with those of the first one.
        names: the scalars.
    """
    found: list[tuple[str, str, Iterable[Row | str | None]]] = [
        ("outcome", "Outcome", _outcome(sides)),
        ("study", "Study", _study(sides)),
        ("parameters", "Parameters", _parameters(sides)),
        ("code", "Code", _code(sides)),
        ("environment", "Environment", _environment(sides)),
        ("cost", "Cost", _cost(sides)),
        (RESULTS_KEY, "Results", _results(sides, names)),
    ]
    made = []
    for key, title, parts in found:
        rows, equal = [], []
        for part in parts:
            if isinstance(part, Row):
                rows.append(part)
            elif part is not None:
                equal.append(part)
        made.append(Section(key, title, rows, equal, None if rows or equal else _gap(key, sides)))
    return made


def _gap(key: str, sides: Sequence[Side]) -> str:
    texts = [side.scalars_missing if key == RESULTS_KEY else side.missing for side in sides]
    if key == RESULTS_KEY and all(side.scalars is not None for side in sides):
        return "no output has a number"
    return ", ".join(dict.fromkeys(texts))


def _outcome(sides: Sequence[Side]) -> Iterator[Row | None]:
    jobs = [side.job for side in sides]
    names = [status(job["status"]) for job in jobs]
    cells = [Cell(name.name, status=name) for name in names]
    yield Row("Status", cells, len(set(names)) > 1)
    yield make_row("Error", [error_of(job["error_code"], job["error_message"]) for job in jobs])
    yield make_row("Tasks done", [_done(job) for job in jobs])
    yield make_row("Tasks failed", [job["tasks_failed"] or 0 for job in jobs], lambda count: f"{count:,}")
    yield make_row("Tasks reused", [reused_text(job) for job in jobs])
    yield make_row("Owner", [job["owner"] for job in jobs])
    for label in sorted({name for job in jobs for name in job["labels"]}):
        yield make_row(f"Label {label}", [job["labels"].get(label) for job in jobs], is_name=True)
    yield make_row("Note", [note_text(job) for job in jobs])
    parents = [job["parent_job_id"] for job in jobs]
    row = make_row("Resumed from", parents)
    if row is not None:
        cells = [cell._replace(to=one and job_path(one)) for cell, one in zip(row.cells, parents, strict=True)]
        yield row._replace(cells=cells)


def _done(job: Job) -> str:
    done, total = job["tasks_completed"], job["tasks_total"]
    return f"{done:,} of {total:,}" if total else f"{done:,}"


def _study(sides: Sequence[Side]) -> Iterator[Row | None]:
    yield make_row("Title", [_recorded(side, "title") for side in sides])
    for name in STUDY_FIELDS:
        if name in TITLES:
            yield make_row(TITLES[name], [_study_value(side, name) for side in sides], _text)
    studies = [side.study for side in sides]
    keys = dict.fromkeys(key for study in studies if study is not None for key in study.metadata if key != "title")
    for key in keys:
        values = [
            Missing(side.missing) if study is None else study.metadata.get(key)
            for side, study in zip(sides, studies, strict=True)
        ]
        yield make_row(str(key), values, _text, is_name=True)


def _study_value(side: Side, name: str) -> object:
    """Return a field of a study; from the record, if the manifest is not known."""
    if side.study is not None:
        value = getattr(side.study, name)
        return list(value) if isinstance(value, tuple) else value
    recorded = _recorded(side, name)
    return Missing(side.missing) if recorded is None else recorded


def _recorded(side: Side, name: str) -> object:
    metadata = side.job["metadata"]
    return metadata.get(name) if isinstance(metadata, Mapping) else None


def _text(value: object) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value) or NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parameters(sides: Sequence[Side]) -> Iterator[Row | None]:
    studies = [side.study for side in sides if side.study is not None]
    if not studies:
        return
    difference = compare_studies(studies)
    counts = iter(zip(difference.others, difference.other_sets, strict=True))
    cells = []
    for side in sides:
        if side.study is None:
            cells.append(Cell(side.missing, is_weak=True))
            continue
        others, sets = next(counts)
        notes = [] if difference.common else ["no set is in all jobs"]
        if others and difference.common:
            notes = [f"{others:,} not in all jobs:", *map(_set_text, sets[:SHOWN_SETS]), *["…"] * (others > SHOWN_SETS)]
        cells.append(Cell(f"{len(side.study.parameter_sets):,}", notes))
    yield Row("Parameter sets", cells, any(difference.others))
    parameters = [side.provenance.parameters if side.provenance and side.study else None for side in sides]
    for name in dict.fromkeys(name for some in parameters if some is not None for name in some):
        values = [
            Missing(side.missing) if some is None else some.get(name)
            for side, some in zip(sides, parameters, strict=True)
        ]
        cells = [
            Cell(value.text, is_weak=True) if isinstance(value, Missing)
            else Cell("not set", is_weak=True) if value is None else Cell(cut_to_length(value.text, MAX_TEXT))
            for value in values
        ]  # fmt: skip
        found = {None if value is None else value.values for value in values if not isinstance(value, Missing)}
        yield Row(name, cells, len(found) > 1, is_name=True)


def _set_text(one: Mapping[str, Any]) -> str:
    params = ", ".join(f"{name}={_text(value)}" for name, value in islice(one["params"].items(), 10))
    return cut_to_length(params if one["seed"] is None else f"{params}, seed {one['seed']}", 2 * MAX_VALUE)


def _code(sides: Sequence[Side]) -> Iterator[Row | str | None]:
    bundles = [_recorded(side, "bundle") for side in sides]
    texts = [Missing(NOT_RECORDED) if not isinstance(one, str) else one for one in bundles]
    yield make_row("Bundle", texts, lambda text: text.removeprefix("sha256:")[:SHORT_HASH])
    commits = [
        Missing(side.missing) if side.provenance is None else _commit(side.provenance.provenance.git) for side in sides
    ]
    yield make_row("Git commit", [Missing(NOT_RECORDED) if one is None else one for one in commits])
    files = [side.provenance and side.provenance.provenance.files for side in sides]
    found = compare_files(files)
    if found is None:
        return
    for name, versions in islice(found.items(), SHOWN_FILES):
        cells = [
            Cell(side.gap, is_weak=True) if of_job is None
            else _file_cell(version)
            for side, of_job, version in zip(sides, files, versions, strict=True)
        ]  # fmt: skip
        yield Row(printable(name), cells, differs=True, is_name=True)
    if len(found) > SHOWN_FILES:
        yield Row(pluralize(len(found) - SHOWN_FILES, "more file"), [Cell("") for _ in sides], differs=True)
    total = len({file.name for some in files if some is not None for file in some})
    yield pluralize(total - len(found), "file") if total > len(found) else None


def _file_cell(file: BundleFile | None) -> Cell:
    if file is None:
        return Cell(NONE, is_weak=True)
    if file.target is not None:
        return Cell(f"link to {cut_to_length(printable(file.target), MAX_VALUE)}")
    executable = ", executable" if file.is_executable else ""
    return Cell(f"{(file.sha256 or '')[:SHORT_HASH]}", [f"{pluralize(file.size, 'byte')}{executable}"])


def _commit(git: GitState | None) -> str | None:
    return git and git.commit[:SHORT_HASH] + (" with changes" if git.is_dirty else "")


def _environment(sides: Sequence[Side]) -> Iterator[Row | str | None]:
    yield make_row("Engine", [engine_of(side.job) for side in sides])
    yield make_row(
        "Image",
        [Missing(side.missing) if side.provenance is None else side.provenance.provenance.image for side in sides],
    )
    noted = [side.provenance.provenance.environments if side.provenance else [] for side in sides]
    found = compare_environments(noted)
    for name, title in FIELD_TITLES.items():
        if found is None or name not in found.fields:
            yield make_row(title, _of_environments(sides, noted, name))
        else:
            yield make_row(title, _with_gaps(sides, noted, found.fields[name]))
    if found is None:
        return
    for name, versions in islice(found.packages.items(), SHOWN_PACKAGES):
        yield make_row(name, _with_gaps(sides, noted, versions), is_name=True)
    if len(found.packages) > SHOWN_PACKAGES:
        more = pluralize(len(found.packages) - SHOWN_PACKAGES, "more package")
        yield Row(more, [Cell("") for _ in sides], differs=True)
    total = len({name for some in noted for one in some for name in one.packages})
    yield pluralize(total - len(found.packages), "package") if total > len(found.packages) else None


def _of_environments(sides: Sequence[Side], noted: Sequence[Sequence[Environment]], name: str) -> list[object]:
    """Return a field of the first environment of each job: all have the same."""
    return _with_gaps(sides, noted, [getattr(some[0], name) if some else None for some in noted])


def _with_gaps(sides: Sequence[Side], noted: Sequence[Sequence[Environment]], values: Values) -> list[object]:
    """Return values, and in place of those of jobs without a note why there are none."""
    return [value if some else Missing(side.gap) for side, some, value in zip(sides, noted, values, strict=True)]


def _cost(sides: Sequence[Side]) -> Iterator[Row | None]:
    jobs = [side.job for side in sides]
    yield _amounts("Run time", [job["run_seconds"] for job in jobs], _seconds_text)
    yield _amounts("CPU time", [job["cpu_seconds"] for job in jobs], _seconds_text)
    per_task = [
        None if job["cpu_seconds"] is None or not (ended := count_run(job)) else job["cpu_seconds"] / ended
        for job in jobs
    ]
    yield _amounts("CPU time per task", per_task, _seconds_text)
    efficiency = _amounts(
        "CPU efficiency", [job["cpu_efficiency"] for job in jobs], lambda share: f"{100 * share:.0f} %"
    )
    yield efficiency and efficiency._replace(cells=[cell._replace(notes=()) for cell in efficiency.cells])
    yield _amounts("Peak memory", [job["max_rss_bytes"] for job in jobs], lambda size: str(memory_text(size)))


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else human_duration(seconds)


def _amounts(name: str, values: Sequence[float | None], text: Callable[[float], str]) -> Row | None:
    """Return a row of numbers, each also in relation to that of the first job."""
    row = make_row(name, [Missing(NOT_RECORDED) if value is None else value for value in values], text)
    if row is None:
        return None
    first = values[0]
    cells = list(row.cells)
    for place, value in enumerate(values):
        if first and value is not None and cells[place].text != cells[0].text:
            cells[place] = cells[place]._replace(notes=[f"{100 * (value / first - 1):+,.0f} %"])
    known = sorted(value for value in values if value is not None)
    texts = list(dict.fromkeys(text(value) for value in (known[0], known[-1])))
    return row._replace(cells=cells, differs=known[-1] > SAME_COST * known[0], same=" to ".join(texts))


def _results(sides: Sequence[Side], names: Sequence[str]) -> Iterator[Row]:
    for name in names:
        found = [None if side.scalars is None else side.scalars.get(name) for side in sides]
        first, *others = found
        differences = [None, *(compare_scalar(first, one) if first and one else None for one in others)]
        cells = []
        for side, one, difference in zip(sides, found, differences, strict=True):
            if one is None:
                cells.append(Cell(side.scalars_missing if side.scalars is None else NONE, is_weak=True))
                continue
            notes = [f"{one.low:.4g} to {one.high:.4g}, {pluralize(one.tasks, 'task')}"]
            if first and one is not first:
                notes.append(_difference_text(difference))
            cells.append(Cell(f"{one.mean:.6g}", notes))
        means = {one and one.mean for one, side in zip(found, sides, strict=True) if side.scalars is not None}
        yield Row(name, cells, len(means) > 1 or any(one.mean or one.error for one in differences if one), is_name=True)


def _difference_text(found: ScalarDifference | None) -> str:
    if found is None:
        return "no shared parameter set"
    sets = pluralize(found.sets, "shared set")
    if not found.mean and not found.error:
        return f"no difference in {sets}"
    error = "" if found.error is None else f" ± {found.error:.2g}"
    return f"{found.mean:+.4g}{error} in {sets}"
