"""The certificate of this host's TLS: read it, prove that it works, and replace it without a restart.

It comes from the configuration, or from the state directory, where a self-signed one is made at the first start. An
unusable new certificate never replaces a usable one, so that a mistake in a file does not lock the administrator out.

Where clients have to prove who they are, the authorities for their certificates are read with it, by the same rule.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import ssl
from typing import TYPE_CHECKING, final

import trio

from gateway.port.log import PortLogger
from gateway.state import atomic_file
from gateway.web.tls_stream import TlsStream
from protocol.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Certificate", "CertificateError", "Tls", "require_clients"]

logger = logging.getLogger(__name__)

OWN_FILE = "tls.pem"
_LARGEST = 1 << 20
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_REVOCATIONS = "-----BEGIN X509 CRL-----"
_OUT_OF_DATE = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@final
class CertificateError(Exception):
    """A certificate and its key cannot be used; the message names the file and the reason."""


@final
@frozen
class Certificate:
    """A certificate and its key, which were proved to belong together.

    ``out_of_date`` is OpenSSL's error if it has expired or is not yet valid, otherwise empty.
    """

    path: Path
    context: ssl.SSLContext
    fingerprint: str
    """SHA-256 of the certificate, as browsers and ``openssl x509 -fingerprint`` show it."""
    out_of_date: str = ""
    ends: float | None = None
    """When it will expire, in seconds since 1970; None if it is out of date now, or never expires."""

    @classmethod
    def load(cls, path: Path, key: Path | None = None, client_ca: Path | None = None) -> Certificate:
        """Read PEM files (``key`` None: the key is in the same one). Raises CertificateError.

        With ``client_ca`` a client is served only if a certificate of that file vouches for its own.
        """
        found = _CERTIFICATE.search(_read(path))
        if found is None:
            raise CertificateError(f"{path}: no PEM certificate in it (BEGIN CERTIFICATE)")
        _check_key(key or path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        if client_ca is None:
            context.set_alpn_protocols(["http/1.1"])
        try:
            der = ssl.PEM_cert_to_DER_cert(found[0])
            # An empty password, or OpenSSL would ask for one on the terminal.
            context.load_cert_chain(path, key, password="")
        except (ssl.SSLError, ValueError) as exc:
            raise CertificateError(_explained(path, key, exc)) from None
        fingerprint = hashlib.sha256(der).digest().hex(":").upper()
        certificate = cls(path, context, fingerprint, *_dates(path, context, found[0]))
        if client_ca is not None:
            require_clients(context, client_ca)  # after the handshake with ourselves, since we have no such certificate
        return certificate


@final
class Tls:
    """The certificate in force: that of the configuration or, where ``path`` is None, a self-signed one.

    ``path`` and ``key`` may be set; they count from the next ``load`` on. The self-signed one is kept in ``state_dir``,
    and made for ``names`` where there is none yet. At ``port`` (``P0``) clients prove who they are: ``client_ca`` is
    the file of the certificates that vouch for theirs.
    """

    def __init__(
        self,
        path: Path | None,
        key: Path | None,
        state_dir: Path,
        names: Sequence[str],
        port: str = "",
        client_ca: Path | None = None,
    ) -> None:
        self.path = path
        self.key = key
        self._own = state_dir / OWN_FILE
        self._names = names
        self._client_ca = client_ca
        self._log = PortLogger(logger, port) if port else logger
        self._without_one = "no client is served" if port else "only plain HTTP is served"
        self.certificate: Certificate | None = None
        """None if none can be used: then the HTTP server speaks only plain HTTP, and a port serves nobody by TLS."""
        self.error = ""
        """Why the files that were last read cannot be used, or are out of date; otherwise empty."""

    def load(self) -> None:
        """Read the files, and use their certificate from the next connection on. Errors are logged, never raised."""
        try:
            new = self._read()
            if new.out_of_date and self.certificate is not None and not self.certificate.out_of_date:
                raise CertificateError(f"{new.path}: {new.out_of_date}")
        except CertificateError as exc:
            self.error = str(exc)
            still = "the one in force stays" if self.certificate else self._without_one
            self._log.error("TLS: %s; %s", exc, still)
            return
        self.certificate, self.error = new, new.out_of_date
        if new.out_of_date:
            # Better than none, since the clock of a host that has just started may be wrong.
            self._log.error("TLS: %s: %s; it is used until there is a better one", new.path, new.out_of_date)
        self._log.info("TLS: certificate %s, SHA-256 fingerprint %s", new.path, new.fingerprint)

    @property
    def status(self) -> dict[str, object]:
        """Return the part of the status page about TLS."""
        used = self.certificate
        return {
            "certificate": str(used.path) if used else "",
            "fingerprint_sha256": used.fingerprint if used else "",
            "complaint": self.error,
            "certificate_ends": used.ends if used else None,
            **({} if self._client_ca is None else {"client_ca": str(self._client_ca)}),
        }

    async def secure(self, stream: trio.abc.HalfCloseableStream) -> TlsStream:
        """Do the handshake with a client. Raises trio.BrokenResourceError if it fails, or there is no certificate."""
        if self.certificate is None:
            raise trio.BrokenResourceError("the client speaks TLS, and there is no certificate")
        secured = TlsStream(stream, self.certificate.context)
        await secured.do_handshake()
        return secured

    def _read(self) -> Certificate:
        if self.path is not None:
            return Certificate.load(self.path, self.key, self._client_ca)
        try:
            if atomic_file.read(self._own) is None:
                from gateway.web.self_signed import make_certificate  # loads cryptography, once in a gateway's life

                atomic_file.replace(self._own, make_certificate(self._names))
        except OSError as exc:
            raise CertificateError(f"{self._own}: {exc.strerror}") from None
        return Certificate.load(self._own, client_ca=self._client_ca)


def require_clients(context: ssl.SSLContext, path: Path) -> None:
    """Serve only clients whose certificate is vouched for by one in the file ``path``. Raises CertificateError."""
    content = _read(path)
    if _CERTIFICATE.search(content) is None:
        raise CertificateError(f"{path}: no PEM certificate in it (BEGIN CERTIFICATE)")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as exc:
        raise CertificateError(f"{path}: not PEM that OpenSSL can use: {exc}") from None
    context.verify_mode = ssl.CERT_REQUIRED
    # Each certificate in the file is trusted by itself: an operator who trusts one authority below a company's root
    # need not trust the root, and with it users of the same name elsewhere in the company.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if _REVOCATIONS in content:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    # A ticket is sent after the handshake. If a client writes and closes without reading, the ticket meets a closed
    # socket, and the reset that answers it destroys what the client sent.
    context.num_tickets = 0


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("latin-1")
    except OSError as exc:
        raise CertificateError(f"{path} cannot be read: {exc.strerror}") from None


def _check_key(path: Path) -> None:
    content = _read(path)
    if "PRIVATE KEY-----" not in content:
        raise CertificateError(f"{path}: no PEM key in it (BEGIN PRIVATE KEY); tls_key names its file")
    if "ENCRYPTED" in content:
        raise CertificateError(f"{path}: the key has a password, which nobody is there to type; remove it from the key")


def _explained(path: Path, key: Path | None, exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH":
        return f"{path}: the key in {key or path} is not that of this certificate"
    files = str(path) if key is None else f"{path} or {key}"
    return f"{files}: not PEM that OpenSSL can use: {exc}"


def _dates(path: Path, context: ssl.SSLContext, pem: str) -> tuple[str, float | None]:
    """Do a handshake with ourselves in memory, which proves that the pair works, and checks the dates.

    Return OpenSSL's error about the dates, or nothing, and when the certificate ends. Raise CertificateError for any
    other error.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # this certificate is trusted here, whoever signed it
    client.load_verify_locations(cadata=pem)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = context.wrap_bio(up, down, server_side=True)
    far = client.wrap_bio(down, up)
    try:
        for side in (far, near, far, near):
            with contextlib.suppress(ssl.SSLWantReadError):  # then the other side goes on
                side.do_handshake()
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code in _OUT_OF_DATE:
            return exc.verify_message, None
        raise CertificateError(f"{path}: {exc.verify_message}") from None
    except ssl.SSLError as exc:
        raise CertificateError(f"{path}: no TLS connection can be made with it: {exc}") from None
    ends = str((far.getpeercert() or {}).get("notAfter", ""))
    # RFC 5280, 4.1.2.5: the last second of 9999 stands for no end.
    return "", ssl.cert_time_to_seconds(ends) if ends and not ends.endswith("9999 GMT") else None
