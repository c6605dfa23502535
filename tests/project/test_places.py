"""Where tests lie: a unit test beside its module's name, a test of a command in the file of the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.cli.commands import COMMANDS

TESTS = Path(__file__).resolve().parents[1]
UNIT = sorted((TESTS / "unit").rglob("test_*.py"))
OF_COMMANDS = sorted((TESTS / "commands").rglob("test_*.py"))
MAX_LINES = 400
"""As for the modules of mopsjobs: see test_layers.py."""


@pytest.mark.parametrize("path", UNIT, ids=[path.relative_to(TESTS).as_posix() for path in UNIT])
def test_a_unit_test_lies_where_its_module_lies(path: Path) -> None:
    """A test file is named after a module or a package, and maybe a part of it, in the folder of the same name."""
    folder = TESTS.parent / "mopsjobs" / path.parent.relative_to(TESTS / "unit")
    words = path.stem.removeprefix("test_").split("_")
    names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
    assert any((folder / name).is_dir() or (folder / f"{name}.py").is_file() for name in names)
    assert path.read_text("utf-8").count("\n") <= MAX_LINES, "move a part to test_<module>_<part>.py"


@pytest.mark.parametrize("path", OF_COMMANDS, ids=[path.name for path in OF_COMMANDS])
def test_a_test_of_a_command_lies_in_the_file_of_the_command(path: Path) -> None:
    """A file of tests/commands is named after its command, or after the command line, and maybe a part of it."""
    words = path.stem.removeprefix("test_")
    assert any(f"{words}_".startswith(f"{name}_") for name in (*COMMANDS, "command_line"))
    assert path.read_text("utf-8").count("\n") <= MAX_LINES, "move a part to test_<command>_<part>.py"
