"""param.cgi between the wire and the parameter tree: read a query or form body as a request, and write answers.

Names and values are passed on as they came, and the catalogue judges them; it also renders lists and definitions. Here
are the answers that need no tree.

Names and values are percent-decoded exactly once. Text is UTF-8; bytes that are not valid UTF-8 are read as ISO
8859-1, the encoding that older VAPIX clients mean. A percent sign without two hexadecimal digits (``50%``) stands for
itself, as in an HTML form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeAlias, final
from urllib.parse import quote, unquote_to_bytes

from protocol.frozen import frozen
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from protocol.errors import ParameterError

__all__ = [
    "LONGEST_NAME",
    "MOST_ASSIGNMENTS",
    "PARAM_PATHS",
    "Arguments",
    "InvalidRequest",
    "ListDefinitionsRequest",
    "ListRequest",
    "ParamRequest",
    "UpdateRequest",
    "arguments",
    "not_a_form",
    "pairs",
    "param_request",
    "refused_answer",
    "text",
    "update_answer",
]

Arguments: TypeAlias = tuple[tuple[str, bytes], ...]

MOST_ASSIGNMENTS = 1024
LONGEST_NAME = 128
"""Bounds of one update. Without them a long group name, prefixed to thousands of bare names, would fill the memory."""

PARAM_PATHS: Mapping[str, Role] = {
    "/axis-cgi/param.cgi": Role.VIEWER,
    "/axis-cgi/view/param.cgi": Role.VIEWER,
    "/axis-cgi/operator/param.cgi": Role.OPERATOR,
    "/axis-cgi/admin/param.cgi": Role.ADMIN,
}
"""The paths of param.cgi, and the least role that each requires."""


# Requests --------------------------------------------------------------------------------------------------


@final
@frozen
class ListRequest:
    """List the parameters of ``groups`` (groups, single names or wildcards, as typed); none means all."""

    role: ClassVar[Role] = Role.VIEWER
    groups: tuple[str, ...]


@final
@frozen
class ListDefinitionsRequest:
    """Describe the parameters of ``groups`` as XML; none means all."""

    role: ClassVar[Role] = Role.VIEWER
    groups: tuple[str, ...]


@final
@frozen
class UpdateRequest:
    """Set parameters, in the order of the request; bare second names are already completed."""

    role: ClassVar[Role] = Role.OPERATOR
    assignments: tuple[tuple[str, str], ...]


@final
@frozen
class InvalidRequest:
    """A request that has no clear meaning; ``why`` says what is wrong and what is required."""

    role: ClassVar[Role] = Role.VIEWER
    why: str


ParamRequest: TypeAlias = ListRequest | ListDefinitionsRequest | UpdateRequest | InvalidRequest
"""``role`` is the least role that may use the action; each parameter has its own on top."""


# Reading ----------------------------------------------------------------------------------------------------


def pairs(encoded: bytes) -> Arguments:
    """Split ``name=value&...`` and percent-decode it; a ``+`` is a plus, and a bare name has an empty value."""
    split = (piece.partition(b"=") for piece in encoded.split(b"&") if piece)
    return tuple((text(unquote_to_bytes(name)), unquote_to_bytes(value)) for name, _, value in split)


def arguments(query: bytes, body: bytes) -> Arguments:
    """Read query and form body, in this order; a ``+`` is a blank.

    The body is read as a form whatever its media type: some clients label theirs text/plain.
    """
    return pairs(query.replace(b"+", b" ")) + pairs(body.replace(b"+", b" "))


def text(data: bytes) -> str:
    """Decode UTF-8, or ISO 8859-1 where it is not valid UTF-8. Never raises."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def not_a_form(body: bytes, media_type: str) -> str | None:
    """Return what to tell a client whose body cannot be read as a form; None if it can.

    The label alone decides nothing, since some clients give a form any label.
    """
    multipart = media_type.startswith("multipart/") and body.lstrip().startswith(b"--")
    json = media_type.endswith("json") and body.lstrip().startswith((b"{", b"["))
    if not multipart and not json:
        return None
    return f"a body of {_one_line(media_type[:60])} is not read; send application/x-www-form-urlencoded"


