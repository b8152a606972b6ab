"""param.cgi's ``action=list``: parameters as text, to the byte that VAPIX clients expect.

It must not know how parameters are declared or changed, nor how the answer travels.
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
"""What stands for a secret that is set, before those who may not write it."""

MOST_GROUPS = 64
"""How many groups one request may ask for; what is asked beyond them is answered as unknown."""


def listed(parameters: Mapping[str, Parameter], settings: Settings, groups: Sequence[str], role: Role) -> str:
    """Render the groups in the order asked; without groups, everything that the role may read.

    A group gives full names with ``root.``, a single parameter its name as typed, an unknown one (or one that
    the role may not read) an error line in its place. A line that is already there is not repeated, so a
    request of a few bytes cannot ask for the whole tree a thousand times.
    """
    readable = {name: parameter for name, parameter in parameters.items() if role >= parameter.read}
    lines: dict[str, None] = {}
    for asked in groups[:MOST_GROUPS] or ("",):
        lines.update(dict.fromkeys(_answer(readable, settings, asked, role)))
    lines.update(dict.fromkeys(_unknown(asked) for asked in groups[MOST_GROUPS:]))
    return "".join(f"{line}\n" for line in lines)


def shown(parameter: Parameter, settings: Settings, role: Role) -> str:
    """The value as this role sees it: a key is carried to other CPUs by who may write it, and by nobody else."""
    text = parameter.rule.format(value_at(settings, parameter.path))
    return HIDDEN if text and isinstance(parameter.rule, Secret) and role < parameter.write else text


def selected(parameters: Mapping[str, Parameter], asked: str) -> list[Parameter]:
    """The parameters that a group, a name or a wildcard means, with or without ``root.``; maybe none."""
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
    # As typed, but for what could forge another line.
    typed = "".join(sign if sign.isprintable() else "?" for sign in asked)
    return f"# Error: Error -1 getting param in group '{typed}'"


def _matching(parameters: Mapping[str, Parameter], pattern: str) -> list[Parameter]:
    """Those whose first parts match part by part, so a wildcard for a group means all that is in it."""
    # What is longer than any name would only be compiled to fail, and that takes time.
    if len(pattern.replace("*", "")) > max(map(len, parameters), default=0):
        return []
    matches = re.compile(r"\.".join(map(_part, pattern.split("."))) + r"(\.|\Z)").match
    return [parameter for name, parameter in parameters.items() if matches(name)]


def _part(pattern: str) -> str:
    """One part of a name, where ``*`` is any number of characters, as a regular expression."""
    first, *others = map(re.escape, re.split(r"\*+", pattern))
    if not others:
        return first
    # The nearest place for each piece is as good as any, so there is never a reason to go back, nor to take
    # the time that going back takes. Only the last piece has to stand at the end.
    *middle, last = others
    return first + "".join(f"(?>[^.]*?{piece})" for piece in middle) + f"[^.]*{last}"
