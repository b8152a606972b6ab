"""serial.cgi between the wire and the line: read a query or body as a request, and write its answer.

A request is read whole before anything is done: with one wrong argument nothing is written. What goes to a machine is
not guessed.

Where the API page is silent:

- An argument that is given twice is an error, and ``dataout`` counts as ``write``: one of the two would be lost.
- Unknown arguments are ignored, however often they come: clients add time stamps and the like to defeat caches.
- An argument with an empty value counts as not given: an HTML form sends its empty fields so.
- A ``+`` in the query's ``writestring`` is an error. Who types ``AT+CSQ`` means a plus, and the usual encoders of query
  strings mean a blank. In a body it is a blank, as in every form.
- A body of multipart/form-data or JSON is an error: its fields would be ignored.
- A percent sign without two hexadecimal digits (``50%``) is an error.
"""

from __future__ import annotations

import base64
import enum
import re
from collections import Counter
from typing import TYPE_CHECKING, TypeVar, final
from urllib.parse import quote, unquote_to_bytes

from protocol.frozen import frozen
from protocol.http.param_cgi import not_a_form, pairs, text

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "READ_LIMIT",
    "UNBIND",
    "WRITE_LIMIT",
    "CgiError",
    "Format",
    "SerialRequest",
    "error_answer",
    "serial_answer",
    "serial_request",
]

T = TypeVar("T")

UNBIND = -1
"""The port number that unbinds a video source from its port."""

WRITE_LIMIT = 4096
"""Bytes that one request may write: so many go to the line as one exact message, never interleaved."""

READ_LIMIT = 65536
"""Bytes that one answer holds at most; a request for more reads up to this many."""

DEFAULT_TIMEOUT = 1.0
"""Seconds that a read waits when neither ``wait`` nor ``timeout`` says otherwise."""


@final
class CgiError(Exception):
    """A request that serial.cgi answers with an error; the message says what is wrong and what is required."""


@final
class Format(enum.Enum):
    """How the answer carries the bytes that were read. HEX is VAPIX's; the others are our own."""

    HEX = "hex"
    RAW = "raw"
    BASE64 = "base64"

    @property
    def content_type(self) -> str:
        """Return the answer's media type."""
        return "application/octet-stream" if self is Format.RAW else "text/plain; charset=utf-8"


@final
@frozen
class SerialRequest:
    """One call of serial.cgi: flush, then write, then read, as one uninterrupted turn on the line.

    ``port`` counts from 1 (port N is ``PortManager.P(N-1)``) and may be UNBIND; None is the port of the video
    source ``camera``, which in turn is source 1 if it is None. Only a request with both binds the source to
    the port. ``output`` is what to write, ``read`` the most bytes to read (None: no read), ``until`` the
    bytes that end the read early, themselves included; ``timeout`` in seconds, 0 to 9, ends it in any case.
    """

    port: int | None = None
    camera: int | None = None
    flush: bool = False
    output: bytes | None = None
    read: int | None = None
    until: bytes | None = None
    timeout: float = DEFAULT_TIMEOUT
    format: Format = Format.HEX

    @property
    def binds(self) -> bool:
        """Return whether it binds a video source to a port, or unbinds it."""
        return self.port is not None and self.camera is not None


def serial_request(query: bytes, body: bytes, media_type: str = "") -> SerialRequest:
    """Read a call of serial.cgi. Raise CgiError for the first argument that is wrong.

    ``media_type`` is that of the body, in lower case.
    """
    if why := not_a_form(body, media_type):
        raise CgiError(why)
    _refuse_plus(query)
    given = _Given(query, body)
    written = (given.read("write", _hexadecimal), given.read("writestring", bytes))
    until = given.read("until", _hexadecimal)
    most = given.read("read", _from_one) or (READ_LIMIT if until else None)
    waits = (given.read("wait", _seconds), given.read("timeout", _milliseconds))
    request = SerialRequest(
        port=given.read("port", _port),
        camera=given.read("camera", _from_one),
        flush=given.read("flush", _yes_or_no) or False,
        output=b"".join(filter(None, written)) or None,
        read=most and min(most, READ_LIMIT),
        until=until,
        timeout=min((wait for wait in waits if wait is not None), default=DEFAULT_TIMEOUT),
        format=given.read("format", _format) or Format.HEX,
    )
    _refuse_contradictions(request)
    return request


def serial_answer(received: bytes, form: Format) -> bytes:
    """Write what was read in the request's format: ``#3A4B#`` for HEX, and ``##`` if nothing came."""
    match form:
        case Format.HEX:
            return b"#%b#" % received.hex().upper().encode()
        case Format.BASE64:
            return base64.b64encode(received)
        case _:
            return received


