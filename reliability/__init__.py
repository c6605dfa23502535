"""Break things on purpose, against real servers and processes, and count what survives: `python -m reliability`."""
