"""Be a terminal on a port of the running gateway, over its control socket.

Keys go to the line as they are typed, Ctrl-C too; only Ctrl-] is for this program. It speaks over the WebSocket that
the console page uses: bytes are binary messages, and the menu's requests are JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import termios
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from gateway.cli.command import CommandError, configuration
from gateway.cli.trace import hex_rows

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["connect", "word_of"]

_MENU_KEY: Final = 0x1D
_MENU: Final = "b break  d DTR  r RTS  l lines  s rate  h hex view  q quit  Ctrl-] sends it"
_READ_SIZE: Final = 4096
"""Bytes; the largest message that the gateway writes whole."""
_MOST_UNSENT: Final = 1 << 20
"""The most bytes that wait for the gateway; then nothing more is read from the terminal."""
_LONGEST_RATE: Final = 8
_TIMEOUT: Final = 5.0


def connect(arguments: argparse.Namespace) -> int:
    """Be a terminal on the port of ``arguments`` until the user quits. Raises CommandError."""
    interactive = os.isatty(0)
    if not interactive and not arguments.monitor:
        raise CommandError("this is for a terminal; a script has TCP and serial.cgi (docs/clients.md), or --monitor")
    if not (arguments.port.isalnum() and arguments.port.isascii()):
        raise CommandError(f"there is no port {arguments.port!a:.20}")
    path = configuration(arguments.config).runtime_dir / "control" / "http.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.settimeout(_TIMEOUT)
            sock.connect(str(path))
            terminal = _Terminal(sock, arguments.port, writes=not arguments.monitor, hex_view=arguments.hex)
            with _raw() if interactive else contextlib.nullcontext():
                terminal.shake_hands()
                terminal.note("Ctrl-] is the menu" if interactive else "until Ctrl-C")
                return terminal.run()
        except (FileNotFoundError, ConnectionRefusedError):
            raise CommandError(f"no gateway answers at {path}: is it running?") from None
        except KeyboardInterrupt:
            return 0
        except OSError as exc:
            raise CommandError(f"{path}: {exc.strerror or exc}") from None


@final
class _Terminal:
    """The user's terminal at one end, the WebSocket of a port at the other."""

    def __init__(self, sock: socket.socket, port: str, *, writes: bool, hex_view: bool) -> None:
        self._sock = sock
        self._port = port
        self._writes = writes
        self._hex_view = hex_view
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._unsent = bytearray()
        self._lines: dict[str, bool] = {}
        """The modem lines as the gateway last reported them."""
        self._toggled = ""
        """The modem line to toggle once the next answer says how it is."""
        self._state = "typing"
        """``typing``, ``menu`` (the next key is a choice) or ``rate`` (digits are awaited)."""
        self._rate = ""
        self._has_keys = os.isatty(0)
        self._newline = b"\r\n" if self._has_keys else b"\n"
        self._column = False
        """True while the cursor is behind some text, and not at the start of a row."""

    def shake_hands(self) -> None:
        """Open the WebSocket. Raises CommandError where the gateway refuses, or OSError."""
        query = "" if self._writes else "?monitor=1"
        self._send(Request(host="localhost", target=f"/daisyport/ports/{self._port}{query}"))
        self._sock.sendall(self._unsent)
        self._unsent.clear()
        refused = b""
        while True:
            self._ws.receive_data(self._sock.recv(_READ_SIZE) or None)
            for event in self._ws.events():
                match event:
                    case AcceptConnection():
                        self._sock.setblocking(False)
                        self._events()  # what came with the answer
                        return
                    case RejectConnection(has_body=False, status_code=code):
                        raise CommandError(f"the gateway refused it: {code}")
                    case RejectData(data=data, body_finished=finished):
                        refused += data
                        if finished:
                            raise CommandError(refused.decode(errors="replace").strip().replace("\n", ": "))
                    case CloseConnection():
                        raise CommandError("the gateway closed the connection")
                    case _:
                        pass

    def run(self) -> int:
        """Carry bytes both ways until the user quits. Raises CommandError when the gateway ends it, or OSError."""
        poll = select.poll()
        while True:
            if self._has_keys:
                poll.register(0, select.POLLIN if len(self._unsent) < _MOST_UNSENT else 0)
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            ready = dict(poll.poll())
            if self._has_keys and 0 in ready and self._typed(os.read(0, _READ_SIZE)):
                self.note("left")
                return 0
            with contextlib.suppress(BlockingIOError):
                if self._unsent:
                    del self._unsent[: self._sock.send(self._unsent)]
            if self._sock.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self._ws.receive_data(self._sock.recv(65536) or None)
                    self._events()

    # -- what the gateway says

    def _events(self) -> None:
        for event in self._ws.events():
            match event:
                case BytesMessage(data=data):
                    self._show(bytes(data))
                case TextMessage(data=text):
                    self._told(text)
                case Ping():
                    self._send(event.response())
                case CloseConnection(reason=reason):
                    self.note("")
                    raise CommandError(f"{self._port}: {reason or 'the gateway closed the connection'}")
                case _:
                    pass

    def _show(self, data: bytes) -> None:
        if self._hex_view:
            self._begin_line()
            data = b"".join(row.encode() + self._newline for row in hex_rows(data))
        self._print(data)

    def _told(self, text: str) -> None:
        message = json.loads(text)
        if "error" in message:
            self.note(message["error"])
        elif message.get("answer") == "break":
            self.note(f"a break of {message['milliseconds']} ms")
        elif message.get("answer") == "configure":
            self.note(f"the line is at {message['settings']['BaudRate']} as long as you are here")
        elif "lines" in message:
            self._lines = message["lines"]
            line, self._toggled = self._toggled, ""
            if line and message["answer"] == "modem":
                self._request(request="set", **{line: not self._lines[line]})
            else:
                self.note("  ".join(f"{name.upper()} {'on' if on else 'off'}" for name, on in self._lines.items()))
        elif (word := word_of(message)) is not None:
            self.note(word if message["event"] != "port" else f"{self._port} {word}")

    # -- what the user types

    def _typed(self, keys: bytes) -> bool:
        """Handle what was typed; return whether the user quits, or the terminal has gone."""
        start = 0
        for at, key in enumerate(keys):
            if self._state == "typing":
                if key == _MENU_KEY:
                    self._write(keys[start:at])
                    self._state = "menu"
                    self.note(_MENU)
                continue
            start = at + 1
            if self._state == "rate":
                self._typed_rate(key)
            elif self._chosen(key):
                return True
        if self._state == "typing":
            self._write(keys[start:])
        return not keys

    def _chosen(self, key: int) -> bool:
        """Carry out a key of the menu; return whether it quits."""
        self._state = "typing"
        match chr(key).lower():
            case "q":
                return True
            case "b":
                self._request(request="break")
            case "d" | "r" as which:
                self._toggled = {"d": "dtr", "r": "rts"}[which]
                self._request(request="modem")
            case "l":
                self._request(request="modem")
            case "h":
                self._hex_view = not self._hex_view
                self.note(f"hex view {'on' if self._hex_view else 'off'}")
            case "s":
                self._state, self._rate = "rate", ""
                self._begin_line()
                self._print(b"-- rate: ")
            case "\x1d":
                self._write(b"\x1d")
            case _:
                self.note("back at the line")
        return False

    def _typed_rate(self, key: int) -> None:
        character = chr(key)
        if character.isascii() and character.isdigit() and len(self._rate) < _LONGEST_RATE:
            self._rate += character
            self._print(character.encode())
        elif character in "\x7f\b" and self._rate:
            self._rate = self._rate[:-1]
            self._print(b"\b \b")
        elif character in "\r\n" and self._rate:
            self._state = "typing"
            self._begin_line()
            self._request(request="configure", settings={"BaudRate": self._rate})
        elif character in "\r\n\x1b\x03\x1d":
            self._state = "typing"
            self.note("the rate stays")

    def _write(self, data: bytes) -> None:
        if data and self._writes:
            self._send(BytesMessage(data))
        elif data:
            self.note("a monitor does not write; Ctrl-] q quits")

    def _request(self, **request: Any) -> None:
        self._send(TextMessage(json.dumps(request)))

    def _send(self, event: Any) -> None:
        self._unsent += self._ws.send(event)

    # -- the screen

    def note(self, text: str) -> None:
        """Print a row of our own, marked so that it is not taken for bytes of the port."""
        self._begin_line()
        if text:
            self._print(f"-- {text}".encode() + self._newline)

    def _begin_line(self) -> None:
        if self._column:
            self._print(self._newline)

    def _print(self, data: bytes) -> None:
        if data:
            self._column = not data.endswith(b"\n")
        try:
            while data:
                data = data[os.write(1, data) :]
        except BrokenPipeError:  # whoever read it has seen enough
            sys.exit(0)


def word_of(message: dict[str, Any]) -> str | None:
    """Return an event in words; None where it means nothing to a user at a terminal."""
    match message.get("event"):
        case "port":
            reason = f": {message['reason']}" if message["reason"] else ""
            return f"is {message['state']}{reason}"
        case "line":
            return f"the line is set to {message['words']}"
        case "break":
            return "a break came from the line"
        case "modem":
            by = f" by {message['by']}" if message.get("by") else ""
            return f"DTR or RTS was moved{by}"
        case "refused" | "cut":
            return str(message["reason"])
        case "gap":
            return f"{message['count']} bytes of the line are missing here: this terminal reads too slowly"
    return None


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Read every key as it is typed, and restore the terminal in any case, also after SIGTERM and SIGHUP."""

    def end(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)

    before = termios.tcgetattr(0)
    _, oflag, cflag, _, *speeds, characters = before
    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    raw = [0, oflag & ~termios.OPOST, cflag, 0, *speeds, [*characters]]
    raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
    try:
        termios.tcsetattr(0, termios.TCSADRAIN, raw)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSANOW, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
