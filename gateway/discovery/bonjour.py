"""Bonjour for remote ports: announce our servers to the neighbours, and see theirs.

A failure (no network, no multicast, an address that has gone) is a state with a reason, and is tried again. What the
neighbours announce may be forged: a peer is judged by connecting to it.

Everything follows from one cell, the ``_Situation``: what is wanted, and which links the host has. Each link
(``_Voice``) has a responder of its own. So it announces the addresses of that link and no other (RFC 6762, section
6.2), and a link that fails or flickers disturbs no other. The state of a link, and what is announced and seen there, is
kept by its voice. A link that went and came back is another voice, so that the old one, which may still be saying
goodbye, cannot spoil the state of the new one.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import math
import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, final

import trio

from gateway.discovery import interfaces as interfaces
from gateway.discovery.mdns import SERVICE, MdnsError, Responder, ServiceRecord
from gateway.discovery.resolver import Resolver
from gateway.tasks.event_log import EventLog
from gateway.tasks.root_cause import root_cause
from gateway.tasks.supervise import Backoff, supervise
from gateway.tasks.watch import Cell
from protocol.frozen import frozen
from protocol.link.advert import Advert, Candidate, on_link

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from ipaddress import IPv4Interface, IPv6Interface

    from gateway.discovery.interfaces import Interface

__all__ = ["Bonjour"]

logger = logging.getLogger(__name__)

_FIRST_RETRY: Final = 1.0
_LAST_RETRY: Final = 60.0
_GOODBYE: Final = 1.0
"""Seconds for a goodbye; a neighbour that does not hear it finds out by connecting."""
_LOOK: Final = 2.0
"""The least seconds for one look at the network: a server that refuses us at once must not cut it short."""
_UP: Final = "up"

K = TypeVar("K")


@final
@frozen
class _Voice:
    """A link that we announce on: its interface index, how often its carrier came, and our address there."""

    interface: int
    ups: int
    address: str


@final
@frozen
class _Situation:
    """What our ports want, and the links that the host has. ``looks`` counts the requests to look again."""

    adverts: tuple[tuple[Advert, int], ...] = ()
    browsers: int = 0
    looks: int = 0
    interfaces: tuple[Interface, ...] | None = None
    """The links of this host; None before the first look at them."""

    @property
    def wanted(self) -> bool:
        """Return whether anything is to be announced or seen."""
        return bool(self.adverts or self.browsers)

    @property
    def voices(self) -> frozenset[_Voice] | None:
        """Return the links to speak on; None while they are not known."""
        if self.interfaces is None:
            return None
        # IPv6 only on a link without IPv4: its addresses come seconds later, and would restart everything.
        return frozenset(
            _Voice(link.index, link.ups, str(min(link.addresses, key=_family).ip)) for link in self.interfaces
        )

    def addresses(self, voice: _Voice) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """Return our own addresses on a link, each with its network."""
        return next((link.addresses for link in self.interfaces or () if link.index == voice.interface), ())

    def view(self, voice: _Voice) -> tuple[object, ...] | None:
        """Return the facts that a look on this link depends on; None if nobody looks."""
        return (self.looks, self.addresses(voice)) if self.browsers else None


@final
@dataclass(eq=False, repr=False, slots=True)
class _Link:
    """A link that we speak on, as far as it is known."""

    state: str = ""
    """``up``, or why not; empty while that is unknown."""
    announced: frozenset[str] | None = None
    """The names that neighbours there can see; None before they have been told any."""
    found: dict[str, Candidate] = field(default_factory=dict)
    """The servers there, by the names of their services."""
    looked_from: tuple[IPv4Interface | IPv6Interface, ...] = ()
    """Our addresses when they were found: after a move to another network they are worth nothing."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


