"""Settings, read once: flag, environment, project file, user file, default; the first one that speaks wins.

Files are TOML: `.mops-jobs.toml` in the working directory or the nearest directory above it, and `config.toml` in the
user's configuration directory. No secret belongs in either, and none is looked for there.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Mapping

from mopsjobs.errors import ConfigError, UsageError
from mopsjobs.store import check_url, default_url, identity, is_local
from mopsjobs.times import parse_duration

PROJECT_FILE = ".mops-jobs.toml"
MAX_FILE_BYTES = 8192
"""Of a configuration file. It has a few lines, may come with somebody's study, and is read by every command; tomllib
takes time that grows with the square of a dotted name."""

COLORS = ("auto", "always", "never")
DEFAULT_STALE_AFTER = "15m"


class Setting:
    """One setting: its value, and where that came from, in words for `config show`."""

    __slots__ = ("origin", "value")

    def __init__(self, value: str, origin: str) -> None:
        self.value = value
        self.origin = origin


class Settings:
    """All settings of one run. Immutable by convention: nothing sets them after `load`."""

    __slots__ = ("cache", "color", "files", "registry", "registry_id", "stale_after")

    def __init__(self, values: Mapping[str, Setting], registry_id: str, files: tuple[str, ...]) -> None:
        self.registry = values["registry"]
        self.cache = values["cache"]
        self.color = values["color"]
        self.stale_after = values["stale_after"]
        self.registry_id = registry_id
        """Tells this registry from any other; see `mopsjobs.store.identity`."""
        self.files = files
        """The configuration files that were read."""

    @property
    def is_local(self) -> bool:
        """Whether the registry lives on this machine."""
        return is_local(self.registry.value)

    def named(self) -> dict[str, Setting]:
        """The settings by name."""
        return {name: getattr(self, name) for name in _ENV}


_LOCAL_PORT = re.compile(r"https?://(localhost|127\.|\[::1\])", re.IGNORECASE)

_ENV = {
    "registry": "MOPS_JOBS_REGISTRY",
    "cache": "MOPS_JOBS_CACHE",
    "color": "MOPS_JOBS_COLOR",
    "stale_after": "MOPS_JOBS_STALE_AFTER",
}


def load(flags: Mapping[str, str | None], env: Mapping[str, str], cwd: str | None) -> Settings:
    """Find the value of each setting.

    Args:
        flags: what the command line says: `registry`, `cache`, `color`; None where it says nothing.
        env: the environment.
        cwd: where the search for a project file begins; None: there is none.

    Raises:
        ConfigError: a file cannot be read, has a wrong key or a wrong type, or a value makes no sense. Names its
        origin.
    """
    found: dict[str, Setting] = {}
    for name, value in flags.items():
        if value is not None:
            found[name] = Setting(value, f"flag --{name}")
    for name, variable in _ENV.items():
        if env.get(variable):
            found.setdefault(name, Setting(env[variable], f"environment {variable}"))
    files = tuple(path for path in (_project_file(cwd), _user_file(env)) if path and os.path.isfile(path))
    for path in files:
        for name, value in _read(path).items():
            if name == "registry" and name not in found:
                _check_owner(path, value)
            found.setdefault(name, Setting(value, f"file {path}"))

    found.setdefault("registry", Setting(default_url(env, _data_dir(env)), "default"))
    found.setdefault("color", Setting("auto", "default"))
    found.setdefault("stale_after", Setting(DEFAULT_STALE_AFTER, "default"))
    _check(found)
    registry_id = identity(found["registry"].value, env)
    found.setdefault("cache", Setting(os.path.join(_cache_dir(env), _cache_name(registry_id)), "default"))
    found["cache"].value = os.path.abspath(os.path.expanduser(found["cache"].value))
    return Settings(found, registry_id, files)


def _check(found: Mapping[str, Setting]) -> None:
    try:
        check_url(found["registry"].value)
        parse_duration(found["stale_after"].value)
    except UsageError as error:
        bad = "registry" if isinstance(error, ConfigError) else "stale_after"
        raise ConfigError(f"{error.message.rstrip('.')} ({bad}, from {found[bad].origin}).") from None
    cache = found.get("cache")
    if cache is not None and not cache.value:
        raise ConfigError(f"The path of the cache is empty. (cache, from {cache.origin})")
    color = found["color"]
    if color.value not in COLORS:
        raise ConfigError(f"'{color.value}' is no colour mode: use {', '.join(COLORS)}. (color, from {color.origin})")


def _read(path: str) -> dict[str, str]:
    import tomllib

    try:
        with open(path, "rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ConfigError(f"The configuration file {path} has more than {MAX_FILE_BYTES:,} bytes.")
        document = tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration file {path}: {error.strerror}.") from None
    except RecursionError:
        raise ConfigError(f"The configuration file {path} is nested too deeply.") from None
    except ConfigError:
        raise
    except ValueError as error:  # a number of very many digits is one, besides what tomllib raises itself
        raise ConfigError(f"The configuration file {path} is no TOML: {error}.") from None
    for name, value in document.items():
        if name not in _ENV:
            raise ConfigError(f"The configuration file {path} has a wrong key '{name}': use {', '.join(_ENV)}.")
        if not isinstance(value, str) or not value:
            raise ConfigError(f"The configuration file {path} should give {name} as a text.")
        if not value.isprintable():
            raise ConfigError(f"The configuration file {path} has a character in {name} that does not print.")
    here = os.path.dirname(path)
    # A relative path in a file counts from that file, wherever the command is run.
    if (registry := document.get("registry", "")).startswith("sqlite:") and registry[7:8] not in ("", "/", "~"):
        document["registry"] = "sqlite://" + os.path.join(here, registry.removeprefix("sqlite:"))
    if "cache" in document:
        document["cache"] = os.path.join(here, os.path.expanduser(document["cache"]))
    return document


def _check_owner(path: str, registry: str) -> None:
    """Refuse an emulator that another user's file names: secrets go there, and anybody may listen on a port here.

    Raises:
        ConfigError: so it is.
    """
    if _LOCAL_PORT.match(registry) and os.name != "nt" and os.stat(path).st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"The registry {registry} is on a port of this machine, and comes from {path}, which belongs to another "
            "user: it is not used.",
            hint="If you trust it, name it yourself: --registry, or MOPS_JOBS_REGISTRY.",
        )


def _project_file(cwd: str | None) -> str | None:
    if cwd is None:
        return None
    directory = os.path.abspath(cwd)
    while True:
        path = os.path.join(directory, PROJECT_FILE)
        if os.path.isfile(path):
            return path
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent


def _user_dir(env: Mapping[str, str], variable: str, *below_home: str) -> str:
    # The XDG base directory specification says to ignore a value that is not an absolute path.
    base = env.get(variable, "")
    if not os.path.isabs(base):
        base = os.path.join(env.get("HOME") or os.path.expanduser("~"), *below_home)
    return os.path.join(base, "mops-jobs")


def _user_file(env: Mapping[str, str]) -> str:
    return os.path.join(_user_dir(env, "XDG_CONFIG_HOME", ".config"), "config.toml")


def _data_dir(env: Mapping[str, str]) -> str:
    return _user_dir(env, "XDG_DATA_HOME", ".local", "share")


def _cache_dir(env: Mapping[str, str]) -> str:
    return _user_dir(env, "XDG_CACHE_HOME", ".cache")


def _cache_name(registry_id: str) -> str:
    """A file name that a person recognises and no other registry gets; the cache itself holds the whole identity."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", registry_id.rpartition("://")[2]).strip("-").lower()[-48:].strip("-")
    return f"{words or 'registry'}-{binascii.crc32(registry_id.encode()):08x}.db"
