"""The words of the project: the rules that a machine can hold, over documents and sources.

Run as a script, it prints every finding: `python tests/project/test_prose.py`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.docs import DOCUMENTS, GENERATED, QUOTED, ROOT, blocks, read, sentences

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_WORDS = 25
"""Of a sentence in a document."""

MAX_CHANGE = 100
"""Characters of one line of the changelog."""

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
    "behind the back": r"\bbehind (our|everybody's|its) back\b",
}
"""Phrases that a reader has to decode, by name. The named thing stands in their place."""

WRITTEN = [name for name in DOCUMENTS if name not in GENERATED | QUOTED]

_SPOKEN = {".py", ".html", ".js", ".css", ".json", ".sql", ".sh", ".yml"}
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for path in [
        *(ROOT / name for name in ("mops_jobs.py", "build.sh", "contrib/alerts.yml", "examples/demo.sh")),
        *(path for folder in ("mopsjobs", "onefile", "docs/tools") for path in (ROOT / folder).rglob("*")),
    ]
    if path.is_file() and path.suffix in _SPOKEN
)
"""Everything else whose words a user or a maintainer reads: sources, pages, schemas, scripts."""


def findings_of_document(document: str) -> Iterator[str]:
    """Yield what is wrong with the words of a document."""
    for block in blocks(read(document)):
        for name, pattern in BANNED.items():
            for match in re.finditer(pattern, block.text, re.IGNORECASE):
                yield f"{document}:{block.line}: {name}: {match[0]!r} in {block.text[:80]!r}"
        for sentence in sentences(block.text):
            words = len(re.findall(r"\w\S*", sentence))
            if words > MAX_WORDS:
                yield f"{document}:{block.line}: {words} words: {sentence!r}"
            if sentence.count(";") > 1:
                yield f"{document}:{block.line}: a chain of semicolons: {sentence!r}"


def findings_of_source(source: str) -> Iterator[str]:
    """Yield what is wrong with the words of a module: its literals, docstrings and comments; of another file, all."""
    text = read(source)
    if not source.endswith(".py"):
        for number, words in enumerate(text.splitlines(), start=1):
            for name, pattern in BANNED.items():
                for match in re.finditer(pattern, words, re.IGNORECASE):
                    yield f"{source}:{number}: {name}: {match[0]!r} in {words.strip()[:80]!r}"
        return
    tree = ast.parse(text)
    spoken: list[tuple[int, str]] = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    spoken += [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    for line, words in spoken:
        plain = " ".join(words.split())
        for name, pattern in BANNED.items():
            for match in re.finditer(pattern, plain, re.IGNORECASE):
                around = plain[max(match.start() - 30, 0) : match.end() + 30]
                yield f"{source}:{line}: {name}: {match[0]!r} in {around!r}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            raises = (ast.get_docstring(node) or "").partition("\nRaises:\n")[2]
            for match in re.finditer(r"^    (\w+Error): (?!if |when )(.*)$", raises, re.MULTILINE):
                line = getattr(node, "lineno", 1)
                yield f"{source}:{line}: Raises: {match[1]} does not say 'if …': {match[2][:60]!r}"


@pytest.mark.parametrize("document", WRITTEN)
def test_words_of_documents(document: str) -> None:
    """A document has no banned phrase, no chain of semicolons, and no sentence of more than 25 words."""
    assert list(findings_of_document(document)) == []


@pytest.mark.parametrize("source", SOURCES)
def test_words_of_sources(source: str) -> None:
    """A module has no banned phrase, and each entry of `Raises:` says `if …`. No file is excepted."""
    assert list(findings_of_source(source)) == []


def test_changes_are_one_short_line() -> None:
    """Each entry of the changelog is one line of at most 100 characters."""
    entries = re.findall(r"^- .*(?:\n(?!\n|- |#).+)*", read("CHANGELOG.md"), re.MULTILINE)
    assert [entry for entry in entries if "\n" in entry or len(entry) - 2 > MAX_CHANGE] == []


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


def test_long_sentences_are_found() -> None:
    """A sentence is measured as it is read: code is one word, a cell of a table is a text, a version ends nothing."""
    page = "# Title\n\nOne `a b c` two.\nThree 3.11 four.\n\n| a | b c. D e |\n|---|---|\n\n"
    page += "```\nnot this\n```\n- item\n  goes on\n"
    assert [block.text for block in blocks(page)] == [
        "Title",
        "One CODE two. Three 3.11 four.",
        "a",
        "b c. D e",
        "item goes on",
    ]
    assert sentences("One CODE two. Three 3.11 four. (Five.) Six") == [
        "One CODE two.",
        "Three 3.11 four.",
        "(Five.",
        "Six",
    ]


if __name__ == "__main__":
    report = [finding for document in WRITTEN for finding in findings_of_document(document)]
    report += [finding for source in SOURCES for finding in findings_of_source(source)]
    sys.stdout.write("".join(f"{finding}\n" for finding in report))
