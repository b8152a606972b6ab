"""Make a self-signed certificate. Import this only where one has to be made: it loads cryptography."""

from __future__ import annotations

import datetime
import ipaddress
import re
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["make_certificate"]

# A host that has just started may not know the time, and a pinned fingerprint needs no end. RFC 5280, 4.1.2.5, defines
# a date for "never".
_FROM = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_TO = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_LONGEST_COMMON_NAME = 64  # bytes (RFC 5280, appendix A.1, ub-common-name)


def make_certificate(names: Sequence[str]) -> bytes:
    """Make a key and its certificate, as PEM, for these host names and addresses; the first is the host's own name."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = names[0].encode()[:_LONGEST_COMMON_NAME].decode(errors="ignore")
    whose = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, own)])
    certificate = (
        x509.CertificateBuilder(subject_name=whose, issuer_name=whose, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
        .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys(_alternatives(names)))), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret + certificate.public_bytes(Encoding.PEM)


def _alternatives(names: Sequence[str]) -> Iterator[x509.GeneralName]:
    for name in names:
        try:
            yield x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            if _HOST_NAME.fullmatch(name):
                yield x509.DNSName(name)
