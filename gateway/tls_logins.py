"""The users who come to a port by TLS, as their certificates name them.

Loaded only where a port is served over TLS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from gateway.clients.tls import NotAdmitted
from gateway.port.rights import Right
from gateway.tasks.audit import FirstLogins
from gateway.tasks.watch import Cell
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from gateway.host.reload import Reload
    from gateway.state.users import User, Users
    from gateway.web.tls import Tls

__all__ = ["TlsLogins", "follow"]


@final
class TlsLogins:
    """The users that port manager ``index`` serves over TLS: those that certificates name, as far as their roles go.

    A viewer hears the line, an operator and an admin write to it too, as over a WebSocket.
    """

    def __init__(self, index: int, tls: Tls, users: Users) -> None:
        self._index = index
        self._users = users
        self._seen = FirstLogins()
        self.tls = tls
        self.trouble = Cell("")
        """Why no user can be served; empty while users can."""

    @property
    def context(self) -> ssl.SSLContext | None:
        """See Logins."""
        return None if self.tls.certificate is None else self.tls.certificate.context

    async def read(self) -> None:
        """Read the certificates; they count from the next connection on."""
        await trio.to_thread.run_sync(self.tls.load)
        self.trouble.set("" if self.tls.certificate else f"no client is served: {self.tls.error}")

    def rights(self, user: str, network: str) -> Right:
        """See Logins."""
        found = self._users.find(user)
        if found is None:
            why = self._users.unreadable
            raise NotAdmitted(
                f"its certificate names {user!a:.80}, who is no user"
                if why is None
                else f"the file of the users cannot be read: {why}"
            )
        if not (rights := self._of(found)):
            raise NotAdmitted(f"{user} may not use P{self._index}")
        self._seen.note(user, found.role.name.lower(), network)
        return rights

    def revoked(self, user: str, rights: Right) -> str | None:
        """See Logins. A file that cannot be read for a moment revokes nobody who is already here."""
        found = self._users.find(user)
        if self._users.unreadable or (found is not None and self._of(found) == rights):
            return None
        return f"the user {user} was removed" if found is None else f"the role or the ports of {user} were changed"

    def _of(self, user: User) -> Right:
        if user.ports is not None and self._index not in user.ports:
            return Right(0)
        return Right.READ if user.role < Role.OPERATOR else Right.READ | Right.TCP


async def follow(logins: Iterable[TlsLogins], reloads: Cell[Reload]) -> None:
    """Read the certificates again at each SIGHUP."""
    async for reload in reloads.changes():
        if reload.count:
            for each in logins:
                each.tls.path, each.tls.key = reload.config.http.tls_certificate, reload.config.http.tls_key
                await each.read()
