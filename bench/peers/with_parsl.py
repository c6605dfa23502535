"""Tasks by Parsl, with its executor for many tasks (HTEX); a program is its `bash_app`."""

from concurrent.futures import as_completed

import parsl
import work
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider


def program(number):
    return "true"


def results():
    name, tasks = work.asked()
    app = parsl.bash_app(program) if name == "program" else parsl.python_app(getattr(work, name))
    futures = [app(number) for number in range(tasks)]
    yield next(as_completed(futures)).result()
    for future in futures[1:]:
        yield future.result()


if __name__ == "__main__":
    executor = HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=work.WORKERS,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    with parsl.load(Config(executors=[executor])):
        work.report(results())
