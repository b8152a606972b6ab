"""The screen of the demo: lines that stay, and below them a status line that is overwritten.

If the output is not a terminal, the status line is written as an ordinary line each time.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["Screen"]

_CLEAR: Final = "\r\x1b[K"


@final
class Screen:
    """Writes the lines to ``out``, and flushes after each."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._running = ""

    def say(self, text: str) -> None:
        """Show one line or several, which stay."""
        self._write(f"{text}\n{self._running}")

    def show(self, text: str) -> None:
        """Show this as the status line, in place of the one before."""
        if self._out.isatty():
            # Cut to the width of the terminal: a line that wraps could not be overwritten.
            self._running = text[: shutil.get_terminal_size().columns - 1]
            self._write(self._running)
        else:
            self.say(text)

    def leave(self) -> None:
        """Keep the status line as it is, and end its line."""
        if self._running:
            self._write(f"{self._running}\n")
            self._running = ""

    def _write(self, text: str) -> None:
        self._out.write(_CLEAR + text if self._running else text)
        self._out.flush()
