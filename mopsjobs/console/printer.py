"""The only printer. stdout gets the data that was asked for and nothing else; stderr gets everything said about it.

Text that came from a record may hold anything, escape sequences included. `clean` stands between it and the terminal;
JSON needs no cleaning, since everything outside ASCII leaves as an escape.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType

from mopsjobs.console import terminal
from mopsjobs.console.result import Body, Csv, Document, JsonLines, Result, Table, Text, Tsv
from mopsjobs.console.terminal import Styled, styled
from mopsjobs.errors import EXIT_INTERRUPTED, MopsJobsError, UsageError
from mopsjobs.utils.text import strip_control_characters

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    from typing import Any, TextIO


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
    """Where a run prints."""

    def __init__(self, stdout: TextIO | None, stderr: TextIO | None, env: Mapping[str, str]) -> None:
        # A stream that was closed before the start, as by `>&-`, is None: what would go there goes nowhere.
        self._stdout = stdout or io.StringIO()
        self._stderr = stderr or io.StringIO()
        self._env = env
        self.color = "auto"
        self.quiet = False
        self.verbose = 0

    @property
    def can_redraw(self) -> bool:
        """Whether stdout is a terminal that can be written anew."""
        return self._stdout.isatty() and self._env.get("TERM", "dumb") != "dumb"

    @property
    def lines(self) -> int:
        """How many lines that terminal has."""
        return terminal.lines(self._stdout)

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads stdout: then times are relative."""
        return self._stdout.isatty()

    def show(self, result: Result) -> None:
        """Print a result: what was asked for first, then what is to be said about it."""
        for warning in result.warnings:
            self.warn(warning)
        if result.body is not None:
            self._print_body(result.body)
            self._stdout.flush()
        for note in result.notes:
            self.note(note)

    def redraw(self, bodies: Sequence[Body]) -> None:
        """Show these in place of what the terminal shows."""
        self._stdout.write("\x1b[H\x1b[2J")
        for body in bodies:
            self._print_body(body)
        self._stdout.flush()

    def check_reader(self) -> None:
        """Raise `BrokenPipeError` if nobody reads stdout any more: for who waits long between two lines."""
        import select

        try:
            poll = select.poll()
            poll.register(self._stdout.fileno(), 0)
            found = poll.poll(0)
        except (OSError, ValueError, AttributeError):  # nothing behind it that could be closed, or that can be polled
            return
        if any(event & select.POLLERR for _, event in found):
            raise BrokenPipeError

    def note(self, text: str) -> None:
        """Say something on stderr, unless it should be quiet."""
        if not self.quiet:
            self._say(strip_control_characters(text))

    def warn(self, text: str) -> None:
        """Say on stderr that something is not as it should be. Not silenced by `--quiet`."""
        self._say(self._paint("warning: ", "yellow", self._stderr) + strip_control_characters(text))

    def ask(self, question: str, shown: Sequence[str] = ()) -> bool | None:
        """Ask a person, who says yes with `y`; None when there is nobody to ask: no terminal at both ends.

        What the question is about is shown before it, by lines, even with `--quiet`: nobody can answer without.
        """
        if sys.stdin is None or not sys.stdin.isatty() or not self._stderr.isatty():
            for line in shown:
                self.note(line.rstrip())
            return None
        for line in shown:
            self._say(strip_control_characters(line.rstrip()))
        self._stderr.write(f"{strip_control_characters(question)} [y/N] ")
        self._stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def confirm(self, question: str, shown: Sequence[str] = (), *, yes: bool) -> Result | None:
        """Make sure that what cannot be undone is meant: by `--yes`, or by asking a person, after lines about it.

        Returns:
            None if it is meant; else how the command ends: with nothing done, as if it had been interrupted there.

        Raises:
            UsageError: there is nobody to ask.
        """
        if yes:
            for line in shown:
                self.note(line.rstrip())
            return None
        answer = self.ask(question, shown)
        if answer is None:
            hint = "Add --yes to mean it, --dry-run to look first."
            raise UsageError(f"There is no terminal to ask '{question}'; nothing was done.", hint=hint)
        return None if answer else Result(notes=["Nothing was done."], exit_code=EXIT_INTERRUPTED)

    def debug(self, text: str) -> None:
        """Say on stderr what only `-v` should hear."""
        if self.verbose:
            self._say(strip_control_characters(text))

    def error(self, error: MopsJobsError) -> None:
        """Say on stderr why the command ends, in one sentence, and what to try next."""
        self._say(self._paint("error: ", "red", self._stderr) + strip_control_characters(str(error)))
        if error.hint:
            self._say(self._paint("hint: ", "cyan", self._stderr) + strip_control_characters(error.hint))

    @contextlib.contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Callable[[int], None] | None]:
        """A progress bar on stderr while the block runs, if a person is there to see it.

        Args:
            what: unit of the count.
            total: the expected count, None when nobody knows.

        Yields:
            What to call with the count so far; None when nothing is to be shown.
        """
        if self.quiet or not self._stderr.isatty():
            yield None
            return
        from tqdm import tqdm

        # tqdm by itself shows nothing on a terminal that does not know its width.
        width = terminal.columns(self._stderr)
        with tqdm(total=total, unit=f" {what}", file=self._stderr, ncols=width, leave=False, delay=0.2) as bar:
            yield lambda count: _advance(bar, count)

    def _say(self, text: str) -> None:
        try:
            self._stderr.write(text + "\n")
            self._stderr.flush()
        except OSError:  # nobody listens, or the disk of a log is full: no reason to stop, nor to end in another way
            discard_output(self._stderr)

    def _print_body(self, body: Body) -> None:
        write = self._stdout.write
        if isinstance(body, Document):
            self._stdout.writelines(body.pieces(2 if self.is_terminal else None))
            write("\n")
        elif isinstance(body, JsonLines):
            for content in body.contents:
                write(json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n")
        elif isinstance(body, Tsv):
            for row in body.rows:
                write("\t".join(_plain_cell(value) for value in row) + "\n")
        elif isinstance(body, Csv):
            from mopsjobs.utils.csv_safe import csv_text

            write(csv_text(body.rows))
        elif isinstance(body, Table):
            self._print_table(body)
        elif isinstance(body, Text):
            for line in body.lines:
                write("".join(self._cell(piece) for piece in ([line] if isinstance(line, str) else line)) + "\n")
        else:
            self._stdout.writelines(body.pieces)

    def _print_table(self, table: Table) -> None:
        tabulate = _imported_tabulate()
        tabulate.MIN_PADDING = 0  # else a column is as wide as its header and two blanks more
        cells = [[_shown_cell(value) for value in row] for row in table.rows]
        if self.is_terminal:
            cells = terminal.fitted(table.headers, cells, terminal.columns(self._stdout))
        rows = [[self._cell(value) for value in row] for row in cells]
        headers = [self._paint(header, "bold", self._stdout) for header in table.headers]
        lines = tabulate.tabulate(rows, headers, tablefmt="plain", disable_numparse=True).splitlines()
        self._stdout.write("".join(line.rstrip() + "\n" for line in lines))

    def _cell(self, value: object) -> str:
        text = "" if value is None else strip_control_characters(str(value))
        return self._paint(text, value.style, self._stdout) if isinstance(value, Styled) else text

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


def status_style(status: object, suspect: object = None) -> Styled:
    """A status as a cell in its colour; with why the job may be stuck, if it may."""
    text = strip_control_characters(str(status))
    if suspect is not None:
        return styled(f"{text} (suspect: {strip_control_characters(str(suspect))})", "yellow")
    return styled(text, STATUS_STYLES.get(text, "bold"))


def discard_output(stream: TextIO | None) -> None:
    """After a write failed: let the interpreter flush into nothing at its exit, instead of complaining.

    As Python's documentation of SIGPIPE recommends; setting the signal to its default would hit sockets too.
    """
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _imported_tabulate() -> Any:
    """tabulate, without importlib.metadata, which it imports to learn its own version: that takes as long as a listing.

    While it is imported, a stand-in answers; should a later tabulate want more of it, it gets the real one.
    """
    name = "importlib.metadata"
    if name not in sys.modules:
        stand_in: Any = ModuleType(name)
        stand_in.version = lambda _package: "unknown"
        stand_in.PackageNotFoundError = ImportError
        sys.modules[name] = stand_in
        try:
            import tabulate
        except ImportError:
            pass
        finally:
            del sys.modules[name]
    import tabulate

    return tabulate


def _shown_cell(value: object) -> str:
    return value if isinstance(value, Styled) else _plain_cell(value)


def _plain_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    return strip_control_characters(str(value))


def _advance(bar: object, count: int) -> None:
    bar.update(count - bar.n)  # type: ignore[attr-defined]
