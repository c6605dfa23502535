"""An adaptive study whose parameter sets are precise after different looks, and a model of known values."""

from __future__ import annotations

import json
from typing import Any

from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.study import Study
from mopsjobs.studies.study_parser import parse_study
from support.runs import results

MODEL = '''
"""Values scatter around 100 by `sd`. Durations depend on values, so that their order would bias a careless rule."""
import os, random, time

def is_marked(what, params, seed):
    path = os.path.join(os.environ.get("MARKS", ""), what)
    if not params.get(what) or not os.path.exists(path):
        return False
    with open(path) as file:
        return str(seed) in file.read().split()

def simulate(params, seed):
    if "CALLS" in os.environ:
        with open(os.environ["CALLS"], "a") as file:
            file.write("%s %d\\n" % (os.environ["MOPS_JOBS_SHARD"], seed))
    value = 100 + params["sd"] * random.Random(seed).gauss(0, 1)
    time.sleep(params.get("pause", 0) * (value > 100))
    while is_marked("holds", params, seed):
        time.sleep(0.02)
    if is_marked("fails", params, seed):
        raise ValueError("as asked")
    if is_marked("nan", params, seed):
        value = float("nan")
    return {"peak": value, "seed": seed}
'''

CALLS = "CALLS"
"""The variable that names a file for the shards of calls, and their seeds."""

MARKS = "MARKS"
"""The variable that names the directory of marks, the seeds of tasks that end otherwise. It has a file for each of
`holds`, `fails` and `nan`, which sets with that parameter obey. A path in a parameter would change all values.
"""

REPLICATES = {"min": 4, "max": 40, "until": {"peak": {"confidence": 0.95, "absolute": 2.0}}}

SCATTER = (0.1, 0.5, 1.0, 2.0, 3.0, 50.0)
"""The last set stays imprecise up to `max`."""


def adaptive_study(sets: list[dict[str, Any]] | None = None, **fields: Any) -> Study:
    """Return a study of `MODEL` over these parameters, or over sets that scatter differently."""
    document = {
        "model": "model:simulate",
        "parameter_sets": sets or [{"sd": sd} for sd in SCATTER],
        "n_replicates": REPLICATES,
        "outputs": ["result.json"],
        **fields,
    }
    return parse_study(document)


def seeds(study: Study, place: int) -> list[int]:
    """Return the seeds of the replicates of a set."""
    one = study.parameter_sets[place]
    return list(study.seeds_of(one))


def counts_by_set(store: VersionedStore, study: Study, job_id: str = "job", *, is_prefix: bool = True) -> list[int]:
    """Return how many replicates of each set have outputs: they are the first ones, unless some failed."""
    found = {tuple(name.split("/")[:2]) for name in results(store, job_id)}
    counts = []
    for place, one in enumerate(study.parameter_sets):
        has = [(one.param_id, str(seed)) in found for seed in seeds(study, place)]
        counts.append(sum(has))
        assert not is_prefix or has == sorted(has, reverse=True), "the replicates are a prefix"
    return counts


def values(store: VersionedStore, job_id: str = "job") -> dict[str, Any]:
    """Return the outputs by their names."""
    return {name: json.loads(value) for name, value in results(store, job_id).items()}
