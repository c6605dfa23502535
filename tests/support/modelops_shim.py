"""A plugin of pytest: imports of ModelOps' registry and storage give `mopsjobs.modelops` instead.

The rest of ModelOps comes from the checkout that the variable `MODELOPS_CHECKOUT` names. Its packages run without their
`__init__`, which would import its whole service.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

from mopsjobs import modelops

SOURCE = Path(os.environ["MODELOPS_CHECKOUT"]) / "src"
REPLACED = ("job_registry", "job_state", "output_manifest", "storage.azure_versioned", "storage.memory")
REPLACED += ("storage.retry", "storage.versioned")


def _package(name: str) -> None:
    package = types.ModuleType(name)
    package.__path__ = [str(SOURCE.joinpath(*name.split(".")))]
    sys.modules[name] = package


sys.path.insert(0, str(SOURCE))
_package("modelops.services")
_package("modelops.services.storage")
for replaced in REPLACED:
    sys.modules[f"modelops.services.{replaced}"] = modelops
