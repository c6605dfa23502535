"""The git commit of a directory that is packed, and whether the packed files differ from it.

Only git's own objects are read. So no hook, filter, file system monitor or transport of the repository runs, and
nothing is written. Neither remotes nor branches are noted: the URL of a remote may hold a password.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeGuard

SECONDS = 30.0
"""How long git may take. It reads from a network drive, perhaps."""

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)

_SHA1_DIGITS = 40

_KEPT_VARIABLES = ("PATH", "HOME", "XDG_CONFIG_HOME")
"""All that git gets of the environment: a hook of git sets variables that name another repository."""

_OWN_VARIABLES = {"LC_ALL": "C", "GIT_ALLOW_PROTOCOL": "none", "GIT_TERMINAL_PROMPT": "0"}
"""A partial clone would fetch missing objects; no transport is allowed."""


class GitState(NamedTuple):
    """The commit that a directory was at."""

    commit: str
    is_dirty: bool | None
    """Whether a packed file differs from the commit, or a committed one is gone; None if that is unknown.

    Bytes are compared. A file that git stores in another form differs, as with Git LFS or converted line ends.
    """


def is_commit(text: object) -> TypeGuard[str]:
    """Return True if a value is the hash of a commit."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def read_git_state(directory: Path, blobs: Mapping[str, str], env: Mapping[str, str]) -> GitState | None:
    """Return the commit of a packed directory.

    Args:
        directory: the directory.
        blobs: the packed files; see `PackedBundle.blobs`.
        env: the environment: where git is found.

    Returns:
        None if git is missing or refuses, or if the commit has none of the files.
    """
    commit = (_run_git(directory, env, "rev-parse", "--verify", "--quiet", "HEAD^{commit}") or "").strip()
    if not is_commit(commit):
        return None
    listing = _run_git(directory, env, "ls-tree", "-r", "-z", commit)  # of this directory alone
    if listing is None:
        return GitState(commit, None)
    committed: dict[str, str] = {}
    for line in filter(None, listing.split("\0")):
        head, _, name = line.partition("\t")
        mode, _, blob = head.split(" ")
        committed[name] = f"{mode} {blob}"
    if committed.keys().isdisjoint(blobs):
        return None  # it lies in the working tree of another project
    if len(commit) != _SHA1_DIGITS:
        return GitState(commit, None)
    is_changed = any(committed.get(name) != blob for name, blob in blobs.items())
    return GitState(commit, is_changed or any(_is_gone(directory, name) for name in committed.keys() - blobs.keys()))


def _is_gone(directory: Path, name: str) -> bool:
    return not os.path.lexists(os.path.join(directory, name))


def _run_git(directory: Path, env: Mapping[str, str], *arguments: str) -> str | None:
    """Return the output of git, None if it fails."""
    program = shutil.which("git", path=env.get("PATH", ""))
    if program is None:
        return None
    variables = {name: env[name] for name in _KEPT_VARIABLES if name in env}
    try:
        done = subprocess.run(  # noqa: S603 - as the user's own shell finds it
            [program, "--no-pager", "--no-replace-objects", *arguments],
            cwd=directory,
            env={**variables, **_OWN_VARIABLES},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout)
