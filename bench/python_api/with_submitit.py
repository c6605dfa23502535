"""The study by submitit: parameters and replicates, a table of all tasks, and what failed."""

import itertools

import pandas as pd
import submitit
from model import simulate

tasks = [
    ({"beta": beta, "gamma": gamma}, seed)
    for beta, gamma in itertools.product([0.1, 0.3, 0.5, 0.7, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5])
    for seed in range(2)
]
executor = submitit.AutoExecutor(folder="submitit", cluster="local")
executor.update_parameters(timeout_min=10)
rows = []
for (params, seed), job in zip(tasks, executor.map_array(simulate, *zip(*tasks, strict=True)), strict=True):
    row = {**params, "seed": seed, "status": "succeeded"}
    try:
        row |= job.result()
    except submitit.core.utils.UncompletedJobError as error:
        row |= {"status": "failed", "error": str(error)}
        print(row["beta"], row["gamma"], seed, row["error"])
    rows.append(row)
pd.DataFrame(rows).to_csv("table.csv", index=False)
