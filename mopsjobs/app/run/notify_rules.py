"""The rules of a user's configuration: what is told of which jobs, and to whom.

A rule is a table `[notify.NAME]` of the user's own file. Its secret is the URL of a webhook or the password of a mail
server. It is in the variable `MOPS_JOBS_NOTIFY_NAME`, and a file has no place for it. No message here repeats a value
that may be a secret in the wrong place. Every command reads the rules, so this module imports little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NoReturn

from mopsjobs.engines import NOTIFY_PREFIX
from mopsjobs.errors import ConfigError, UsageError
from mopsjobs.utils.text import did_you_mean

END = "end"
FAILED = "failed"
FAILURES = "failures"
SUSPECT = "suspect"

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

_KEYS = {
    "command": ("command",),
    "email": ("to", "from", "server", "user"),
    "webhook": (),
    "slack": (),
    "teams": (),
}
"""The keys that only rules of a type have."""

_COMMON = ("type", "on", "jobs", "label", "failure_rate")

DEFAULT_FAILURE_RATE = 0.1

MAX_RULES = 20
MAX_TEXTS = 20
MAX_TEXT = 500

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_RATE = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) ?%", re.ASCII)
_ADDRESS = re.compile(r"[^\s@,;:<>()\[\]\"\\]+@[^\s@,;:<>()\[\]\"\\]+")
_SERVER = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?", re.ASCII)


class Rule:
    """One rule. `jobs` is `NAMED` for those that `submit --notify` names, `MINE` for those of the user, or `ALL`."""

    __slots__ = (
        "command", "failure_rate", "jobs", "labels", "name", "occasions", "sender", "server", "to", "type", "user",
    )  # fmt: skip

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.type = kind
        self.occasions: tuple[str, ...] = DEFAULT_OCCASIONS
        self.jobs = NAMED
        self.labels: tuple[str, ...] = ()
        """Each as `key=value`, or `key` for any value. A job needs all of them."""
        self.failure_rate = DEFAULT_FAILURE_RATE
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
    return tuple(_Reader(path, name, rule).read() for name, rule in table.items())


class _Reader:
    """Reads one rule."""

    def __init__(self, path: str, name: str, table: Mapping[str, object]) -> None:
        self._path = path
        self._name = name
        self._table = table

    def read(self) -> Rule:
        if not _NAME.fullmatch(self._name) or len(self._name) > 40:
            raise ConfigError(
                f"invalid name of a rule in the configuration file {self._path}: expected small letters, digits and -."
            )
        rule = Rule(self._name, self._choice("type", "", TYPES))
        known = (*_COMMON, *_KEYS[rule.type])
        for key in self._table:
            if key not in known:
                raise ConfigError(
                    f"unknown key '{key[:40]}' in {self._where}: expected one of {', '.join(known)}."
                    f"{did_you_mean(key, known)}",
                    hint=f"A URL or a password belongs into the environment: {rule.variable}.",
                )
        rule.occasions = self._occasions()
        rule.jobs = self._choice("jobs", NAMED, (NAMED, MINE, ALL))
        rule.labels = self._texts("label")
        rule.failure_rate = self._rate()
        if rule.type == "command":
            rule.command = self._texts("command") or self._refuse("command", 'a list of words, like ["notify-me"]')
        elif rule.type == "email":
            self._read_email(rule)
        return rule

    @property
    def _where(self) -> str:
        return f"[notify.{self._name}] of the configuration file {self._path}"

    def _refuse(self, key: str, expected: str) -> NoReturn:
        raise ConfigError(f"invalid {key} in {self._where}: expected {expected}.")

    def _texts(self, key: str) -> tuple[str, ...]:
        value = self._table.get(key, [])
        texts = [value] if isinstance(value, str) and key != "command" else value
        if not isinstance(texts, list) or len(texts) > MAX_TEXTS:
            self._refuse(key, "a list of texts")
        for text in texts:
            if not isinstance(text, str) or not text or len(text) > MAX_TEXT or not text.isprintable():
                self._refuse(key, "a list of texts of printable characters")
        return tuple(texts)

    def _choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self._table.get(key, default)
        if value not in choices:
            self._refuse(key, f"one of {', '.join(choices)}")
        return str(value)

    def _occasions(self) -> tuple[str, ...]:
        occasions = self._texts("on") or DEFAULT_OCCASIONS
        if not set(occasions) <= OCCASIONS.keys():
            self._refuse("on", f"some of {', '.join(OCCASIONS)}")
        return occasions

    def _rate(self) -> float:
        value = self._table.get("failure_rate", "10%")
        match = _RATE.fullmatch(value) if isinstance(value, str) else None
        rate = float(match[1]) / 100 if match else 0.0
        if not 0 < rate <= 1:
            self._refuse("failure_rate", "a share of the tasks, like 10%")
        return rate

    def _read_email(self, rule: Rule) -> None:
        rule.to = self._texts("to")
        senders = self._texts("from") or rule.to[:1]
        if not rule.to or not all(_ADDRESS.fullmatch(text) and text.isascii() for text in (*rule.to, *senders)):
            self._refuse("to or from", "addresses like me@example.org")
        rule.sender = senders[0]
        texts = self._texts("server") or ("localhost:25",)
        match = _SERVER.fullmatch(texts[0])
        if match is None or len(texts) > 1:
            self._refuse("server", "HOST or HOST:PORT")
        rule.server = (match["host"].strip("[]"), int(match["port"] or 587))
        users = self._texts("user")
        rule.user = users[0] if users else ""


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
