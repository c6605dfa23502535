"""The rules of a user's configuration: what is told of which jobs, and to whom.

A rule is a table `[notify.NAME]` of the user's own file. Its secret is the URL of a webhook or the password of a mail
server. It is in the variable `MOPS_JOBS_NOTIFY_NAME`, and a file has no place for it. No message here repeats a value
that may be a secret in the wrong place. Every command reads the rules, so this module imports little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from mopsjobs.engines import NOTIFY_PREFIX
from mopsjobs.errors import ConfigError, UsageError
from mopsjobs.utils.text import did_you_mean

END = "end"
FAILED = "failed"
FAILURES = "failures"
SUSPECT = "suspect"

SWEEP_END = "sweep_end"
"""The occasion on which a rule that tells of ends tells of a sweep: all its jobs have ended."""

OCCASIONS = {
    END: "the job has ended",
    FAILED: "it has ended as failed or partial",
    FAILURES: "many of its tasks fail",
    SUSPECT: "it may be stuck",
}
"""The occasions on which a rule may tell of a job, for `on`, in words."""

DEFAULT_OCCASIONS = (END, FAILURES, SUSPECT)

NAMED, MINE, ALL = "named", "mine", "all"

WEBHOOKS = ("webhook", "slack", "teams")

TYPES = ("command", "email", *WEBHOOKS)

_KEYS = {"command": ("command",), "email": ("to", "from", "server", "user")}
"""The keys that only rules of a type have."""

_COMMON = ("type", "on", "jobs", "label")

MAX_RULES = 20
MAX_TEXTS = 20
MAX_TEXT = 500
MAX_NAME = 40

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ADDRESS = re.compile(r"[^\s@,;:<>()\[\]\"\\]+@[^\s@,;:<>()\[\]\"\\]+")
_ADDRESSES = "addresses like me@example.org"
_SERVER = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?", re.ASCII)


class Rule:
    """One rule. `jobs` is `NAMED` for those that `submit --notify` names, `MINE` for those of the user, or `ALL`."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.type = kind
        self.occasions: tuple[str, ...] = DEFAULT_OCCASIONS
        self.jobs = NAMED
        self.labels: tuple[str, ...] = ()
        """Each as `key=value`, or `key` for any value. A job needs all of them."""
        self.command: tuple[str, ...] = ()
        self.to: tuple[str, ...] = ()
        self.sender = ""
        self.server = ("localhost", 25)
        self.user = ""

    @property
    def variable(self) -> str:
        """Return the variable with the secret of the rule."""
        return NOTIFY_PREFIX + self.name.upper().replace("-", "_")

    @property
    def needs_secret(self) -> bool:
        """Return whether nothing can be sent without that variable."""
        return self.type in WEBHOOKS or bool(self.user)

    def describe(self) -> str:
        """Return the rule in words, for `config show`."""
        secret = f" by {self.variable}" if self.needs_secret else ""
        labels = f" with {', '.join(self.labels)}" if self.labels else ""
        jobs = {NAMED: "jobs that name it", MINE: "your jobs", ALL: "all jobs"}[self.jobs]
        return f"{self.type}{secret}, on {', '.join(self.occasions)}, for {jobs}{labels}"


def parse_rules(path: str, table: object) -> tuple[Rule, ...]:
    """Return the rules of the table `notify` of a configuration file.

    Args:
        path: the file, for messages.
        table: the table, by the names of the rules.

    Raises:
        ConfigError: if it is malformed.
    """
    if not isinstance(table, dict) or not all(isinstance(rule, dict) for rule in table.values()):
        raise ConfigError(f"invalid notify in the configuration file {path}: expected tables like [notify.me].")
    if len(table) > MAX_RULES:
        raise ConfigError(f"too many rules in the configuration file {path}: expected at most {MAX_RULES}.")
    return tuple(_read_rule(path, name, rule) for name, rule in table.items())


def _read_rule(path: str, name: str, table: Mapping[str, object]) -> Rule:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise ConfigError(
            f"invalid name of a rule in the configuration file {path}: expected small letters, digits and -."
        )
    reader = _Reader(f"[notify.{name}] of the configuration file {path}", table)
    rule = Rule(name, reader.choice("type", "", TYPES))
    known = (*_COMMON, *_KEYS.get(rule.type, ()))
    if unknown := [key for key in table if key not in known]:
        key = unknown[0][:40]
        raise ConfigError(
            f"unknown key '{key}' in {reader.where}: expected one of {', '.join(known)}.{did_you_mean(key, known)}",
            hint=f"A URL or a password belongs into the environment: {rule.variable}.",
        )
    rule.occasions = reader.texts("on", f"some of {', '.join(OCCASIONS)}", OCCASIONS.get) or DEFAULT_OCCASIONS
    rule.jobs = reader.choice("jobs", NAMED, (NAMED, MINE, ALL))
    rule.labels = reader.texts("label")
    if rule.type == "command":
        expected = 'a list of words, like ["notify-me"]'
        rule.command = reader.texts("command", expected) or reader.refuse("command", expected)
    elif rule.type == "email":
        rule.to = reader.texts("to", _ADDRESSES, _is_address) or reader.refuse("to", _ADDRESSES)
        rule.sender = (*reader.texts("from", _ADDRESSES, _is_address), *rule.to)[0]
        if servers := reader.texts("server", "HOST or HOST:PORT", _SERVER.fullmatch):
            host, port = _SERVER.fullmatch(servers[0]).groups()  # type: ignore[union-attr]
            rule.server = (host.strip("[]"), int(port or 587))
        rule.user = "".join(reader.texts("user")[:1])
    return rule


def _is_address(text: str) -> bool:
    return text.isascii() and _ADDRESS.fullmatch(text) is not None


class _Reader:
    """Reads the values of one rule."""

    def __init__(self, where: str, table: Mapping[str, object]) -> None:
        self.where = where
        self._table = table

    def refuse(self, key: str, expected: str) -> NoReturn:
        raise ConfigError(f"invalid {key} in {self.where}: expected {expected}.")

    def texts(
        self, key: str, expected: str = "a list of texts", is_valid: Callable[[str], object] = str.isprintable
    ) -> tuple[str, ...]:
        value = self._table.get(key, [])
        texts = [value] if isinstance(value, str) and key != "command" else value
        if not isinstance(texts, list) or len(texts) > MAX_TEXTS:
            self.refuse(key, expected)
        for text in texts:
            if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT or not text.isprintable():
                self.refuse(key, f"{expected}, of printable characters")
            if not is_valid(text):
                self.refuse(key, expected)
        return tuple(texts)

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self._table.get(key, default)
        if value not in choices:
            self.refuse(key, f"one of {', '.join(choices)}")
        return str(value)


def check_rules(rules: Iterable[Rule], names: Iterable[str], env: Mapping[str, str]) -> None:
    """Check that rules of these names exist, and that their secrets are in the environment.

    Raises:
        UsageError: if one of them does not, or is not.
    """
    by_name = {rule.name: rule for rule in rules}
    for name in names:
        rule = by_name.get(name)
        if rule is None:
            known = f"expected one of {', '.join(by_name)}" if by_name else "there is no rule"
            raise UsageError(
                f"invalid rule '{name[:40]}': {known}.{did_you_mean(name, by_name)}",
                hint="Rules are tables like [notify.me] of ~/.config/mops-jobs/config.toml.",
            )
        if rule.needs_secret and not env.get(rule.variable):
            raise UsageError(
                f"The rule {name} needs a secret, and {rule.variable} is not set.",
                hint=f"Set it in the environment, for example: read -rs {rule.variable}; export {rule.variable}",
            )
