"""The demo's screen: lines that stay, and below them one that is written over again and again.

Where it is no terminal, that one becomes a line like the others.
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
    """Writes to ``out``."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._running = ""

    def say(self, text: str) -> None:
        """Show a line, or several, for good."""
        self._write(f"{text}\n{self._running}")

    def show(self, text: str) -> None:
        """Have this as the line that runs below."""
        if self._out.isatty():
            # A line that wraps could not be written over.
            self._running = text[: shutil.get_terminal_size().columns - 1]
            self._write(self._running)
        else:
            self.say(text)

    def leave(self) -> None:
        """Let the running line stay where it is."""
        if self._running:
            self._write(f"{self._running}\n")
            self._running = ""

    def _write(self, text: str) -> None:
        self._out.write(_CLEAR + text if self._running else text)
        self._out.flush()
