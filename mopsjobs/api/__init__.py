"""The package as a Python program and a notebook use it; `mopsjobs` exports its names."""
