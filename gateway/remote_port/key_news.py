"""A new key on its way from a remote port server to its clients: which clients get it, and the outcome at each.

One key is on its way at a time. It is sent to a client over each of the client's connections until the client has
answered, because the client makes a new connection with the key itself. Only a handshake proves that a client has the
key, whatever its answer says.
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
"""Seconds for a new key to reach a whole chain."""
WAY_BACK: Final = 0.5
"""Seconds of them that each hop keeps for the way back."""

_HAVE_IT: Final = (Told.CHANGED, Told.SAME)


@final
class KeyLink:
    """A client that may get a new key: ``key`` is its node id and remote port; ``flush`` makes its link send."""

    def __init__(self, news: KeyNews, key: tuple[bytes, int], flush: Callable[[], None]) -> None:
        self.key = key
        self._news = news
        self._flush = flush
        self.inquiry: Inquiry | None = None
        """That of the present connection; None without one."""
        self.features = 0
        """The features that both sides of its last connection know ..."""
        self.name = ""
        """... the name that it gave itself there ..."""
        self.point = b""
        """... and the key that it proved, as a point."""

    def stands(self, inquiry: Inquiry, features: int, name: str, point: bytes) -> None:
        """Note a new connection of the session."""
        self.inquiry, self.features, self.name, self.point = inquiry, features, name, point
        self._news.linked(self)

    def fell(self) -> None:
        """Note that the connection has gone."""
        self.inquiry = None

    def heard(self, answer: Rekeyed) -> None:
        """Take the client's answer to a key."""
        self._news.heard(self, answer)

    def tell(self, told: Rekey) -> None:
        """Send the key over the present connection."""
        assert self.inquiry is not None, "only such are told"
        self.inquiry.tell(told)
        self._flush()


@final
class KeyNews:
    """The present key of one server on its way, and the clients' answers."""

    def __init__(self) -> None:
        self._told: Rekey | None = None
        self._answers: dict[tuple[bytes, int], tuple[ToldCpu, ...]] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def linked(self, client: KeyLink) -> None:
        """Send the key to a client that has just connected, if it is for that client and unanswered."""
        if self._told is not None and self._is_for(client, self._told):
            client.tell(self._told)
        self._changed.unpark_all()

    def heard(self, client: KeyLink, answer: Rekeyed) -> None:
        """Take an answer; ignore one to an earlier key, or in another CPU's name."""
        if self._told is not None and answer.number == self._told.number and answer.cpus[0].node == client.key[0]:
            self._answers[client.key] = answer.cpus
            self._changed.unpark_all()

    async def tell(
        self, told: Rekey, point: bytes, clients: Callable[[], Iterable[KeyLink]], seconds: float
    ) -> list[ToldCpu]:
        """Send a key, whose point is ``point``, to those ``clients`` that it is for; return the outcome at each.

        Wait until all that are linked now have proved the key or refused it, at most ``seconds``. Each client is
        followed by the CPUs below it that it reports.
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
        """Return whether to send the key to a client over its present connection."""
        is_asked = client.inquiry is not None and bool(client.features & KEYS) and client.key not in self._answers
        return is_asked and client.key[0] in told.nodes

    def _is_settled(self, key: tuple[bytes, int], point: bytes, clients: Iterable[KeyLink]) -> bool:
        """Return whether a client has answered and, if it says that it has the key, has proved that."""
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
