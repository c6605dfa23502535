"""Directories with a project file of an attacker, which a user enters to run a command.

The promises:

- No file changes outside of the project, and none within it that was there before, but caches and registries.
- A file of another user, or in a directory where every user may write, redirects nothing, and is named.
- A redirected registry is named on stderr.
- A refusal is one sentence and exit code 2.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
from pathlib import Path

import mops_jobs
from mopsjobs.app.run.project_file import PROJECT_FILE
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from reliability.hostile.readers import RECORD
from reliability.hostile.values import TEXTS
from reliability.trial import Figure, Trial, hold

ANOTHER = 65534
"""A user to whom root gives files, to be the attacker."""

CODE = "\nsilent !touch PWNED\nimport os; os.system('touch PWNED')\n"
"""What an editor or a Python would run, should it find it in a file of its own."""

CACHES = (
    "~/.vim/plugin/x.vim", "~/.bashrc", "~", "/", "/dev/null", "..", ".", "../x.db", "a/../../x.db", "out/x.db", "out",
    "link.db", "dangling.db", "plugin/../../x", "{home}/site-packages/x.pth", "{home}/.ssh/authorized_keys",
    "//{home}/x", "./../../{home}/x.db", "notes.txt", "empty/../notes.txt", "code.py", "notes.txt/x.db", "~root/x.db",
    "~no-such-user/x.db", *(text for text in TEXTS if text.isprintable() and text),
)  # fmt: skip
"""Where an attacker wants the cache to be: outside, or in the place of a file that is there."""

COMMANDS = (("list",), ("sync",), ("status", "a"), ("summary",), ("doctor",), ("config", "show"), ("list", "-q"))


def run(trial: Trial) -> list[Figure]:
    """Enter each of the directories, and run commands there."""
    refused = taken = ignored = 0
    for number in range(0, len(CACHES), max(1, len(CACHES) // trial.times(len(CACHES), 30))):
        place = _Place(trial.directory / f"hostile-project-{number}", CACHES[number])
        codes = {place.enter(*argv) for argv in COMMANDS}
        refused += 2 in codes
        taken += 2 not in codes
        for loose in (0o1777, 0o757) if os.geteuid() else (0o1777, 0o757, None):
            place.loosen(loose)
            hold(place.enter("list") == 0, "a project file that is ignored makes a command fail")
            ignored += 1
    hold(refused > 0 < taken, "all project files were refused, or none")
    return [
        Figure("hostile project files: refused", refused),
        Figure("hostile project files: obeyed within their directory", taken),
        Figure("hostile project files: ignored, of another user or where every user may write", ignored),
    ]


class _Place:
    """A home with files of its user, and a project of an attacker beside it."""

    def __init__(self, directory: Path, cache: str) -> None:
        self._home, self._project = directory / "home", directory / "project"
        self._cache = cache.replace("{home}", str(self._home))
        for path in (self._home / ".vim/plugin", self._home / "site-packages", self._project / "empty"):
            path.mkdir(parents=True)
        (self._home / ".bashrc").write_text("mine")
        (self._project / "out").symlink_to(self._home)
        (self._project / "link.db").symlink_to(self._home / ".bashrc")
        (self._project / "dangling.db").symlink_to(self._home / "x.pth")
        (self._project / "notes.txt").write_text("mine")
        (self._project / "code.py").write_text("pass")
        registry = self._project / "registry.db"
        with contextlib.closing(SQLiteVersionedStore(registry)) as store:
            record = {**RECORD, "job_id": "a", "labels": {"x": CODE}, "error_message": CODE}
            store.create_if_absent("jobs/a/state.json", json.dumps(record).encode())
        self._file = self._project / PROJECT_FILE
        self._file.write_text(f'registry = "sqlite:registry.db"\ncache = {json.dumps(self._cache)}\n')
        self._is_obeyed = True
        self._before = self._files()

    def loosen(self, mode: int | None) -> None:
        """Let every user write to the directory; with None, give the file to another user instead."""
        self._project.chmod(0o755 if mode is None else mode)
        if mode is None:
            os.chown(self._file, ANOTHER, -1)
        self._is_obeyed, self._before = False, self._files()

    def enter(self, *argv: str) -> int:
        """Run a command in the project, hold what it did to what is promised, and return its exit code."""
        out, err = io.StringIO(), io.StringIO()
        env = {"HOME": str(self._home)}
        before = os.getcwd()
        os.chdir(self._project)
        known = os.environ.get("HOME")
        os.environ["HOME"] = str(self._home)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = mops_jobs.main(list(argv), env=env)
        finally:
            os.chdir(before)
            os.environ.pop("HOME")
            if known is not None:
                os.environ["HOME"] = known
        what = f"{' '.join(argv)} with cache = {self._cache!r}"
        told = err.getvalue()
        hold("Traceback" not in told and "Unexpected" not in told, f"{what}: {told[-500:]!r}")
        hold(str(self._file) in told or code == 2, f"{what} names no project file: {told!r}")
        if self._is_obeyed:
            in_table = argv == ("doctor",)  # which tells of a cache that is refused in its table
            hold(code != 2 or in_table or told.count("error: ") == 1, f"{what} says {told!r}")
        else:
            hold(told.count(f"{self._file} is ignored: ") == 1, f"{what} obeys the file: {told!r}")
        self._check_files(what)
        return code

    def _check_files(self, what: str) -> None:
        now = self._files()
        changed = {path for path, content in self._before.items() if now.get(path) != content}
        hold(not changed, f"{what} has changed {sorted(changed)}")
        for path in now.keys() - self._before.keys():
            is_within = path.startswith(f"{self._project}/") and self._is_obeyed
            hold(is_within, f"{what} has made {path}")
            hold(not now[path][0] & 0o111, f"{what} has made {path}, which can be executed")

    def _files(self) -> dict[str, tuple[int, bytes]]:
        """Return mode and content of each file, without the registry, caches, and what SQLite has beside them."""
        found = {}
        for place in (self._home, self._project):
            for folder, _, names in os.walk(place):
                for name in names:
                    path = os.path.join(folder, name)
                    state = os.lstat(path)
                    if name.startswith("registry.db"):
                        continue
                    content = os.readlink(path).encode() if stat.S_ISLNK(state.st_mode) else b""
                    if stat.S_ISREG(state.st_mode):
                        with open(path, "rb") as file:
                            content = file.read()
                    found[path] = (stat.S_IMODE(state.st_mode), content)
        return {path: value for path, value in found.items() if not self._is_own(path)}

    def _is_own(self, path: str) -> bool:
        """Return whether a file is a cache, which may change, where it may be."""
        if path.startswith((f"{self._home}/.cache/mops-jobs/", f"{self._home}/.local/share/mops-jobs/")):
            return True
        with open(path, "rb") if os.path.isfile(path) else io.BytesIO() as file:
            return path.startswith(f"{self._project}/") and file.read(16) == b"SQLite format 3\0"
