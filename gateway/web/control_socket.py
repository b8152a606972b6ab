"""The control socket: HTTP for users of this host, whom the kernel vouches for, with the routes of the network.

It works while the network's server is off, without any account, and when all places are taken, because it has a few
places of its own. ``curl --unix-socket`` works, and ``daisyport status`` uses it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import trio

from gateway.clients.peer import Members, Peer
from gateway.web.http import HttpLimits, lingering_close, serve
from gateway.web.message import Handover, LocalCaller, Request, Response, explain, spelled_out
from protocol.endpoint import Endpoint
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    import socket

    from gateway.web.http import Respond

__all__ = ["ControlSocket"]

logger = logging.getLogger(__name__)

_STATUS = "/daisyport/status"
_MOST = 8
"""The most connections at a time. Its users are no strangers, so nobody needs a share."""
_FORBIDDEN = spelled_out(
    explain(
        403,
        "Neither this user nor a group of it is among admins or viewers of [control] in the configuration of the host.",
    )
)
_BUSY = spelled_out(explain(503, "All connections of the control socket are taken: try again.", ("Retry-After", "1")))


@final
@dataclass(eq=False, repr=False, slots=True)
class ControlSocket:
    """Answers by ``respond`` the requests of root, of this process's own user, and of those that [control] names."""

    respond: Respond
    admins: Members
    viewers: Members
    open: int = 0
    """The connections that are being served."""
    refusing: int = 0
    """The connections that are being refused."""

    def role(self, peer: Peer) -> Role | None:
        """Return the role of a process of this host; None for a stranger.

        The daemon's own group gives no role, because it is for the PTZ sockets.
        """
        if peer.user in (0, os.getuid()) or self.admins.include(peer):
            return Role.ADMIN
        return Role.VIEWER if self.viewers.include(peer) else None

    def admit(self, clients: trio.Nursery, sock: socket.socket, _: Any) -> None:
        """Serve an accepted connection in a task of ``clients``, or refuse it."""
        peer = Peer.of(sock)
        role = self.role(peer)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        if role is not None and self.open < _MOST:
            clients.start_soon(self._serve, stream, LocalCaller(f"user {peer.user}", role))
            return
        logger.info("control socket: process %d of user %d refused", peer.process, peer.user)
        if self.refusing < _MOST:
            clients.start_soon(self._refuse, stream, _FORBIDDEN if role is None else _BUSY)
        else:
            sock.close()

    async def _refuse(self, stream: trio.SocketStream, answer: bytes) -> None:
        self.refusing += 1
        try:
            async with stream:
                await stream.send_all(answer)
                await lingering_close(stream, HttpLimits())
        except trio.BrokenResourceError:
            pass  # the client has left
        finally:
            self.refusing -= 1

    async def _serve(self, stream: trio.SocketStream, caller: LocalCaller) -> None:
        async def respond(request: Request) -> Response | Handover:
            # Here a viewer may see the status, for the command of that name. On the network that takes an operator.
            sees = request.path == _STATUS and caller.role is Role.VIEWER
            return await self.respond(replace(request, local=replace(caller, role=Role.OPERATOR) if sees else caller))

        self.open += 1
        try:
            async with stream:
                await serve(stream, Endpoint("127.0.0.1", 0), respond, HttpLimits())
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            logger.debug("control socket: the connection of %s broke: %s", caller.name, exc)
        except Exception:  # the first ring: an error in one connection ends that connection only
            logger.exception("control socket: a bug ended the connection of %s", caller.name)
        finally:
            self.open -= 1
