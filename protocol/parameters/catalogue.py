"""The parameters of one product: those that exist on its hardware, and every way in or out of a settings tree.

Invariants. A tree is never changed: an update makes a new one, and every tree that leaves here breaks no rule that
its predecessor kept. Text from a client or a file never raises: each assignment is applied or refused by itself, with
a reason, and a reason never holds a secret.

An update has three steps. Each assignment is judged alone (does the parameter exist, may the role write it, is the
value allowed); what passes is a set of changes. Then the rules across parameters judge the tree with all changes in
it, so the order of the arguments does not matter. Where a rule is broken, changes are put back until it is kept: the
side that stood before the request stays, else the side that was assigned first. Putting a change back may break
another rule (a rate that was allowed only under the new mode), so this is repeated until nothing is broken. It ends,
because each round puts back at least one change, and a tree without changes breaks only rules that were broken before.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, final

from protocol.errors import ParameterError
from protocol.frozen import frozen
from protocol.parameters.declare import Parameter, build, value_at, with_values
from protocol.parameters.definitions import defined
from protocol.parameters.listing import HIDDEN, listed, shown
from protocol.parameters.roles import Role
from protocol.parameters.rules import conflicts
from protocol.parameters.settings import Settings
from protocol.parameters.values import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from protocol.parameters.declare import Path
    from protocol.parameters.hardware import Hardware, SerialHardware
    from protocol.parameters.rules import Conflict

__all__ = ["Catalogue", "Parameter", "Ports", "Restored", "Update"]

Ports: TypeAlias = "frozenset[int] | None"
"""The numbers of the port managers that a caller is bound to; None for a caller who is bound to none."""

_WELL_FORMED = re.compile(r"root(\.[A-Za-z][A-Za-z0-9]{0,39}){1,8}")
"""The name of a parameter of any version, as a file has it."""
_OF_SOME_PORT = re.compile(r"(PortManager\.P|Serial\.Ser|RemotePort\.R)[0-9]+\.")


@final
@frozen
class Update:
    """The result of an update: the new tree, the names whose value changed, and the refused assignments.

    Both are in the order of the request. A refused parameter keeps the value that it had before.
    """

    settings: Settings
    changed: tuple[str, ...]
    refused: tuple[ParameterError, ...]


@final
@frozen
class Restored:
    """The result of reading a stored file: the tree, and for each bad line its number (from 1) and the reason."""

    settings: Settings
    errors: tuple[tuple[int, str], ...]
    unknown: tuple[tuple[int, str], ...] = ()
    """Those of the bad lines, with their numbers, whose parameter this version, or this hardware, does not have."""


@frozen
class _Assignment:
    """One assignment of a request, to a parameter that exists; ``order`` is its place in the request."""

    order: int
    parameter: Parameter
    text: str
    value: Any

    def refused(self, why: str) -> ParameterError:
        """Return the error that refuses it. Errors travel to logs and answers, so a secret is hidden in them."""
        text = HIDDEN if isinstance(self.parameter.rule, Secret) else self.text
        return ParameterError(self.parameter.name, text, why)


@final
class Catalogue:
    """The parameters that exist on this hardware, in listing order, by full name without ``root.``."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self._defaults, found = build(Settings, hardware)
        ordered = sorted(found, key=_listing_order)
        self.parameters: Mapping[str, Parameter] = MappingProxyType({p.name: p for p in ordered})

    def text(self, settings: Settings, name: str) -> str:
        """Return the value of the parameter ``name`` (without ``root.``) as an admin sees it. KeyError if unknown."""
        return shown(self.parameters[name], settings, Role.ADMIN)

    def masked(self, settings: Settings, name: str) -> str:
        """Return the value of a parameter for a log: as ``text``, but for a secret, which is hidden by its type."""
        parameter = self.parameters[name]
        return HIDDEN if isinstance(parameter.rule, Secret) else self.text(settings, name)

    def listed(self, settings: Settings, groups: Sequence[str], role: Role, ports: Ports = None) -> str:
        """Render the body of param.cgi's list; see ``protocol.parameters.listing``."""
        return listed(self._of(ports), settings, groups, role)

    def defined(self, settings: Settings, groups: Sequence[str], role: Role, host: str, ports: Ports = None) -> str:
        """Render the body of param.cgi's listdefinitions; see ``protocol.parameters.definitions``."""
        return defined(self._of(ports), settings, groups, role, self.hardware.identity, host)

    def _of(self, ports: Ports) -> Mapping[str, Parameter]:
        """Return the parameters that exist for a caller who is bound to ``ports``: not those of other ports."""
        if ports is None:
            return self.parameters
        own = self._prefixes(ports)
        return {
            name: each
            for name, each in self.parameters.items()
            if name.startswith(own) or not _OF_SOME_PORT.match(name)
        }

    def _prefixes(self, ports: frozenset[int]) -> tuple[str, ...]:
        """Return how the names of these ports' parameters begin."""
        managers = [(port, each) for port, each in enumerate(self.hardware.managers) if port in ports]
        names = [f"PortManager.P{port}." for port, _ in managers]
        names += [f"Serial.Ser{each.serial}." for _, each in managers if each.serial is not None]
        names += [f"RemotePort.R{each.remote_port}." for _, each in managers if each.remote_port is not None]
        return tuple(names)

    def _foreign(self, ports: Ports) -> Callable[[str], bool]:
        """Return the test for names that a caller who is bound to ``ports`` may not set: they are not theirs alone."""
        if ports is None:
            return lambda _: False
        own = self._prefixes(ports)
        others = self._prefixes(frozenset(range(len(self.hardware.managers))) - ports)
        return lambda name: not name.startswith(own) or name.startswith(others)

    def updated(
        self, settings: Settings, assignments: Sequence[tuple[str, str]], role: Role, ports: Ports = None
    ) -> Update:
        """Set parameters, named with or without ``root.``, to texts, in order, as this role.

        A caller who is bound to ``ports`` sets only what belongs to them. A wrong assignment is refused and the others
        are applied. Where the new values break a rule across
        parameters, the later assignments are put back and refused. Nothing that a request holds raises.
        """
        new, changed, refused = self._applied(settings, assignments, role, ports)
        return Update(new, changed, tuple(refused[order] for order in sorted(refused)))

    def stored(self, settings: Settings) -> str:
        """Write the tree as a file: sorted ``root.NAME=VALUE`` lines of writable values that are not the default."""
        lines = (
            f"root.{parameter.name}={self.text(settings, parameter.name)}\n"
            for parameter in self.parameters.values()
            if parameter.write is not Role.NOBODY and value_at(settings, parameter.path) != parameter.default
        )
        return "".join(sorted(lines))

    def restored(self, text: str) -> Restored:
        """Read a stored file, which somebody may have edited by hand: bad lines are left out and reported.

        Blank lines and lines that begin with ``#`` are skipped. Of several lines for one parameter the last is used.
        The empty text gives the defaults.
        """
        errors: dict[int, str] = {}
        lines: dict[int, tuple[str, str]] = {}
        # Not splitlines(): it also splits at U+2028 and the like, and the numbers would not be an editor's.
        for number, line in enumerate(text.split("\n"), 1):
            written = line.removesuffix("\r")
            if not written.strip() or written.startswith("#"):
                continue
            name, equals, value = written.partition("=")
            if equals:
                lines[number] = (name.strip(), value)
            else:
                errors[number] = "must have the form root.NAME=VALUE"
        numbers = list(lines)
        settings, _, refused = self._applied(self._defaults, tuple(lines.values()), Role.ADMIN)
        last = {name.removeprefix("root."): number for number, (name, _) in lines.items()}
        for number, (name, _) in lines.items():
            if (used := last[name.removeprefix("root.")]) != number:
                errors[number] = f"duplicate of line {used}, which is used"
        for order, error in refused.items():
            # The name may be anything that stood in the file.
            errors[numbers[order]] = f"{ascii(error.name[:80])[1:-1]}: {error.why}"
        unknown = {
            number: f"{name}={value}"
            for number, (name, value) in lines.items()
            if name.removeprefix("root.") not in self.parameters
            and _WELL_FORMED.fullmatch(name)
            and value.isprintable()
            and last[name.removeprefix("root.")] == number
        }
        return Restored(settings, tuple(sorted(errors.items())), tuple(unknown.items()))

    def _applied(
        self, settings: Settings, assignments: Sequence[tuple[str, str]], role: Role, ports: Ports = None
    ) -> tuple[Settings, tuple[str, ...], dict[int, ParameterError]]:
        assigned: dict[Path, _Assignment] = {}
        refused: dict[int, ParameterError] = {}
        parameters, foreign = self._of(ports), self._foreign(ports)
        for order, (name, text) in enumerate(assignments):
            try:
                assignment = _judged(parameters, order, name.removeprefix("root."), text, role)
                if foreign(assignment.parameter.name):
                    raise assignment.refused("does not belong to the ports that this user is bound to, or not alone")
            except ParameterError as error:
                refused[order] = error
            else:
                # A parameter that is named twice takes its place in the order from the last time.
                assigned.pop(assignment.parameter.path, None)
                assigned[assignment.parameter.path] = assignment
        changes = {path: each for path, each in assigned.items() if each.value != value_at(settings, path)}
        new, kept, put_back = _without_conflicts(settings, changes, self.hardware.serial)
        return new, tuple(assignment.parameter.name for assignment in kept.values()), refused | put_back


