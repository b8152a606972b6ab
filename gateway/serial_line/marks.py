"""Split what a tty with PARMRK reads into the bytes of the line, and the breaks between them.

With PARMRK, and without INPCK, the kernel (n_tty) writes a break as FF 00 00 and a byte FF as FF FF. All other bytes
stay as they are, also those with a wrong parity or a missing stop bit. Without PARMRK a break is a NUL, and so is an
overrun: bytes that nobody sent.

One case is ambiguous: a byte FF with an error is not doubled, so two NULs after it look like a break. Anything else
after such a byte is read as it came.
"""

from __future__ import annotations

from typing import Final, final

__all__ = ["Unmarker"]

_FF: Final = 0xFF
_BREAK: Final = b"\xff\x00\x00"


@final
class Unmarker:
    """The reading end of one tty: a mark may be split between two reads."""

    def __init__(self) -> None:
        self._begun = b""
        """The possible beginning of a mark: nothing, FF, or FF 00."""

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Return the bytes of the line in ``data``, and how many breaks were in it."""
        data = self._begun + data
        self._begun = b""
        if _FF not in data:  # nearly always: text, and most protocols, have no FF
            return data, 0
        said = bytearray()
        breaks = at = 0
        while (mark := data.find(_FF, at)) >= 0:
            said += data[at:mark]
            rest = data[mark : mark + 3]
            if rest in (b"\xff", b"\xff\x00"):
                self._begun = rest
                return bytes(said), breaks
            if rest == _BREAK:
                breaks += 1
                at = mark + 3
            else:
                said.append(_FF)
                at = mark + (2 if rest[1] == _FF else 1)
        said += data[at:]
        return bytes(said), breaks

    def flush(self) -> bytes:
        """Return what was held back when no more comes: it was a byte FF with an error."""
        begun, self._begun = self._begun, b""
        return begun
