"""Switch a balanced line's bias by a command of the host configuration, because Linux has no call for it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Bias"]

_DEADLINE: Final = 1.5  # seconds


@final
class Bias:
    """The switch of one port.

    ``command`` is its argv, with ``{state}`` where ``on`` or ``off`` goes; empty where the host gives none.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)
        self.state: bool | None = None
        """The last state that the command confirmed; None while it is unknown."""
        self.trouble = ""
        """Why the state is not the one that was asked for, as a phrase."""

    async def switch(self, on: bool, most: float = _DEADLINE) -> None:
        """Bring the bias to this state, unless it is known to have it. Never raises: see ``state`` for the result.

        The command has ``most`` seconds, if that is less than its own deadline.
        """
        await trio.lowlevel.checkpoint()
        if not self._command:
            # The board's bias is unknown, which is fine for "off"; "on" cannot be promised.
            self.trouble = "the host configuration gives no bias command for this port" if on else ""
        elif self.state is not on:
            # Unknown until the command has ended; it stays unknown after a cancellation.
            self.state = None
            words = [word.replace("{state}", "on" if on else "off") for word in self._command]
            self.trouble = await _run(words, min(_DEADLINE, most))
            self.state = None if self.trouble else on


async def _run(words: list[str], seconds: float) -> str:
    """Run the bias command; return what went wrong, or an empty string."""
    with trio.move_on_after(seconds):
        try:
            ended = await trio.run_process(
                words, check=False, stdout=subprocess.DEVNULL, capture_stderr=True, deliver_cancel=_kill
            )
        except OSError as error:
            return f"the bias command {words[0]} could not be run: {error.strerror}"
        if ended.returncode == 0:
            return ""
        said = (ended.stderr or b"").decode(errors="replace")
        return f"the bias command {words[0]} ended with {ended.returncode} and said {said[:60]!r}"
    return f"the bias command {words[0]} took longer than {seconds:g} s and was stopped"


async def _kill(process: trio.Process) -> None:
    process.kill()
