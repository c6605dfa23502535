"""Find the user, and the directories of mops-jobs: below the home directory, or a private temporary one."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping

from mopsjobs.errors import CacheError, ConfigError

NO_HOME = "HOME is not set to an absolute path, and this user has no entry in the password database"


HAS_USERS = hasattr(os, "geteuid")
"""Windows has no user ids, and tells no permissions. The directories of a user are closed to other users there."""


def trusted_owners() -> tuple[int, ...]:
    """Return whose files count as this user's own: root's, too. Windows tells 0 of each file."""
    return (0, os.geteuid()) if HAS_USERS else (0,)


def can_be_created(directory: str) -> bool:
    """Return whether a directory is there and can be written, or can be made."""
    while not os.path.exists(directory) and directory != os.path.dirname(directory):
        directory = os.path.dirname(directory)
    return os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)


def home(env: Mapping[str, str]) -> str | None:
    """Return the home directory: HOME, else that of the password database; None where neither names one.

    Only an absolute path counts. A relative one, or a `~` that stays as it is, would lead below the working directory,
    which may be another user's.
    """
    if os.path.isabs(named := env.get("HOME", "")):
        return named
    if not HAS_USERS:
        return env.get("USERPROFILE")
    import pwd

    with contextlib.suppress(KeyError):
        if os.path.isabs(known := pwd.getpwuid(os.getuid()).pw_dir):
            return known
    return None


def user_name(env: Mapping[str, str]) -> str | None:
    """Return the user of this process, by USER or else by the system; None if neither has a name."""
    if named := env.get("USER") or (not HAS_USERS and env.get("USERNAME")):
        return named
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    return None


def config_directory(env: Mapping[str, str]) -> str | None:
    """Return the directory of the user's configuration; None where the home directory is not known, either."""
    return _xdg_directory(env, "XDG_CONFIG_HOME", ".config")


def data_directory(env: Mapping[str, str]) -> str | None:
    """Return the directory of the embedded registry; None where the home directory is not known, either."""
    return _xdg_directory(env, "XDG_DATA_HOME", ".local", "share")


def cache_directory(env: Mapping[str, str]) -> str | None:
    """Return the directory of the caches; None where the home directory is not known, either."""
    return _xdg_directory(env, "XDG_CACHE_HOME", ".cache")


def state_directory(env: Mapping[str, str]) -> str:
    """Return the directory of the jobs that run on this machine: a private temporary one without a home directory.

    Raises:
        CacheError: if that temporary directory is not private.
    """
    return _state_directory(env) or make_temporary_directory()


def _state_directory(env: Mapping[str, str]) -> str | None:
    return _xdg_directory(env, "XDG_STATE_HOME", ".local", "state")


def own_directories(env: Mapping[str, str]) -> list[str]:
    """Return the directories that mops-jobs may have made on this machine for this user."""
    unpacked = [env.get("MOPS_JOBS_UNPACK")]
    if not HAS_USERS and (local := env.get("LOCALAPPDATA")):
        unpacked.append(os.path.join(local, "mops-jobs"))
    named = [config_directory(env), data_directory(env), cache_directory(env), _state_directory(env), *unpacked]
    return [os.path.abspath(path) for path in (*named, temporary_path()) if path]


def _xdg_directory(env: Mapping[str, str], variable: str, *below: str) -> str | None:
    """Return the directory of mops-jobs in the one that an XDG variable names, else in one below the home directory.

    The XDG base directory specification says to ignore a relative path.
    """
    base = env.get(variable, "")
    if not os.path.isabs(base):
        if (directory := home(env)) is None:
            return None
        base = os.path.join(directory, *below)
    return os.path.join(base, "mops-jobs")


def expand_home(path: str) -> str:
    """Return the path with the home directory in place of a `~` at its beginning.

    Raises:
        ConfigError: if the home directory is not known.
    """
    found = os.path.expanduser(path)
    if path.startswith("~") and not os.path.isabs(found):
        raise ConfigError(
            f"invalid path '{path}': the home directory for '{path.partition('/')[0]}' is not known.",
            hint="Name an absolute path. For a name that begins with ~, write ./ before it.",
        )
    return found


def temporary_path() -> str:
    """Return where the directory of this user is below the temporary one, whether or not it is there."""
    import tempfile

    return os.path.join(tempfile.gettempdir(), f"mops-jobs-{os.getuid()}" if HAS_USERS else "mops-jobs")


def make_temporary_directory() -> str:
    """Make the directory of this user below the temporary one, where every user may write, and return its path.

    Raises:
        CacheError: if what is there is not a directory of this user alone, or other users can put another in its place.
    """
    path = temporary_path()
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    if not HAS_USERS:
        return path
    found, above = os.lstat(path), os.stat(os.path.dirname(path))
    is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077
    if not is_private:
        raise CacheError(f"Other users may have access to {path}.", hint="Name another place: --cache PATH.")
    if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
        raise CacheError(
            f"Other users can replace {path}: every user may write the directory above it, which has no sticky bit.",
            hint="Set HOME or TMPDIR to a directory that only you can write.",
        )
    return path
