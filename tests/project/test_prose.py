"""The words of the project: the rules that a machine can hold, over documents and sources.

Run as a script, it prints every finding: `python tests/project/test_prose.py`.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from collections.abc import Iterable, Iterator

from support.docs import DOCUMENTS, GENERATED, QUOTED, ROOT, Block, blocks, plain, read, sentences
from support.sources import nodes

_STARTS_A_BLOCK = re.compile(r"(?:[-*]|\d+\.) ")
_ROW = re.compile(r"\S {3,}\S")
_SECTION = re.compile(r"(?:Raises|Args|Returns|Yields):$")
_ENTRY = re.compile(r"\w+(?:Error|Exception|Interrupt): ")
_STRING_OR_COMMENT = re.compile(
    r'"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\])*"'
    r"|'''(?:\\.|[^\\])*?'''|'(?:\\.|[^'\\])*'"
    r"|(?P<comment>#[^\n]*)",
    re.DOTALL,
)
"""What begins first hides the others. Until Python 3.12, no quote stands within an f-string of the same quotes."""

_KINDS: dict[type[ast.AST], str] = {
    ast.Module: "module",
    ast.ClassDef: "class",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "function",
}


class Docstring(NamedTuple):
    """A docstring: `kind` is `module`, `class`, `function` or `value`. The name of a value is empty."""

    line: int
    kind: str
    name: str
    text: str


def docstrings(parsed: Iterable[ast.AST]) -> Iterator[Docstring]:
    """Yield each docstring of a source, also of the values that have one in the line below."""
    for node in parsed:
        body = getattr(node, "body", None)
        for number, statement in enumerate(body if isinstance(body, list) else []):
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
                continue
            if isinstance(statement.value.value, str):
                kind = _KINDS.get(type(node), "value") if number == 0 else "value"
                name = getattr(node, "name", "") if number == 0 else ""
                yield Docstring(statement.lineno, kind, name, inspect.cleandoc(statement.value.value))


def docstring_blocks(docstring: Docstring) -> Iterator[Block]:
    """Yield the prose of a docstring: paragraphs, items of a list, entries of `Raises:`, rows, and indented lines.

    A line that is indented deeper continues the line above.
    """
    lines: list[str] = []
    start, indent = docstring.line, 0
    for number, line in enumerate([*docstring.text.split("\n"), ""], start=docstring.line):
        words = line.strip()
        depth = len(line) - len(line.lstrip())
        begins = (
            not words
            or _STARTS_A_BLOCK.match(words)
            or _ROW.search(words)
            or depth < indent
            or (depth and depth == indent)
        )
        if lines and (begins or _SECTION.match(lines[0])):
            yield Block(start, " ".join(lines))
            lines = []
        if words:
            if not lines:
                start, indent = number, depth
            lines.append(words if lines else _ENTRY.sub("", _STARTS_A_BLOCK.sub("", words, count=1), count=1))


def comments(source: str) -> Iterator[Block]:
    """Yield the comments, those of adjacent lines as one."""
    block: list[str] = []
    start, place, line, seen = 0, (0, 0), 1, 0
    for match in _STRING_OR_COMMENT.finditer(source):
        if match["comment"] is None:
            continue
        line += source.count("\n", seen, match.start())
        seen = match.start()
        column = seen - source.rfind("\n", 0, seen)
        stands_alone = not source[seen - column + 1 : seen].strip()
        if block and not (stands_alone and (line, column) == (place[0] + 1, place[1])):
            yield Block(start, " ".join(block))
            block = []
        if not block:
            start = line
        block.append(match["comment"].lstrip("#!: "))
        place = line, column
    if block:
        yield Block(start, " ".join(block))


MAX_WORDS = 25
"""Of a sentence in a document, a docstring or a comment. A span of code is one word."""

MAX_CHANGE = 100
"""Characters of one line of the changelog."""

MAX_CHANGES = 80
"""Lines of one version in the changelog."""

BANNED = {
    "who-or-nobody": r"\b(whoever|whomever|nobody|somebody|anybody|everybody)\b",
    "of ours": r"\b(of ours|not ours|is ours|are ours)\b",
    "so it is": r"\bso it is(?=[.;,:)]|$)",
    "makes no sense": r"\b(makes?|made|making) no sense\b",
    "is no X": r"(?<!there )\b(is|are|was|were|be) no (?!(longer|more|less|such|way|wider|later)\b)",
    "first mend": r"\b(first mend|mend|mended)\b",
    "without a meaning": r"\banswers? without a meaning\b",
    "cannot use": r"\bthat mops-jobs cannot use\b",
    "silence proves": r"\bsilence proves\b",
    "an act, not": r"\ban act, not\b",
    "so many": r"\bso many\b(?! (that|as)\b)",
    "asked for": r"\bthat was not asked for\b",
    "drawn anew": r"\bdrawn anew\b",
    "read fresh": r"\bread fresh\b",
    "passed unseen": r"\bpassed unseen\b",
    "none has ended": r"\bnone has ended\b",
    "the whole id": r"\bit takes the whole id\b",
    "statement of its own": r"\bwithout a statement of its own\b",
    "behind the back": r"\bbehind (our|everybody's|its) back\b",
}
"""Phrases that a reader has to decode, by name. The named thing stands in their place."""

_ANY_BANNED = re.compile(rf"\b(?:{'|'.join(BANNED.values())})", re.IGNORECASE)
"""Each of them begins at a word. Almost all texts have none, and one search tells."""

NO_NAME = (
    r"(?i:whether|what|how|if|where|when|which|who|as|there|this|it|also|after|at|between|by|for|from|in|of|on|with)\b"
)
"""How the docstring of a class does not begin, as a pattern: with a noun or a verb is left."""

NO_VERB = (
    NO_NAME
    + r"|(?i:the|an?|all|another|any|both|each|every|its|no|none|not|nothing|over|same|so|some|that|true|false)\b"
    + r"|(?i:one|two|three|four|five|ten|be|seconds)\b|\w+'s\b|[a-z]|\w+[A-Z]|[^A-Za-z]"
    + r"|(?!Need|Embed|Feed)[A-Z]\w*ed\b|(?!Bring|Ping)[A-Z]\w*ing\b|[A-Z]\w*[a-rt-z]s\b"
)
"""How the docstring of a function does not begin, as a pattern: an imperative is left."""

WRITTEN = [name for name in DOCUMENTS if name not in GENERATED | QUOTED]

_FOLDERS = ("mopsjobs", "onefile", "docs/tools", "tests", "bench", "reliability")
_SPOKEN = {".py", ".html", ".js", ".css", ".json", ".sql", ".sh", ".yml"}
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for path in [
        *(ROOT / name for name in ("mops_jobs.py", "build.sh", "contrib/alerts.yml", "examples/demo.sh")),
        *(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*")),
    ]
    if path.is_file() and path.suffix in _SPOKEN
)
"""Everything else whose words a user or a maintainer reads: sources, pages, schemas, scripts."""


def findings_of_document(document: str) -> Iterator[str]:
    """Yield what is wrong with the words of a document."""
    for block in blocks(read(document)):
        for name, match in banned(block.text):
            yield f"{document}:{block.line}: {name}: {match[0]!r} in {block.text[:80]!r}"
        for problem in long_sentences(block.text):
            yield f"{document}:{block.line}: {problem}"


def findings_of_source(source: str) -> Iterator[str]:
    """Yield what is wrong with the words of a file that is not a document."""
    if source.endswith(".py"):
        yield from findings_of_module(source)
        return
    for number, words in enumerate(read(source).splitlines(), start=1):
        for name, match in banned(words):
            yield f"{source}:{number}: {name}: {match[0]!r} in {words.strip()[:80]!r}"


def findings_of_module(source: str) -> Iterator[str]:
    """Yield what is wrong with the docstrings, comments and other literals of a module. Literals of a test are data."""
    text = read(source)
    parsed = nodes(ast.parse(text))
    documented = list(docstrings(parsed))
    prose = [*comments(text), *(block for docstring in documented for block in docstring_blocks(docstring))]
    spoken = [(block.line, block.text) for block in prose]
    if not source.startswith("tests/"):
        spoken += literals(parsed, {docstring.line for docstring in documented})
    problems = [
        (line, f"{name}: {match[0]!r} in {words[max(match.start() - 30, 0) : match.end() + 30]!r}")
        for line, words in spoken
        for name, match in banned(words)
    ]
    problems += [(block.line, problem) for block in prose for problem in long_sentences(plain(block.text))]
    problems += [(block.line, f"no such file: {path}") for block in prose for path in missing_files(source, block.text)]
    problems += [(docstring.line, problem) for docstring in documented for problem in problems_of_docstring(docstring)]
    problems += [(line, f"a question as a hint: {hint}") for line, hint in hints(parsed) if hint.endswith(("?'", '?"'))]
    for line, problem in sorted(problems):
        yield f"{source}:{line}: {problem}"


def missing_files(source: str, text: str) -> Iterator[str]:
    """Yield the modules and documents that a text names and that lie neither near its source nor below `mopsjobs/`."""
    for path in re.findall(r"(?<![\w/.*-])[\w./-]+\.(?:py|md)\b", text):
        if not any((folder / path).is_file() for folder in (*(ROOT / source).parents, ROOT / "mopsjobs")):
            yield path


def literals(parsed: Iterable[ast.AST], docstrings: set[int]) -> Iterator[tuple[int, str]]:
    """Yield the string literals of a source that are prose, without the docstrings on these lines."""
    for node in parsed:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in docstrings:
            yield node.lineno, " ".join(node.value.split())


def hints(parsed: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield the source text of each argument `hint`."""
    for node in parsed:
        if isinstance(node, ast.keyword) and node.arg == "hint":
            yield node.value.lineno, ast.unparse(node.value)


