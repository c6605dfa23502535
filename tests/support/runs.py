"""Jobs that tests run: a model steered by its parameters, a study of it, and ways to wait for what happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopsjobs.bundles.bundle import store_bundle
from mopsjobs.bundles.packing import pack
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import runner_end
from mopsjobs.engines.model_process import WORKER
from mopsjobs.ledger.retry_policy import retry_policy
from mopsjobs.runner.pools.base import Pool, TaskLimits, TaskResult
from mopsjobs.runner.pools.local import WorkerPool
from mopsjobs.runner.run_shard import run_shard
from mopsjobs.runner.shard import Shard
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import results_prefix
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.study import Study
from mopsjobs.studies.study_parser import parse_study

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.registry.job_state import JobState
    from mopsjobs.runner.shard import ShardResult, TaskProgress
    from mopsjobs.store.base import VersionedStore
    from support.cli import LineStore

Worker = subprocess.Popen[Any] | Future[Any] | Callable[[], "str | None"]
"""A process or a thread that a test waits for, or a function that returns how one has ended."""

PATIENCE = 300.0
"""Seconds after which what is waited for counts as never to come, also on a slow and busy machine."""

MODEL = '''
"""A model that does what its parameters say, and notes each call."""
import os, sys, time

LAST = []

def note(path, text):
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, (text + "\\n").encode())
    os.close(file)

def simulate(params, seed):
    if "calls" in params:
        note(params["calls"], "%s %s" % (params["x"], os.getpid()))
    if "say" in params:
        print(params["say"], flush=True)
    if "gate" in params:
        end = time.monotonic() + 600
        while not os.path.exists(params["gate"]) and time.monotonic() < end:
            time.sleep(0.005)
    if "die" in params and not os.path.exists(params["die"]):
        open(params["die"], "x").close()
        os.kill(os.getpid(), 9)
    if params.get("always_die"):
        os.kill(os.getpid(), 9)
    if params.get("fail") or ("needs" in params and not os.path.exists(params["needs"])):
        raise ValueError("as asked")
    if "fork" in params and os.fork() == 0:
        note(params["fork"], str(os.getpid()))
        time.sleep(600)
        os._exit(0)
    if "killed" in params:
        while not os.path.exists(params["fork"]) or not os.path.getsize(params["fork"]):
            time.sleep(0.005)
        if not os.path.exists(params["killed"]):
            open(params["killed"], "x").close()
            os.kill(os.getpid(), 9)
    return {"x": params["x"], "seed": seed}
'''

MIB = 2**20

HOG = '''
"""A model that has as much memory as its parameters say, until its gate is open."""
import os, subprocess, sys, time

KEPT = []

CHILD = "import sys, time; block = bytearray(b'1') * int(sys.argv[1]); time.sleep(600)"

def hold(params):
    end = time.monotonic() + 600
    while "gate" in params and not os.path.exists(params["gate"]) and time.monotonic() < end:
        time.sleep(0.005)

def simulate(params, seed):
    with open(params["calls"], "a") as file:
        file.write("%s %s\\n" % (params["x"], os.getpid()))
    block = bytearray(b"1") * params.get("bytes", params.get("fork", 0))
    if params.get("keep"):
        KEPT.append(block)
    children = []
    while "fork" in params and len(children) < 4 and 0 not in children:
        children.append(os.fork())
    hold(params)
    if 0 in children:
        os._exit(0)
    for pid in children:
        os.waitpid(pid, 0)
    if "child" in params:
        subprocess.run([sys.executable, "-S", "-c", CHILD, str(params["child"])])
    return {"x": params["x"], "size": len(block)}
'''


def until(condition: Callable[[], Any], what: str = "it", *workers: Worker) -> Any:
    """Look until `condition` holds, and return what it gave. Fails when that takes too long.

    A look may be a request to a server. On few cores, many of them delay what is waited for.

    Args:
        condition: what is waited for.
        what: its name.
        workers: those that bring it about. When one has ended, this fails at once, with what it said.
    """
    end = time.monotonic() + PATIENCE
    pause = 0.01
    while time.monotonic() < end:
        ends = [text for worker in workers if (text := end_of(worker)) is not None]
        if found := condition():
            return found
        assert not ends, f"no {what}, and {ends}"
        time.sleep(pause)
        pause = min(1.2 * pause, 0.05)
    raise AssertionError(f"waited {PATIENCE:g} s for {what}")


def at_once(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Call a function with each item, in threads that begin together, and return what it returns."""
    items = list(items)
    start = threading.Barrier(len(items))

    def call(item: Any) -> Any:
        start.wait(PATIENCE)
        return function(item)

    with ThreadPoolExecutor(len(items)) as threads:
        return list(threads.map(call, items))


