"""The token that opens /metrics to a scraper without a login: one line of a file that only its owner can read.

It is no user's password: it opens one path, which changes nothing, so a scraper's configuration may hold it. It is too
long to be guessed, so guesses are not slowed down, only logged. Any error in the file closes the path, so that the
token can be withdrawn by removing the file.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.web.message import Request

__all__ = ["Bearer", "TokenError", "read_token"]

logger = logging.getLogger(__name__)

_LARGEST: Final = 4096
_SHORTEST: Final = 32
"""The least characters: 128 bits as random hexadecimal digits."""
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""The form of a token in the header (RFC 6750, 2.1)."""


@final
class TokenError(Exception):
    """The file cannot be used; the message names it and the reason, and never what is in it."""


def read_token(path: Path) -> bytes:
    """Return the token in a file. Raises TokenError."""
    try:
        # A FIFO without a writer must not hold up the start. A link is followed: secrets are often mounted as such.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise TokenError(f"{path} is not a regular file")
            if found.st_mode & 0o077:
                raise TokenError(f"{path} can be read by others than its owner: chmod 600 {path}")
            token = file.read(_LARGEST + 1).strip()
    except OSError as exc:
        raise TokenError(f"{path} cannot be read: {exc.strerror}") from None
    if len(token) < _SHORTEST:
        raise TokenError(f"{path}: the token must have at least {_SHORTEST} characters: openssl rand -hex 32")
    if len(token) > _LARGEST or not _TOKEN.fullmatch(token):
        raise TokenError(f"{path}: the token must be one line of letters, digits and ._~+/-, as openssl rand -hex 32")
    return token


@final
class Bearer:
    """The token in force. ``path`` (None: no token) may be set, and counts from the next ``load`` on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._token = b""

    def load(self) -> None:
        """Read the file. An error is logged, never raised, and leaves no token in force."""
        self._token = b""
        if self.path is not None:
            try:
                self._token = read_token(self.path)
            except TokenError as exc:
                logger.error("metrics_token: %s; no token opens /metrics", exc)  # noqa: TRY400 - the line says it all

    def refusal(self, request: Request, given: bytes) -> str | None:
        """Return why the token of a request is refused; None if it is accepted.

        Over plain HTTP it is accepted only from this host, because an eavesdropper would have it.
        """
        if not request.secure and not ip_address(request.peer.address.partition("%")[0]).is_loopback:
            return "A token is taken over TLS, or from this host: use https."
        if self._token and hmac.compare_digest(self._token, given):
            return None
        return "The token is not that of [http] metrics_token."
