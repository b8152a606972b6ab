"""Bonjour for remote ports: announce our servers to the neighbours, and see theirs.

What cannot be (no network, no multicast, an address that went) is a state with a reason, and tried again. What is seen
is hearsay: a peer is judged by connecting to it. This room must not know how a link is made, nor with which key.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, final

import trio

from gateway.discovery import interfaces as interfaces
from gateway.discovery.mdns import MdnsError, Responder, ServiceRecord
from gateway.discovery.resolver import Resolver
from gateway.tasks.root_cause import root_cause
from gateway.tasks.supervise import Backoff, supervise
from gateway.tasks.watch import Cell
from protocol.link.advert import Advert, Candidate, on_link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

    from gateway.discovery.interfaces import Interface

__all__ = ["Bonjour"]

logger = logging.getLogger(__name__)

_FIRST_RETRY: Final = 1.0
_LAST_RETRY: Final = 60.0
_GOODBYE: Final = 1.0
"""Seconds that a goodbye may take; who does not hear it finds out by connecting."""

K = TypeVar("K")


@final
@dataclass(frozen=True, slots=True)
class _Situation:
    """What is wanted, and what the host has for it. ``looks`` grows with every wish to look anew."""

    adverts: tuple[tuple[Advert, int], ...] = ()
    browsers: int = 0
    looks: int = 0
    interfaces: tuple[Interface, ...] | None = None  # nobody has looked yet

    @property
    def wanted(self) -> bool:
        return bool(self.adverts or self.browsers)

    @property
    def voices(self) -> tuple[tuple[int, int, str], ...] | None:
        """For each link its index, how often it came up, and our address to speak from."""
        # IPv6 only where there is no IPv4: its addresses come seconds later, and would start all over again.
        if self.interfaces is None:
            return None
        return tuple((link.index, link.ups, str(min(link.addresses, key=_family).ip)) for link in self.interfaces)

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """Our own, on all links, each with its network."""
        return tuple(address for link in self.interfaces or () for address in link.addresses)

    @property
    def view(self) -> tuple[object, ...] | None:
        """What a look depends on; None if nobody looks."""
        return (self.looks, self.addresses) if self.browsers else None


@final
class Bonjour:
    """This host's voice and ear, while ``run()`` runs; ``node`` is our own node id.

    ``bind`` are the addresses that remote port servers listen on: only addresses that these cover are announced.
    """

    def __init__(self, node: bytes, bind: Sequence[str]) -> None:
        self._node = node
        self._bind = tuple(map(ipaddress.ip_address, bind))
        self._situation = Cell(_Situation())
        self.state = Cell("off")
        """``off`` while nothing is wanted, ``up``, or why it cannot be."""
        self.announced: Cell[frozenset[str]] = Cell(frozenset())
        """The names of the services that neighbours can see."""
        self._seen: Cell[tuple[Candidate, ...]] = Cell(())

    async def announce(self, advert: Advert, port: int) -> NoReturn:
        """Announce a server that listens on TCP ``port``, until cancelled; the goodbye follows at once, unawaited.

        For one node and index at a time. A change of what it says is another call, better begun before the first ends.
        """
        mine = (advert, port)
        self._change(adverts=(*self._situation.value.adverts, mine))
        try:
            await trio.sleep_forever()
        finally:
            left = list(self._situation.value.adverts)
            left.remove(mine)
            self._change(adverts=tuple(left))

    @contextlib.contextmanager
    def browse(self) -> Iterator[Cell[tuple[Candidate, ...]]]:
        """Look for servers while the block runs: all that are seen now, in no order, with on-link addresses only.

        Our own are left out. One that is not seen may live, and one that is seen may be long dead, or a lie.
        """
        self._change(browsers=self._situation.value.browsers + 1)
        try:
            yield self._seen
        finally:
            self._change(browsers=self._situation.value.browsers - 1)

    def look_again(self) -> None:
        """Ask the network anew, for who finds no server that works: by itself it asks ever more rarely."""
        self._change(looks=self._situation.value.looks + 1)

    async def run(self) -> NoReturn:
        """Do what is wanted, until cancelled; then say goodbye, which takes a third of a second, two at the worst."""
        await _following(self._situation, lambda situation: situation.wanted, self._work)

    def _change(self, **what: Any) -> None:
        self._situation.set(replace(self._situation.value, **what))

    def _tell(self, state: str) -> None:
        if state != self.state.value:
            logger.log(logging.INFO if state in {"up", "off"} else logging.WARNING, "Bonjour: %s", state)
        self.state.set(state)

    async def _work(self, wanted: bool) -> None:
        if not wanted:
            self._tell("off")
            self._change(interfaces=None)  # nobody watches them now
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(_following, self._situation, lambda situation: situation.voices, self._speak)

    async def _watch(self) -> None:
        async def watch(backoff: Backoff) -> None:
            await interfaces.watch(lambda found: self._change(interfaces=found))

        await supervise(watch, (OSError,), self._tell, Backoff(_FIRST_RETRY, _LAST_RETRY))

    async def _speak(self, voices: tuple[tuple[int, int, str], ...] | None) -> None:
        """Keep a responder on these links."""
        if not voices:
            if voices is not None:
                self._tell("no network link is up that does multicast")
            return
        converse = functools.partial(self._converse, [voice for _, _, voice in voices])
        await supervise(converse, (MdnsError,), self._tell, Backoff(_FIRST_RETRY, _LAST_RETRY))

    async def _converse(self, voices: Sequence[str], backoff: Backoff) -> None:
        responder = await trio.to_thread.run_sync(Responder, voices)
        try:
            self._tell("up")
            backoff.reset()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_announced, responder)
                looking = functools.partial(self._look, responder)
                nursery.start_soon(_following, self._situation, lambda situation: situation.view, looking)
        except* MdnsError as failures:
            raise root_cause(failures) from None
        finally:
            self.announced.set(frozenset())
            await _finish(responder.close)

    async def _keep_announced(self, responder: Responder) -> None:
        announced: dict[str, ServiceRecord] = {}
        async for situation in self._situation.changes():
            wanted = {service.name: service for service in self._services(situation)}
            for name in announced.keys() - wanted.keys():
                del announced[name]
                await trio.to_thread.run_sync(responder.withdraw, name, abandon_on_cancel=True)
            for name, service in wanted.items():
                if announced.get(name) != service:
                    await trio.to_thread.run_sync(responder.announce, service, abandon_on_cancel=True)
                    announced[name] = service
            self.announced.set(frozenset(announced))
            self._tell("up" if announced or not situation.adverts else self._unreachable())

    def _unreachable(self) -> str:
        return f"nothing is announced: no network link has what is listened on ({', '.join(map(str, self._bind))})"

    def _services(self, situation: _Situation) -> Iterator[ServiceRecord]:
        addresses = tuple(map(str, self._reachable(situation.addresses)))
        for advert, port in situation.adverts if addresses else ():
            node = advert.node.hex()
            # The node id makes the names unique, so they need no probing; two nodes with one id are a cloned image,
            # which the handshake tells.
            yield ServiceRecord(
                f"Daisyport {node} P{advert.index}", f"daisyport-{node}", port, advert.encode(), addresses
            )

    def _reachable(self, own: Sequence[IPv4Interface | IPv6Interface]) -> Iterator[IPv4Address | IPv6Address]:
        for address in own:
            plain = ipaddress.ip_address(address.packed)  # a zone means nothing to others
            if any(bound == plain or (bound.is_unspecified and bound.version == plain.version) for bound in self._bind):
                yield plain

    async def _look(self, responder: Responder, view: tuple[object, ...] | None) -> None:
        """Keep ``seen`` what the neighbours say."""
        if view is None:
            return
        resolver = Resolver(responder, self._judged, self._seen)
        token = trio.lowlevel.current_trio_token()

        def told(name: str, there: bool) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(resolver.told, name, there)

        stop = await trio.to_thread.run_sync(responder.look, told)
        try:
            await resolver.run()
        finally:
            self._seen.set(())
            await _finish(stop)

    def _judged(self, service: ServiceRecord) -> Candidate | None:
        """Return what to make of a service that was heard: None if it is ours, or nobody to connect to."""
        try:
            advert = Advert.decode(service.text)
        except ValueError as exc:
            logger.info("Bonjour: %.80r is left out: %s", service.name, exc)
            return None
        addresses = on_link(service.addresses, self._situation.value.addresses)
        if advert.node == self._node or not addresses or not service.port:
            return None
        return Candidate(advert, addresses, service.port)


async def _following(
    cell: Cell[_Situation], key: Callable[[_Situation], K], run: Callable[[K], Awaitable[None]]
) -> NoReturn:
    """Run ``run`` with what ``key`` says of the cell, and anew whenever that changes."""
    while True:
        now = key(cell.value)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, now)
            await cell.wait_for(functools.partial(_differs, key, now))
            nursery.cancel_scope.cancel()


def _differs(key: Callable[[_Situation], K], now: K, situation: _Situation) -> bool:
    return key(situation) != now


async def _finish(stop: Callable[[], None]) -> None:
    """Call ``stop`` on a thread, even where we are cancelled, but wait no longer than a goodbye may take."""
    deadline = trio.current_time() + _GOODBYE
    with trio.CancelScope(deadline=deadline, shield=True), contextlib.suppress(MdnsError):
        await trio.to_thread.run_sync(stop, abandon_on_cancel=True)


def _family(address: IPv4Interface | IPv6Interface) -> tuple[int, bool]:
    return address.version, not address.is_link_local
