"""Settings, read once from flag, environment, project file, user file and default; the first that has a value wins.

Files are TOML: `.mops-jobs.toml` in the working directory or the nearest directory above it (see `project_file`), and
`config.toml` in the user's configuration directory. No secret belongs in either, and none is read from there.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Mapping

from mopsjobs.app.run.project_file import PROJECT_FILE, cache_below, check_registry, find_project_file, why_foreign
from mopsjobs.errors import ConfigError, UsageError
from mopsjobs.store.urls import DEFAULT_CONTAINER, check_url, default_url, identity, is_local, sqlite_url
from mopsjobs.utils import user_dirs
from mopsjobs.utils.text import parse_whole_number
from mopsjobs.utils.times import parse_duration

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from mopsjobs.app.run.notify_rules import Rule
    from mopsjobs.app.run.prices import Prices

MAX_FILE_BYTES = 8192
"""Size of a configuration file. Every command reads it, and it may come with the study of another person. The time that
tomllib takes grows with the square of a dotted name."""

COLORS = ("auto", "always", "never")

NO_HOME_ORIGIN = "default without a home directory"
"""Origin of a cache path below the temporary directory, which is used only if that directory is private."""


class Setting:
    """The value of a setting and its origin, in words for `config show`."""

    def __init__(self, value: str, origin: str) -> None:
        self.value = value
        self.origin = origin


class Settings:
    """All settings of one run. Nothing changes them after `load`."""

    def __init__(
        self,
        values: Mapping[str, Setting],
        registry_id: str,
        files: tuple[str, ...],
        ignored: tuple[str, ...],
        trusted: tuple[str, ...] = (),
        rules: tuple[Rule, ...] = (),
        *,
        prices: tuple[Prices, str] | None = None,
    ) -> None:
        self.registry = values["registry"]
        self.cache = values["cache"]
        self.color = values["color"]
        self.stale_after = values["stale_after"]
        self.max_local_workers = values["max_local_workers"]
        self.registry_id = registry_id
        """Identifies the registry; see `mopsjobs.store.urls.identity`."""
        self.files = files
        """The configuration files that were read."""
        self.ignored = ignored
        """A sentence for each configuration file that is ignored."""
        self.trusted = trusted
        """What records may choose without a question, as `KIND:VALUE`; only from the user's file."""
        self.rules = rules
        """The rules of notifications; only from the user's file."""
        self.prices = prices
        """What the user pays, for plans, and the file that says so; None without prices."""

    @property
    def redirected_by(self) -> str | None:
        """Return the project file that names the registry in use; None if something else does."""
        is_project = bool(self.files) and os.path.basename(self.files[0]) == PROJECT_FILE
        return self.files[0] if is_project and self.registry.origin == f"file {self.files[0]}" else None

    @property
    def is_local(self) -> bool:
        """Return True if the registry is on this machine."""
        return is_local(self.registry.value)

    @property
    def local_workers(self) -> int:
        """Return how many workers all jobs together may have on this machine."""
        from mopsjobs.utils.cores import usable_cores

        return _parse_workers(self.max_local_workers.value) or usable_cores()

    def by_name(self) -> dict[str, Setting]:
        """Return the settings by name."""
        own = {TRUSTED: " ".join(self.trusted)} if self.trusted else {}
        own |= {f"{NOTIFY}.{rule.name}": rule.describe() for rule in self.rules}
        listed = {name: Setting(text, f"file {self.files[-1]}") for name, text in own.items()}
        if self.prices is not None:
            listed[PRICES] = Setting(self.prices[0].describe(), f"file {self.prices[1]}")
        return {**{name: getattr(self, name) for name in _ENV}, **listed}


TRUSTED = "trusted"

NOTIFY = "notify"

PRICES = "prices"
"""A table that both files may have."""

_ONLY_OF_USER = (TRUSTED, NOTIFY)
"""Keys that only the user's file may have. A project file may come from elsewhere, like a record."""

MAX_LOCAL_WORKERS = "max_local_workers"

ONE_PER_CORE = "cores"
"""One worker per core."""

MAX_WORKERS = 100_000

_DEFAULTS = {"color": "auto", "stale_after": "15m", MAX_LOCAL_WORKERS: ONE_PER_CORE}