def banned(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Yield the banned phrases of a text, each by its name and its place."""
    for name, pattern in BANNED.items() if _ANY_BANNED.search(text) else ():
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield name, match


def long_sentences(text: str) -> Iterator[str]:
    """Yield each sentence that is too long, or is a chain of semicolons."""
    for sentence in sentences(text):
        words = len(re.findall(r"\w\S*", sentence))
        if words > MAX_WORDS:
            yield f"{words} words: {sentence!r}"
        if sentence.count(";") > 1:
            yield f"a chain of semicolons: {sentence!r}"


def problems_of_docstring(docstring: Docstring) -> Iterator[str]:
    """Yield what is wrong with the form of a docstring. The docstring of a test is a claim, and has none."""
    text = docstring.text
    if docstring.kind == "function" and not docstring.name.startswith("test_") and re.match(NO_VERB, text):
        yield f"{docstring.name}: does not begin with a verb: {text[:60]!r}"
    if docstring.kind == "class" and re.match(NO_NAME, text):
        yield f"{docstring.name}: does not begin with a noun or a verb: {text[:60]!r}"
    raises = text.partition("\nRaises:\n")[2]
    for match in re.finditer(r"^    (\w+Error): (?!if |when )(.*)$", raises, re.MULTILINE):
        yield f"Raises: {match[1]} does not say 'if …': {match[2][:60]!r}"


def test_words_of_documents() -> None:
    """A document has no banned phrase, no chain of semicolons, and no sentence of more than 25 words."""
    assert [finding for document in WRITTEN for finding in findings_of_document(document)] == []


def test_words_of_sources() -> None:
    """A module has no banned phrase, and its docstrings and hints have their form. No file is excepted.

    A sentence of a docstring or comment has at most 25 words, and each file that it names exists. The docstring of a
    function begins with a verb, that of a class with a noun or a verb. An entry of `Raises:` says `if …`. A hint is an
    imperative, not a question.
    """
    assert [finding for source in SOURCES for finding in findings_of_source(source)] == []


def test_changes_are_one_short_line() -> None:
    """Each entry of the changelog is one line of at most 100 characters."""
    entries = re.findall(r"^- .*(?:\n(?!\n|- |#).+)*", read("CHANGELOG.md"), re.MULTILINE)
    assert [entry for entry in entries if "\n" in entry or len(entry) - 2 > MAX_CHANGE] == []


def test_a_version_has_few_changes() -> None:
    """The changelog says what a version is, and not each step to it."""
    versions = re.split(r"^## ", read("CHANGELOG.md"), flags=re.MULTILINE)[1:]
    assert [version.partition("\n")[0] for version in versions if version.count("\n- ") > MAX_CHANGES] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Whoever writes.", True),
        ("'x' is no status.", True),
        ("There is no job of that id.", False),
        ("The table is no longer there.", False),
        ("First mend the file.", True),
        ("One page for the reader.", False),
    ],
)
def test_phrases_are_found(text: str, found: bool) -> None:
    """The patterns find the phrases, and leave the usual ones alone."""
    assert any(re.search(pattern, text, re.IGNORECASE) for pattern in BANNED.values()) is found


if __name__ == "__main__":
    report = [finding for document in WRITTEN for finding in findings_of_document(document)]
    report += [finding for source in SOURCES for finding in findings_of_source(source)]
    sys.stdout.write("".join(f"{finding}\n" for finding in report))
