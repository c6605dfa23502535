"""Between mops-jobs and the model: what `.modelops/manifest.json` names.

Called as `wire(entrypoint, params, seed)`, once a task, in a Python that has what requirements.txt names;
gives the task's outputs as bytes, by name.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
from models import seir

MODEL = "models.seir"


def wire(entrypoint: str, params: dict[str, float], seed: int) -> dict[str, bytes]:
    """One simulation: the epidemic as Parquet, and what came of it as JSON."""
    model, _, scenario = entrypoint.rpartition("/")
    if model != MODEL or scenario not in seir.SCENARIOS:
        raise ValueError(f"{entrypoint} is not in this bundle: it has {MODEL}/{{{','.join(seir.SCENARIOS)}}}")
    epidemic = seir.simulate(scenario, params, seed)
    by_age = epidemic["infected"].groupby("age", sort=False).sum()
    summary = {
        "attacked": {age: int(count) for age, count in by_age.items()},
        "peak_day": int(epidemic["infectious"].groupby("day").sum().idxmax()),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(epidemic.reset_index()), sink)
    return {"epidemic.parquet": sink.getvalue().to_pybytes(), "summary.json": json.dumps(summary).encode()}
