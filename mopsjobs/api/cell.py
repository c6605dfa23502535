"""A function of a notebook or a script as the model of a study: one file that has all that it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Cell:
    """A generated file with a function. `cell` makes it."""

    def __init__(self, function: str, source: str, names: tuple[str, ...]) -> None:
        """Keep the text of the file; see `cell`."""
        self.function = function
        """The name of the function."""
        self.source = source
        """The text of the file."""
        self.names = names
        """The names of the notebook that the function uses, directly or not, in alphabetical order."""

    @property
    def file(self) -> str:
        """Return the name of the file in the bundle."""
        return f"cell_{self.function}.py"

    @property
    def model(self) -> str:
        """Return the function as a study names it."""
        return f"cell_{self.function}:{self.function}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and (self.function, self.source) == (other.function, other.source)

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"<Cell {self.function}{' with ' * bool(self.names)}{', '.join(self.names)}>"


def cell(function: Callable[..., Any]) -> Cell:
    """Return a function of a notebook or a script as the model of a study.

    Its source goes into a generated file, and with it what it uses. These are imports, other functions and classes of
    the notebook, and plain values as they are now. `Cell.source` has the text.

    Args:
        function: a function that is defined in `__main__`, with `def` or as a named lambda.

    Raises:
        UsageError: if it is defined elsewhere or has no source, or if it uses something that cannot go into a file.
            The message names all of it.
    """
    from mopsjobs.api.cell_source import generate

    return Cell(*generate(function))
