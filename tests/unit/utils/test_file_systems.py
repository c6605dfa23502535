"""Which file system holds a path, by a table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.utils import file_systems
from mopsjobs.utils.file_systems import network_file_system

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
auto.home /home autofs rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/ada/scratch tmpfs rw 0 0
beegfs /my\\040work beegfs rw 0 0
fs /gpfs gpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/registry.db", None),
        ("/home/ada/registry.db", "nfs4"),
        ("/home/ada/scratch/registry.db", None),
        ("/homes/registry.db", None),
        ("/my work/registry.db", "beegfs"),
        ("/gpfs", "gpfs"),
    ],
)
def test_the_innermost_mount_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str, kind: str | None
) -> None:
    """Of two mounts at one point, the later one covers the other."""
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    monkeypatch.setattr(file_systems, "MOUNTS", str(table))
    assert network_file_system(path) == kind
