"""Find the project file, and check that it sets only what a project may decide.

A project file is obeyed if the file and its directory belong to this user or to root, and not every user may write
them. The search goes up to `/`. It passes an ignored file, and each command prints why.

Write permission for a group does not count. It was given by the owner, is the default of a umask of 002, and lets the
same group change the study's code. A file that a member of the group puts in the place of this one has another owner.
One thing is kept from a group: a registry on a port of this machine, where each member may listen for credentials.
"""

from __future__ import annotations

import os
import re
import stat

from mopsjobs.errors import ConfigError
from mopsjobs.utils.hosts import is_loopback
from mopsjobs.utils.user_dirs import HAS_USERS, expand_home, trusted_owners

PROJECT_FILE = ".mops-jobs.toml"

INSTEAD = "If you trust it, name its registry yourself: MOPS_JOBS_REGISTRY, or config.toml."
"""What a user does instead where a project is shared: its file belongs to a colleague."""

_HOST = r"https?://(\[[^\]]*\]|[^/:]*)"


def find_project_file(cwd: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Find the nearest project file that may be obeyed, in `cwd` or above it.

    Returns:
        Its path, or None; and for each nearer file that is ignored, a sentence with the reason.
    """
    ignored: list[str] = []
    directory = None if cwd is None else os.path.abspath(cwd)
    while directory is not None:
        path = os.path.join(directory, PROJECT_FILE)
        if os.path.isfile(path):
            reason = why_ignored(path)
            if reason is None:
                return path, tuple(ignored)
            ignored.append(f"The project file {path} is ignored: {reason}. {INSTEAD}")
        parent = os.path.dirname(directory)
        directory = None if parent == directory else parent
    return None, tuple(ignored)


def why_ignored(path: str) -> str | None:
    """Return why a project file is ignored; None if it is obeyed."""
    if (reason := why_foreign(path)) is not None or not HAS_USERS:
        return reason
    for name, place in (("to it", path), ("its directory", os.path.dirname(path))):
        if os.stat(place).st_mode & stat.S_IWOTH:
            return f"every user may write {name}"
    return None


def why_foreign(path: str) -> str | None:
    """Return why a file counts as another user's; None if it does not. A link and its target are both checked."""
    for name, place in (("it", path), ("its directory", os.path.dirname(path))):
        try:
            owners = {os.stat(place, follow_symlinks=name != "it").st_uid, os.stat(place).st_uid}
        except OSError as error:
            return f"{name} cannot be looked at ({error.strerror})"
        for owner in owners - {*trusted_owners()}:
            return f"{name} belongs to another user (uid {owner})"
    return None


def cache_below(path: str, cache: str) -> str:
    """Return the real path of the cache that a project file names.

    Raises:
        ConfigError: if the cache is not below the directory of the project file.
    """
    here = os.path.realpath(os.path.dirname(path))
    real = os.path.realpath(os.path.join(here, expand_home(cache)))
    if not real.startswith(os.path.join(here, "")):
        raise ConfigError(
            f"invalid cache '{cache}' in {path}: expected a path below the directory of this project file.",
            hint="To use another place, name it yourself: --cache PATH, or MOPS_JOBS_CACHE.",
        )
    return real


def check_registry(path: str, registry: str) -> None:
    """Check that a registry on a port of this machine does not come from a file that a group may write.

    Raises:
        ConfigError: if it does, and the group has other members, or may have.
    """
    host = re.match(_HOST, registry, re.IGNORECASE)
    if host is None or not is_loopback(host[1]):
        return
    found = os.stat(path)
    if HAS_USERS and found.st_mode & stat.S_IWGRP and not _is_private_group(found.st_gid):
        raise ConfigError(
            f"invalid registry '{registry}' in {path}: a group may write this file, and each of its members could "
            "listen on a port of this machine.",
            hint=f"Run: chmod g-w {path}",
        )


def _is_private_group(group: int) -> bool:
    """Return whether a group is that of this user alone, which has the user's name where each user has one."""
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_name == user and set(found.gr_mem) <= {user}