_ENV = {
    "registry": "MOPS_JOBS_REGISTRY",
    "cache": "MOPS_JOBS_CACHE",
    "color": "MOPS_JOBS_COLOR",
    "stale_after": "MOPS_JOBS_STALE_AFTER",
    MAX_LOCAL_WORKERS: "MOPS_JOBS_MAX_LOCAL_WORKERS",
}


def load(
    flags: Mapping[str, str | None], env: Mapping[str, str], cwd: str | None, *, given_by: str = "flag --"
) -> Settings:
    """Find the value of each setting.

    Args:
        flags: the flags `registry`, `cache`, `color` and `env`; None for a flag that is not given.
        env: the environment.
        cwd: where the search for a project file begins; None to read none.
        given_by: the text in front of the name of a flag, in the origin of its value.

    Raises:
        ConfigError: if a file cannot be read, has a wrong key or a wrong type, or if a value is invalid. The message
            names the origin.
    """
    given = {name: value for name, value in flags.items() if value is not None and name != "env"}
    found = {name: Setting(value, f"{given_by}{name}") for name, value in given.items()}
    if (environment := flags.get("env")) is not None:
        found.setdefault("registry", Setting(f"azure://{DEFAULT_CONTAINER}", f"{given_by}env {environment}"))
    for name, variable in _ENV.items():
        if env.get(variable):
            found.setdefault(name, Setting(env[variable], f"environment {variable}"))
    project, ignored = find_project_file(cwd)
    directory = user_dirs.config_directory(env)
    user = None if directory is None else os.path.join(directory, "config.toml")
    if user is not None and os.path.isfile(user) and (reason := why_foreign(user)) is not None:
        # Root with the home of a user: the file could name any file of root as the cache.
        ignored, user = (*ignored, f"The configuration file {user} is ignored: {reason}."), None
    files = tuple(path for path in (project, user) if path and os.path.isfile(path))
    trusted: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    prices: tuple[Prices, str] | None = None
    for path in files:
        document = _read(path)
        if (table := document.pop(PRICES, None)) is not None and prices is None:
            from mopsjobs.app.run.prices import parse_prices  # here: most users have none

            prices = parse_prices(path, table), path
        own = {name: document.pop(name) for name in _ONLY_OF_USER if name in document}
        if path == project and (foreign := [name for name, value in own.items() if value]):
            raise ConfigError(
                f"The project file {path} has the key {foreign[0]}, which only the user's configuration file may have.",
                hint="Move it there: ~/.config/mops-jobs/config.toml",
            )
        trusted = _read_trusted(path, own.get(TRUSTED)) or trusted
        if own.get(NOTIFY):
            from mopsjobs.app.run.notify_rules import parse_rules  # here: most users have none

            rules = parse_rules(path, own[NOTIFY])
        for name in [name for name in document if name not in found]:
            value = document[name]
            found[name] = Setting(_project_value(path, name, value) if path == project else value, f"file {path}")
    if "registry" not in found:
        found["registry"] = Setting(_default_registry(env), "default")
    for name, value in _DEFAULTS.items():
        found.setdefault(name, Setting(value, "default"))
    _check(found)
    registry_id = identity(found["registry"].value, env)
    if "cache" not in found:
        found["cache"] = _default_cache(env, registry_id)
    found["cache"].value = os.path.abspath(user_dirs.expand_home(found["cache"].value))
    return Settings(found, registry_id, files, ignored, trusted, rules, prices=prices)


def _project_value(path: str, name: str, value: str) -> str:
    """Return the value of a setting in a project file, if a project file may set it."""
    if name == "registry":
        check_registry(path, value)
    return cache_below(path, value) if name == "cache" else value


def _check(found: Mapping[str, Setting]) -> None:
    for name, check in _CHECKS.items():
        try:
            check(found[name].value if name in found else "default")
        except UsageError as error:
            message = f"{error.message.rstrip('.')} ({name}, from {found[name].origin})."
            raise ConfigError(message, hint=error.hint) from None


def _check_cache(path: str) -> None:
    if not path:
        raise UsageError("invalid cache '': expected a path.")


