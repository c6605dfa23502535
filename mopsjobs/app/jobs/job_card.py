"""What is worth saying of a job, as data: `status`, the page, a notebook and a notification render its sections."""

from __future__ import annotations

import contextlib
import math
import re
import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.app.jobs.next_steps import has_failed_tasks
from mopsjobs.cache.job_json import count_outputs, count_run, deferred_tasks, missing_text, reused_tasks
from mopsjobs.errors import CacheError, command_line, shorten
from mopsjobs.registry.notes import (
    NOTE,
    OWN_WRITE,
    WAITS_FOR,
    has_unrecorded_note,
    label_history,
    lost_shards,
    metadata_of,
    note_history,
    own_write_text,
)
from mopsjobs.registry.status import TERMINAL
from mopsjobs.utils.text import cut_to_length, describe_duplicates, describe_sets, error_line, out_of, pluralize
from mopsjobs.utils.times import human_age, human_duration, human_range, parse_time, whole_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from mopsjobs.app.run.app import App
    from mopsjobs.cache.queries.families import Family

SHOWN_MEMBERS = 10
"""Children, or members of a family, that are named."""

SHOWN_SOURCES = 3
"""Jobs that did reused tasks and are named."""

SHOWN_OUTPUTS = 5
"""Missing outputs that are named."""

MAX_TITLE = 300
"""Characters of a text about the study."""

MAX_VALUES = 10
"""Values of metadata that are shown. A program may write any number."""

MAX_VALUE = 200
"""Characters of one: a reference to an image fits."""

MIN_RATE_SECONDS = 1.0
"""A job that has run for less has no rate."""

MIN_ROUNDS = 2
"""Rounds of a calibration from which on the others are estimated."""

SHORT_RANGE = 600.0
"""Seconds. The ends of a shorter range are shown with seconds."""

UNKNOWN = "n/a"
"""In place of a time that no program reported."""

ABOUT_STUDY = ("Model", "Scenario", "Study", "Code")

_LONG_ID = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")


class Part(NamedTuple):
    """A part of the text of a section, and what it leads to."""

    text: str
    link: tuple[str, str] | None = None
    """`job` and an id, or a filter of jobs and its value: `owner` or `label`."""
    is_time: bool = False
    """Whether it is a time. A view may say how long ago that is."""


class Section(NamedTuple):
    """One fact about a job."""

    title: str
    parts: tuple[Part, ...]
    share: float | None = None
    """The part of the tasks that are done, from 0 to 1, if a view may draw that."""

    @property
    def text(self) -> str:
        """Return all parts together."""
        return "".join(part.text for part in self.parts)


def job_card(
    job: Mapping[str, Any],
    now: datetime,
    *,
    failed: str | None = None,
    lost: str = "",
    family: Family | None = None,
    remarks: Sequence[str] = (),
) -> dict[str, Section]:
    """Return the sections of a job by their titles, in their order. One that has nothing to say is left out.

    Args:
        job: the job in its JSON form.
        now: the time.
        failed: how many tasks failed, and why.
        lost: how many tasks have lost their outputs since the end.
        family: its family, if it has one.
        remarks: how its record is shown where it has values that this version reads as something near to them.
    """
    heartbeat = job["heartbeat_at"] if job["is_active"] else None
    parent, count = job["parent_job_id"], deferred_tasks(job["metadata"])
    sections = [
        _section("Status", _status(job)),
        _section("Waits for", waits_for_text(job)),
        _section("Warning", None if (written := noted_text(job, OWN_WRITE)) is None else own_write_text(written)),
        _section("Lost", lost_shards_text(job)),
        _section("Progress", *_progress(job)),
        _section("Reused", _reused(job)),
        _section("Deferred", count and f"{pluralize(count, 'task')}, left to a later resume"),
        _section("Precision", _precision(job)),
        *_calibration(job),
        _section("Failed", failed),
        _section("Done", end_text(job, now) or rounds_left_text(job)),
        _section("Rate", rate_text(job)),
        _section("Stragglers", stragglers_text(job)),
        *_study(job),
        _section("Created", _time(job["created_at"])),
        _section("Updated", _time(job["updated_at"])),
        _section("Queued", duration_text(job["queued_seconds"])),
        _section("Running" if job["is_active"] else "Ran", duration_text(job["run_seconds"])),
        _section("Used", usage_text(job)),
        _section("Budget", _budget(job)),
        _section("Heartbeat", heartbeat and human_age((now - parse_time(heartbeat)).total_seconds())),
        _section("Owner", job["owner"] and [Part(job["owner"], ("owner", job["owner"]))]),
        _section("Labels", _labels(job)),
        _section("Note", noted_text(job)),
        _section("Engine", job["engine"]),
        _section("Kubernetes", _kubernetes(job)),
        _section("Slurm", _slurm(job)),
        _section("Metadata", _metadata(job)),
        _section("Parent", None if parent is None else _jobs([parent])),
        _section("Children", None if family is None else _jobs(family.children[:SHOWN_MEMBERS])),
        _section("Family", *_family(family)),
        _section("Results", job["results_path"]),
        _section("Outputs", _outputs(job, lost)),
        _section("Error", error_line(job["error_code"], job["error_message"])),
        _section("Validation", job["last_validation_error"]),
        _section("Remark", ". ".join(remarks)),
    ]
    return {section.title: section for section in sections if section.parts}


