"""Results of commands: a body, notes and warnings. The printer prints them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from mopsjobs.errors import EXIT_DONE

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any


class Document:
    """One JSON document."""

    def __init__(self, content: object, *, items: tuple[str, Iterable[str]] | None = None) -> None:
        """Take the content.

        Args:
            content: JSON types.
            items: name and items of a list that comes last; each item is a JSON text.
        """
        self.content = content
        self.items = items

    def pieces(self, indent: int | None) -> Iterator[str]:
        """Yield the document as text; without indents, item by item."""
        content: Any = self.content
        name, items = self.items or ("", ())
        if self.items is None or indent is not None:
            more = {name: [json.loads(item) for item in items]} if self.items else {}
            yield json.dumps(content | more if more else content, indent=indent, allow_nan=False)
            return
        yield f'{json.dumps(content, allow_nan=False)[:-1]}, "{name}": ['
        separator = ""
        for item in items:
            yield separator + item
            separator = ", "
        yield "]}"


class JsonLines:
    """JSON documents, one per line."""

    def __init__(self, contents: Iterable[object]) -> None:
        self.contents = contents


class Table:
    """Rows under headers, aligned for people."""

    def __init__(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        never_cut: Sequence[str] = (),
        drop_order: Sequence[str] = (),
        names_dropped: bool = False,
    ) -> None:
        """Take headers and rows.

        Args:
            headers: the names of the columns.
            rows: the cells of each row.
            never_cut: headers of columns whose cells stay whole on a narrow terminal, as ids do.
            drop_order: headers of columns that a narrow terminal may lack, the least important first.
            names_dropped: whether a note names the columns that a terminal lacks: the user has asked for them.
        """
        self.headers = headers
        self.rows = rows
        self.never_cut = never_cut
        self.drop_order = drop_order
        self.names_dropped = names_dropped


class Tsv:
    """Rows with a tab between the values and no header, for `cut` and `awk`."""

    def __init__(self, rows: Iterable[Sequence[object]]) -> None:
        self.rows = rows


class Text:
    """Lines for people; each line is a row of pieces, so that a piece may have a style."""

    def __init__(self, lines: Iterable[str | Sequence[str]], *, indent: int | None = None) -> None:
        """Take the lines.

        Args:
            lines: a text or pieces of it for each line.
            indent: blanks at the beginning of a line that continues another on a narrow terminal; None not to wrap.
        """
        self.lines = lines
        self.indent = indent


class RawText:
    """Text that is printed unchanged: a script, a schema, lines of JSON. It must be safe for a terminal."""

    def __init__(self, text: str | Iterable[str]) -> None:
        self.pieces = [text] if isinstance(text, str) else text


Body = Document | JsonLines | Table | Tsv | Text | RawText


class Result:
    """The result of a command: its body for stdout, warnings and notes for stderr, and the exit code."""

    __slots__ = ("body", "exit_code", "notes", "warnings")

    def __init__(
        self,
        body: Body | None = None,
        *,
        notes: Sequence[str] = (),
        warnings: Sequence[str] = (),
        exit_code: int = EXIT_DONE,
    ) -> None:
        self.body = body
        self.notes = notes
        self.warnings = warnings
        self.exit_code = exit_code
