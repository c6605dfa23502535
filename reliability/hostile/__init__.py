"""Records, studies and bundles by somebody who means harm: nothing crashes, hangs, fills memory or gets out raw.

`inputs.py` is the whole; `readers.py` has what reads, `registry.py` shows a registry full of them to every command,
`project.py` enters directories with project files of an attacker. `cluster.py` checks that records and a cluster's
answers lead no command astray. `results.py` downloads outputs whose keys choose a file.
"""
