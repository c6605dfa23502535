"""Tasks by HyperQueue: PyPI has its Python interface with server and worker, and not the program `hq`.

A Python task is an interpreter of its own, and returns no value.
"""

import sys

import work
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
from hyperqueue.task.function import PythonEnv


def results(client):
    name, tasks = work.asked()
    job = Job()
    for number in range(tasks):
        if name == "program":
            job.program(["true"])
        else:
            job.function(getattr(work, name), args=(number,))
    client.wait_for_jobs([client.submit(job)])
    yield from job.tasks


if __name__ == "__main__":
    with LocalCluster(worker_config=WorkerConfig(cores=work.WORKERS)) as cluster:
        work.report(results(cluster.client(python_env=PythonEnv(sys.executable))))