def describe_lost_outputs(connection: sqlite3.Connection, job: Mapping[str, Any]) -> str:
    """Return how many tasks of an ended job have lost their outputs, as a later view or a validation has found."""
    if job["is_active"]:
        return ""
    if reused_tasks(job)[0]:
        from mopsjobs.cache.queries.ledgers import count_lost  # here: few jobs reuse tasks

        lost = count_lost(connection, job)
    else:
        row = connection.execute("SELECT outputs_lost FROM ledger WHERE job_id = ?", (job["job_id"],)).fetchone()
        lost = 0 if row is None else int(row[0])
    return f"{pluralize(lost, 'task')} lost outputs since" if lost else ""


def _section(title: str, content: object, share: float | None = None) -> Section:
    """Return a section of parts, or of a text; without parts if there is neither."""
    parts = content if isinstance(content, list) else [Part(str(content))] if content else []
    return Section(title, tuple(parts), share)


def _join(parts: Iterable[Part]) -> list[Part]:
    """Return parts with commas between them."""
    return [piece for part in parts for piece in (Part(", "), part)][1:]


def _jobs(job_ids: Iterable[str]) -> list[Part]:
    return _join(Part(str(job_id), ("job", str(job_id))) for job_id in job_ids)


def _time(at: object) -> list[Part]:
    return [Part(whole_seconds(str(at)), is_time=True)]


def _labels(job: Mapping[str, Any]) -> list[Part]:
    labels = (f"{label}={value}" for label, value in sorted((job["labels"] or {}).items()))
    return _join(Part(label, ("label", label)) for label in labels)


def _status(job: Mapping[str, Any]) -> str:
    return str(job["status"]) + ("" if job["suspect"] is None else f" (suspect: {job['suspect']})")


def _progress(job: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """Return how many tasks are done and have failed, and the share of those that are done."""
    total, done, failed = job["tasks_total"], job["tasks_completed"], job["tasks_failed"]
    failures = f", {failed:,} failed" if failed else ""
    if not total:
        return f"{pluralize(done, 'task')} done{failures}" if done or failed else None, None
    # Of an adaptive study, the count is that of the tasks that it may have.
    duplicates = metadata_of(job).get("n_duplicate_tasks") if job["precision"] is None else None
    text, share = _share(done, total, describe_duplicates(duplicates))
    return text + failures, share


def _share(done: int, total: int, duplicates: str = "") -> tuple[str, float]:
    share = min(1.0, done / total)
    return f"{out_of(done, total)} tasks{duplicates}, {int(share * 100)} %", share


def _reused(job: Mapping[str, Any]) -> list[Part]:
    """Return how many tasks are reused, and from which jobs."""
    count, sources = reused_tasks(job)
    if not count:
        return []
    more = [Part(", …")] if len(sources) > SHOWN_SOURCES else []
    return [Part(f"{count:,} of {job['tasks_total']:,} tasks, from "), *_jobs(sources[:SHOWN_SOURCES]), *more]


def rate_text(job: Mapping[str, Any]) -> str | None:
    """Return how many tasks have ended per unit of time since the first one started; None if it is not known.

    The time ends with the job, or with the last write of its record. So the rate of a silent job does not fall.
    """
    ended = count_run(job)
    if not ended or job["started_at"] is None:
        return None
    seconds = (parse_time(job["ended_at"] or job["updated_at"]) - parse_time(job["started_at"])).total_seconds()
    if seconds < MIN_RATE_SECONDS:
        return None
    units = (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400))
    rates = [(unit, ended / seconds * size) for unit, size in units]
    unit, per_unit = next((one for one in rates if one[1] >= 1), rates[-1])
    return f"{per_unit:,.0f} tasks per {unit}" if per_unit >= 100 else f"{per_unit:.3g} tasks per {unit}"


