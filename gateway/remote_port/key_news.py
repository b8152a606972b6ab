"""A new key on its way from a remote port server to its clients: who is told it, and what became of it there.

One key is on its way at a time. A client is told it over each connection that it makes until it has answered, since it
makes a new one for the key itself. It has the key when a handshake has proved that, whatever it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from protocol.link.key_frames import KEYS, Told, ToldCpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from protocol.link.key_frames import Rekey, Rekeyed
    from protocol.session.inquiry import Inquiry

__all__ = ["PATIENCE", "WAY_BACK", "KeyLink", "KeyNews"]

PATIENCE: Final = 20.0
"""Seconds in which a new key is to reach all of a chain."""
WAY_BACK: Final = 0.5
"""Seconds of them that stay for the way back, at each hop."""

_HAVE_IT: Final = (Told.CHANGED, Told.SAME)


@final
class KeyLink:
    """A client as news of a key sees it: ``key`` is its node id and remote port; ``flush`` has its link look again."""

    def __init__(self, news: KeyNews, key: tuple[bytes, int], flush: Callable[[], None]) -> None:
        self.key = key
        self._news = news
        self._flush = flush
        self.inquiry: Inquiry | None = None
        """Of the connection that stands, if one does."""
        self.features = 0
        """Those that both sides of its last connection know ..."""
        self.name = ""
        """... the name that it gave itself there ..."""
        self.point = b""
        """... and the key that it proved, as a point."""

    def stands(self, inquiry: Inquiry, features: int, name: str, point: bytes) -> None:
        """Note that a connection carries the session."""
        self.inquiry, self.features, self.name, self.point = inquiry, features, name, point
        self._news.linked(self)

    def fell(self) -> None:
        """Note that the connection has gone."""
        self.inquiry = None

    def heard(self, answer: Rekeyed) -> None:
        """Take what the client says became of a key."""
        self._news.heard(self, answer)

    def tell(self, told: Rekey) -> None:
        """Have the key told over the connection that stands."""
        assert self.inquiry is not None, "only such are told"
        self.inquiry.tell(told)
        self._flush()


@final
class KeyNews:
    """What the clients of one server are told, and answer."""

    def __init__(self) -> None:
        self._told: Rekey | None = None
        self._answers: dict[tuple[bytes, int], tuple[ToldCpu, ...]] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def linked(self, client: KeyLink) -> None:
        """Tell a client that has made a connection what it is still to be told."""
        if self._told is not None and self._is_for(client, self._told):
            client.tell(self._told)
        self._changed.unpark_all()

    def heard(self, client: KeyLink, answer: Rekeyed) -> None:
        """Take an answer; one to another key than the last, or in another CPU's name, is passed over."""
        if self._told is not None and answer.number == self._told.number and answer.cpus[0].node == client.key[0]:
            self._answers[client.key] = answer.cpus
            self._changed.unpark_all()

    async def tell(
        self, told: Rekey, point: bytes, clients: Callable[[], Iterable[KeyLink]], seconds: float
    ) -> list[ToldCpu]:
        """Tell those of the ``clients`` whom it is for the key, whose point is ``point``; return what became of it.

        Wait until all that are linked now have proved the key or refused it, for so many seconds at most. Behind each
        client are the CPUs of which it tells.
        """
        self._told, self._answers = told, {}
        try:
            awaited = {client.key: client for client in clients() if self._is_for(client, told)}
            for client in awaited.values():
                client.tell(told)
            with trio.move_on_after(seconds):
                while not all(self._is_settled(key, point, clients()) for key in awaited):
                    await self._changed.park()
            met = awaited | {client.key: client for client in clients()}
            return [cpu for key, client in met.items() for cpu in self._outcome(told, client, key in awaited, point)]
        finally:
            self._told = None

    def _is_for(self, client: KeyLink, told: Rekey) -> bool:
        """Return whether a client is to be told over the connection that it has."""
        is_asked = client.inquiry is not None and bool(client.features & KEYS) and client.key not in self._answers
        return is_asked and client.key[0] in told.nodes

    def _is_settled(self, key: tuple[bytes, int], point: bytes, clients: Iterable[KeyLink]) -> bool:
        """Return whether a client has answered, and has proved the key where it says that it has it."""
        answer = self._answers.get(key)
        if answer is None or answer[0].told not in _HAVE_IT:
            return answer is not None
        return any(client.point == point for client in clients if client.key == key)

    def _outcome(self, told: Rekey, client: KeyLink, was_told: bool, point: bytes) -> Iterator[ToldCpu]:
        node, name = client.key[0], client.name
        if (answer := self._answers.get(client.key)) is not None:
            is_proved = answer[0].told not in _HAVE_IT or client.point == point
            yield ToldCpu(node, name, answer[0].told if is_proved else Told.SILENT)
            yield from answer[1:]
        elif node not in told.nodes:
            yield ToldCpu(node, name, Told.UNNAMED)
        elif client.inquiry is None and not was_told:
            yield ToldCpu(node, name, Told.GONE)
        else:
            yield ToldCpu(node, name, Told.SILENT if client.features & KEYS else Told.OLDER)
