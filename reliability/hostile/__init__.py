"""Records, studies and bundles by somebody who means harm: nothing crashes, hangs, fills memory or gets out raw.

`inputs.py` is the whole; `readers.py` has what reads, `registry.py` shows a registry full of them to every command,
`cluster.py` lets them and a cluster's answers lead astray whoever asks it.
`results.py` downloads outputs whose keys choose a file.
"""
