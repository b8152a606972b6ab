"""Choose the server that a remote port client dials: a host by name or, with AutoConf, one that Bonjour found.

Anybody on the network can forge what Bonjour finds: it says where to dial, never whom to trust nor which key to prove.
So the order of the dials keeps forgers from hiding the real server for long:

- The server that proved the key last is remembered, also over restarts. For a while after the start only that one is
  dialled: it may need time to start itself, and a dial to another CPU would show that one a wrong key.
- Otherwise the server that was dialled least often comes first, of all that are seen; among equals the order of adverts
  decides. So the real server has to wait for each forged one at most once.
- A wrong key pauses that server, and the next one is dialled at once.
- The server is chosen at the moment of the dial, not before the wait: a forger answers within milliseconds, and the
  real server may be seen a moment later. An address from which wrong keys come is soon dialled only slowly.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, final

import trio

from protocol.link.advert import order
from protocol.link.handshake import VERSIONS
from protocol.link.port_state import NODE_ID
from protocol.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.discovery.bonjour import Bonjour
    from gateway.tasks.watch import Cell
    from protocol.link.advert import Advert, Candidate
    from protocol.parameters.settings import RemotePort

__all__ = ["Candidates", "Memory", "NobodyError", "Target"]

logger = logging.getLogger(__name__)

WRONG_KEY_PAUSE: Final = 5.0
"""Seconds for which a server that the parameters name is not dialled again after a wrong key."""
_STRANGER_PAUSE: Final = 60.0
"""The same for a server that Bonjour found."""
_DIALS: Final = 24.0
_PAUSE: Final = 10.0
"""Each dial gives a stranger one guess at the key: so _DIALS at once, then one in _PAUSE seconds."""
_OF_ADDRESS: Final = 4
_BREATH: Final = 2.0
"""After _OF_ADDRESS wrong keys from one address, whatever it announces, it is dialled once in _BREATH seconds."""
_LOYALTY: Final = 30.0
"""Seconds after the start for which only the remembered server is dialled."""
_MOST_ANSWERS: Final = 64
"""The most servers whose last answers are remembered ..."""
_MOST_SHOWN: Final = 32
"""... and the most that the status shows, because anybody may announce any number."""
_MOST_TRIED: Final = 1024
"""Servers whose dials are counted."""


@final
class NobodyError(Exception):
    """There is no server to dial; the message says why."""


@final
class Target(NamedTuple):
    """Where to dial, and the node id and port index that should answer there, if they are known."""

    host: str
    port: int
    identity: tuple[bytes, int] | None = None


class Memory(Protocol):
    """A small file that outlives the process. Both may raise OSError, and block."""

    def read(self) -> bytes | None:
        """Return the content, None where there is none."""

    def replace(self, content: bytes) -> None:
        """Replace the content."""


@final
class Candidates:
    """The servers that RemotePort.R# ``index`` may dial; ``chassis`` is ours, ``memory`` holds the last good one.

    AutoConf dials nobody without a key, unless the host allows it (``without_key``).
    """

    def __init__(
        self, bonjour: Bonjour, index: int, chassis: str, *, without_key: bool, memory: Memory | None = None
    ) -> None:
        self._bonjour = bonjour
        self._index = index
        self._chassis = chassis
        self._without_key = without_key
        self._memory = memory
        self._remembered = _recall(memory)
        self._loyal_until = -math.inf
        self._seen: Cell[tuple[Candidate, ...]] | None = None
        self._tried: Counter[tuple[bytes, int] | str | None] = Counter()
        self._paused: dict[Target, float] = {}
        self._wrong: Counter[str] = Counter()
        self._slow: dict[str, float] = {}
        """For each address the number of wrong keys from there, and until when it is not dialled for them."""
        self._last: Target | None = None
        self._answers: dict[Target, tuple[float, str]] = {}
        """The time and the outcome of the last dial to each."""
        self._dials = TokenBucket(_DIALS, _PAUSE, trio.current_time())
        self._charged = False
        """True if the last dial counted as a guess of the server that answers."""

    @contextlib.contextmanager
    def looking(self, settings: RemotePort) -> Iterator[None]:
        """Look for servers while the block runs, where ``settings`` want that."""
        self._paused.clear()  # the key may be another one now
        self._tried.clear()
        self._wrong.clear()
        self._slow.clear()
        if not (settings.auto_conf and (self._without_key or settings.authentication_key)):
            yield
            return
        self._loyal_until = trio.current_time() + _LOYALTY
        with self._bonjour.browse() as self._seen:
            try:
                yield
            finally:
                self._seen = None

    async def next(self, settings: RemotePort, resuming: bool) -> Target:
        """Return where to dial now, waiting until there is somebody.

        While a session may be ``resuming``, that is its own server and no other. Raises NobodyError.
        """
        await trio.lowlevel.checkpoint()
        if not settings.auto_conf:
            if not settings.host:
                raise NobodyError(f"RemotePort.R{self._index}.Host is empty, and AutoConf is no")
            self._last = Target(settings.host, settings.port)
            await trio.sleep_until(self._paused.get(self._last, -math.inf))
            return self._last
        if self._seen is None:
            raise NobodyError(
                f"AutoConf dials nobody without a key: set RemotePort.R{self._index}.AuthenticationKey as the server "
                "has it, or Host and Port with AutoConf=no"
            )
        if resuming and self._last is not None:
            return self._last
        while True:
            # Choose again after every wait: the real server may be seen a moment after a forged one, and should win
            # then.
            target, again = self._choose(seen := self._seen.value)
            again = max(again, trio.current_time() + self._dials.wait(trio.current_time()))
            if target is not None and again <= trio.current_time():
                break
            with trio.move_on_at(again):
                await self._seen.wait_for(lambda now: now != seen)
        # Charged only now that the dial is certain: a dial that was cancelled while it waited has tested no key.
        self._dials.take(trio.current_time())
        self._charged = True
        self._count(target)
        self._last = target
        return target

    def answered(self, identity: tuple[bytes, int]) -> bytes | None:
        """Note that the last target proved the key; return the content for ``keep``, if there is any to write."""
        self.no_guess()
        if self._seen is None or self._last is None:
            return None
        known = Target(self._last.host, self._last.port, identity)
        if known == self._remembered:
            return None
        self._remembered = known
        return _written(known)

    def keep(self, content: bytes) -> None:
        """Store the server that proved the key. It blocks. A failure is only logged."""
        if self._memory is not None:
            try:
                self._memory.replace(content)
            except OSError as exc:
                logger.warning("the last server of R%d cannot be kept: %s", self._index, exc.strerror or exc)

    def wrong_key(self) -> None:
        """Note that the last target has another key: it is paused."""
        if self._last is None:
            return
        now, host = trio.current_time(), self._last.host
        self._paused[self._last] = now + (WRONG_KEY_PAUSE if self._seen is None else _STRANGER_PAUSE)
        if len(self._wrong) >= _MOST_TRIED:
            self._wrong.clear()
        self._wrong[host] += 1
        if self._seen is not None and self._wrong[host] >= _OF_ADDRESS:
            self._slow[host] = now + _BREATH
        if self._last == self._remembered:
            self._remembered = None

    def no_guess(self) -> None:
        """Note that the last dial was no guess: nothing could be connected to, or the target has the key."""
        if self._charged:
            self._charged = False
            self._dials.put_back()

    def worked(self) -> None:
        """Note that the last target is the right one: it has the key, and admitted us."""
        self._tried.clear()
        self._wrong.clear()

    def failed(self) -> bool:
        """Look for other servers, because the last target did not work; return whether an untried one is there."""
        if self._seen is None:
            return False
        self._bonjour.look_again()
        target, _ = self._choose(self._seen.value)
        return target is not None and self._tries(target) == 0

    def note(self, answer: str) -> None:
        """Note the outcome of the dial to the last target, for the status."""
        if self._last is not None:
            self._answers.pop(self._last, None)
            self._answers[self._last] = trio.current_time(), answer
            if len(self._answers) > _MOST_ANSWERS:
                del self._answers[next(iter(self._answers))]

    def status(self, settings: RemotePort, due: float) -> list[dict[str, object]]:
        """Return the servers that may be dialled, for the status, in no order; the next dial is ``due`` then."""
        adverts: dict[Target, Advert | None] = {}
        if not settings.auto_conf:
            if settings.host:
                adverts[Target(settings.host, settings.port)] = None
        elif self._seen is not None:
            if self._remembered is not None:
                adverts[self._remembered] = None
            for each in self._seen.value:
                advert = each.advert
                adverts[Target(each.addresses[0], each.port, (advert.node, advert.index))] = advert
        return [self._described(target, advert, due) for target, advert in list(adverts.items())[:_MOST_SHOWN]]

    def _described(self, target: Target, advert: Advert | None, due: float) -> dict[str, object]:
        now = trio.current_time()
        answered = self._answers.get(target)
        free = max(due, self._paused.get(target, due), self._slow.get(target.host, due))
        node, index = target.identity or (None, None)
        return {
            "address": target.host,
            "port": target.port,
            "node": node.hex() if node is not None else "",
            "name": advert.name if advert is not None else "",
            "server_port": f"P{index}" if index is not None else "",
            "chassis": advert.chassis if advert is not None else "",
            "hops": advert.hops if advert is not None else None,
            "last_answer": answered[1] if answered is not None else "",
            "last_answer_seconds_ago": round(now - answered[0], 1) if answered is not None else None,
            "next_try_seconds": round(max(0.0, free - now), 1),
        }

    def _choose(self, seen: tuple[Candidate, ...]) -> tuple[Target | None, float]:
        """Return the best server, of those seen or remembered, that may be dialled now; None while there is none.

        With it goes the time at which one of the others may be dialled.
        """
        now = trio.current_time()
        self._paused = {target: until for target, until in self._paused.items() if until > now}
        self._slow = {host: until for host, until in self._slow.items() if until > now}
        spoken = [each for each in seen if set(each.advert.versions) & set(VERSIONS)]
        targets = [
            Target(each.addresses[0], each.port, (each.advert.node, each.advert.index))
            for each in order(spoken, self._chassis, self._index)
        ]
        if (good := self._remembered) is not None:
            # It may have moved, so adverts with its identity come next; forged ones cost one dial each.
            others = [target for target in targets if target != good]
            moved = [target for target in others if target.identity == good.identity]
            # For a while after the start only the known server: a forger may be seen before it.
            loyal = now < self._loyal_until
            targets = [good, *moved, *(() if loyal else (each for each in others if each not in moved))]
        free = [target for target in targets if target not in self._paused and target.host not in self._slow]
        if free:
            return min(free, key=self._tries), now
        return None, min((*self._paused.values(), *self._slow.values()), default=math.inf)

    def _count(self, target: Target) -> None:
        self._tried.update((target.identity, target.host))
        if len(self._tried) > _MOST_TRIED:
            self._tried = Counter(dict(self._tried.most_common(_MOST_TRIED // 2)))

    def _tries(self, target: Target) -> int:
        # The address counts as well as the announced identity, because a forger can make up any number of identities.
        return self._tried[target.identity] + self._tried[target.host]


def _written(target: Target) -> bytes:
    assert target.identity is not None
    node, index = target.identity
    return f"{node.hex()} {index} {target.host} {target.port}\n".encode()


def _recall(memory: Memory | None) -> Target | None:
    """Read the server that proved the key last; None where it cannot be read."""
    try:
        content = None if memory is None else memory.read()
        if content is None:
            return None
        node, index, host, port = content.decode().split()
        target = Target(host, int(port), (bytes.fromhex(node), int(index)))
        ip_address(host)
    except (OSError, ValueError) as exc:
        logger.warning("the last server of a remote port cannot be read: %s", exc)
        return None
    return target if len(bytes.fromhex(node)) == NODE_ID and 0 < target.port < 65536 else None
