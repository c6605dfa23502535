"""The package `azure` of the file: its own clients first, then other packages of that name, such as azure.ml.

The clients import names of `cryptography`, and use them only for client-side encryption and for sign-in by certificate.
That package is compiled for one platform, so the file does not hold it. If the Python that runs the file can import it,
it is used. Otherwise the names below take its place, and each use of one says what is not installed.
"""

import importlib
import sys
import types
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # noqa: F821 - of this package, as it is packed

# The modules that azure.identity and azure.storage.blob import, with the names that they import from each. PyJWT asks
# for others, and does without them.
STAND_IN = {
    "": "",
    ".x509": "",
    ".hazmat": "",
    ".hazmat.backends": "default_backend",
    ".hazmat.primitives": "",
    ".hazmat.primitives.asymmetric": "",
    ".hazmat.primitives.asymmetric.padding": "",
    ".hazmat.primitives.asymmetric.rsa": "RSAPrivateKey",
    ".hazmat.primitives.ciphers": "Cipher",
    ".hazmat.primitives.ciphers.aead": "AESGCM",
    ".hazmat.primitives.ciphers.algorithms": "AES",
    ".hazmat.primitives.ciphers.modes": "CBC",
    ".hazmat.primitives.hashes": "",
    ".hazmat.primitives.padding": "PKCS7",
    ".hazmat.primitives.serialization": "",
}


class _Absent(types.ModuleType):
    """A module or a name of the package: it can be imported, and no more."""

    __path__ = ()

    def __call__(self, *args, **kwargs):
        raise ModuleNotFoundError(
            f"The package cryptography is not installed for {sys.executable}.", name="cryptography"
        )

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self()


def _is_usable():
    """Return whether this Python can import the package. Debian's is seen by each Python, and compiled for one."""
    try:
        importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - as a panic of its compiled part
        for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
            del sys.modules[name]
        return False
    return True


if not _is_usable():
    for path, names in STAND_IN.items():
        module = sys.modules["cryptography" + path] = _Absent("cryptography" + path)
        for name in names.split():
            setattr(module, name, _Absent(name))
        above, _, last = module.__name__.rpartition(".")
        if above:
            setattr(sys.modules[above], last, module)
