"""Escape text for XML.

``xml.sax.saxutils`` does this too, but imports urllib and with it an HTTP client: 2 MiB of memory in every process.
"""

from __future__ import annotations

__all__ = ["escaped", "quoted"]

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def escaped(text: str) -> str:
    """Escape ``text`` for its place between two tags."""
    return text.translate(_ESCAPES)


def quoted(text: str) -> str:
    """Write ``text`` as an attribute's value. Always in double quotes: some clients search for them."""
    return '"' + escaped(text).replace('"', "&quot;") + '"'
