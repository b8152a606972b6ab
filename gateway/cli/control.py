"""Ask the running gateway over its control socket, as the commands that show or change something of it do."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from gateway.cli.command import CommandError, configuration

if TYPE_CHECKING:
    import argparse
    import http.client
    from collections.abc import Iterator

__all__ = ["asked", "asked_for_json", "asked_for_lines"]

_TIMEOUT = 5.0


def asked_for_json(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    """Return the JSON that the gateway of ``--config`` answers to a GET. Raises CommandError."""
    found: dict[str, Any] = json.loads(asked(arguments, "GET", path))
    return found


def asked(
    arguments: argparse.Namespace, method: str, target: str, body: bytes | None = None, seconds: float = _TIMEOUT
) -> bytes:
    """Return the body that the gateway of ``--config`` answers with success, in that time. Raises CommandError."""
    with _answer(arguments, method, target, body, seconds=seconds) as answer:
        return answer.read()


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
    for_ever: bool = False,
) -> Iterator[http.client.HTTPResponse]:
    """Have an answer that the gateway gives with success; with ``for_ever``, its body may come when it likes."""
    import http.client  # only here: it takes longer to load than any other command takes to run
    import socket

    path = configuration(arguments.config).runtime_dir / "control" / "http.sock"
    connection = http.client.HTTPConnection("localhost", timeout=_TIMEOUT)
    try:
        # HTTP over a Unix socket: the library takes a socket that is connected already.
        connection.sock = sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_TIMEOUT)
        sock.connect(str(path))
        connection.request(method, target, body)
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
