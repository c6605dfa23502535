"""Calibrations in tests: a growing job in memory, code as an archive, and a sampler that is asked in its process."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.calibration import Calibration, parse_calibration
from mopsjobs.studies.journal import Journal, read_journal
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.rounds import EndedTask, Stopped, as_sets, encode_round, parse_round, round_key
from mopsjobs.submission.calibrating import Coordinator, SamplerProcess, sampler_setup

SPEC: dict[str, Any] = {
    "model": "model:simulate",
    "parameters": {
        "a": {"uniform": [-5, 5]},
        "b": {"log": [0.1, 10]},
        "c": {"integer": [0, 3]},
        "d": {"choice": ["good", "fine", "bad"]},
    },
    "objective": "loss",
    "rounds": 6,
    "sets_per_round": 4,
}


def archive(files: Mapping[str, str]) -> bytes:
    """Return files as a bundle has them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def simulate(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the result of a model with its optimum at a=1, b=3, c=0. It fails where d is bad."""
    if params["d"] == "bad":
        raise ValueError("bad")
    return {"loss": (params["a"] - 1) ** 2 + (params["b"] - 3) ** 2 + params["c"] + seed, "cost": params["c"]}


@dataclasses.dataclass
class JobInMemory:
    """A growing job whose tasks end at once, in any order."""

    replicates: int = 1
    model: Callable[[Mapping[str, Any], int], Mapping[str, Any]] = simulate
    job_id: str = "seir-1"
    values: dict[str, bytes] = dataclasses.field(default_factory=dict)
    tasks: list[EndedTask] = dataclasses.field(default_factory=list)
    is_over: bool = False
    stopped: Stopped | None = None
    yielded: set[int] = dataclasses.field(default_factory=set)
    written: list[tuple[str, bytes]] = dataclasses.field(default_factory=list)
    """The rounds and what was told, by their keys, in the order in which they were stored."""
    rounds: int = 0

    def add(self, sets: Sequence[Mapping[str, Any]], replicates: int | None = None) -> range:
        """Run the sets of a round."""
        first = len(self.tasks)
        self.rounds += 1
        self.written.append((round_key(self.job_id, self.rounds), encode_round(as_sets(sets))))
        for one in sets:
            for seed in [one["seed"]] if "seed" in one else range(replicates or self.replicates):
                number, outputs, error = len(self.tasks), None, None
                try:
                    outputs = {"result.json": json.dumps(self.model(one["params"], seed)).encode()}
                except ValueError as failure:
                    error = {"type": type(failure).__name__, "message": str(failure)}
                self.tasks.append(EndedTask(number, one["params"], seed, outputs, error))
        return range(first, len(self.tasks))

    def keep(self, key: str, value: bytes) -> bytes:
        """Store a value once."""
        if key not in self.values:
            self.written.append((key, value))
        return self.values.setdefault(key, value)

    def ended(self, timeout: float | None) -> Iterator[EndedTask]:
        """Yield the tasks, the last ones first."""
        ended = [task for task in reversed(self.tasks) if task.number not in self.yielded]
        for task in ended:
            self.yielded.add(task.number)
            yield task

    def end(self, stopped: Stopped | None = None) -> None:
        """End the job."""
        self.is_over, self.stopped = True, stopped


def spec(**changes: object) -> Calibration:
    """Return a calibration like `SPEC`."""
    return parse_calibration({**SPEC, **changes})


def run_in_memory(
    calibration: Calibration, files: Mapping[str, str] | None = None, journal: Journal | None = None, **more: Any
) -> tuple[Journal, JobInMemory, list[str]]:
    """Run a calibration, or go on with a journal. Return the journal, the job and the warnings.

    Args:
        calibration: the calibration.
        files: the model's code, as the sampler's process has it.
        journal: what was asked and told before; the job has run it.
        more: fields of `JobInMemory`, and `replays` and `note` of the coordinator.
    """
    options = {name: more.pop(name) for name in ("replays", "note") if name in more}
    job, warnings = JobInMemory(replicates=calibration.first_study.max_replicates, **more), list[str]()
    journal = journal or Journal(calibration, ())
    for one in sorted(journal.rounds[journal.inherited :], key=lambda one: one.number):
        job.add([{"params": params} for params in one.sets])
    with SamplerProcess(sys.executable, archive(files or {}), sampler_setup(calibration), {}) as sampler:
        return Coordinator(job, journal, sampler, warnings.append, **options).run(), job, warnings


def read_back(
    calibration: Calibration,
    written: Sequence[tuple[str, bytes]],
    model: Callable[[Mapping[str, Any], int], Mapping[str, Any]],
    store: InMemoryVersionedStore | None = None,
) -> tuple[Journal, JobInMemory]:
    """Return the journal that a client finds which had these objects stored, and its job, whose tasks have ended."""
    store = store or InMemoryVersionedStore()
    job = JobInMemory(calibration.first_study.max_replicates, model)
    for key, value in written:
        store.create_if_absent(key, value)
        if (sets := None if "told" in key else parse_round(value, key)) is not None:
            job.add([{"params": one.params} | ({} if one.seed is None else {"seed": one.seed}) for one in sets])
        else:
            job.keep(key, value)
    manifest = Manifest(
        job_id=job.job_id, study=calibration.first_study, bundle=f"sha256:{'0' * 64}", engine="local", owner="ada",
        labels={}, grows=3600.0, calibration={"spec": calibration.to_dict()},
    )  # fmt: skip
    journal = read_journal(store, manifest)
    assert journal is not None
    return journal, job