def _study(job: Mapping[str, Any]) -> Iterator[Section]:
    """Yield model, scenario, size and code."""
    metadata = metadata_of(job)
    sets, replicates = metadata.get("n_parameter_sets"), metadata.get("n_replicates")
    method, different = metadata.get("sampling_method"), metadata.get("n_different_parameter_sets")
    sizes = [describe_sets(sets, different)] if type(sets) is int and sets > 0 else []
    if method == "calibration" and different is not None:
        replicates = None  # further replicates are sets with a seed, so the product would be another number of tasks
    most = "up to " if job["precision"] else ""
    sizes += [most + pluralize(replicates, "replicate")] if type(replicates) is int and replicates > 0 else []
    size = " x ".join(sizes)
    size = f"{size}, {method}" if size and isinstance(method, str) else size
    texts = (metadata.get("model"), metadata.get("scenario"), size, metadata.get("bundle"))
    for title, text in (*zip(ABOUT_STUDY, texts, strict=True), ("Seeds", metadata.get("seeds"))):
        if isinstance(text, str):
            yield _section(title, cut_to_length(text, MAX_TITLE))


def _kubernetes(job: Mapping[str, Any]) -> str | None:
    """Return namespace, name and uid of a job's Kubernetes Job; None if the record has neither of the first two."""
    namespace, name = job["k8s_namespace"], job["k8s_name"]
    if namespace is None and name is None:
        return None
    return f"{namespace or 'default'}/{name or '?'}" + ("" if job["k8s_uid"] is None else f", uid {job['k8s_uid']}")


def _slurm(job: Mapping[str, Any]) -> str | None:
    """Return the job array of a job on Slurm, with its partition and its cluster; None if the record has none."""
    metadata = metadata_of(job) if job["engine"] == "slurm" else {}
    if not isinstance(array_id := metadata.get("slurm_job_id"), str):
        return None
    places = ((" in partition", metadata.get("slurm_partition")), (" of", metadata.get("slurm_cluster")))
    return f"job {array_id}" + "".join(f"{word} {place}" for word, place in places if isinstance(place, str))


def _metadata(job: Mapping[str, Any]) -> str | None:
    """Return the metadata of a job that mops-jobs did not submit, such as ModelOps' image and type; None without any.

    Other sections show what mops-jobs writes into metadata.
    """
    metadata = metadata_of(job)
    if "bundle" in metadata:
        return None
    values = ((name, value) for name, value in metadata.items() if isinstance(value, (str, int, float)))
    shown = [f"{name}: {shorten(str(value), MAX_VALUE)}" for name, value in values if name not in (NOTE, WAITS_FOR)]
    return ", ".join(shown[:MAX_VALUES])


def _family(family: Family | None) -> tuple[str | None, float | None]:
    """Return how many tasks of the whole study are done, and by how many jobs; and their share."""
    if family is None:
        return None, None
    used = usage_text(family.usage)
    jobs = pluralize(len(family.members), "job") + ("" if used is None else f", {used}")
    if family.tasks_total is None or family.tasks_completed is None:
        return jobs, None
    text, share = _share(family.tasks_completed, family.tasks_total)
    return f"{text}, in {jobs}", share


def _outputs(job: Mapping[str, Any], lost: str) -> str | None:
    """Return how many outputs were verified, and which are missing; None if they were not validated."""
    counts = count_outputs(job)
    if counts is None:
        return lost
    missing = job["missing_outputs"]
    missing_count = missing_text(job, counts[1])
    when = "" if job["is_active"] else "when it ended, "
    text = f"{when}{counts[0]:,} verified, {missing_count}"
    if missing:
        is_cut = max(counts[1], len(missing)) > SHOWN_OUTPUTS or "more" in missing_count
        more = ", …" if is_cut and len(missing) >= SHOWN_OUTPUTS else ""  # repeated tasks share their outputs
        # The id of a parameter set fills a line, and its beginning is unique within a job.
        names = (_LONG_ID.sub(r"\1…", str(name)) for name in missing[:SHOWN_OUTPUTS])
        text = f"{text}: {', '.join(names)}{more}"
    return f"{text}; {lost}" if lost else text


