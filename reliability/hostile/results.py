"""Keys of outputs that choose a file of the user, and a directory full of files that must stay.

What is promised: `results --download` writes new regular files at `<param_id>/<seed>/<name>` below the directory,
and the table of tasks. Each file that was there stays as it was, inside and outside. Each key is downloaded, or named.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.utils.text import strip_control_characters
from reliability.hostile.registry import Command, check
from reliability.hostile.values import TEXTS
from reliability.trial import Figure, Trial, hold

CHOSEN = (
    ".git/config", ".git/hooks/post-commit", ".bashrc", ".ssh/authorized_keys", ".vim/plugin/x.vim", ".gitignore",
    ".mops-jobs.part", ".mops-jobs/1/part", "tasks.csv", "tasks.csv/1/x", "link", "link/1/x", "p/link/x", "p/1/link",
    "p/1/pipe", "p/1/mine", "p/1/mine.part", "p/1/draft", "p/1/directory", "p/1/.part", "/etc/passwd", "../../x",
    "p/1/../x", "p/./x", "p/1/x/", "p//x", "p/1/" + "x" * 300, "p/1/" + "x" * 255, "x" * 255 + "/1/x", "p/1/a\\..\\x",
)  # fmt: skip
"""What a key may hold behind the job, beside the texts that are hostile to others."""

THEIRS = b"theirs"
MINE = b"mine"


def names() -> Iterator[str]:
    """Yield what the keys hold behind `results/<job_id>/`."""
    yield from CHOSEN
    for text in TEXTS:
        yield from (text, f"{text}/1/x", f"p/{text}/x", f"p/1/{text}")


def run(trial: Trial) -> list[Figure]:
    """Download them twice, of a job without a manifest and of one that has one."""
    downloaded = refused = 0
    study = parse_study({"model": "m", "parameter_sets": [{"params": {"x": 1}}]})
    manifest = Manifest(job_id="with", study=study, bundle="sha256:" + "0" * 64)
    task = next(iter(study.tasks()))
    own = {f"{task.param_id}/{task.seed}/{text}" for text in TEXTS}
    for job_id, all_names in (("without", set(names())), ("with", {*names(), *own})):
        directory = trial.directory / f"hostile-results-{job_id}"
        directory.mkdir()
        outside, into = _trap(directory)
        before = {**_contents(outside), **_contents(into)}
        command = Command(directory)
        _fill(directory, job_id, all_names, manifest if job_id == "with" else None)
        for _ in range(2):
            ran = command.run("results", job_id, "--download", str(into))
            check("text", ran, f"results {job_id}", codes=(7,))
            after = {**_contents(outside), **_contents(into)}
            changed = [path for path, content in before.items() if after.get(path) != content]
            hold(not changed, f"results {job_id} has changed {changed[:5]}")
            new = {os.path.relpath(path, into) for path in after.keys() - before.keys()} - {"tasks.csv"}
            for name in new:
                hold(name in all_names and name.isprintable(), f"results {job_id} has made {name!r}")
                hold(name.count("/") == 2 and "/." not in f"/{name}", f"results {job_id} has made {name!r}")
                hold(job_id == "without" or name in own, f"results {job_id} has made {name!r} without a task")
            for name in all_names - new:
                # By the key as a terminal may show it.
                told = strip_control_characters(f"results/{job_id}/{name} is not downloaded: ")
                hold(told in ran.err, f"results {job_id} says nothing of {name!r}")
        hold("p/1/con" in new or job_id == "with", "nothing was downloaded")
        downloaded, refused = downloaded + len(new), refused + len(all_names - new)
    return [
        Figure("hostile results: keys downloaded", downloaded),
        Figure("hostile results: keys refused by name, with every file as it was", refused),
    ]


def _trap(top: Path) -> tuple[Path, Path]:
    """Make the directory of a user, with links out of it, and what they lead to."""
    outside, into = top / "outside", top / "into"
    for path in (outside / "1", into / ".git", into / "p" / "1" / "directory"):
        path.mkdir(parents=True)
    here = into / "p" / "1"
    for path in (outside / "file", into / ".git" / "config", into / ".bashrc", here / "mine", here / "mine.part"):
        path.write_bytes(MINE)
    for link, target in ((into / "link", outside), (into / "p" / "link", outside), (here / "link", outside / "file")):
        link.symlink_to(target)
    (here / "draft.part").symlink_to(outside / "file")
    os.mkfifo(here / "pipe")
    return outside, into


def _fill(directory: Path, job_id: str, all_names: set[str], manifest: Manifest | None) -> None:
    path = directory / "registry.db"
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        store.create_if_absent(f"results/{job_id}", b"")
        if manifest is not None:
            store.create_if_absent(manifest_key(job_id), manifest.to_json())
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        # Not by the store, which would refuse some of the keys.
        rows = [(f"results/{job_id}/{name}", THEIRS, version) for version, name in enumerate(all_names, 9)]
        connection.executemany("INSERT INTO objects VALUES (?, ?, ?)", rows)


def _contents(top: Path) -> dict[str, str]:
    """Return what is below a directory, each with its kind and content."""
    found = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found[path] = f"link {os.readlink(path)}"
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    found[path] = f"file {file.read()!r}"
            elif not stat.S_ISDIR(mode):
                found[path] = "pipe"
    return found