def end_of(worker: Worker) -> str | None:
    """Return how a process has ended, and what it said on stderr if that is a pipe; None if it has not."""
    if isinstance(worker, Future):
        return f"it returned {worker.result()}" if worker.done() else None
    if not isinstance(worker, subprocess.Popen):
        return worker()
    if worker.poll() is None:
        return None
    said = b""
    if worker.stderr is not None:
        os.set_blocking(worker.stderr.fileno(), False)  # what it has started may hold the pipe
        with contextlib.suppress(BlockingIOError):
            said = os.read(worker.stderr.fileno(), 2**20)
    return f"{worker.args} ended with {worker.returncode}: {said.decode(errors='replace')}"


def code(directory: Path, source: str = MODEL) -> Path:
    """Return a directory with a model in one file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.py").write_text(source)
    return directory


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write files below a directory, by their paths, and return the directory."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def make_venv(directory: Path, **packages: str) -> Path:
    """Make a virtual environment with these versions of packages, and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    (site,) = directory.glob("lib/python3*/site-packages")
    tree(site, {f"{name}-{version}.dist-info/METADATA": "" for name, version in packages.items()})
    return directory / "bin" / "python"


def study(sets: list[dict[str, Any]], *, may_grow: bool = False, **fields: Any) -> Study:
    """Return a study of `MODEL` over these parameters."""
    document = {"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"], **fields}
    return parse_study(document, may_grow=may_grow)


def sets_of(count: int, **params: Any) -> list[dict[str, Any]]:
    """Return this many parameter sets, which differ in `x`."""
    return [{"x": number, **params} for number in range(count)]


def place(
    store: VersionedStore, job_id: str, studied: Study, directory: Path, *, grows: float | None = None
) -> Manifest:
    """Put a job's bundle and manifest into the store, as a submission does."""
    with pack(directory) as packed:
        store_bundle(store, packed)
        manifest = Manifest(job_id=job_id, study=studied, bundle=packed.digest, grows=grows)
    store.create_if_absent(manifest_key(job_id), manifest.to_json())
    return manifest


def work(
    store: VersionedStore,
    registry: JobRegistry,
    directory: Path,
    job_id: str = "job",
    *,
    on_progress: Callable[[TaskProgress], None] | None = None,
    **shard: Any,
) -> tuple[ShardResult, list[str]]:
    """Run a shard in this process with two workers of our own interpreter; what came of it and what was said."""
    said: list[str] = []
    directory.mkdir(parents=True, exist_ok=True)
    chosen = Shard(job_id=job_id, **{"workers": 2, "python": sys.executable, "outage_seconds": 100.0, **shard})
    # Waits for a store are cut short, not away: another thread has to bring it back meanwhile.
    ran = run_shard(
        chosen,
        store,
        registry,
        JobDir(directory),
        on_log=said.append,
        on_progress=on_progress,
        sleep=lambda _seconds: time.sleep(0.01),
    )
    return ran, said


