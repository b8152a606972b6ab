"""param.cgi's ``action=listdefinitions&listformat=xmlschema``: the declarations of the parameters, as XML."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from protocol.parameters.listing import MOST_GROUPS, selected, shown
from protocol.parameters.markup import escaped, quoted
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from protocol.parameters.declare import Parameter
    from protocol.parameters.hardware import Identity
    from protocol.parameters.settings import Settings

__all__ = ["defined"]

_SCHEMA = "http://www.axis.com/ParameterDefinitionsSchema"


def defined(
    parameters: Mapping[str, Parameter],
    settings: Settings,
    groups: Sequence[str],
    role: Role,
    identity: Identity,
    host: str,
) -> str:
    """Render the definitions of the parameters in these groups (all, without groups) that the role may read.

    ``host`` is the name by which the client called us. An unknown group is left out: the format has no place for an
    error. The head promises ISO 8859-1, as recorded from devices; the text is ASCII with character references, which
    is valid under that encoding and loses no character of any value.
    """
    readable = {name: parameter for name, parameter in parameters.items() if role >= parameter.read}
    wanted = {p.name for asked in groups[:MOST_GROUPS] or ("",) for p in selected(readable, asked)}
    chosen = [parameter for name, parameter in readable.items() if name in wanted]
    lines = (*_head(identity, host), *_body(chosen, settings, role), "</parameterDefinitions>", "")
    return "\n".join(lines).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _head(identity: Identity, host: str) -> Iterator[str]:
    location = quoted(f"{_SCHEMA} http://{host}/pub/parameterdefinitions.xsd")
    yield '<?xml version="1.0" encoding="iso-8859-1" ?>'
    yield f'<parameterDefinitions xmlns="{_SCHEMA}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    yield f' xsi:schemaLocation={location} version="1.0">'
    yield f"  <model>{escaped(identity.model)}</model>"
    yield f"  <firmwareVersion>{escaped(identity.firmware_version)}</firmwareVersion>"


def _body(chosen: Iterable[Parameter], settings: Settings, role: Role) -> Iterator[str]:
    """Write the nested groups. Listing order keeps each group in one piece, so a stack is enough."""
    opened: list[str] = []
    for parameter in chosen:
        wanted = ["root", *parameter.name.split(".")[:-1]]
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(opened, wanted, strict=False))))
        yield from _closed(opened, shared)
        for depth, group in enumerate(wanted[shared:], shared + 1):
            yield f"{_indent(depth)}<group name={quoted(group)}>"
        opened = wanted
        yield from (_indent(len(opened) + 1) + line for line in _definition(parameter, settings, role))
    yield from _closed(opened, 0)


def _closed(opened: Sequence[str], kept: int) -> Iterator[str]:
    return (f"{_indent(depth)}</group>" for depth in range(len(opened), kept, -1))


def _definition(parameter: Parameter, settings: Settings, role: Role) -> Iterator[str]:
    name = quoted(parameter.name.rpartition(".")[2])
    value = quoted(shown(parameter, settings, role))
    # The digits are create, delete, read and write. The groups follow from the hardware: nobody creates or deletes.
    level = f"77{parameter.read:d}{parameter.write:d}"
    yield f'<parameter name={name} value={value} securityLevel="{level}" niceName={quoted(parameter.nice_name)}>'
    yield '  <type readonly="true">' if parameter.write is Role.NOBODY else "  <type>"
    yield from (f"    {line}" for line in parameter.rule.definition())
    yield "  </type>"
    yield "</parameter>"


def _indent(depth: int) -> str:
    return "  " * depth
