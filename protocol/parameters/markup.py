"""Text as XML holds it. The standard library's own escaping brings an HTTP client along: 2 MiB at every start.

It knows nothing of parameters, nor of what the text means.
"""

from __future__ import annotations

__all__ = ["escaped", "quoted"]

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def escaped(text: str) -> str:
    """``text`` between two tags."""
    return text.translate(_ESCAPES)


def quoted(text: str) -> str:
    """``text`` as an attribute's value, always in double quotes: clients that search instead of parse want them."""
    return '"' + escaped(text).replace('"', "&quot;") + '"'
