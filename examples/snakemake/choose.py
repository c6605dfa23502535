"""Write a study of the growth rate that fits best, with more replicates: `choose.py scan.csv refined.json`."""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

OBSERVED = 40
"""Cases after eight days."""


def main(table: str, study: str) -> None:
    """Read the table of a job, and write the next study."""
    cases = defaultdict(list)
    with open(table, newline="") as file:
        for row in csv.DictReader(file):
            if row["cases"]:
                cases[float(row["growth"])].append(int(row["cases"]))
    best = min(cases, key=lambda growth: abs(sum(cases[growth]) / len(cases[growth]) - OBSERVED))
    content = {
        "model": "model:simulate",
        "n_replicates": 10,
        "outputs": ["result.json"],
        "parameter_sets": [{"initial": 5, "days": 8, "growth": best}],
    }
    Path(study).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