class Bench:
    """A job, its store and registry, and the directories of its runners, which run in this process."""

    def __init__(self, line: LineStore, registry: JobRegistry, model: Path, path: Path) -> None:
        self.line, self.registry, self.model, self.path = line, registry, model, path

    def given(self, sets: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
        """Submit job `job` over some parameter sets, and the study's fields, without launching it. Return the sets."""
        manifest = place(self.line, "job", study(sets, **fields), self.model)
        self.registry.register_job("job", tasks_total=manifest.tasks_total)
        return sets

    def work(
        self, name: str = "job", *, store: VersionedStore | None = None, **more: Any
    ) -> tuple[ShardResult, list[str]]:
        """Run a shard in a directory of this name; see `work`."""
        return work(store or self.line, more.pop("registry", self.registry), self.path / name, **more)

    def record(self) -> JobState:
        return record(self.registry)

    def counts(self) -> tuple[str, int, int, int]:
        return counts(self.registry)


def calls(path: Path) -> Counter[int]:
    """Return how often the model was called, by `x`."""
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(int(line.split()[0]) for line in lines)


def callers(path: Path) -> list[int]:
    """Return the processes that called the model, in order."""
    return [int(line.split()[1]) for line in path.read_text().splitlines()]


def record(registry: JobRegistry, job_id: str = "job") -> JobState:
    """Return the job's record, which has to be there."""
    state = registry.get_job(job_id)
    assert state is not None
    return state


def counts(registry: JobRegistry) -> tuple[str, int, int, int]:
    """Return the record's status, and its tasks that are completed, failed and verified."""
    state = record(registry)
    return state.status, state.tasks_completed, state.tasks_failed, state.tasks_verified


def results(store: VersionedStore, job_id: str = "job") -> dict[str, bytes]:
    """Return the outputs that readers of a job see, in packs or not, by their names below it."""
    prefix, packed = results_prefix(job_id), PackedStore(store)
    found = (
        (entry.key[len(prefix) :], entry if entry.value is not None else packed.get(entry.key))
        for entry in packed.scan(prefix)
    )
    return {name: entry.value or b"" for name, entry in found if entry is not None}


def is_alive(pid: int) -> bool:
    """Return True if there is such a process, other than as a zombie: it ends with its last thread."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    return False


def kill(pid: int) -> None:
    """Kill a process that the test started; one that has ended is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_between_reports(pid: int, directory: JobDir, heartbeat: Callable[[], str | None]) -> None:
    """Kill a runner that has noted that its last report was written, and wait until it is known to be gone.

    Before that note, a killed runner would look silent. All threads are stopped while the note is read, since one may
    be about to write. A thread that waits for a disk outlives its process for a moment, and with it the lock that tells
    of a runner at work.
    """

    def is_stopped() -> bool:
        threads = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        return set(threads) == {"T"}

    def is_killed() -> bool:
        os.kill(pid, signal.SIGSTOP)
        until(is_stopped, "the runner to stop")
        if not any(str(heartbeat()) in path.read_text().split()[1:] for path in directory.report_files()):
            os.kill(pid, signal.SIGCONT)
            return False
        kill(pid)
        return True

    until(is_killed, "the note of its last report")
    until(lambda: runner_end(directory) is not None, "the runner to be gone")


def limits_of(more: dict[str, Any]) -> TaskLimits:
    """Take the limits of a task out of the arguments of a pool: `timeout`, `memory`, `retries` and `retry_on`."""
    policy = retry_policy(more.pop("retries", None), more.pop("retry_on", None))
    return TaskLimits(more.pop("timeout", None), more.pop("memory", None), policy)


def pool_of(directory: Path, size: int = 2, *, entrypoint: str = "model:simulate/baseline", **more: Any) -> WorkerPool:
    """Return a pool of workers on the model in a directory; `limits_of` says what else it takes."""
    spool = directory.with_name(directory.name + "-spool")
    spool.mkdir(exist_ok=True)
    setup = {"root": str(directory), "entrypoint": entrypoint, "spool": str(spool)}
    return WorkerPool([sys.executable, "-u", str(WORKER)], setup, size, limits=limits_of(more), **more)


def all_of(pool: Pool, sets: list[dict[str, Any]]) -> list[TaskResult]:
    """Run tasks of these parameters through a pool, and return what became of each, by position."""
    finished = sorted(final(ends(pool, sets)), key=lambda one: one.position)
    assert [one.position for one in finished] == list(range(len(sets)))
    return finished


def ends(pool: Pool, sets: list[dict[str, Any]]) -> Iterator[TaskResult]:
    """Run tasks through a pool, and yield each attempt as it ends."""
    end = time.monotonic() + PATIENCE
    with contextlib.closing(pool.run(enumerate(study(sets).tasks()), wake_seconds=0.05)) as running:
        for one in running:
            assert time.monotonic() < end, "the pool takes too long"
            if one is not None:
                yield one


def final(results: Iterable[TaskResult | None]) -> Iterator[TaskResult]:
    """Yield the results after which their tasks are not tried again."""
    return (one for one in results if one is not None and one.is_final)
