"""Ask the running gateway over its control socket, as the commands that show or change something of it do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gateway.cli.command import CommandError, configuration

if TYPE_CHECKING:
    import argparse

__all__ = ["asked", "asked_for_json"]

_TIMEOUT = 5.0


def asked_for_json(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    """Return the JSON that the gateway of ``--config`` answers to a GET. Raises CommandError."""
    found: dict[str, Any] = json.loads(asked(arguments, "GET", path))
    return found


def asked(arguments: argparse.Namespace, method: str, target: str) -> bytes:
    """Return the body that the gateway of ``--config`` answers with success. Raises CommandError."""
    import http.client  # only here: it takes longer to load than any other command takes to run
    import socket

    path = configuration(arguments.config).runtime_dir / "control" / "http.sock"
    connection = http.client.HTTPConnection("localhost", timeout=_TIMEOUT)
    try:
        # HTTP over a Unix socket: the library takes a socket that is connected already.
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_TIMEOUT)
        connection.sock.connect(str(path))
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read()
    except (FileNotFoundError, ConnectionRefusedError):
        raise CommandError(f"no gateway answers at {path}: is it running?") from None
    except (OSError, http.client.HTTPException) as exc:
        raise CommandError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise CommandError(body.decode(errors="replace").strip().replace("\n", ": "))
    return body
