"""The study by mops-jobs: parameters and replicates, a table of all tasks, and what failed."""

import mopsjobs as mj

study = mj.Study(
    "model:simulate",
    mj.grid(beta=[0.1, 0.3, 0.5, 0.7, 0.9], gamma=[0.1, 0.2, 0.3, 0.4, 0.5]),
    replicates=2,
    outputs=["result.json"],
)
with mj.connect() as reg:
    job = reg.submit(study, code=".")
    job.wait("10m")
    job.results().to_csv("table.csv")
    for group in job.failures()["groups"]:
        print(group["count"], group["type"], group["message"], [one["condition"] for one in group["separates"]])
