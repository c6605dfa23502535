"""Tasks by Dask, on a cluster of its own."""

import work
from distributed import Client, LocalCluster, as_completed


def results(client):
    name, tasks = work.asked()
    futures = client.map(getattr(work, name), range(tasks), pure=False)
    yield next(as_completed(futures)).result()
    yield from client.gather(futures)[1:]


if __name__ == "__main__":
    cluster = LocalCluster(n_workers=work.WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with cluster, Client(cluster) as client:
        work.report(results(client))
