"""param.cgi between the wire and the parameter tree: a query or form body in, a request value out, and back.

It must not know which parameters exist: names and values are passed on as they came, and the tree judges
them. Lists and definitions are rendered by the tree (``protocol.parameters.catalogue``); here are the answers that need
no tree.

Names and values are percent-decoded exactly once. Text is UTF-8; what is not valid UTF-8 is read as ISO
8859-1, the encoding that older VAPIX clients mean. An escape that is none (``50%``) stands for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias, final
from urllib.parse import quote, unquote_to_bytes

from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from protocol.errors import ParameterError

__all__ = [
    "LONGEST_NAME",
    "MOST_ASSIGNMENTS",
    "PARAM_PATHS",
    "Arguments",
    "List",
    "ListDefinitions",
    "ParamRequest",
    "Refused",
    "Update",
    "arguments",
    "pairs",
    "param_request",
    "refused_answer",
    "text",
    "update_answer",
]

Arguments: TypeAlias = tuple[tuple[str, bytes], ...]

MOST_ASSIGNMENTS = 1024
LONGEST_NAME = 128
"""Bounds of one update. Without them a long name, completing thousands of bare ones, would fill the memory."""

PARAM_PATHS: Mapping[str, Role] = {
    "/axis-cgi/param.cgi": Role.VIEWER,
    "/axis-cgi/view/param.cgi": Role.VIEWER,
    "/axis-cgi/operator/param.cgi": Role.OPERATOR,
    "/axis-cgi/admin/param.cgi": Role.ADMIN,
}
"""Where param.cgi answers, and the role that a path asks for at least."""


# What is asked ----------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class List:
    """List the parameters of ``groups`` (groups, single names or wildcards, as typed); none means all."""

    role: ClassVar[Role] = Role.VIEWER
    groups: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class ListDefinitions:
    """Describe the parameters of ``groups`` as XML; none means all."""

    role: ClassVar[Role] = Role.VIEWER
    groups: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Update:
    """Set parameters, in the order of the request; bare second names are already completed."""

    role: ClassVar[Role] = Role.OPERATOR
    assignments: tuple[tuple[str, str], ...]


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """A request that cannot be meant; ``why`` says what is wrong and what would be right."""

    role: ClassVar[Role] = Role.VIEWER
    why: str


ParamRequest: TypeAlias = List | ListDefinitions | Update | Refused
"""``role`` is the least role that may use the action at all; single parameters have their own on top."""


# From the wire ----------------------------------------------------------------------------------------------


def pairs(encoded: bytes) -> Arguments:
    """Split ``name=value&...`` and percent-decode it, where a ``+`` is a plus; a bare name has no value."""
    split = (piece.partition(b"=") for piece in encoded.split(b"&") if piece)
    return tuple((text(unquote_to_bytes(name)), unquote_to_bytes(value)) for name, _, value in split)


def arguments(query: bytes, body: bytes) -> Arguments:
    """Read query and form body, in this order, where a ``+`` is a blank.

    The body is read as a form whatever its label says: some clients call theirs text/plain.
    """
    return pairs(query.replace(b"+", b" ")) + pairs(body.replace(b"+", b" "))


def text(data: bytes) -> str:
    """Read UTF-8, or ISO 8859-1 where it is none. Never fails."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def param_request(query: bytes, body: bytes) -> ParamRequest:
    """Read what a call of param.cgi asks for.

    ``action`` may come anywhere, but only once: with two of them it is a guess which one the browser guard
    and the roles should judge. Junk arguments are ignored, except in an update, where each argument is an
    assignment.
    """
    given = tuple((name, text(value)) for name, value in arguments(query, body))
    actions = [value for name, value in given if name == "action"]
    if len(actions) != 1:
        return Refused(f"one action argument is needed, {len(actions)} are given; {_KNOWN_ACTIONS}")
    match actions[0]:
        case "list":
            return List(_groups(given))
        case "listdefinitions" if ("listformat", "xmlschema") in given:
            return ListDefinitions(_groups(given))
        case "listdefinitions":
            return Refused("listdefinitions needs listformat=xmlschema")
        case "update":
            return _update(given)
        case "add" | "remove" as action:
            return Refused(f"{action}: the groups of this product are fixed, none can be added or removed")
        case unknown:
            return Refused(f"action '{unknown}' is unknown; {_KNOWN_ACTIONS}")


_KNOWN_ACTIONS = "known are list, listdefinitions and update"

_ABOUT_THE_CALL = frozenset({"action", "usergroup", "responseformat", "listformat"})
"""Arguments that VAPIX knows for the call itself; in an update all others are names of parameters."""


def _groups(given: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    lists = (value.split(",") for name, value in given if name == "group")
    return tuple(group.strip() for groups in lists for group in groups if group.strip())


def _update(given: Sequence[tuple[str, str]]) -> Update | Refused:
    named = [(name, value) for name, value in given if name not in _ABOUT_THE_CALL]
    if not named:
        return Refused("update names no parameter; write NAME=VALUE")
    if len(named) > MOST_ASSIGNMENTS or max(len(name) for name, _ in named) > LONGEST_NAME:
        return Refused(f"one update has {MOST_ASSIGNMENTS} parameters and names of {LONGEST_NAME} characters at most")
    return Update(tuple(_completed(named)))


def _completed(assignments: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Complete bare names from the last full one, as in ``Serial.Ser1.BaudRate=9600&DataBits=8``."""
    group = ""
    for name, value in assignments:
        if "." in name:
            group = name[: name.rindex(".") + 1]
            yield name, value
        else:
            yield group + name, value


# To the wire ------------------------------------------------------------------------------------------------


def update_answer(refused: Sequence[ParameterError]) -> bytes:
    """Render an update's result: ``OK`` and nothing more, or one line for each refused parameter.

    One public client compares the bytes of ``OK``, so there is no newline. A secret is not repeated: answers
    end up in the logs of scripts.
    """
    return "\n".join(_error_line(error) for error in refused).encode() or b"OK"


def refused_answer(why: str) -> bytes:
    """Render what is wrong with the request as a whole."""
    return f"# Request failed: {_one_line(why)}\n".encode()


def _error_line(error: ParameterError) -> str:
    value = "******" if error.name.endswith("AuthenticationKey") else error.value
    return f"# Error: Error setting 'root.{_one_line(error.name)}' to '{_one_line(value)}'!"


def _one_line(words: str) -> str:
    """Percent-encode what does not print: a value that was quoted raw could forge an answer's lines."""
    return "".join(sign if sign.isprintable() else quote(sign, errors="replace") for sign in words)
