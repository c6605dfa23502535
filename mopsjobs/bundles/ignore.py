"""What git would leave out of a directory: the rules of `.gitignore`, read and applied as git does.

Of each directory, and of those above it in the same repository; not the settings of one machine, for then the same
files would be another bundle elsewhere. `.modelopsignore` has the same form and the last word.

pathspec turns a pattern into a regular expression. Its own matching asks whether a path or one above it fits, and so
lets `!dir/` bring back more than git does; the matching is ours.
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


class Rule(NamedTuple):
    """One line of a file of rules."""

    base: str
    """The path of the directory that the rule is for, with a slash at its end."""
    regex: re.Pattern[str]
    excludes: bool
    is_for_directories: bool
    is_for_all_below: bool

    def fits(self, path: str, *, is_dir: bool) -> bool:
        """Whether the rule means this very path, not one above it: those were asked about before."""
        if self.is_for_directories and not is_dir:
            return False
        name = path[len(self.base) :]
        match = self.regex.search(name)
        return match is not None and (self.is_for_all_below or match.end() == len(name))


class Rules(NamedTuple):
    """The rules in force in a directory; those of a deeper one come later, and the last that fits decides."""

    git: tuple[Rule, ...]
    ours: tuple[Rule, ...]

    def deciding(self, path: str, *, is_dir: bool) -> Rule | None:
        """The rule that decides about a path, if nothing above it is left out. A link is no directory."""
        name = _as_text(path)
        every = (*reversed(self.ours), *reversed(self.git))
        return next((rule for rule in every if rule.fits(name, is_dir=is_dir)), None)

    def entering(self, directory: str) -> Rules:
        """These rules and those of a directory."""
        git, ours = _read_rules(directory, ".gitignore"), _read_rules(directory, ".modelopsignore")
        return Rules(self.git + git, self.ours + ours) if git or ours else self


def rules_above(top: str, before: tuple[str, ...]) -> Rules:
    """The rules in force where a directory begins.

    Args:
        top: the directory, absolute. Its own rules are not among them: see `Rules.entering`.
        before: patterns that come before all others, one rule each; then those of the directories above follow, up to
            the root of the repository, if there is one.

    Raises:
        OSError: a file of rules cannot be read.
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
    base = _base(top)
    rules = Rules(tuple(rule for line in before if (rule := _rule(base, line)) is not None), ())
    for parent in above:
        rules = rules.entering(parent)
    return rules


def _read_rules(directory: str, name: str) -> tuple[Rule, ...]:
    path = os.path.join(directory, name)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # git does not follow a link either
            return ()
    except FileNotFoundError:
        return ()
    with open(path, "rb") as file:
        lines = file.read().removeprefix(b"\xef\xbb\xbf").decode("latin-1").split("\n")
    base = _base(directory)
    return tuple(rule for line in lines if (rule := _rule(base, line.removesuffix("\r"))) is not None)


def _rule(base: str, line: str) -> Rule | None:
    """What git makes of a line; None: nothing."""
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    if line.startswith("#"):
        return None
    line = _TRAILING_SPACES.sub("", line)
    is_for_directories = line.endswith("/")
    line = line.removesuffix("/")
    for name, characters in _CLASSES:
        line = line.replace(f"[:{name}:]", characters)
    if line[-1:].isspace() and not line.endswith("\\ "):
        line = f"{line[:-1]}[{line[-1]}]"  # pathspec would strip it, git does not
    try:
        regex, excludes = GitIgnoreSpecPattern.pattern_to_regex(line)
        if regex is None or excludes is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of [[], which means to re what it means to git
            compiled = re.compile(regex.replace("[^", "[^/"), re.DOTALL)
    except (ValueError, re.error):
        return None  # git takes a pattern that is none for one that fits nothing
    return Rule(base, compiled, excludes, is_for_directories, regex == "." or line.endswith("/**"))


def _base(directory: str) -> str:
    return _as_text(os.path.join(directory, ""))


def _as_text(path: str) -> str:
    """A path with one character a byte: git's patterns mean bytes, and not every name is UTF-8."""
    return os.fsencode(path).decode("latin-1")
