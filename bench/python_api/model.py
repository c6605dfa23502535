"""The model of the comparison. It fails for a large beta, and dies for one of them."""

import os
import signal


def simulate(params, seed):
    """Return two numbers."""
    if params["beta"] > 0.8:
        if params["gamma"] > 0.4:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        raise ValueError(f"beta is {params['beta']}")
    return {"ratio": params["beta"] / params["gamma"], "draw": seed % 100}
