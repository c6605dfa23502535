"""Rules of `.gitignore`, read and applied as git does: which paths of a directory are left out.

The rules of each directory count, and those of the directories above it in the same repository. The settings of one
machine do not: with them the same files would be another bundle elsewhere. `.modelopsignore` has the same form and the
last word.

pathspec turns a pattern into a regular expression. Its own matching asks whether a path or one above it matches, which
lets `!dir/` bring back more than git does. So this module matches by itself.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from typing import NamedTuple

_TRAILING_SPACES = re.compile(r"(?<!\\) +$")

_CLASSES = (
    ("alnum", "0-9A-Za-z"), ("alpha", "A-Za-z"), ("blank", " \t"), ("digit", "0-9"), ("lower", "a-z"),
    ("punct", "!-,.:-@\\[-`{-~-"), ("space", " \t\r\v\f"), ("upper", "A-Z"), ("xdigit", "0-9A-Fa-f"),
)  # fmt: skip


class IgnoreRule(NamedTuple):
    """One line of a file of rules."""

    base: str
    """The path of the directory of the rule, with a slash at its end."""
    regex: re.Pattern[str]
    excludes: bool
    is_for_directories: bool
    is_for_all_below: bool

    def matches(self, path: str, *, is_dir: bool) -> bool:
        """Return True if the rule matches this path itself. Paths above it were checked before."""
        if self.is_for_directories and not is_dir:
            return False
        name = path[len(self.base) :]
        match = self.regex.search(name)
        return match is not None and (self.is_for_all_below or match.end() == len(name))


class IgnoreRules(NamedTuple):
    """The rules in force in a directory. Those of a deeper directory come later, and the last match decides."""

    git: tuple[IgnoreRule, ...]
    modelops: tuple[IgnoreRule, ...]

    def find_rule(self, path: str, *, is_dir: bool) -> IgnoreRule | None:
        """Return the rule that decides about a path, if nothing above it is left out. A link counts as a file."""
        name = _as_text(path)
        rules = (*reversed(self.modelops), *reversed(self.git))
        return next((rule for rule in rules if rule.matches(name, is_dir=is_dir)), None)

    def with_directory(self, directory: str) -> IgnoreRules:
        """Return these rules and those of a directory."""
        git, modelops = _read_rules(directory, ".gitignore"), _read_rules(directory, ".modelopsignore")
        return IgnoreRules(self.git + git, self.modelops + modelops) if git or modelops else self


def rules_above(top: str, before: tuple[str, ...]) -> IgnoreRules:
    """Return the rules in force where a directory begins.

    Args:
        top: the directory, absolute. Its own rules are not included: see `IgnoreRules.with_directory`.
        before: patterns that come first, one rule each. Those of the directories above follow, up to the root of the
            repository, if there is one.

    Raises:
        OSError: if a file of rules cannot be read.
    """
    above: list[str] = []
    directory = top
    while not os.path.lexists(os.path.join(directory, ".git")):
        parent = os.path.dirname(directory)
        if parent == directory:
            above.clear()
            break
        above.insert(0, parent)
        directory = parent
    base = _pattern_base(top)
    rules = IgnoreRules(tuple(rule for line in before if (rule := _parse_rule(base, line)) is not None), ())
    for parent in above:
        rules = rules.with_directory(parent)
    return rules


def _read_rules(directory: str, name: str) -> tuple[IgnoreRule, ...]:
    path = os.path.join(directory, name)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # git does not follow a link either
            return ()
    except FileNotFoundError:
        return ()
    with open(path, "rb") as file:
        lines = file.read().removeprefix(b"\xef\xbb\xbf").decode("latin-1").split("\n")
    base = _pattern_base(directory)
    return tuple(rule for line in lines if (rule := _parse_rule(base, line.removesuffix("\r"))) is not None)


def _parse_rule(base: str, line: str) -> IgnoreRule | None:
    """Make a rule of a line as git does; None if git makes none of it."""
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    if line.startswith("#"):
        return None
    line = _TRAILING_SPACES.sub("", line)
    is_for_directories = line.endswith("/")
    line = line.removesuffix("/")
    for name, characters in _CLASSES:
        line = line.replace(f"[:{name}:]", characters)
    if line[-1:].isspace() and not line.endswith("\\ "):
        line = f"{line[:-1]}[{line[-1]}]"  # pathspec would strip the blank, git does not
    try:
        regex, excludes = GitIgnoreSpecPattern.pattern_to_regex(line)
        if regex is None or excludes is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of [[], which means the same to re and to git
            compiled = re.compile(regex.replace("[^", "[^/"), re.DOTALL)
    except (ValueError, re.error):
        return None  # to git an invalid pattern matches nothing
    return IgnoreRule(base, compiled, excludes, is_for_directories, regex == "." or line.endswith("/**"))


def _pattern_base(directory: str) -> str:
    return _as_text(os.path.join(directory, ""))


def _as_text(path: str) -> str:
    """Decode a path with one character per byte: patterns of git match bytes, and not every name is UTF-8."""
    return os.fsencode(path).decode("latin-1")
