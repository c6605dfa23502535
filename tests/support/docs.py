"""Read the project's documents: their prose, links, anchors and console examples."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
GENERATED = frozenset({"docs/reference/cli.md"})
"""Documents that a script writes from the sources, whose words are checked there."""

QUOTED = frozenset({"CODE_OF_CONDUCT.md", "THIRD_PARTY_LICENSES.md"})
"""Documents with the words of other authors."""

DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.is_file()
)
"""Every document, by its path from the root."""

_FENCE = re.compile(r"^ *```.*?^ *```[^\n]*$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"``.+?``|`[^`\n]+`")
_MARKUP = re.compile(r"\*\*|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
_STARTS_A_BLOCK = re.compile(r"^\s*([-*+]|\d+\.|#+|>|\|)\s*")
_RULER = re.compile(r"^[\s|:-]+$")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)[)\"']*\s+")


def load_generator(name: str) -> ModuleType:
    """Return a module of docs/tools, which writes a document."""
    return load_module(ROOT / "docs" / "tools" / f"{name}.py")


def load_module(path: Path) -> ModuleType:
    """Return a module that lies in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Block(NamedTuple):
    """A run of prose: a paragraph, a heading, an item of a list, a cell of a table. `line` counts from 1."""

    line: int
    text: str


def read(document: str) -> str:
    """Return the text of a document, which is named by its path from the root."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(markdown: str) -> Iterator[Block]:
    """Yield the prose of a document, without code blocks and comments. Each span of inline code stands as `CODE`."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    text = _FENCE.sub(blank, _COMMENT.sub(blank, markdown))
    lines: list[str] = []
    start = 0
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        begins = _STARTS_A_BLOCK.match(line)
        if lines and (begins or not line.strip()):
            yield Block(start, plain(" ".join(lines)))
            lines = []
        if not line.strip() or _RULER.match(line):
            continue
        if line.lstrip().startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            yield from (Block(number, plain(cell)) for cell in cells if cell.strip())
            continue
        if not lines:
            start = number
        lines.append(line[begins.end() :] if begins else line.strip())
        if begins and begins[1].startswith("#"):
            yield Block(start, plain(lines.pop()))


def plain(markdown: str) -> str:
    """Return the text without its markup. Each span of inline code stands as `CODE`."""
    text = _CODE.sub("CODE", markdown)
    text = _LINK.sub(lambda match: match[1], text)
    return " ".join(_MARKUP.sub("", text).split())


def sentences(text: str) -> list[str]:
    """Split prose into sentences."""
    return [sentence for sentence in (part.strip() for part in _SENTENCE_END.split(text)) if sentence]


def without_code_blocks(markdown: str) -> str:
    """Return a document without its code blocks."""
    return _FENCE.sub("", markdown)


def links(markdown: str) -> Iterator[tuple[str, str]]:
    """Yield the text and the target of each link and picture."""
    text = _CODE.sub("CODE", without_code_blocks(_COMMENT.sub("", markdown)))
    yield from ((match[1], match[2]) for match in _LINK.finditer(text))


def anchors(markdown: str) -> set[str]:
    """Return the anchors of a document's headings, as forges and mkdocs make them."""
    seen: Counter[str] = Counter()
    found = set()
    for match in re.finditer(r"^#+ (.+)$", without_code_blocks(markdown), re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).lower())
        slug = re.sub(r"[\s]+", "-", words.strip())
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


def files_shown(document: str) -> dict[str, str]:
    """Return the files that a document shows, by name: a code block under a line with nothing but its name."""
    return dict(re.findall(r"^`([a-z.]+)`:\n\n```[a-z]+\n(.*?)^```", read(document), re.DOTALL | re.MULTILINE))


def python_examples(document: str) -> list[str]:
    """Return the Python programs of a document, without the files that it shows."""
    programs = re.findall(r"^```python\n(.*?)^```$", read(document), re.DOTALL | re.MULTILINE)
    files = files_shown(document).values()
    return [program for program in programs if program not in files]


class Example(NamedTuple):
    """One command of a console block, and the output that the document shows below it."""

    line: int
    command: str
    output: str


def examples(document: str) -> Iterator[tuple[str | None, list[Example]]]:
    """Yield the console blocks of a document: the marker above it, if there is one, and its commands.

    A marker is a comment in the line above: `not run: REASON`, or `run with: SERVER`.
    """
    text = read(document)
    pattern = r"(?:^<!-- ((?:not run|run with): [^>]*?) -->\n)?^```console\n(.*?)^```$"
    for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        commands: list[Example] = []
        start = text.count("\n", 0, match.start(2)) + 1
        for number, line in enumerate(match[2].splitlines(), start=start):
            if line.startswith("$ "):
                commands.append(Example(number, line[2:], ""))
            else:
                commands[-1] = commands[-1]._replace(output=commands[-1].output + line + "\n")
        yield match[1], commands
