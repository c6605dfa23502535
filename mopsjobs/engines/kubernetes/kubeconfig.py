"""Find the files that name a cluster, without the library that talks to it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mopsjobs.utils import user_dirs

SERVICE_HOST = "KUBERNETES_SERVICE_HOST"
"""Set in each pod: the cluster that the pod runs in."""


def listed_kubeconfigs(env: Mapping[str, str]) -> list[str]:
    """Return the files that KUBECONFIG names, whether they exist or not."""
    return [path for path in env.get("KUBECONFIG", "").split(os.pathsep) if path]


def existing_kubeconfigs(env: Mapping[str, str]) -> list[str]:
    """Return the files that exist: those that KUBECONFIG names, else the one below the home directory."""
    home = user_dirs.home(env)
    default = [] if home is None else [os.path.join(home, ".kube", "config")]
    return [path for path in listed_kubeconfigs(env) or default if os.path.exists(path)]


def is_cluster_configured(env: Mapping[str, str]) -> bool:
    """Return whether the environment names a cluster, also by a file that is missing."""
    return bool(env.get(SERVICE_HOST) or listed_kubeconfigs(env) or existing_kubeconfigs(env))