def _check_color(mode: str) -> None:
    if mode not in COLORS:
        raise UsageError(f"invalid color mode '{mode}': expected one of {', '.join(COLORS)}.")


def _parse_workers(text: str) -> int | None:
    """Return how many workers jobs may have on this machine; None for one per core.

    Raises:
        UsageError: if it is neither a number nor the word for one per core.
    """
    number = parse_whole_number(text, 1, MAX_WORKERS)
    if number is None and text != ONE_PER_CORE:
        raise UsageError(
            f"invalid number of workers '{text}': expected a whole number from 1 to {MAX_WORKERS:,}, or {ONE_PER_CORE}."
        )
    return number


_CHECKS = {
    "registry": check_url,
    "stale_after": parse_duration,
    MAX_LOCAL_WORKERS: _parse_workers,
    "cache": _check_cache,
    "color": _check_color,
}


def _read(path: str) -> dict[str, Any]:
    import tomllib

    named = f"the configuration file {path}"
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        document = tomllib.loads(text.decode()) if len(text) <= MAX_FILE_BYTES else None
    except OSError as error:
        raise ConfigError(f"Cannot read {named}: {error.strerror}.") from None
    except RecursionError:
        raise ConfigError(f"The configuration file {path} is nested too deeply.") from None
    except ValueError as error:  # also int(), if a number has too many digits
        raise ConfigError(f"The configuration file {path} is not valid TOML: {error}.") from None
    if document is None:
        raise ConfigError(f"The configuration file {path} has more than {MAX_FILE_BYTES:,} bytes.")
    if type(workers := document.get(MAX_LOCAL_WORKERS)) is int:
        document[MAX_LOCAL_WORKERS] = str(workers)
    for name, value in document.items():
        if name in (PRICES, *_ONLY_OF_USER):
            continue
        if name not in _ENV:
            known = ", ".join((*_ENV, PRICES, *_ONLY_OF_USER))
            raise ConfigError(f"The configuration file {path} has an unknown key '{name}': expected one of {known}.")
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ConfigError(f"invalid {name} in {named}: expected a text of printable characters.")
    here = os.path.dirname(path)
    # A relative path in a file counts from that file, wherever the command is run.
    if (registry := document.get("registry", "")).startswith("sqlite:") and registry[7:8] not in ("", "/", "~"):
        document["registry"] = sqlite_url(os.path.join(here, registry.removeprefix("sqlite:")))
    if "cache" in document and document["cache"][0] != "~":
        document["cache"] = os.path.join(here, document["cache"])
    return document


def _read_trusted(path: str, value: object) -> tuple[str, ...]:
    """Return the list `trusted` of a configuration file.

    Raises:
        ConfigError: if it is not a list of texts.
    """
    texts = value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise ConfigError(
            f"invalid {TRUSTED} in the configuration file {path}: expected a list of texts like context:prod."
        )
    return tuple(texts)


def _default_registry(env: Mapping[str, str]) -> str:
    """Return the URL of the registry that is used if nothing names another.

    Raises:
        ConfigError: if it is embedded and the home directory is unknown. In a temporary directory it would be lost.
    """
    directory = user_dirs.data_directory(env)
    url = default_url(env, directory or "")
    if directory is None and is_local(url):
        raise ConfigError(
            f"There is no place for the embedded registry: {user_dirs.NO_HOME}.",
            hint="Set HOME, or name a registry: --registry URL, or MOPS_JOBS_REGISTRY.",
        )
    return url


def _default_cache(env: Mapping[str, str], registry_id: str) -> Setting:
    """Return the cache of a registry that is used if nothing names another."""
    directory, origin = user_dirs.cache_directory(env), "default"
    if directory is None:
        directory, origin = user_dirs.temporary_path(), NO_HOME_ORIGIN
    return Setting(os.path.join(directory, _cache_name(registry_id)), origin)


def _cache_name(registry_id: str) -> str:
    """Return a file name that people recognise and no other registry has. The cache holds the whole identity."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", registry_id.rpartition("://")[2]).strip("-").lower()[-48:].strip("-")
    return f"{words or 'registry'}-{binascii.crc32(registry_id.encode()):08x}.db"
