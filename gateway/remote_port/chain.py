"""What the chain looks like from this CPU: its own port, and what the CPUs at its links tell of theirs.

A CPU is asked by its links and by its own operators, and asks on. What must hold, whoever asks how often:

- A link is asked at most once in ``_FRESH`` seconds, and answers at most once in ``_PAUSE``; between, all who ask are
  given the picture that is there. So what a flood of questions costs ends at the first CPU.
- A question is given less time at each hop than it had (``_WAY_BACK``), so it ends where its time does, and who is
  nearest to a CPU that is silent is the one that says so.
- An answer is judged where it comes in. One that is none ends its own link, as any broken rule; of one that is too
  large, or false, nothing reaches beyond its own branch.
- Nothing runs, and nothing is kept but the last answer of each link, while nobody asks.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final, final

import trio

from protocol.errors import RemoteProtocolError
from protocol.link.chain_frames import CHAIN, Picture, Survey
from protocol.link.chain_tree import Branch, Cpu, Hop, Seen, decode_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from protocol.session.inquiry import Inquiry

__all__ = ["PATIENCE", "Chain", "ChainLink"]

logger = logging.getLogger(__name__)

PATIENCE: Final = 3.0
"""Seconds that an operator waits for a picture, and the most that a peer's question is given."""
_WAY_BACK: Final = 0.15
"""Seconds of a question that stay for the way back, at each hop."""
_FRESH: Final = 1.0
"""Seconds for which an answer is as good as a new one."""
_PAUSE: Final = 0.25
"""Seconds between two answers to one link, and the least age of an answer before its CPU is asked again."""


@final
class ChainLink:
    """One link as the chain sees it: whether it stands, what its CPU told last, and its questions to us.

    ``known`` describes the link and the CPU at its other end, which has told as much as is ``Seen``; ``flush`` has the
    link look for what there is to say.
    """

    def __init__(
        self, known: Callable[[Seen], tuple[Hop, Cpu]], chain: Callable[[], Chain], flush: Callable[[], None]
    ) -> None:
        self._known = known
        self._chain = chain
        self._flush = flush
        self._inquiry: Inquiry | None = None
        """Of the connection that stands; None while there is none, or the peer knows no such questions."""
        self._stands = False
        self._node = b""
        self._since = trio.current_time()
        self.why = ""
        """Why the link fell, or cannot be had."""
        self._told: Branch | None = None
        self._told_at = self._asked_at = -math.inf
        self._asked_for = 0.0
        self._answered = trio.lowlevel.ParkingLot()
        self._question: tuple[Survey, Inquiry] | None = None
        self._answering = False

    @property
    def seconds(self) -> int:
        """Return for how long the link has stood, or been down."""
        return int(trio.current_time() - self._since)

    def stands(self, inquiry: Inquiry, features: int, node: bytes) -> None:
        """Note that a connection carries the session, to the CPU ``node``, with these features."""
        self._inquiry = inquiry if features & CHAIN else None
        self._node = node
        if not self._stands:
            self._stands, self._since = True, trio.current_time()

    def fell(self) -> None:
        """Note that the connection has gone."""
        if self._stands:
            self._stands, self._since = False, trio.current_time()
        self._inquiry = self._told = None
        self._told_at = self._asked_at = -math.inf
        self._answered.unpark_all()

    # -- asking

    async def update(self, patience: float) -> None:
        """Wait until the CPU has told what there is behind it, unless it just did; the caller bounds it by that time.

        Returns at once where it cannot be asked.
        """
        now = trio.current_time()
        inquiry, age = self._inquiry, now - self._told_at
        if inquiry is None or patience <= _WAY_BACK or age < (_FRESH if self._asked_for >= patience else _PAUSE):
            return
        if self._told_at >= self._asked_at or now - self._asked_at >= self._asked_for - _WAY_BACK:
            self._asked_at, self._asked_for = now, patience
            inquiry.ask(int((patience - _WAY_BACK) * 1000))
            self._flush()
        while self._inquiry is inquiry and self._told_at < self._asked_at:
            await self._answered.park()

    def branch(self) -> Branch:
        """Return what is known of this branch of the chain."""
        told = self._told if self._told_at >= self._asked_at else None
        if not self._stands:
            seen = Seen.GONE
        elif self._inquiry is None:
            seen = Seen.OLDER
        else:
            seen = Seen.SILENT if told is None or trio.current_time() - self._told_at > PATIENCE else Seen.TOLD
        hop, cpu = self._known(seen)
        if told is not None and seen is Seen.TOLD:
            return told.behind(hop.encode())
        return Branch(hop.encode(), cpu.encode())

    # -- what comes in

    def heard(self, frame: Survey | Picture, inquiry: Inquiry, tasks: trio.Nursery) -> None:
        """Take an answer, or see to it in ``tasks`` that a question is answered. Raises RemoteProtocolError."""
        if isinstance(frame, Picture):
            told = decode_tree(frame.tree)
            if Cpu.decode(told.cpu)[0].node != self._node:
                raise RemoteProtocolError("a tree of CPUs that begins with another CPU than the peer")
            self._told, self._told_at = told, trio.current_time()
            self._answered.unpark_all()
            return
        self._question = frame, inquiry  # in the place of one that waits
        if not self._answering:
            self._answering = True
            tasks.start_soon(self._answer)

    async def _answer(self) -> None:
        """Answer the newest question, and those that come meanwhile, each after a pause."""
        try:
            while self._question is not None:
                (question, inquiry), self._question = self._question, None
                patience = min(question.patience / 1000, PATIENCE)
                inquiry.answer(question.number, await self._chain().picture(patience, self))
                self._flush()
                await trio.sleep(_PAUSE)
        except Exception:  # no answer is no harm, and whoever runs this task carries bytes
            logger.exception("a bug, or an upgrade that waits for the restart: a question has no answer")
        finally:
            self._answering = False


@final
class Chain:
    """The chain of one port: ``own`` describes it, ``links`` are its links, and ``lost`` those that went for good."""

    def __init__(
        self,
        own: Callable[[], Cpu],
        links: Callable[[], Iterable[ChainLink]],
        lost: Callable[[], Iterable[Branch]],
    ) -> None:
        self._own = own
        self._links = links
        self._lost = lost

    async def look(self, patience: float = PATIENCE, asker: ChainLink | None = None) -> Branch:
        """Return the chain with this CPU as its root, but for what is behind ``asker``, within so many seconds."""
        links = [link for link in self._links() if link is not asker]
        with trio.move_on_after(patience - _WAY_BACK / 2):
            async with trio.open_nursery() as asking:
                for link in links:
                    asking.start_soon(link.update, patience)
        return Branch(b"", self._own().encode(), (*(link.branch() for link in links), *self._lost())).fitted()

    async def picture(self, patience: float, asker: ChainLink) -> bytes:
        """Return the same as it is told to ``asker``."""
        return (await self.look(patience, asker)).encode()
