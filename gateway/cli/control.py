"""Ask the running gateway over its control socket, as the commands that show or change something of it do."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from typing import TYPE_CHECKING, Any

from gateway.cli.command import CommandError, configuration

if TYPE_CHECKING:
    import argparse
    import http.client
    from collections.abc import Iterator, Mapping

__all__ = ["asked", "asked_for_json", "asked_for_lines", "parameters", "quoted", "update"]

_TIMEOUT = 5.0


def asked_for_json(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    """Return the JSON that the gateway of ``--config`` answers to a GET. Raises CommandError."""
    found: dict[str, Any] = json.loads(asked(arguments, "GET", path))
    return found


def asked(
    arguments: argparse.Namespace, method: str, target: str, body: bytes | None = None, seconds: float = _TIMEOUT
) -> bytes:
    """Return the body of a successful answer of the gateway of ``--config``. Raises CommandError after ``seconds``."""
    with _answer(arguments, method, target, body, seconds=seconds) as answer:
        return answer.read()


def quoted(word: str) -> str:
    """Return a word of the command line as a part of a target; one that is no text is another word."""
    return urllib.parse.quote(word, safe="", errors="replace")


def parameters(arguments: argparse.Namespace, group: str) -> dict[str, str]:
    """Return the parameters of a group by their names, as param.cgi lists them to an admin. Raises CommandError."""
    listed = asked(arguments, "GET", f"/axis-cgi/param.cgi?action=list&group={group}").decode()
    lines = (line.removeprefix("root.").partition("=") for line in listed.splitlines() if "=" in line)
    return {name: value for name, _, value in lines}


def update(arguments: argparse.Namespace, assignments: Mapping[str, str]) -> None:
    """Set parameters as an admin does by param.cgi. Raises CommandError with the refused lines."""
    body = urllib.parse.urlencode({"action": "update", **assignments}).encode()
    form = "application/x-www-form-urlencoded"
    with _answer(arguments, "POST", "/axis-cgi/param.cgi", body, media_type=form) as answer:
        said, why = answer.read().decode(errors="replace").strip(), answer.headers.get("Daisyport-Refused")
    if said != "OK":
        raise CommandError(why or said.replace("\n", ": "))


def asked_for_lines(arguments: argparse.Namespace, target: str) -> Iterator[bytes]:
    """Yield the lines that the gateway of ``--config`` answers to a GET, as they come. Raises CommandError."""
    with _answer(arguments, "GET", target, for_ever=True) as answer:
        while line := answer.readline():
            yield line


@contextlib.contextmanager
def _answer(
    arguments: argparse.Namespace,
    method: str,
    target: str,
    body: bytes | None = None,
    *,
    seconds: float = _TIMEOUT,
    media_type: str = "",
    for_ever: bool = False,
) -> Iterator[http.client.HTTPResponse]:
    """Open a successful answer of the gateway; with ``for_ever``, its body may take any time. Raises CommandError."""
    import http.client  # only here: it takes longer to load than any other command takes to run
    import socket

    path = configuration(arguments.config).runtime_dir / "control" / "http.sock"
    connection = http.client.HTTPConnection("localhost", timeout=_TIMEOUT)
    try:
        # HTTP over a Unix socket: the library takes a socket that is connected already.
        connection.sock = sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_TIMEOUT)
        sock.connect(str(path))
        connection.request(method, target, body, {"Content-Type": media_type} if media_type else {})
        sock.settimeout(seconds)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise CommandError(answer.read().decode(errors="replace").strip().replace("\n", ": "))
        if for_ever:
            sock.settimeout(None)
        yield answer
    except (FileNotFoundError, ConnectionRefusedError):
        raise CommandError(f"no gateway answers at {path}: is it running?") from None
    except (OSError, http.client.HTTPException) as exc:
        raise CommandError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from None
    finally:
        connection.close()
