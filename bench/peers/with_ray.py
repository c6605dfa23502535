"""Tasks by Ray, on a node of its own."""

import os

import ray
import work


def results():
    name, tasks = work.asked()
    call = ray.remote(getattr(work, name))
    pending = [call.remote(number) for number in range(tasks)]
    ray.wait(pending, num_returns=1)
    yield ray.get(pending[0])
    yield from ray.get(pending[1:])


if __name__ == "__main__":
    ray.init(
        num_cpus=work.WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.path.abspath("ray"),
    )
    work.report(results())
    ray.shutdown()
