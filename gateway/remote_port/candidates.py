"""The choice of the server that a remote port client dials: a host by name, or with AutoConf one that Bonjour found.

What Bonjour says is hearsay that anybody on the network can forge: it tells where to dial, never whom to trust nor
which key to prove.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import trio

from protocol.link.advert import order
from protocol.link.handshake import VERSIONS
from protocol.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.discovery.bonjour import Bonjour
    from gateway.tasks.watch import Cell
    from protocol.link.advert import Candidate
    from protocol.parameters.settings import RemotePort

__all__ = ["Candidates", "NobodyError", "Target"]

_DIALS: Final = 8.0
_PAUSE: Final = 60.0
"""Each dial gives a stranger one guess at the key: so many at once, then one each so many seconds."""


@final
class NobodyError(Exception):
    """There is nobody to dial; the message says why."""


@final
@dataclass(frozen=True, slots=True)
class Target:
    """Where to dial, and who should answer there: the node id and the port index, where they are known."""

    host: str
    port: int
    identity: tuple[bytes, int] | None = None


@final
class Candidates:
    """The servers that RemotePort.R# ``index`` may dial; ``chassis`` is ours.

    AutoConf dials nobody without a key, unless the host allows it (``keyless``).
    """

    def __init__(self, bonjour: Bonjour, index: int, chassis: str, *, keyless: bool) -> None:
        self._bonjour = bonjour
        self._index = index
        self._chassis = chassis
        self._keyless = keyless
        self._seen: Cell[tuple[Candidate, ...]] | None = None
        self._tried: set[tuple[bytes, int]] = set()
        self._last: Target | None = None
        self._dials = TokenBucket(_DIALS, _PAUSE, trio.current_time())

    @contextlib.contextmanager
    def looking(self, settings: RemotePort) -> Iterator[None]:
        """Look for servers while the block runs, where ``settings`` want that."""
        if not self._automatic(settings):
            yield
            return
        with self._bonjour.browse() as self._seen:
            try:
                yield
            finally:
                self._seen = None

    async def next(self, settings: RemotePort, resuming: bool) -> Target:
        """Return where to dial now, waiting until somebody is found.

        While a session may be ``resuming``, that is its own server and no other. Raises NobodyError.
        """
        await trio.lowlevel.checkpoint()
        if not settings.auto_conf:
            if not settings.host:
                raise NobodyError(f"RemotePort.R{self._index}.Host is empty, and AutoConf is no")
            return Target(settings.host, settings.port)
        if self._seen is None:
            raise NobodyError(
                f"AutoConf dials nobody without a key: set RemotePort.R{self._index}.AuthenticationKey as the server "
                "has it, or Host and Port with AutoConf=no"
            )
        if resuming and self._last is not None:
            return self._last
        await trio.sleep(self._dials.wait(trio.current_time()))
        self._dials.take(trio.current_time())
        self._last = self._choose(await self._seen.wait_for(bool))
        return self._last

    def worked(self) -> None:
        """Note that the last target was the right one."""
        self._tried.clear()
        self._dials.put_back()  # it had the key: that was no guess

    def failed(self) -> None:
        """Note that the last target was not: look for others."""
        if self._seen is not None:
            self._bonjour.look_again()

    def _choose(self, seen: tuple[Candidate, ...]) -> Target:
        spoken = [each for each in seen if set(each.advert.versions) & set(VERSIONS)]
        candidates = order(spoken, self._chassis, self._index)
        fresh = [each for each in candidates if (each.advert.node, each.advert.index) not in self._tried]
        if not fresh:
            self._tried.clear()
            raise NobodyError(
                f"none of the {len(candidates)} servers that Bonjour found could be used; trying them again"
            )
        identity = fresh[0].advert.node, fresh[0].advert.index
        self._tried.add(identity)
        return Target(fresh[0].addresses[0], fresh[0].port, identity)

    def _automatic(self, settings: RemotePort) -> bool:
        return settings.auto_conf and (self._keyless or bool(settings.authentication_key))
