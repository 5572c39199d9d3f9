"""Certificates by which a node and its signer know each other over TCP. Writes files; builds TLS contexts.

Each side has one self-signed certificate, and the other's as its only trusted one: no authority, no name, no host
counts. TLS 1.3 alone.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from primitives.errors import OperatorError

VALID_DAYS = 3_650
"""A certificate's life; `quorate signer certificate` makes the next."""


def create_certificate(certificate: Path, private_key: Path, name: str) -> str:
    """Write a new key and its certificate, never over others; returns the certificate's fingerprint.

    Raises:
        OperatorError: one of the files exists, or cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509.oid import NameOID

    key, now = Ed25519PrivateKey.generate(), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _create(private_key, secret, 0o600)
    _create(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return fingerprint_of(certificate)


def fingerprint_of(certificate: Path) -> str:
    """SHA-256 of a certificate file's first certificate, hexadecimal. Raises OperatorError."""
    return sha256(_der(certificate)).hexdigest()


def context_of(certificate: Path, private_key: Path, trusted: Path, *, is_server: bool) -> ssl.SSLContext:
    """A context that shows our certificate and accepts exactly the other's. Raises OperatorError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if is_server:
        context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, private_key)
        context.load_verify_locations(cadata=_der(trusted))
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(
            f"cannot use the certificate {certificate} with {private_key}, trusting {trusted}: {error}"
        ) from None
    return context


def check_peer(der: object, trusted: Path) -> None:
    """That the peer showed the trusted certificate itself, not one that it signed. Raises ssl.SSLError."""
    if der != _der(trusted):
        raise ssl.SSLError("the peer's certificate is another one than the trusted")


def _der(path: Path) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise OperatorError(f"cannot read the certificate {path}: {error}") from None


def _create(path: Path, raw: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
    except FileExistsError:
        raise OperatorError(f"{path} exists already and is never overwritten") from None
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror}") from None
