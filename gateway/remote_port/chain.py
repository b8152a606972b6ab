"""The chain as this CPU sees it: its own port, and what the CPUs at its links report of theirs.

A CPU is asked by its links and by its own operators, and asks the next CPUs. What must hold, however often it is asked:

- A link is asked at most once in ``_FRESH`` seconds, and is answered at most once in ``_PAUSE``. Questions in between
  get the last picture. So a flood of questions ends at the first CPU.
- A question gets less time at each hop (``_WAY_BACK``). So the CPU next to a silent one is the one that reports it.
- An answer is judged where it arrives. A malformed one ends its own link, as any broken rule does. One that is too
  large, or false, affects only its own branch.
- While nobody asks nothing runs, and only the last answer of each link is kept.
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
"""Seconds of a question's time that each hop keeps for the way back."""
_FRESH: Final = 1.0
"""Seconds for which an answer counts as new."""
_PAUSE: Final = 0.25
"""Seconds between two answers to one link, and the least age of an answer before its CPU is asked again."""


@final
class ChainLink:
    """One link as the chain sees it: whether it is up, the last report of its CPU, and that CPU's questions.

    ``known`` describes the link and the CPU at its other end, as far as that is ``Seen``; ``flush`` makes the link send
    what is due.
    """

    def __init__(
        self, known: Callable[[Seen], tuple[Hop, Cpu]], chain: Callable[[], Chain], flush: Callable[[], None]
    ) -> None:
        self._known = known
        self._chain = chain
        self._flush = flush
        self._inquiry: Inquiry | None = None
        """That of the present connection; None without one, or if the peer does not know the feature."""
        self._stands = False
        self._node = b""
        self._since = trio.current_time()
        self.why = ""
        """Why the link is down."""
        self._told: Branch | None = None
        self._told_at = self._asked_at = -math.inf
        self._asked_for = 0.0
        self._answered = trio.lowlevel.ParkingLot()
        self._question: tuple[Survey, Inquiry] | None = None
        self._answering = False

    @property
    def seconds(self) -> int:
        """Return for how many seconds the link has been up, or down."""
        return int(trio.current_time() - self._since)

    def stands(self, inquiry: Inquiry, features: int, node: bytes) -> None:
        """Note a new connection to the CPU ``node``, with these features."""
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
        """Wait until the CPU has reported its side of the chain, unless it just did; the caller bounds the wait.

        Return at once if it cannot be asked.
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
        """Take an answer, or answer a question in ``tasks``. Raises RemoteProtocolError."""
        if isinstance(frame, Picture):
            told = decode_tree(frame.tree)
            if Cpu.decode(told.cpu)[0].node != self._node:
                raise RemoteProtocolError("a tree of CPUs that begins with another CPU than the peer")
            self._told, self._told_at = told, trio.current_time()
            self._answered.unpark_all()
            return
        self._question = frame, inquiry  # replaces one that waits
        if not self._answering:
            self._answering = True
            tasks.start_soon(self._answer)

    async def _answer(self) -> None:
        """Answer the newest question, then those that come meanwhile, each after a pause."""
        try:
            while self._question is not None:
                (question, inquiry), self._question = self._question, None
                patience = min(question.patience / 1000, PATIENCE)
                inquiry.answer(question.number, await self._chain().picture(patience, self))
                self._flush()
                await trio.sleep(_PAUSE)
        except Exception:  # a missing answer does no harm, but an exception would end the link that runs this task
            logger.exception("a bug, or an upgrade that waits for the restart: a question has no answer")
        finally:
            self._answering = False


@final
class Chain:
    """The chain of one port: ``own`` describes it, ``links`` are its links, ``lost`` those that are gone for good."""

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
        """Return the chain with this CPU as its root, without the branch of ``asker``, within ``patience`` seconds."""
        links = [link for link in self._links() if link is not asker]
        with trio.move_on_after(patience - _WAY_BACK / 2):
            async with trio.open_nursery() as asking:
                for link in links:
                    asking.start_soon(link.update, patience)
        return Branch(b"", self._own().encode(), (*(link.branch() for link in links), *self._lost())).fitted()

    async def picture(self, patience: float, asker: ChainLink) -> bytes:
        """Return the same in the form that is sent to ``asker``."""
        return (await self.look(patience, asker)).encode()