@final
class Bonjour:
    """Announces and sees servers while ``run()`` runs; ``node`` is our own node id.

    ``bind`` are the addresses that remote port servers listen on: only addresses covered by these are announced.
    ``service`` is the type of what is announced and looked for.
    """

    def __init__(self, node: bytes, bind: Sequence[str], service: str = SERVICE) -> None:
        self._node = node
        self._service = service
        self._events = EventLog(logger)
        self._bind = tuple(map(ipaddress.ip_address, bind))
        self._situation = Cell(_Situation())
        self._looked_at = -math.inf
        self._links: dict[_Voice, _Link] = {}
        self.state = Cell("off")
        """``off`` while nothing is wanted, ``up``, or why it is not up."""
        self.announced: Cell[frozenset[str]] = Cell(frozenset())
        """The names of the services that neighbours can see."""
        self._seen: Cell[tuple[Candidate, ...]] = Cell(())

    async def announce(self, advert: Advert, port: int) -> NoReturn:
        """Announce a server that listens on TCP ``port``, until cancelled; the goodbye follows without waiting for it.

        One call at a time for each node and index, except that a changed advert should begin before the old one ends.
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
        """Look for servers while the block runs. The cell has those seen now, in no order, with on-link addresses only.

        Our own are left out. A server that is not seen may live, and one that is seen may be long dead, or forged.
        """
        self._looked_at = trio.current_time()
        self._change(browsers=self._situation.value.browsers + 1)
        try:
            yield self._seen
        finally:
            self._change(browsers=self._situation.value.browsers - 1)

    def look_again(self) -> None:
        """Ask the network again, because no server that was seen works: a look by itself asks less and less often.

        A look that has just begun serves as well, and is not restarted.
        """
        if trio.current_time() - self._looked_at >= _LOOK:
            self._looked_at = trio.current_time()
            self._change(looks=self._situation.value.looks + 1)

    async def run(self) -> NoReturn:
        """Announce and look as wanted, until cancelled; then say goodbye, which takes a third of a second, at worst
        two.

        An unexpected exception is logged and everything is started again, because no port depends on Bonjour.
        """
        backoff = Backoff(_FIRST_RETRY, _LAST_RETRY)
        while True:
            await trio.sleep(backoff.next())
            began = trio.current_time()
            try:
                await _following(self._situation, lambda situation: situation.wanted, self._work)
            except Exception as exc:
                logger.exception("Bonjour: a bug; it is started again")
                self._tell(f"a bug: {root_cause(exc)!r}")
                if trio.current_time() - began > _LAST_RETRY:
                    backoff.reset()

    def _change(self, **what: Any) -> None:
        self._situation.set(replace(self._situation.value, **what))

    def _tell(self, state: str) -> None:
        if state != self.state.value:
            logger.log(logging.INFO if state in {_UP, "off"} else logging.WARNING, "Bonjour: %s", state)
        self.state.set(state)

    def _publish(self) -> None:
        """Publish what all links together announce and see."""
        links = tuple(self._links.values())
        self.announced.set(frozenset().union(*(link.announced or () for link in links)))
        merged: dict[str, Candidate] = {}
        for name, candidate in (item for link in links for item in link.found.items()):
            if (before := merged.get(name)) is not None:  # seen on two links: keep the addresses of both
                addresses = tuple(dict.fromkeys((*before.addresses, *candidate.addresses)))
                candidate = replace(candidate, addresses=addresses)
            merged[name] = candidate
        self._seen.set(tuple(merged.values()))
        states = [link.state for link in links if link.state]
        # One link that is up is enough: an unplugged cable is no outage. Otherwise the status names a reason.
        if self._situation.value.voices == frozenset():
            self._tell("no network link is up that does multicast")
        elif _UP not in states:
            if states:
                self._tell(states[0])
        # Up, but with nothing to announce. Without this state, an operator who bound the port to one address would look
        # for a fault in the network.
        elif (now := self._situation.value).adverts and not any(
            True for voice in self._links for _ in self._services(now, voice)
        ):
            bind = ", ".join(map(str, self._bind))
            self._tell(f"nothing is announced: no network link has what is listened on ({bind})")
        else:
            self._tell(_UP)

    async def _work(self, wanted: bool) -> None:
        if not wanted:
            self._tell("off")
            self._change(interfaces=None)  # nobody watches them now
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._events.run)
            async for situation in self._situation.changes():
                if (voices := situation.voices) is None:
                    continue
                for voice in self._links.keys() - voices:
                    self._links[voice].scope.cancel()
                for voice in voices - self._links.keys():
                    link = self._links[voice] = _Link()
                    nursery.start_soon(self._speak, voice, link)
                if not voices:
                    self._publish()

    async def _watch(self) -> None:
        async def watch(backoff: Backoff) -> None:
            await interfaces.watch(lambda found: self._change(interfaces=found))

        await supervise(watch, (OSError,), self._tell, Backoff(_FIRST_RETRY, _LAST_RETRY))

    async def _speak(self, voice: _Voice, link: _Link) -> None:
        """Keep a responder on a link."""

        def failing(why: str) -> None:
            link.state = why
            if any(other.state == _UP for other in self._links.values()):
                logger.warning("Bonjour on %s: %s", _device(voice), why)
            self._publish()

        try:
            with link.scope:
                converse = functools.partial(self._converse, voice, link)
                await supervise(converse, (MdnsError,), failing, Backoff(_FIRST_RETRY, _LAST_RETRY))
        finally:
            del self._links[voice]
            self._publish()

    async def _converse(self, voice: _Voice, link: _Link, backoff: Backoff) -> None:
        responder = await trio.to_thread.run_sync(Responder, _device(voice), voice.address, self._service)
        try:
            link.state = _UP
            self._publish()
            backoff.reset()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_announced, voice, link, responder)
                looking = functools.partial(self._look, voice, link, responder)
                nursery.start_soon(_following, self._situation, lambda situation: situation.view(voice), looking)
        except* MdnsError as failures:
            raise root_cause(failures) from None
        finally:
            link.state, link.announced = "", None
            link.found.clear()
            self._publish()
            await _finish(responder.close)

    async def _keep_announced(self, voice: _Voice, link: _Link, responder: Responder) -> None:
        announced: dict[str, ServiceRecord] = {}
        async for situation in self._situation.changes():
            wanted = {service.name: service for service in self._services(situation, voice)}
            for name in announced.keys() - wanted.keys():
                del announced[name]
                await trio.to_thread.run_sync(responder.withdraw, name, abandon_on_cancel=True)
            for name, service in wanted.items():
                if announced.get(name) != service:
                    await trio.to_thread.run_sync(responder.announce, service, abandon_on_cancel=True)
                    announced[name] = service
            link.announced = frozenset(announced)
            self._publish()

    def _services(self, situation: _Situation, voice: _Voice) -> Iterator[ServiceRecord]:
        """Yield what to announce on a link, with those of our addresses there that are listened on."""
        addresses = []
        for address in situation.addresses(voice):
            plain = ipaddress.ip_address(address.packed)  # a zone means nothing to others
            if any(bound == plain or (bound.is_unspecified and bound.version == plain.version) for bound in self._bind):
                addresses.append(str(plain))
        for advert, port in situation.adverts if addresses else ():
            node = advert.node.hex()
            # The node id makes the names unique, so they need no probing. Two nodes with one id come from a cloned
            # image, which the handshake detects.
            yield ServiceRecord(
                f"Daisyport {node} P{advert.index}", f"daisyport-{node}", port, advert.encode(), tuple(addresses)
            )

    async def _look(self, voice: _Voice, link: _Link, responder: Responder, view: tuple[object, ...] | None) -> None:
        """Keep ``link.found`` what the neighbours there say."""
        addresses = self._situation.value.addresses(voice)
        if view is None or addresses != link.looked_from:
            link.found.clear()
            self._publish()
        link.looked_from = addresses
        if view is None:
            return
        resolver = Resolver(responder, functools.partial(self._judged, addresses), link.found, self._publish)
        token = trio.lowlevel.current_trio_token()

        def told(name: str, there: bool) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(resolver.told, name, there)

        stop = await trio.to_thread.run_sync(responder.look, told)
        try:
            await resolver.run()
        finally:
            resolver.end()
            await _finish(stop)

    def _judged(self, addresses: tuple[IPv4Interface | IPv6Interface, ...], service: ServiceRecord) -> Candidate | None:
        """Return a service that was seen, as a candidate; None if it is not to be dialled from our ``addresses``."""
        try:
            advert = Advert.decode(service.text)
        except ValueError as exc:
            self._events.log(logging.INFO, "Bonjour: services", "Bonjour: %.80r is left out: %s", service.name, exc)
            return None
        near = on_link(service.addresses, addresses)
        if advert.node == self._node or not near or not service.port:
            return None
        return Candidate(advert, near, service.port)


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
    """Call ``stop`` in a thread, even after a cancellation, but wait no longer than a goodbye may take."""
    deadline = trio.current_time() + _GOODBYE
    with trio.CancelScope(deadline=deadline, shield=True), contextlib.suppress(MdnsError):
        await trio.to_thread.run_sync(stop, abandon_on_cancel=True)


def _device(voice: _Voice) -> str:
    try:
        return socket.if_indextoname(voice.interface)
    except OSError:  # it has just gone; the kernel will tell
        return ""


def _family(address: IPv4Interface | IPv6Interface) -> tuple[int, bool]:
    return address.version, not address.is_link_local