def duration_text(seconds: object) -> str | None:
    """Return a duration of a job for people; None if it is not known."""
    return human_duration(seconds) if isinstance(seconds, int | float) else None


def end_text(job: Mapping[str, object], now: datetime) -> str | None:
    """Return the range in which a job should end, and on what that rests; None if it is not known.

    For example `in 12m to 40m, 14:10 to 14:38 UTC (320 of 1,000 tasks ended, 8 at work)`. A job that its cluster stops
    before has no range: see `late_end_text`.
    """
    if job["eta_latest"] is None:
        return late_end_text(job, now)
    earliest, latest = (parse_time(str(job[name])) for name in ("eta_earliest", "eta_latest"))
    basis: Mapping[str, int] = job["eta_basis"]  # type: ignore[assignment]
    form = "%H:%M:%S" if (latest - earliest).total_seconds() < SHORT_RANGE else "%H:%M"
    begin, end = (f"{at:{form}}" if at.date() == now.date() else f"{at:%Y-%m-%d {form}}" for at in (earliest, latest))
    left = human_range(*((at - now).total_seconds() for at in (earliest, latest)))
    done = f"{basis['tasks_done']:,} of {job['tasks_total']:,} tasks ended, {basis['at_work']:,} at work"
    return f"in {left}, {begin} to {end} UTC ({done})"


def late_end_text(job: Mapping[str, object], now: datetime) -> str | None:
    """Return that a job will not finish before its time limit, and what to type then; None if nothing says so."""
    if job["time_limit_at"] is None:
        return None
    from mopsjobs.registry.usage import time_limit_text  # here: few jobs are late

    return time_limit_text(job["job_id"], (parse_time(str(job["time_limit_at"])) - now).total_seconds())


def stragglers_text(job: Mapping[str, object]) -> str | None:
    """Return how long the tasks are at work that take longer than the others explain; None if there are none."""
    if job["stragglers"] is None:
        return None
    from mopsjobs.registry.usage import late_text  # here: few jobs have stragglers

    return late_text(job["stragglers"])


def usage_text(usage: Mapping[str, Any]) -> str | None:
    """Return what tasks used: processor time, of how much that was held, time and memory; None if it is not known.

    Args:
        usage: a job, or a sum over jobs, with the fields of usage.
    """
    held, share = usage["held_core_seconds"], usage["cpu_efficiency"]
    of_held = "" if held is None or share is None else f" of {human_duration(held)} held ({100 * share:.0f} %)"
    saved, worked = usage.get("saved_seconds"), usage["task_seconds"]
    if saved and worked and usage["cpu_seconds"] is not None:  # as much per second of work as all attempts used
        saved = ("CPU saved by checkpoints: about", duration_text(saved * usage["cpu_seconds"] / worked), "")
    else:
        saved = ("task time saved by checkpoints", duration_text(saved), "")
    parts = (
        ("CPU", duration_text(usage["cpu_seconds"]), of_held),
        ("tasks", duration_text(usage["task_seconds"]), ""),
        ("peak memory", memory_text(usage["max_rss_bytes"]), ""),
        saved,
    )
    return ", ".join(f"{title} {text}{more}" for title, text, more in parts if text is not None) or None


def _precision(job: Mapping[str, Any]) -> str | None:
    """Return how precise the parameter sets of an adaptive study are; None if its study is not adaptive."""
    if job["precision"] is None:
        return None
    from mopsjobs.registry.precision_counts import precision_text  # here: few studies are adaptive

    return precision_text(job["precision"])


def _calibration(job: Mapping[str, Any]) -> Iterator[Section]:
    """Yield how far a calibration is, and the parameters of its best set."""
    if job["calibration"] is not None:
        from mopsjobs.registry.calibration_counts import calibration_text, params_text  # here: few jobs are one

        best = job["calibration"]["best"]
        yield _section("Rounds", calibration_text(job["calibration"]))
        yield _section("Best set", best and params_text(best["params"]))


