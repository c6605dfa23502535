"""A model of many steps that saves checkpoints, and what it does when nothing disturbs it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from support.runs import study

STEPS = '''
"""A model of many steps with a random generator, which ends its worker in the steps that its parameters name."""
import os, random, sys, time
import mopsjobs as mj

def note(params, step):
    file = os.open(params["steps"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, b"%d %d\\n" % (params["x"], step))
    os.close(file)

def simulate(params, seed):
    rng = random.Random(seed)
    total, ck = 0.0, mj.checkpoint()
    if (state := ck.load()) is not None:
        total = state["total"]
        rng.setstate(state["rng"])
    for step in range(ck.at or 0, params["steps_total"]):
        note(params, step)
        time.sleep(params.get("pause", 0))
        total += rng.random()
        if (step + 1) % params.get("every", 10) == 0 or ck.due():
            ck.save({"total": total, "rng": rng.getstate()}, at=step + 1)
        marker = "%s-%d-%d" % (params["steps"], params["x"], step)
        if step in params.get("die", ()) and not os.path.exists(marker):
            open(marker, "x").close()
            os.kill(os.getpid(), 9)
        gate = params.get("gates", {}).get(str(step))
        if gate is not None:
            open(gate + "-reached", "a").close()
            while not os.path.exists(gate):
                if not params.get("is_deaf") and ck.due():
                    ck.save({"total": total, "rng": rng.getstate()}, at=step + 1)
                time.sleep(0.005)
    return {"total": total}
'''

IN_VAIN = '''
"""A model that does not read its checkpoint, and asks for another start each time."""
import mopsjobs

def simulate(params, seed):
    for step in range(params["saves"]):
        mopsjobs.checkpoint().save({"step": step}, at=str(step))
    raise SystemExit(85)
'''


def steps_of(path: Path) -> dict[int, list[int]]:
    """Return the steps that were made, by `x`."""
    found: dict[int, list[int]] = {}
    for line in path.read_text().splitlines():
        x, step = map(int, line.split())
        found.setdefault(x, []).append(step)
    return found


def undisturbed(sets: list[dict[str, Any]]) -> dict[str, bytes]:
    """Return what tasks leave that nothing ends."""
    found = {}
    for task in study(sets).tasks():
        rng, total = random.Random(task.seed), 0.0
        for _ in range(task.params["steps_total"]):
            total += rng.random()
        found[f"{task.param_id}/{task.seed}/result.json"] = json.dumps({"total": total}).encode()
    return found
