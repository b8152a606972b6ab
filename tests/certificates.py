"""Certificates for tests: an authority, and what it signs for hosts and for clients."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from typing import TYPE_CHECKING, Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.helpers import FarEnd

NOW = datetime.datetime.now(datetime.UTC)
YEAR = datetime.timedelta(days=365)


class Authority:
    """An authority that signs certificates for ``names`` (CN)."""

    def __init__(self, name: str = "the cabinet's authority", signed_by: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = signed_by or self
        self.certificate = (
            x509.CertificateBuilder(
                issuer.name, self.name, self.key.public_key(), x509.random_serial_number(), NOW - YEAR, NOW + YEAR
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(issuer.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def sign(
        self, *names: str, begin: datetime.datetime = NOW - YEAR, end: datetime.datetime = NOW + YEAR
    ) -> tuple[bytes, x509.Certificate]:
        """Return a certificate for a subject of these common names, behind its key, as PEM; and the certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])
        certificate = x509.CertificateBuilder(
            self.name, subject, key.public_key(), x509.random_serial_number(), begin, end
        ).sign(self.key, hashes.SHA256())
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return secret + certificate.public_bytes(Encoding.PEM), certificate

    def revoke(self, revoked: Sequence[x509.Certificate], end: datetime.datetime = NOW + YEAR) -> bytes:
        """Return a list of revoked certificates, as PEM, which is valid until ``end``."""
        made = x509.CertificateRevocationListBuilder(self.name, end - 2 * YEAR, end)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder(each.serial_number, NOW - YEAR).build()
            made = made.add_revoked_certificate(entry)
        return made.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def client_context(certificate: Path | None = None, **versions: Any) -> ssl.SSLContext:
    """Return what a client of a test speaks TLS with, which trusts everybody; ``versions`` are set on it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, version in versions.items():
        setattr(context, name, version)
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


async def has_the_line(line: FarEnd, port: int, certificate: Path) -> bool:
    """Connect and write a byte; return whether the line has it, or else the client is sent away."""
    heard = b""
    async with trio.open_nursery() as nursery:

        async def hear() -> None:
            nonlocal heard
            heard = await line.hear(1)
            nursery.cancel_scope.cancel()

        nursery.start_soon(hear)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with trio.SSLStream(stream, client_context(certificate), server_hostname="x") as client:
            with contextlib.suppress(trio.BrokenResourceError):
                await client.send_all(b"?")
                await client.receive_some()
        nursery.cancel_scope.cancel()
    return heard == b"?"