def error_answer(why: str) -> bytes:
    """Write an error in the form that VAPIX documents for ptz.cgi, serial.cgi's sibling."""
    return f"Error:\n{why}\n".encode()


# Arguments --------------------------------------------------------------------------------------------------

_ARGUMENTS = {
    "port", "camera", "flush", "write", "writestring", "dataout", "read", "until", "wait", "timeout", "format"
}  # fmt: skip
_OLD_NAMES = {"dataout": "write"}


def _refuse_plus(query: bytes) -> None:
    for piece in query.split(b"&"):
        name, _, value = piece.partition(b"=")
        if b"+" in value and unquote_to_bytes(name) == b"writestring":
            raise CgiError("writestring: + is ambiguous in a query; write %20 for a blank and %2B for a plus")


@final
class _Given:
    """The known arguments of a request, each at most once. Raise CgiError for a duplicate or a broken escape."""

    def __init__(self, query: bytes, body: bytes) -> None:
        form = body.replace(b"+", b" ")
        if broken := re.search(rb"%(?![0-9A-Fa-f]{2})[^&]{0,2}", query + b"&" + form):
            raise CgiError(f"{_shown(broken[0])} is not a percent escape; write %25 for a percent sign")
        known = [
            (_OLD_NAMES.get(name, name), value)
            for name, value in pairs(query) + pairs(form)
            if name in _ARGUMENTS and value
        ]
        self._values = dict(known)
        if repeated := [name for name, times in Counter(name for name, _ in known).items() if times > 1]:
            hint = "; dataout is an old name of it" if repeated[0] == "write" else ""
            raise CgiError(f"duplicate argument {repeated[0]}{hint}")

    def read(self, name: str, reader: Callable[[bytes], T]) -> T | None:
        """Return an argument's value, None where it is not given. Raise CgiError with its name and text."""
        if name not in self._values:
            return None
        try:
            return reader(self._values[name])
        except CgiError as wrong:
            raise CgiError(f"{name}={_shown(self._values[name])}: {wrong}") from None


def _shown(value: bytes) -> str:
    """Quote a value for an error: short, and without anything that could forge a line."""
    return quote(value[:40], safe=" %:;,.-_!#*()") + ("..." if len(value) > 40 else "")


def _refuse_contradictions(request: SerialRequest) -> None:
    if len(request.output or b"") > WRITE_LIMIT:
        raise CgiError(f"{len(request.output or b'')} bytes to write; one request writes at most {WRITE_LIMIT}")
    if request.port == UNBIND:
        if request.camera is None:
            raise CgiError("port=-1 requires camera=N, the video source to unbind")
        if request.output or request.read or request.flush:
            raise CgiError("port=-1 cannot be combined with write, read or flush")
    if not (request.port or request.output or request.read or request.flush):
        raise CgiError("nothing to do; requires write, writestring, read, until, flush or port")


# One reader for each kind of value: it returns the value, or raises CgiError with the rule ------------------


def _hexadecimal(value: bytes) -> bytes:
    if not re.fullmatch(rb"(?:[0-9A-Fa-f]{2})+", value):
        raise CgiError("must have two hexadecimal digits for each byte")
    return bytes.fromhex(value.decode())


def _number(value: bytes, low: int, high: int, rule: str) -> int:
    # 18 digits are more than any of these numbers needs; int() raises for thousands.
    if not re.fullmatch(rb"-?[0-9]{1,18}", value) or not low <= int(value) <= high:
        raise CgiError(f"must be {rule}")
    return int(value)


def _from_one(value: bytes) -> int:
    return _number(value, 1, 10**18, "a whole number from 1")


def _port(value: bytes) -> int:
    return UNBIND if value == b"-1" else _number(value, 1, 10**18, "a port number from 1, or -1 for none")


def _seconds(value: bytes) -> float:
    return float(_number(value, 1, 9, "a whole number of seconds from 1 to 9"))


def _milliseconds(value: bytes) -> float:
    return _number(value, 0, 9000, "a whole number of milliseconds from 0 to 9000") / 1000


def _yes_or_no(value: bytes) -> bool:
    if value not in {b"yes", b"no"}:
        raise CgiError("must be yes or no")
    return value == b"yes"


def _format(value: bytes) -> Format:
    try:
        return Format(text(value))
    except ValueError:
        raise CgiError("must be hex, raw or base64") from None
