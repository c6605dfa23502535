"""Where tests lie: a unit test beside its module's name, a test of a command in the file of the command."""

from __future__ import annotations

from pathlib import Path

from mopsjobs.cli.commands import COMMANDS

TESTS = Path(__file__).resolve().parents[1]
UNIT = sorted((TESTS / "unit").rglob("test_*.py"))
OF_COMMANDS = sorted((TESTS / "commands").rglob("test_*.py"))


def test_a_unit_test_lies_where_its_module_lies() -> None:
    """A test file is named after a module or a package, and maybe a part of it, in the folder of the same name."""
    assert UNIT
    lost = []
    for path in UNIT:
        folder = TESTS.parent / "mopsjobs" / path.parent.relative_to(TESTS / "unit")
        words = path.stem.removeprefix("test_").split("_")
        names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
        if not any((folder / name).is_dir() or (folder / f"{name}.py").is_file() for name in names):
            lost.append(path)
    assert lost == []


def test_a_test_of_a_command_lies_in_the_file_of_the_command() -> None:
    """A file of tests/commands is named after its command, or after the command line, and maybe a part of it."""
    assert OF_COMMANDS
    beginnings = tuple(f"test_{name}_" for name in (*COMMANDS, "command_line"))
    assert [path for path in OF_COMMANDS if not f"{path.stem}_".startswith(beginnings)] == []
