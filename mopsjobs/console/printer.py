"""The only printer: data goes to stdout, and everything said about it to stderr.

Text from a record may hold escape sequences, so `strip_control_characters` cleans all text before it is printed. JSON
needs no cleaning: json.dumps escapes everything outside ASCII.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mopsjobs.console import terminal
from mopsjobs.console.result import Body, Document, JsonLines, Result, Table, Text, Tsv
from mopsjobs.errors import EXIT_INTERRUPTED, MopsJobsError, UsageError
from mopsjobs.utils.text import strip_control_characters

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import TextIO

    from mopsjobs.console.progress_line import ProgressLine

    Clock = Callable[[], float]

STATUS_STYLES = {
    "pending": "dim",
    "submitting": "dim",
    "scheduled": "cyan",
    "running": "blue",
    "validating": "blue",
    "succeeded": "green",
    "partial": "yellow",
    "failed": "red",
    "cancelled": "magenta",
}

MESSAGE_INDENT = 2
"""Blanks before the second line of a message that is too long for the terminal."""

_ESCAPES = re.compile("\x1b\\[[0-9;]*m")

_CODES = {
    "dim": "2",
    "bold": "1",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


class Printer:
    """Prints results on stdout and messages on stderr."""

    def __init__(self, stdout: TextIO | None, stderr: TextIO | None, env: Mapping[str, str]) -> None:
        # A stream that was closed before the start, as by `>&-`, is None: what goes there is discarded.
        self._stdout = stdout or io.StringIO()
        self._stderr = stderr or io.StringIO()
        self._env = env
        self.color = "auto"
        self.quiet = False
        self.verbose = 0
        self._paint_stdout = functools.partial(self._paint, stream=self._stdout)
        self._progress_line: ProgressLine | None = None

    @property
    def can_redraw(self) -> bool:
        """Return True if stdout is a terminal that can be cleared and redrawn."""
        return self._stdout.isatty() and self._env.get("TERM", "dumb") != "dumb"

    @property
    def lines(self) -> int:
        """Return the height of the terminal on stdout."""
        return terminal.lines(self._stdout)

    @property
    def is_terminal(self) -> bool:
        """Return True if a person reads stdout: then times are relative."""
        return self._stdout.isatty()

    def show(self, result: Result) -> None:
        """Print a result: warnings, the body, then notes."""
        self.warn_each(result.warnings)
        if result.body is not None:
            self._stdout.writelines(self._pieces(result.body))
            self._stdout.flush()
        for note in result.notes:
            self.note(note)

    def redraw(self, bodies: Sequence[Body]) -> None:
        """Clear the terminal and print these, as far as they fit above the cursor's own line."""
        room, width = self.lines - 1, terminal.columns(self._stdout)
        self._stdout.write("\x1b[H\x1b[2J")
        for line in (line for body in bodies for line in self._pieces(body)):
            room -= max(1, -(-terminal.display_width(_ESCAPES.sub("", line.rstrip("\n"))) // width))
            if room < 0:
                break
            self._stdout.write(line)
        self._stdout.flush()

    def note(self, text: str) -> None:
        """Print a message on stderr, unless `--quiet`."""
        if not self.quiet:
            self._write_message(text)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, even with `--quiet`."""
        self._write_message(text, terminal.style_text("warning: ", "yellow"))

    def warn_each(self, texts: Iterable[str]) -> None:
        """Print several warnings."""
        for text in texts:
            self.warn(text)

    def ask(self, question: str, details: Sequence[str] = ()) -> bool | None:
        """Ask the user a question, after lines of details about it.

        The details are printed even with `--quiet`: they are needed for the answer.

        Returns:
            Whether the answer is yes; None if stdin or stderr is not a terminal.
        """
        if sys.stdin is None or not sys.stdin.isatty() or not self._stderr.isatty():
            for line in details:
                self.note(line.rstrip())
            return None
        for line in details:
            self._write_message(line.rstrip())
        self._stderr.write(f"{strip_control_characters(question)} [y/N] ")
        self._stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def confirm(self, question: str, details: Sequence[str] = (), *, yes: bool) -> Result | None:
        """Ask for confirmation of what cannot be undone, unless `yes`.

        Returns:
            None if it is confirmed; else the result of the command, which has changed nothing.

        Raises:
            UsageError: if there is no terminal to ask on.
        """
        answer = True if yes else self.ask(question, details)
        for line in details if yes else ():
            self.note(line.rstrip())
        if answer is None:
            hint = "Add --yes to confirm, or --dry-run to look first."
            raise UsageError(f"There is no terminal to ask '{question}'; nothing was done.", hint=hint)
        return None if answer else Result(notes=["Nothing was done."], exit_code=EXIT_INTERRUPTED)

    def debug(self, text: str) -> None:
        """Print a message on stderr if `-v` was given."""
        if self.verbose:
            self._write_message(text)

    def error(self, error: MopsJobsError) -> None:
        """Print an error and its hint on stderr."""
        self._write_message(str(error), terminal.style_text("error: ", "red"))
        if error.hint:
            self._write_message(error.hint, terminal.style_text("hint: ", "cyan"))

    @contextlib.contextmanager
    def progress(
        self, unit: str, total: int | None = None, *, describe: Callable[[], str] = str, clock: Clock = time.monotonic
    ) -> Iterator[ProgressLine | None]:
        """Show a line about progress on stderr while the block runs, if stderr is a terminal.

        Args:
            unit: what is counted.
            total: the expected count; None if it is unknown.
            describe: returns what the work waits for; see `ProgressLine`.
            clock: a monotonic clock in seconds.

        Yields:
            The line, to be called with the count so far; None if no line is shown.
        """
        if self.quiet or not self._stderr.isatty():
            yield None
            return
        from mopsjobs.console.progress_line import ProgressLine

        with ProgressLine(self._stderr, unit, total, describe=describe, clock=clock) as line:
            self._progress_line = line
            try:
                yield line
            finally:
                self._progress_line = None

    def _write_message(self, text: str, label: str = "") -> None:
        """Write a message on stderr, after a label in its style. On a terminal, it is wrapped."""
        pieces = [label, strip_control_characters(text)]
        lines = self._wrap(pieces, self._stderr, MESSAGE_INDENT) if self._stderr.isatty() else [pieces]
        texts = [
            "".join(terminal.format_cell(piece, functools.partial(self._paint, stream=self._stderr)) for piece in line)
            + "\n"
            for line in lines
        ]
        with contextlib.nullcontext() if self._progress_line is None else self._progress_line.erased():
            try:
                self._stderr.writelines(texts)
                self._stderr.flush()
            except OSError:  # the reader has left, or a disk is full: the command and its exit code stay the same
                discard_output(self._stderr)

    def _wrap(self, pieces: Sequence[str], stream: TextIO, indent: int) -> list[list[str]]:
        """Return the lines that a line becomes on a terminal."""
        width = terminal.columns(stream)
        if sum(map(terminal.display_width, pieces)) <= width:
            return [list(pieces)]
        return terminal.wrap_line(pieces, width, indent)

    def _pieces(self, body: Body) -> Iterable[str]:
        """Return what a body prints: of a table and of a text, line by line."""
        if isinstance(body, Document):
            return itertools.chain(body.pieces(2 if self.is_terminal else None), "\n")
        if isinstance(body, JsonLines):
            return (json.dumps(one, allow_nan=False, separators=(",", ":")) + "\n" for one in body.contents)
        if isinstance(body, Tsv):
            return ("\t".join(map(terminal.plain_cell, row)) + "\n" for row in body.rows)
        if isinstance(body, Table):
            from mopsjobs.console.table import format_table  # here: JSON needs no table

            width = terminal.columns(self._stdout) if self.is_terminal else None
            lines, dropped = format_table(body, width, self._paint_stdout)
            if dropped and body.names_dropped:
                self.note(f"Too narrow for {', '.join(dropped)}. A pipe gets all columns.")
            return (line + "\n" for line in lines)
        if isinstance(body, Text):
            paint = self._paint_stdout
            return ("".join(terminal.format_cell(piece, paint) for piece in line) + "\n" for line in self._lines(body))
        return body.pieces

    def _lines(self, body: Text) -> Iterator[Sequence[str]]:
        """Yield the lines of a text as pieces, wrapped where it allows that."""
        for line in body.lines:
            pieces = [line] if isinstance(line, str) else line
            if body.indent is None or not self.is_terminal:
                yield pieces
            else:
                yield from self._wrap([_clean_piece(piece) for piece in pieces], self._stdout, body.indent)

    def _paint(self, text: str, style: str, stream: TextIO) -> str:
        if not text or style not in _CODES or not self._wants_color(stream):
            return text
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m"

    def _wants_color(self, stream: TextIO) -> bool:
        if self.color != "auto":
            return self.color == "always"
        if self._env.get("NO_COLOR"):
            return False
        if self._env.get("CLICOLOR_FORCE", "0") != "0" or self._env.get("FORCE_COLOR", "0") != "0":
            return True
        return self._env.get("TERM") != "dumb" and stream.isatty()


def message_printer(env: Mapping[str, str]) -> Printer:
    """Return a printer of messages on the stderr of this process, which prints no results."""
    return Printer(None, sys.stderr, env)


def status_style(status: object, suspect: object = None, unknown_since: str | None = None) -> terminal.StyledText:
    """Return a status as a cell in its colour, with the reason why the job is suspect, or since when it is unknown."""
    text = strip_control_characters(str(status))
    if suspect is not None:
        return terminal.style_text(f"{text} (suspect: {strip_control_characters(str(suspect))})", "yellow")
    if unknown_since is not None:
        return terminal.style_text(f"{text} (unknown since {unknown_since})", "dim")
    return terminal.style_text(text, STATUS_STYLES.get(text, "bold"))


def discard_output(stream: TextIO | None) -> None:
    """Redirect a stream to the null device after a failed write, so that the flush at exit does not complain.

    Python's documentation of SIGPIPE recommends this. The signal's default action would affect sockets too.
    """
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _clean_piece(piece: str) -> str:
    """Return a piece of a line without control characters, in its style."""
    text = strip_control_characters(piece)
    return terminal.style_text(text, piece.style) if isinstance(piece, terminal.StyledText) else text