def rounds_left_text(job: Mapping[str, Any]) -> str | None:
    """Return how long the other rounds of a calibration take at its pace so far; None if that is not known."""
    counts, seconds = job["calibration"], job["run_seconds"]
    if counts is None or not job["is_active"] or job["suspect"] or waits_for_text(job) or not seconds:
        return None
    from mopsjobs.registry.calibration_counts import round_word  # here: few jobs are one

    done, left = counts["rounds"] - counts["inherited"], counts["at_most"] - counts["rounds"]
    if done < MIN_ROUNDS or left <= 0:
        return None
    return (
        f"in about {human_duration(seconds / done * left)}, if {pluralize(left, round_word(counts))} more"
        f" {'takes' if left == 1 else 'take'} as long as before"
    )


def _budget(job: Mapping[str, Any]) -> str | None:
    """Return how much of its budget a job has used; None if it has none."""
    if job["max_cpu_hours"] is None:
        return None
    from mopsjobs.registry.cpu_budget import budget_text  # here: few jobs have one

    return budget_text(job["cpu_seconds"], job["max_cpu_hours"])


def memory_text(size: float | None) -> str | None:
    """Return a size of memory for people, in MiB or GiB; None if it is not known."""
    if size is None:
        return None
    return f"{size / 2**20:,.0f} MiB" if size < 10 * 2**30 else f"{size / 2**30:,.1f} GiB"


def failed_tasks_text(job: Mapping[str, object], app: App) -> str | None:
    """Return how many tasks failed, and why as far as the cache has the ledger of the job; None if none did."""
    job_id = str(job["job_id"])
    if app.settings.is_local and job["tasks_failed"]:  # views of an embedded registry are live
        from mopsjobs.app.jobs.job_tasks import mirror_failures

        mirror_failures(job, app)

    def view(connection: sqlite3.Connection) -> str | None:
        if connection.execute("SELECT 1 FROM ledger WHERE job_id = ?", (job_id,)).fetchone() is None:
            return None
        from mopsjobs.cache.queries.ledgers import describe_failures  # here: few jobs are looked at

        return describe_failures(connection, job_id, job["tasks_failed"], is_active=bool(job["is_active"]))

    text = None
    with contextlib.suppress(CacheError):  # the record may come from the registry
        text = app.cache.read_cached(view)
    if text is None and has_failed_tasks(job):
        return f"{job['tasks_failed']:,}; to see why: {command_line('failures', job_id)}"
    return text


def step_time(step: Mapping[str, object]) -> datetime | None:
    """Return the time of a step in a job's history; None if no program reported it."""
    return None if step["at"] is None else parse_time(str(step["at"]))


def waits_for_text(job: Mapping[str, object]) -> str | None:
    """Return what the tasks of an active job wait for; None if nothing is known."""
    return None if job["status"] in TERMINAL else noted_text(job, WAITS_FOR)


def lost_shards_text(job: Mapping[str, object]) -> str | None:
    """Return which shards of an active growing job have ended; None if none has."""
    lost = {} if job["status"] in TERMINAL else lost_shards(metadata_of(job))
    return f"{'; '.join(lost.values())}. Other shards run its tasks" if lost else None


def noted_text(job: Mapping[str, object], name: str = NOTE) -> str | None:
    """Return a text of a job's metadata, such as the last note of a user; None if it has none."""
    text = metadata_of(job).get(name)
    return text if isinstance(text, str) and text else None


class Annotation(NamedTuple):
    """A note, or a change of labels: when, by whom, and its text. Of another program, neither may be known."""

    at: datetime | None
    by: str | None
    text: str


def annotations_of(job: Mapping[str, object]) -> list[Annotation]:
    """Return the notes and the changes of labels of a job, oldest first. Those without a time come last."""
    metadata = metadata_of(job)
    found = [(entry, label_change_text(entry["labels"])) for entry in label_history(metadata)]
    found += [(entry, entry["text"] or "(note removed)") for entry in note_history(metadata)]
    if has_unrecorded_note(metadata):
        found.append(({"at": None, "by": None}, str(metadata[NOTE])))
    annotations = [Annotation(entry["at"] and parse_time(entry["at"]), entry["by"], text) for entry, text in found]
    return sorted(annotations, key=lambda one: math.inf if one.at is None else one.at.timestamp())


def label_change_text(labels: Mapping[str, object]) -> str:
    """Return a change of labels in words, such as `paper=fig2, without draft`."""
    changes = sorted(labels.items())
    return ", ".join(f"without {label}" if value is None else f"{label}={value}" for label, value in changes)
