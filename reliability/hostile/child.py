"""One reader in a process of its own, within bounds of memory and time: `python -m reliability.hostile.child WHAT …`.

`large READER` reads the reader's large inputs, `bombs` what unpacks to 10 GB, `many TASKS` a manifest of two hundred
bytes with that many tasks.
"""

from __future__ import annotations

import base64
import resource
import sys
import tempfile
from pathlib import Path

MEMORY = 2**30
"""Bytes of address space for what is large: a text of 100 MB is there as bytes, as text, and once more written."""

BOMB_MEMORY = 2**28
"""Bytes of memory besides what the process has when it begins, for reading a bomb of 10 GB."""

MANY_MEMORY, BYTES_A_TASK = 2**26, 12
"""The same for a manifest with many tasks: a number of bytes, and more for each of them."""

CPU_SECONDS = 60
"""Of the processor, for one input: every one takes a second or two, and what is quadratic takes hours."""

BOMB = 10 * 2**30


def main() -> int:
    what, *words = sys.argv[1:]
    if what == "many":
        return many(int(words[0]))
    from reliability.hostile.ledger import BY_NAME

    if what == "large":
        reader = BY_NAME[words[0]]
        for name, value in reader.large():
            _limit(MEMORY)
            print(f"{name}: {'taken' if reader.check(value) else 'refused'}", flush=True)
        return 0
    return bombs()


def _limit(memory: int) -> None:
    """Limit the process from now on: it may have this much more address space, and this much processor time."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    unlimited = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, unlimited))
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_SECONDS, unlimited))


def bombs() -> int:
    """Read what unpacks to 10 GB, in each place where something is unpacked."""
    import tarfile

    from mopsjobs.bundles.extraction import extract
    from mopsjobs.errors import MopsJobsError
    from mopsjobs.store.azure import listing
    from reliability.hostile import values as hostile

    packed = base64.b64encode(hostile.zlib_bomb(BOMB)).decode()
    archives = {
        "one file of 10 GB": hostile.tar_header("a", BOMB),
        "a file that says 10 bytes": hostile.tar_header("a", 10),
        "files that say -1 byte": hostile.tar_header("a", -1),
        "a header of 10 GB": hostile.tar_header("a", BOMB - 1, tarfile.XHDTYPE),
        "a name of 10 GB": hostile.tar_header("a", BOMB - 1, tarfile.GNUTYPE_LONGNAME),
        "a sparse file of 10 GB": hostile.tar_header("a", BOMB, tarfile.GNUTYPE_SPARSE),
        "a directory of 10 GB": hostile.tar_header("a", BOMB, tarfile.DIRTYPE),
        "a link of 10 GB": hostile.tar_header("a", BOMB, tarfile.SYMTYPE, "b"),
    }
    values = {name: hostile.gzip_bomb(header, BOMB) for name, header in archives.items()}
    _limit(BOMB_MEMORY)
    for size in (100, listing.MAX_INLINE_BYTES, BOMB):
        assert listing.unpack(packed, size, "") is None
    print(f"a packed value: refused, {len(packed):,} characters", flush=True)
    for name, value in values.items():
        with tempfile.TemporaryDirectory() as directory:
            try:
                extract(value, directory)
                told = "unpacked"
            except MopsJobsError as error:
                told = f"refused: {error}"
            size = sum(path.stat().st_size for path in Path(directory).rglob("*"))
            assert size <= 2**20, (name, size)
        print(f"{name}: {told}, {len(value):,} bytes", flush=True)
    return 0


def many(tasks: int) -> int:
    """Do what commands and runners do with a manifest that names this many tasks by one number."""
    import json

    from mopsjobs.store.memory import InMemoryVersionedStore
    from mopsjobs.studies.manifest import Manifest
    from mopsjobs.studies.outputs import Completeness, find_complete_tasks, missing_tasks, output_key
    from mopsjobs.studies.results import outputs_of

    study = {"model": "m:f", "scenario": "s", "parameter_sets": [{"x": 1}], "n_replicates": tasks, "outputs": ["a"]}
    document = {"version": 1, "job_id": "job", "bundle": "sha256:0", "study": study, "only": None}
    value = json.dumps(document | {"parent_job_id": None}).encode()
    store = InMemoryVersionedStore()
    memory = MANY_MEMORY + BYTES_A_TASK * tasks
    _limit(memory)
    manifest = Manifest.from_json(value)
    _, first = next(manifest.tasks())
    store.create_if_absent(output_key("job", first, "a"), b"")
    all_but_one = Completeness(tasks)
    all_but_one.complete[:-1] = b"\1" * (tasks - 1)
    doings = {
        "results": lambda: sum(1 for _ in outputs_of(store, "job", [manifest])),
        "validate": lambda: find_complete_tasks(store, manifest).count,
        "run": lambda: manifest.duplicate_tasks() and 1,
        "resume": lambda: len(missing_tasks(manifest, all_but_one)),
    }
    for name, do in doings.items():
        _limit(memory)
        print(f"{name}: {do()} of {tasks:,} tasks in {len(value)} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
