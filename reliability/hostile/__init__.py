"""Records, studies and bundles of an attacker: nothing crashes, hangs, fills memory or gets out raw.

`inputs.py` is the whole. `readers.py` has the readers. `registry.py` shows a registry full of them to every command.
`project.py` enters directories with project files of an attacker. `cluster.py` checks that records and a cluster's
answers lead no command astray. `results.py` downloads outputs whose keys choose a file.
"""
