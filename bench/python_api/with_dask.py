"""The study by dask: parameters and replicates, a table of all tasks, and what failed."""

import itertools

import pandas as pd
from distributed import Client, LocalCluster, wait
from model import simulate

if __name__ == "__main__":
    tasks = [
        ({"beta": beta, "gamma": gamma}, seed)
        for beta, gamma in itertools.product([0.1, 0.3, 0.5, 0.7, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5])
        for seed in range(2)
    ]
    rows = []
    with LocalCluster(threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        futures = client.map(simulate, *zip(*tasks, strict=True))
        wait(futures, timeout=600)
        for (params, seed), future in zip(tasks, futures, strict=True):
            row = {**params, "seed": seed, "status": "succeeded"}
            if (error := future.exception()) is None:
                row |= future.result()
            else:
                row |= {"status": "failed", "error": repr(error)}
                print(row["beta"], row["gamma"], seed, row["error"])
            rows.append(row)
    pd.DataFrame(rows).to_csv("table.csv", index=False)
