"""The script that runs a model in the model's own interpreter, as a file that the interpreter can be started with."""

from __future__ import annotations

from pathlib import Path

from mopsjobs.utils.files import private_opener

WORKER = Path(__file__).with_name("worker.py")

WORKER_SOURCE = WORKER.read_bytes()
"""Read at import: the file lies in a cache directory, which may be cleared before a worker starts."""

REDUCE_SOURCE = WORKER.with_name("reduce_script.py").read_bytes()
"""The script that runs a reduce function; see there."""

DEBUGGER_SOURCE = WORKER.with_name("debugger_script.py").read_bytes()
"""The script that runs one task in the debugger; see there."""


def write_worker(directory: Path) -> Path:
    """Write the script into a directory of its own, and return its path.

    Python puts the directory of a script into `sys.path`, where a model would find the modules of this package.
    """
    path = directory / WORKER.name
    with open(path, "xb", opener=private_opener) as file:
        file.write(WORKER_SOURCE)
    return path


def write_reduce_worker(directory: Path) -> Path:
    """Write the script that runs a reduce function, beside that of a worker, and return its path."""
    path = write_worker(directory).with_name("reduce_script.py")
    with open(path, "xb", opener=private_opener) as file:
        file.write(REDUCE_SOURCE)
    return path
