"""A TLS client that seals its own records: what no TLS library sends, and what it would not send so often.

The handshake is OpenSSL's. What comes after it is sealed here (RFC 8446, 5.2 and 7.1), with the secret that the
handshake has left in a file for debuggers. As a program it is a flood of them, in a process of its own.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.certificates import client_context

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FLOODS"]

HANDSHAKE, DATA = 22, 23
"""What a record may hold (RFC 8446, 5.1)."""
KEY_UPDATE: Final = bytes([24, 0, 0, 1, 1])
"""The sender's next record has another key, and so shall the reader's have (RFC 8446, 4.6.3)."""

_SOURCE: Final = "127.0.0.9"
_AT_ONCE: Final = 4000
"""Records that are sealed before any of them is sent, so that the gateway has to keep up and not the flood."""
_SUITE: Final = "TLS_AES_256_GCM_SHA384"


def handshaken(port: int, certificate: Path, secrets: Path, source: str) -> tuple[socket.socket, Forger]:
    """Log in to a service over TLS 1.3 from the address ``source``; return the connection, and what seals for it."""
    context = client_context(certificate, minimum_version=ssl.TLSVersion.TLSv1_3)
    secrets.unlink(missing_ok=True)
    context.keylog_filename = str(secrets)
    raw = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(source, 0))
    with context.wrap_socket(raw, server_hostname="x") as tls:
        cipher = tls.cipher()
        assert cipher is not None
        assert cipher[0] == _SUITE
        sock = socket.socket(fileno=tls.detach())
    (secret,) = (
        bytes.fromhex(line.split()[2])
        for line in secrets.read_text().splitlines()
        if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")
    )
    return sock, Forger(secret)


@final
class Forger:
    """Seals records under the client's ``secret``, from the first behind its handshake on."""

    def __init__(self, secret: bytes) -> None:
        self._take(secret)

    def _take(self, secret: bytes) -> None:
        self._secret = secret
        self._cipher, self._iv = AESGCM(_expanded(secret, b"key", 32)), _expanded(secret, b"iv", 12)
        self._number = 0

    def record(self, kind: int, content: bytes) -> bytes:
        """Seal ``content``; behind a KEY_UPDATE the next record has the next key."""
        inner = content + bytes([kind])
        head = struct.pack("!BHH", DATA, 0x0303, len(inner) + 16)
        nonce = (int.from_bytes(self._iv, "big") ^ self._number).to_bytes(12, "big")
        self._number += 1
        sealed = head + self._cipher.encrypt(nonce, inner, head)
        if kind == HANDSHAKE and content == KEY_UPDATE:
            self._take(_expanded(self._secret, b"traffic upd", 48))
        return sealed


def _expanded(secret: bytes, label: bytes, length: int) -> bytes:
    """Return HKDF-Expand-Label (RFC 8446, 7.1) without a context."""
    full = b"tls13 " + label
    info = struct.pack("!HB", length, len(full)) + full + b"\0"
    return HKDFExpand(hashes.SHA384(), length, info).derive(secret)


def key_updates(forger: Forger) -> Iterator[bytes]:
    """Change the key with each record, and have the gateway change its own."""
    while True:
        yield forger.record(HANDSHAKE, KEY_UPDATE)


def key_updates_and_data(forger: Forger) -> Iterator[bytes]:
    """Change the key with each record, and say something now and then."""
    while True:
        for _ in range(30):
            yield forger.record(HANDSHAKE, KEY_UPDATE)
        yield forger.record(DATA, b".")


def tiny_records(forger: Forger) -> Iterator[bytes]:
    """Send a byte a record."""
    while True:
        yield forger.record(DATA, b".")


def empty_records(forger: Forger) -> Iterator[bytes]:
    """Send records of nothing, and a byte where too many of those are an error."""
    while True:
        for _ in range(30):
            yield forger.record(DATA, b"")
        yield forger.record(DATA, b".")


FLOODS = {each.__name__: each for each in (key_updates, key_updates_and_data, tiny_records, empty_records)}


def flood(port: int, certificate: Path, kind: str, seconds: float, *, reads: bool) -> int:
    """Send records of a kind as fast as they are taken, over one connection after the other; return how many were."""
    sent, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError):  # it is well that the gateway hangs up
            sock, forger = handshaken(port, certificate, certificate.with_suffix(".secrets"), _SOURCE)
            with sock:
                sock.setblocking(False)
                made = FLOODS[kind](forger)
                while time.monotonic() < until:
                    pieces = [next(made) for _ in range(_AT_ONCE)]
                    rest = memoryview(b"".join(pieces))
                    while rest and time.monotonic() < until:
                        select.select([sock] if reads else [], [sock], [], 0.1)
                        with suppress(BlockingIOError):
                            rest = rest[sock.send(rest) :]
                        with suppress(BlockingIOError):
                            while reads and sock.recv(65536):
                                pass
                    sent += len(pieces) * (not rest)
    return sent


if __name__ == "__main__":
    print(flood(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]), reads=sys.argv[5] == "reads"))
