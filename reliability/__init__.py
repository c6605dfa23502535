"""Break things on purpose, against real servers and processes, and count what survives: `python -m reliability`.

It shares `support` with the tests.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
