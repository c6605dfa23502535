"""Split a page into the parts that its script refreshes, and find what has changed since an earlier version of it.

An element with `data-live` and an id is a part. Elements with `data-key` inside it, as rows of a table, are compared
one by one. The text of `<time>` elements is left out of the comparison: the script counts it. See
docs/decisions/0057-changed-rows-only.md.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

_TAG = re.compile(r"<(/?)([a-z][a-z0-9]*)([^>]*)>", re.ASCII)
"""A tag. Jinja escapes each `>` of a value."""

_KEY = re.compile(r'\sdata-key="([^"]*)"')

_ID = re.compile(r'\sid="([^"]*)"')

_LIVE = re.compile(r"\sdata-live(?![\w-])")

_TIME = re.compile(r"(<time [^>]*>)[^<]*(?=</time>)")

_TITLE = re.compile(r"<title>[^<]*</title>")

_BODY = re.compile(r"<body[^>]*>")

HEAD = "fresh"
"""The part with the age of the data. It differs each time, and messages of the stream bring what it shows."""


class Element:
    """A part of a page, or an element with a key in it."""

    __slots__ = ("_depth", "children", "digest", "key", "keyed", "open", "tag")

    def __init__(self, tag: str, key: str, text: str) -> None:
        self.tag = tag
        self.key = key
        """Its key, or the id of a part."""
        self.open = text
        """Its first tag."""
        self.children: list[str | Element] = []
        self.keyed: dict[str, tuple[int, Element]] = {}
        """The children with keys, with their places among each other. Empty if two have the same key."""
        self.digest = 0
        """Equal for elements of equal content."""
        self._depth = 1

    def add(self, text: str) -> None:
        """Add the text up to the next element with a key, or to the end."""
        if text:
            self.children.append(text)

    def ends_with(self, tag: str, *, is_end: bool) -> bool:
        """Count a tag inside of it; return True if it is its own end."""
        if tag == self.tag:
            self._depth += -1 if is_end else 1
        return self._depth == 0

    def finish(self) -> None:
        """Note what a comparison needs, when all children are known."""
        elements = [child for child in self.children if isinstance(child, Element)]
        self.keyed = {child.key: (place, child) for place, child in enumerate(elements)}
        if len(self.keyed) < len(elements):
            self.keyed = {}
        inner = (child.digest if isinstance(child, Element) else _TIME.sub(r"\1", child) for child in self.children)
        self.digest = hash((self.open, *inner))

    def pieces(self) -> Iterator[str]:
        """Yield its text."""
        yield self.open
        for child in self.children:
            if isinstance(child, Element):
                yield from child.pieces()
            else:
                yield child
        yield f"</{self.tag}>"

    def changes(self, old: Element) -> Iterator[str]:
        """Yield its text, with a mark in place of children that `old` has too.

        A mark has the key of the first of them in `data-same`, and how many follow each other in `data-count`.
        """
        if not (self.keyed and old.keyed):
            yield from self.pieces()
            return
        yield self.open
        run: list[Element] = []
        last = -2  # the place of the last child of the run in `old`
        gap = ""  # the white space after the run
        for child in self.children:
            if isinstance(child, str):
                if run and child.isspace():
                    gap = child
                    continue
                yield from _mark(run, gap)
                yield child
                continue
            place, before = old.keyed.get(child.key, (-2, None))
            is_same = before is not None and before.digest == child.digest
            if not (is_same and place == last + 1):
                yield from _mark(run, gap)
            gap = ""
            if is_same:
                run.append(child)
                last = place
            elif before is not None and before.tag == child.tag:
                yield from child.changes(before)
            else:
                yield from child.pieces()
        yield from _mark(run, gap)
        yield f"</{self.tag}>"


def _mark(run: list[Element], gap: str) -> Iterator[str]:
    """Yield the mark of a run of equal children, if there are some, with the white space after it. End the run."""
    if run:
        tag = run[0].tag
        yield f'<{tag} data-same="{run[0].key}" data-count="{len(run)}"></{tag}>{gap}'
        run.clear()


class PageVersion:
    """A page as it was rendered, and its parts. It is split when it is compared: most pages never are."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.token = f"{hash(text) & (1 << 64) - 1:x}"
        """Names the text. Another process gives the same text another name."""

    @functools.cached_property
    def parts(self) -> dict[str, Element]:
        """Return its parts by their ids."""
        return {part.key: part for part in _split(self.text)}

    @functools.cached_property
    def _title(self) -> str:
        return _first(_TITLE, self.text)

    @functools.cached_property
    def digest(self) -> int:
        """Return a number that is equal for pages whose parts are equal but for the time."""
        return hash((self._title, *(part.digest for key, part in self.parts.items() if key != HEAD)))

    def changes(self, old: PageVersion) -> str:
        """Return a page with the parts that differ from those of `old`, whose token its body has in `data-base`."""
        pieces = ["<!doctype html>", self._title, f'{_first(_BODY, self.text)[:-1]} data-base="{old.token}">']
        for key, part in self.parts.items():
            before = old.parts.get(key)
            if key == HEAD:
                pieces += [part.open, f"</{part.tag}>"]
            elif before is None:
                pieces += part.pieces()
            elif before.digest != part.digest:
                pieces += part.changes(before)
        return "".join(pieces)


def _split(text: str) -> Iterator[Element]:
    """Yield the parts of a page."""
    stack: list[Element] = []
    place = 0
    for match in _TAG.finditer(text):
        is_end, tag = match[1] == "/", match[2]
        key = None if is_end else _key(match[3], is_part=not stack)
        if key is not None:
            if stack:
                stack[-1].add(text[place : match.start()])
            stack.append(Element(tag, key, match[0]))
            place = match.end()
        elif stack and stack[-1].ends_with(tag, is_end=is_end):
            element = stack.pop()
            element.add(text[place : match.start()])
            element.finish()
            place = match.end()
            if stack:
                stack[-1].children.append(element)
            else:
                yield element


def _key(attributes: str, *, is_part: bool) -> str | None:
    """Return the id of a part, or the key of an element; None for other tags."""
    if is_part and _LIVE.search(attributes) is None:
        return None
    match = (_ID if is_part else _KEY).search(attributes)
    return None if match is None else match[1]


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return "" if match is None else match[0]
