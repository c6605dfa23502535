"""Jobs to compare: runs of one study that differ in code, parameters, packages and results."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from mopsjobs.bundles.bundle import store_bundle
from mopsjobs.bundles.git_state import GitState
from mopsjobs.bundles.packing import pack
from mopsjobs.ledger.environment import Environment, encode_environment
from mopsjobs.studies.manifest import Origin
from support.runs import tree
from support.study_jobs import run_study

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.studies.study import Task

MODEL = "def simulate(params, seed):\n    return {'peak': params['beta'] * FACTOR}\nFACTOR = 1\n"


def put_bundle(jobs: JobRegistry, directory: Path, **files: str) -> str:
    """Pack files into a bundle, store that, and return its name. Of a file's name, `_py` is the end `.py`."""
    root = tree(directory, {name.replace("_py", ".py"): text for name, text in files.items()})
    with pack(root) as packed:
        store_bundle(jobs.store, packed)
        return packed.digest


def note_environment(jobs: JobRegistry, job_id: str, python: str = "3.12.4", **packages: str) -> None:
    """Note the environment of a job, as its runner does."""
    environment = Environment(python, "cpython", "linux-x86_64", "glibc 2.36", "1.0", packages)
    jobs.store.create_if_absent(*encode_environment(job_id, environment))


def run_compared(jobs: JobRegistry, directory: Path) -> None:
    """Run three jobs: `base`, `faster` with other code and a newer numpy, and `wider` with more parameter sets."""
    old = put_bundle(jobs, directory / "old", model_py=MODEL, data_py="rows = 3\n")
    new = put_bundle(jobs, directory / "new", model_py=MODEL.replace("= 1", "= 2"), data_py="rows = 3\n", fast_py="")
    for job_id, bundle, size, shift, numpy in (
        ("base", old, 10, 0.0, "1.26.4"),
        ("faster", new, 10, 0.5, "2.1.0"),
        ("wider", old, 15, 0.0, "1.26.4"),
    ):
        _run(jobs, job_id, bundle, size, shift)
        note_environment(jobs, job_id, numpy=numpy, scipy="1.14.0", pandas="2.2.2")


def _run(jobs: JobRegistry, job_id: str, bundle: str, size: int, shift: float) -> None:
    def scalars(task: Task) -> dict[str, object]:
        noise = random.Random(task.seed).gauss(0, 0.1)
        return {
            "result.json/peak": round(task.params["beta"] * 10 + shift * task.params["beta"] + noise, 6),
            "result.json/population": 1000,
        }

    run_study(
        jobs,
        job_id,
        [{"beta": number / 10, "gamma": 0.25} for number in range(1, size + 1)],
        lambda task: "failed" if job_id == "wider" and task.params["beta"] > 1.3 else "succeeded",
        scalars,
        status="partial" if job_id == "wider" else "succeeded",
        n_replicates=4,
        bundle=bundle,
        origin=Origin("1.0", GitState(("b" if job_id == "faster" else "a") * 40, is_dirty=False)),
        scenario="fast" if job_id == "faster" else "base",
        metadata={"title": "How high the peak is"},
    )