def param_request(query: bytes, body: bytes, media_type: str = "") -> ParamRequest:
    """Read a call of param.cgi. ``media_type`` is that of the body, in lower case.

    ``action`` may come anywhere, but only once: of two, the cross-site check and the roles might judge one and the
    catalogue carry out the other. Unknown arguments are ignored, since clients add time stamps and the like; but in an
    update each argument is an assignment, so that a misspelled parameter is reported.
    """
    if why := not_a_form(body, media_type):
        read = param_request(query, b"")
        return read if isinstance(read, ListRequest | ListDefinitionsRequest) else InvalidRequest(why)
    given = tuple((name, text(value)) for name, value in arguments(query, body))
    actions = [value for name, value in given if name == "action"]
    if len(actions) != 1:
        return InvalidRequest(f"exactly one action is required, not {len(actions)}; {_ACTIONS}")
    match actions[0]:
        case "list":
            return ListRequest(_groups(given))
        case "listdefinitions" if ("listformat", "xmlschema") in given:
            return ListDefinitionsRequest(_groups(given))
        case "listdefinitions":
            return InvalidRequest("listdefinitions requires listformat=xmlschema")
        case "update":
            return _update(given)
        case "add" | "remove" as action:
            return InvalidRequest(f"{action}: the groups of this product are fixed, none can be added or removed")
        case unknown:
            return InvalidRequest(f"unknown action '{unknown}'; {_ACTIONS}")


_ACTIONS = "actions: list, listdefinitions, update"

_ABOUT_THE_CALL = frozenset({"action", "usergroup", "responseformat", "listformat"})
"""Arguments that VAPIX defines for the call itself; in an update all others are names of parameters."""


def _groups(given: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    lists = (value.split(",") for name, value in given if name == "group")
    return tuple(group.strip() for groups in lists for group in groups if group.strip())


def _update(given: Sequence[tuple[str, str]]) -> UpdateRequest | InvalidRequest:
    named = [(name, value) for name, value in given if name not in _ABOUT_THE_CALL]
    if not named:
        return InvalidRequest("update requires at least one NAME=VALUE")
    if len(named) > MOST_ASSIGNMENTS or max(len(name) for name, _ in named) > LONGEST_NAME:
        return InvalidRequest(
            f"an update has at most {MOST_ASSIGNMENTS} parameters, with names of at most {LONGEST_NAME} characters"
        )
    return UpdateRequest(tuple(_completed(named)))


def _completed(assignments: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Complete bare names from the last full one: ``Serial.Ser1.BaudRate=9600&DataBits=8`` (Serial port API)."""
    group = ""
    for name, value in assignments:
        if "." in name:
            group = name[: name.rindex(".") + 1]
            yield name, value
        else:
            yield group + name, value


# Writing ----------------------------------------------------------------------------------------------------


def update_answer(refused: Sequence[ParameterError]) -> bytes:
    """Write an update's result: ``OK``, or one line for each refused parameter.

    One public client compares the bytes of ``OK``, so no newline follows. A secret is not repeated: answers end up in
    the logs of scripts. A name that no parameter has may be a misspelled one, so its value is hidden by its name.
    """
    lines = []
    for error in refused:
        value = "******" if error.name.endswith("AuthenticationKey") else error.value
        lines.append(f"# Error: Error setting 'root.{_one_line(error.name)}' to '{_one_line(value)}'!")
    return "\n".join(lines).encode() or b"OK"


def refused_answer(why: str) -> bytes:
    """Write why the request as a whole was refused."""
    return f"# Request failed: {_one_line(why)}\n".encode()


def _one_line(words: str) -> str:
    """Percent-encode what does not print: a value that is quoted raw could forge lines of the answer."""
    return "".join(sign if sign.isprintable() else quote(sign, errors="replace") for sign in words)
