"""Certificates for servers of tests: signed by themselves, or by an authority of an old kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any


def _make(name: str, issuer: tuple[str, Any] | None = None, *, is_authority: bool) -> tuple[Any, bytes, bytes]:
    """Return a key, the key as PEM, and a certificate for a host, signed by the name and the key of an issuer."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    issuer_name, issuer_key = issuer or (name, key)
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer_name))
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key, private, made.public_bytes(serialization.Encoding.PEM)


def self_signed(directory: Path, host: str = "localhost") -> Path:
    """Make a certificate for a host that is signed by itself alone, with its key; return its file."""
    _, private, made = _make(host, is_authority=True)
    path = directory / "self-signed.pem"
    path.write_bytes(private + made)
    return path


def signed_by_old_authority(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost, with its key, and that of its authority; return their files.

    Neither has a key usage or key identifiers, as those of some clusters.
    """
    key, _, authority = _make("authority", is_authority=True)
    _, private, made = _make("localhost", ("authority", key), is_authority=False)
    paths = directory / "server.pem", directory / "authority.pem"
    paths[0].write_bytes(private + made)
    paths[1].write_bytes(authority)
    return paths
