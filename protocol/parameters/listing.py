"""param.cgi's ``action=list``: parameters as text, byte for byte as VAPIX clients expect it.

A request of a few hundred bytes must not cost more than the tree is long, so three things are bounded here: the
number of groups, the lines (each is answered once), and the work of matching a wildcard.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from protocol.parameters.declare import value_at
from protocol.parameters.values import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from protocol.parameters.declare import Parameter
    from protocol.parameters.roles import Role
    from protocol.parameters.settings import Settings

__all__ = ["HIDDEN", "MOST_GROUPS", "listed", "selected", "shown"]

HIDDEN = "******"
"""Shown in place of a secret that is set, to a role that may not write it."""

MOST_GROUPS = 64
"""Groups that one request may ask for; those beyond are answered as unknown."""


def listed(parameters: Mapping[str, Parameter], settings: Settings, groups: Sequence[str], role: Role) -> str:
    """Render the groups in the order asked; without groups, everything that the role may read.

    A group gives full names with ``root.``, a single parameter its name as typed, an unknown one (or one that the
    role may not read) an error line in its place. A line that is already there is not repeated, so a short request
    cannot ask for the whole tree a thousand times.
    """
    readable = {name: parameter for name, parameter in parameters.items() if role >= parameter.read}
    lines: dict[str, None] = {}
    for asked in groups[:MOST_GROUPS] or ("",):
        lines.update(dict.fromkeys(_answer(readable, settings, asked, role)))
    lines.update(dict.fromkeys(_unknown(asked) for asked in groups[MOST_GROUPS:]))
    return "".join(f"{line}\n" for line in lines)


def shown(parameter: Parameter, settings: Settings, role: Role) -> str:
    """Return the value as this role sees it.

    A secret is shown to a role that may write it, since an administrator carries keys to the other CPUs.
    """
    text = parameter.rule.format(value_at(settings, parameter.path))
    return HIDDEN if text and isinstance(parameter.rule, Secret) and role < parameter.write else text


def selected(parameters: Mapping[str, Parameter], asked: str) -> list[Parameter]:
    """Return the parameters that a group, a name or a wildcard means, with or without ``root.``; maybe none."""
    name = _unrooted(asked)
    if not name:
        return list(parameters.values())
    if name in parameters:
        return [parameters[name]]
    if "*" in name:
        return _matching(parameters, name)
    return [parameter for full, parameter in parameters.items() if full.startswith(f"{name}.")]


def _answer(readable: Mapping[str, Parameter], settings: Settings, asked: str, role: Role) -> Iterator[str]:
    if single := readable.get(_unrooted(asked)):
        yield f"{asked}={shown(single, settings, role)}"
        return
    found = selected(readable, asked)
    for parameter in found:
        yield f"root.{parameter.name}={shown(parameter, settings, role)}"
    if not found:
        yield _unknown(asked)


def _unrooted(asked: str) -> str:
    return "" if asked == "root" else asked.removeprefix("root.")


def _unknown(asked: str) -> str:
    # The name is echoed as typed, except for characters that could forge another line.
    typed = "".join(sign if sign.isprintable() else "?" for sign in asked)
    return f"# Error: Error -1 getting param in group '{typed}'"


def _matching(parameters: Mapping[str, Parameter], pattern: str) -> list[Parameter]:
    """Return those whose first parts match part by part, so that a wildcard for a group means all that is in it."""
    # A pattern longer than any name cannot match, and compiling it would take long.
    if len(pattern.replace("*", "")) > max(map(len, parameters), default=0):
        return []
    matches = re.compile(r"\.".join(map(_part, pattern.split("."))) + r"(\.|\Z)").match
    return [parameter for name, parameter in parameters.items() if matches(name)]


def _part(pattern: str) -> str:
    """Translate one part of a name, in which ``*`` is any number of characters, to a regular expression."""
    first, *others = map(re.escape, re.split(r"\*+", pattern))
    if not others:
        return first
    # The nearest place for each piece is as good as any, so atomic groups forbid going back: a pattern such as
    # a*a*a*a*b would otherwise take exponential time. Only the last piece has to stand at the end of the part.
    *middle, last = others
    return first + "".join(f"(?>[^.]*?{piece})" for piece in middle) + f"[^.]*{last}"
