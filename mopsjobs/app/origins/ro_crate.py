"""Export a job as an RO-Crate: a directory whose ro-crate-metadata.json says what it holds and how that was made.

The crate follows RO-Crate 1.1 and the Process Run Crate profile 0.5 (https://w3id.org/ro/wfrun/process/0.5):

- `study.json`: the study, an input of the run
- `calibration.json`: of a calibration, what it searches, how, and the values of its sets
- `code/`: the files of the bundle, the instrument of the run
- `results/`: the outputs with a table of the tasks, the result of the run
- `provenance.json`: what `mops-jobs provenance --json` prints
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mopsjobs.app.jobs.find_outputs import JobWithOutputs, download_outputs
from mopsjobs.app.origins.provenance import (
    Provenance,
    calibration_json,
    noting,
    origin_of_sets,
    printable,
    read_provenance,
)
from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.journals import best_sets
from mopsjobs.bundles.extraction import BundleFile, extract
from mopsjobs.bundles.packing import METADATA_FILE
from mopsjobs.errors import MopsJobsError, NoOutputsError, UsageError
from mopsjobs.ledger.environment import Environment
from mopsjobs.registry.status import JobStatus
from mopsjobs.studies.journal import read_journal
from mopsjobs.studies.results import TABLE
from mopsjobs.utils.text import join_first
from mopsjobs.utils.times import parse_time

CALIBRATION = "calibration.json"

CRATE = "https://w3id.org/ro/crate/1.1"

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"

_TERMS_OF_PROFILE = "https://w3id.org/ro/terms/workflow-run#"

TERMS = {name: _TERMS_OF_PROFILE + name for name in ("ContainerImage", "containerImage", "sha256")}
"""Terms of the profile that the context of RO-Crate lacks."""

RUN = "#run"

Entity = dict[str, Any]


def write_crate(
    name: str,
    directory: Path,
    app: App,
    *,
    license_text: str | None = None,
    with_results: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[int, list[str]]:
    """Write a job to a directory as an RO-Crate. The metadata come last: a directory without them is not complete.

    Args:
        name: the job, as `find_job` takes it.
        directory: a new or an empty directory.
        app: the run.
        license_text: the license of the crate, a name or a URL; None: not stated.
        with_results: whether the outputs are downloaded.
        on_progress: called with the number of outputs so far.

    Returns:
        How many files the directory has, and why parts are missing.

    Raises:
        UsageError: if the directory has content.
        MopsJobsError: if a file cannot be written.
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        StoreError: if the registry cannot be read.
    """
    found = read_provenance(name, app)
    calibration = None if found.manifest is None else calibration_json(found.manifest)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if next(directory.iterdir(), None) is not None:
            raise UsageError(f"invalid directory {directory}: expected a new or an empty one.")
        if found.archive is not None:
            code = directory / "code"
            code.mkdir()
            extract(found.archive, str(code), sync=False)
        if found.manifest is not None:
            _write_json(directory / "study.json", found.manifest.study.to_dict())
        _write_json(directory / "provenance.json", found.to_json())
        problems = list(found.problems)
        if calibration is not None and found.manifest is not None:
            with noting(problems):
                journal = read_journal(app.store, found.manifest)
                sets = [] if journal is None else [one.to_json() for one in best_sets(journal, 0)]
                _write_json(directory / CALIBRATION, {**calibration, "sets": sets})
        if with_results:
            problems += _write_results(found, directory / "results", app, on_progress)
        entities = [_compact(entity) for entity in _describe(found, directory, license_text or "not stated")]
        document = {"@context": [f"{CRATE}/context", TERMS], "@graph": entities}
        _write_json(directory / METADATA_FILE, document)
    except OSError as error:
        raise MopsJobsError(f"Cannot write {error.filename or directory}: {error.strerror}.") from None
    return sum(path.is_file() for path in directory.rglob("*")), problems


def _describe(found: Provenance, directory: Path, license_text: str) -> Iterator[Entity]:
    """Yield the entities of a crate whose files are in the directory, the metadata file first."""
    has_results = (directory / "results").is_dir()
    parts = [_data_file(directory, "provenance.json", "Provenance of the job, as JSON")]
    if found.manifest is not None:
        parts.append(_data_file(directory, "study.json", "Study: model, scenario, parameter sets and replicates"))
    if (directory / CALIBRATION).is_file():
        parts.append(
            _data_file(directory, CALIBRATION, "Calibration: what it searches, how, and the values of its sets")
        )
    if found.files is not None:
        parts.append(_code(found))
    if has_results:
        parts.append(_results(directory))
    images = [] if found.image is None else [_image(found)]
    agents = [{"@id": "#owner", "@type": "Person", "name": found.job["owner"]}] if found.job["owner"] else []
    yield {"@id": METADATA_FILE, "@type": "CreativeWork", "conformsTo": {"@id": CRATE}, "about": {"@id": "./"}}
    yield {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Job {found.job_id}",
        "description": _description(found),
        "datePublished": found.job["ended_at"] or found.job["created_at"],
        "author": _references(agents),
        "license": license_text,
        "conformsTo": {"@id": PROFILE},
        "hasPart": _references(parts),
        "mentions": {"@id": RUN},
    }
    yield {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    yield _action(found, parts + images + agents)
    yield from parts
    if found.files is not None:
        yield from (_code_file(file, found) for file in found.files if file.target is None)
    if has_results and (directory / "results" / TABLE).is_file():
        yield _data_file(directory, f"results/{TABLE}", "Tasks with their parameters, seeds and states", "text/csv")
    yield from _software(found)
    yield from images + agents


def _action(found: Provenance, entities: list[Entity]) -> Entity:
    """Return the run of the job, which refers to these entities."""
    ids = {entity["@id"] for entity in entities}
    job = found.job
    succeeded = job["status"] == JobStatus.SUCCEEDED
    end = "Completed" if succeeded else "Failed"
    return {
        "@id": RUN,
        "@type": "CreateAction",
        "name": f"Run of job {found.job_id}",
        "description": _description(found),
        "startTime": _time(job["started_at"]),
        "endTime": _time(job["ended_at"]),
        "actionStatus": None if job["is_active"] else f"http://schema.org/{end}ActionStatus",
        "error": None if succeeded or job["is_active"] else job["error_message"],
        "instrument": {"@id": "code/" if "code/" in ids else "#mops-jobs"},
        "object": [{"@id": name} for name in ("study.json", CALIBRATION) if name in ids],
        "result": {"@id": "results/"} if "results/" in ids else None,
        "agent": {"@id": "#owner"} if "#owner" in ids else None,
        "containerImage": {"@id": "#image"} if "#image" in ids else None,
    }


def _compact(entity: Entity) -> Entity:
    """Return an entity without empty values, and with the only item in place of a list of one."""
    filled = {name: value for name, value in entity.items() if value is not None and value != []}
    return {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in filled.items()}


def _time(text: str | None) -> str | None:
    """Return a time in the form that the profile recommends."""
    return None if text is None else parse_time(text).isoformat(timespec="milliseconds")


def _description(found: Provenance) -> str:
    job, manifest = found.job, found.manifest
    text = f"Batch of {job['tasks_total']:,} simulations, {job['status']}"
    if manifest is not None:
        text += f": model {manifest.study.model}, scenario {manifest.study.scenario}"
    if job["parent_job_id"] is not None:
        text += f". It continues job {job['parent_job_id']}; results/{TABLE} names job and bundle of each task"
    if manifest is not None and (extends := (calibration_json(manifest) or {}).get("extends")) is not None:
        text += f". It extends calibration {extends}"
    if manifest is not None and (origin := origin_of_sets(manifest)) is not None:
        text += f". Its parameter sets are {origin['sets']} of calibration {origin['job_id']}"
    if found.reused:
        sources = join_first([one.job_id for one in found.reused])
        count = sum(one.task_count for one in found.reused)
        text += f". {count:,} of them were done by {sources}; results/{TABLE} tells which"
    return text + "."


def _code(found: Provenance) -> Entity:
    assert found.manifest is not None  # noqa: S101 - a bundle comes with a manifest
    git, files = found.git, found.files or []
    version = found.manifest.bundle if git is None else git.commit + ("-dirty" if git.is_dirty else "")
    return {
        "@id": "code/",
        "@type": ["Dataset", "SoftwareApplication"],
        "name": found.manifest.study.model,
        "description": "The code of the model, as it was submitted",
        "softwareVersion": version,
        "identifier": found.manifest.bundle,
        "hasPart": _references([_code_file(file, found) for file in files if file.target is None]),
        "softwareRequirements": _references(_software(found)),
    }


def _code_file(file: BundleFile, found: Provenance) -> Entity:
    is_unread = found.files_read is not None and file.name not in found.files_read
    return {
        "@id": "code/" + quote(file.name.encode("utf-8", "surrogateescape")),
        "@type": "File",
        "name": printable(file.name),
        "description": "No task has read it" if is_unread else None,
        "encodingFormat": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
        "contentSize": str(file.size),
        "sha256": file.sha256,
    }


def _results(directory: Path) -> Entity:
    has_table = (directory / "results" / TABLE).is_file()
    return {
        "@id": "results/",
        "@type": "Dataset",
        "name": "Outputs",
        "description": "The outputs of the tasks, at <parameter set>/<seed>/<name>, and of the reduce function of the"
        " study, at <parameter set>/reduced-<tasks>/<name> and all/reduced-<tasks>/<name>",
        "hasPart": [{"@id": f"results/{TABLE}"}] if has_table else None,
    }


def _data_file(directory: Path, name: str, description: str, media_type: str = "application/json") -> Entity:
    size = (directory / name).stat().st_size
    return {
        "@id": name,
        "@type": "File",
        "name": name,
        "description": description,
        "encodingFormat": media_type,
        "contentSize": str(size),
    }


def _image(found: Provenance) -> Entity:
    digest = (found.image_digest or "").removeprefix("sha256:")
    return {
        "@id": "#image",
        "@type": "ContainerImage",
        "name": found.image,
        "additionalType": {"@id": f"{_TERMS_OF_PROFILE}DockerImage"},
        "sha256": digest or None,
    }


def _software(found: Provenance) -> list[Entity]:
    """Return mops-jobs, the interpreters and the packages of all environments, each version once."""
    versions: dict[tuple[str, str], Entity] = {}

    def add(name: str, version: str | None, system: str | None = None) -> None:
        known = {"softwareVersion": version or None, "operatingSystem": system}
        entity = {"@id": f"#software-{len(versions)}", "@type": "SoftwareApplication", "name": name, **known}
        versions.setdefault((name, version or ""), entity)

    for environment in found.environments:
        add(environment.implementation or "python", environment.python, _system(environment))
        for name, version in environment.packages.items():
            add(name, version)
    own_versions = [*(environment.mops_jobs for environment in found.environments), found.submitter]
    own_version = next((text for text in own_versions if text), None)
    own = {"@id": "#mops-jobs", "@type": "SoftwareApplication", "name": "mops-jobs", "softwareVersion": own_version}
    return [own, *versions.values()]


def _system(environment: Environment) -> str | None:
    return ", ".join(word for word in (environment.platform, environment.libc) if word) or None


def _references(entities: list[Entity]) -> list[Mapping[str, str]]:
    return [{"@id": entity["@id"]} for entity in entities]


def _write_results(
    found: Provenance, directory: Path, app: App, on_progress: Callable[[int], None] | None
) -> list[str]:
    """Download the outputs. Return why some are missing."""
    job = JobWithOutputs(found.job_id, app.registry.get_job(found.job_id))
    try:
        return download_outputs(job, directory, app, on_progress).problems
    except NoOutputsError:
        return [job.describe_absence()] if job.tasks_lost else []


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", "ascii")