def _judged(parameters: Mapping[str, Parameter], order: int, name: str, text: str, role: Role) -> _Assignment:
    """Judge one assignment by itself. Raise ParameterError."""
    parameter = parameters.get(name)
    if parameter is None:
        raise ParameterError(name, text, "no such parameter on this product")
    assignment = _Assignment(order, parameter, text, None)
    if parameter.write is Role.NOBODY:
        raise assignment.refused("read-only")
    if role < parameter.write:
        raise assignment.refused(f"requires the role {parameter.write.name.lower()}")
    # A control character would forge lines in the list and in the file. U+FFFD stands for bytes that were not
    # text: stored as it is, a damaged key would be a wrong key.
    if not text.isprintable() or "\ufffd" in text:
        raise assignment.refused("must not contain control characters or bytes that are not text")
    try:
        return _Assignment(order, parameter, text, parameter.rule.parse(text))
    except ValueError as exc:
        raise assignment.refused(str(exc)) from None


def _without_conflicts(
    settings: Settings, changes: Mapping[Path, _Assignment], lines: Sequence[SerialHardware]
) -> tuple[Settings, Mapping[Path, _Assignment], dict[int, ParameterError]]:
    """Put changes back until those that are left break no rule.

    A conflict in which no change takes part was there before this request, and is none of its business.
    """
    refused: dict[int, ParameterError] = {}
    while True:
        new = with_values(settings, {path: assignment.value for path, assignment in changes.items()})
        reasons: dict[Path, str] = {}
        for conflict in conflicts(new, lines):
            # A change that this round already puts back may have ended this conflict too: the next round will show.
            if not any(path in reasons for side in conflict.sides for path in side):
                reasons |= dict.fromkeys(_responsible(conflict, changes), conflict.why)
        if not reasons:
            return new, changes, refused
        refused |= {changes[path].order: changes[path].refused(why) for path, why in reasons.items()}
        changes = {path: assignment for path, assignment in changes.items() if path not in reasons}


def _responsible(conflict: Conflict, changes: Mapping[Path, _Assignment]) -> Sequence[Path]:
    """Return the changes on all sides but one: the side without a change, else the one that was assigned first."""
    sides = [[path for path in side if path in changes] for side in conflict.sides]
    _, *later = sorted(sides, key=lambda side: max((changes[path].order for path in side), default=-1))
    return [path for side in later for path in side]


def _listing_order(parameter: Parameter) -> list[tuple[bool, str]]:
    """Order each group's parameters by name before its sub-groups by name."""
    *groups, name = parameter.name.split(".")
    return [*((True, group) for group in groups), (False, name)]
