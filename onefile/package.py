"""The package `mopsjobs` of the archive: `import mopsjobs` with mops-jobs.pyz in sys.path executes this.

It puts the directory of the unpacked files into the place of the archive in sys.path, and imports the package from
there. Old Pythons must be able to parse this file.
"""

import sys

names = {"__name__": "bootstrap", "__loader__": __loader__}
# Not an import, since a program may have another module of this name.
exec(compile(__loader__.get_source("bootstrap"), "bootstrap.py", "exec"), names)  # noqa: S102
try:
    site_packages = names["find_site_packages"]()
except SystemExit as refusal:  # a program or a notebook goes on
    raise ImportError(str(refusal)) from None
sys.path[:] = [site_packages if place == __loader__.archive else place for place in sys.path]
del sys.modules[__name__]
__import__(__name__)  # the import statement of the program binds what stands in sys.modules now
