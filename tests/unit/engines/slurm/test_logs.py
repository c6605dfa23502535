"""The log files of shards: which ones are read, and how far."""

from __future__ import annotations

from pathlib import Path

from mopsjobs.engines.slurm.logs import POLLS_PER_STATE, log_files, read_lines


def _write(directory: Path, name: str, text: str) -> None:
    with (directory / name).open("a", encoding="utf-8") as file:
        file.write(text)


def test_the_logs_are_those_of_one_array_in_the_order_of_shards(tmp_path: Path) -> None:
    """Without an id, those of the newest array. Other files of the directory are left out."""
    for name in ("slurm-9_0.log", "slurm-12_10.log", "slurm-12_2.log", "slurm.sh", "slurm-12_2.log.part"):
        _write(tmp_path, name, "")
    assert [(shard, path.name) for shard, path in log_files(tmp_path, None)] == [
        (2, "slurm-12_2.log"), (10, "slurm-12_10.log"),
    ]  # fmt: skip
    assert [path.name for _, path in log_files(tmp_path, 9)] == ["slurm-9_0.log"]
    assert log_files(tmp_path / "none", None) == []


def test_the_last_lines_are_those_of_the_last_shards(tmp_path: Path) -> None:
    _write(tmp_path, "slurm-12_0.log", "a\nb\n")
    _write(tmp_path, "slurm-12_1.log", "c\nd")

    def read(tail: int | None, *, several: bool = False) -> list[str]:
        return list(read_lines(lambda: log_files(tmp_path, 12), tail, several=several, sleep=lambda _: None))

    assert read(None, several=True) == ["shard 0: a", "shard 0: b", "shard 1: c", "shard 1: d"]
    assert (read(3), read(0)) == (["b", "c", "d"], [])


def test_following_reads_each_line_once_until_the_end(tmp_path: Path) -> None:
    """A line may come in parts, a shard may begin later, and the last line may have no end."""
    _write(tmp_path, "slurm-12_0.log", "old\nlast\nha")
    deeds = [
        lambda: _write(tmp_path, "slurm-12_0.log", "lf\n"),
        lambda: _write(tmp_path, "slurm-12_1.log", "late\n"),
        lambda: _write(tmp_path, "slurm-12_1.log", "end"),
    ]
    asked: list[int] = []
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if deeds:
            deeds.pop(0)()

    def is_over() -> bool:
        asked.append(len(sleeps))
        return len(asked) == 2

    lines = read_lines(lambda: log_files(tmp_path, 12), 1, several=True, sleep=sleep, is_over=is_over)
    assert list(lines) == ["shard 0: last", "shard 0: half", "shard 1: late", "shard 1: end"]
    assert asked == [0, POLLS_PER_STATE]
