"""The parameters of one product: what exists on its hardware, and every way in or out of a settings tree.

A tree is never changed: an update gives a new one, judged whole. Where trees are kept, who asks, and what a
setting does, is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from protocol.errors import ParameterError
from protocol.parameters.declare import Parameter, grow, planted, value_at
from protocol.parameters.definitions import defined
from protocol.parameters.listing import HIDDEN, listed, shown
from protocol.parameters.roles import Role
from protocol.parameters.rules import conflicts
from protocol.parameters.settings import Settings
from protocol.parameters.values import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from protocol.parameters.declare import Path
    from protocol.parameters.hardware import Hardware
    from protocol.parameters.rules import Conflict

__all__ = ["Catalogue", "Parameter", "Restored", "Update"]


@final
@dataclass(frozen=True, slots=True)
class Update:
    """What came of an update: the new tree, the names whose value differs now, and what was refused and why.

    Both are in the order of the request. A refused parameter has the value that it had before.
    """

    settings: Settings
    changed: tuple[str, ...]
    refused: tuple[ParameterError, ...]


@final
@dataclass(frozen=True, slots=True)
class Restored:
    """What came of reading a stored file: the tree, and for each bad line its number (from 1) and the reason."""

    settings: Settings
    complaints: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class _Wish:
    """An assignment that is right by itself; ``order`` is its place in the request."""

    order: int
    parameter: Parameter
    text: str
    value: Any

    def refused(self, why: str) -> ParameterError:
        return ParameterError(self.parameter.name, _quotable(self.parameter, self.text), why)


@final
class Catalogue:
    """The parameters that exist on this hardware, in listing order, by full name without ``root.``."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self._defaults, found = grow(Settings, hardware)
        ordered = sorted(found, key=_listing_order)
        self.parameters: Mapping[str, Parameter] = MappingProxyType({p.name: p for p in ordered})

    def defaults(self) -> Settings:
        """The tree before anybody changed it."""
        return self._defaults

    def text(self, settings: Settings, name: str) -> str:
        """The value of the parameter ``name`` (without ``root.``) as an admin sees it. KeyError if unknown."""
        return shown(self.parameters[name], settings, Role.ADMIN)

    def listed(self, settings: Settings, groups: Sequence[str], role: Role) -> str:
        """The body of param.cgi's list; see ``protocol.parameters.listing``."""
        return listed(self.parameters, settings, groups, role)

    def defined(self, settings: Settings, groups: Sequence[str], role: Role, host: str) -> str:
        """The body of param.cgi's listdefinitions; see ``protocol.parameters.definitions``."""
        return defined(self.parameters, settings, groups, role, self.hardware.identity, host)

    def updated(self, settings: Settings, assignments: Sequence[tuple[str, str]], role: Role) -> Update:
        """Set parameters, named with or without ``root.``, to texts, in order, as this role.

        Each stands for itself: what is wrong is refused, the rest is done. Then the rules across parameters
        judge the whole: where values cannot stand together, what was assigned later is put back and refused.
        Nothing is raised for what a request holds.
        """
        new, changed, refused = self._applied(settings, assignments, role)
        return Update(new, changed, tuple(refused[order] for order in sorted(refused)))

    def stored(self, settings: Settings) -> str:
        """The tree as a file: sorted ``root.NAME=VALUE`` lines of what could be set and is not its default."""
        lines = (
            f"root.{parameter.name}={self.text(settings, parameter.name)}\n"
            for parameter in self.parameters.values()
            if parameter.write is not Role.NOBODY and value_at(settings, parameter.path) != parameter.default
        )
        return "".join(sorted(lines))

    def restored(self, text: str) -> Restored:
        """Read a stored file, which anybody may have edited: bad lines are left out and named.

        Blank lines and lines that begin with ``#`` are passed over. Of two lines for one parameter the last
        one counts. A reason never holds a secret.
        """
        complaints: dict[int, str] = {}
        lines: dict[int, tuple[str, str]] = {}
        for number, line in _written_lines(text):
            name, equals, value = line.partition("=")
            if equals:
                lines[number] = (name.strip(), value)
            else:
                complaints[number] = "root.NAME=VALUE would be right"
        numbers = list(lines)
        settings, _, refused = self._applied(self._defaults, tuple(lines.values()), Role.ADMIN)
        complaints |= _repeated(lines)
        complaints |= {numbers[order]: _one_line(error) for order, error in refused.items()}
        return Restored(settings, tuple(sorted(complaints.items())))

    def _applied(
        self, settings: Settings, assignments: Sequence[tuple[str, str]], role: Role
    ) -> tuple[Settings, tuple[str, ...], dict[int, ParameterError]]:
        wishes: dict[Path, _Wish] = {}
        refused: dict[int, ParameterError] = {}
        for order, (name, text) in enumerate(assignments):
            try:
                wish = self._wish(order, name.removeprefix("root."), text, role)
            except ParameterError as error:
                refused[order] = error
            else:
                # Named twice, a parameter stands where it was named last.
                wishes.pop(wish.parameter.path, None)
                wishes[wish.parameter.path] = wish
        changes = {path: wish for path, wish in wishes.items() if wish.value != value_at(settings, path)}
        new, kept, put_back = _reconciled(settings, changes)
        return new, tuple(wish.parameter.name for wish in kept.values()), refused | put_back

    def _wish(self, order: int, name: str, text: str, role: Role) -> _Wish:
        parameter = self.parameters.get(name)
        if parameter is None:
            raise ParameterError(name, text, "there is no such parameter on this product")
        wish = _Wish(order, parameter, text, None)
        if parameter.write is Role.NOBODY:
            raise wish.refused("it is read-only")
        if role < parameter.write:
            raise wish.refused(f"writing it takes the role {parameter.write.name.lower()}")
        # U+FFFD stands for bytes that were no text: taken as it is, a damaged key would be a wrong key.
        if not text.isprintable() or "\ufffd" in text:
            raise wish.refused("control characters and bytes that are no text cannot be part of a value")
        try:
            return _Wish(order, parameter, text, parameter.rule.parse(text))
        except ValueError as exc:
            raise wish.refused(str(exc)) from None


def _reconciled(
    settings: Settings, changes: Mapping[Path, _Wish]
) -> tuple[Settings, Mapping[Path, _Wish], dict[int, ParameterError]]:
    """Put changes back until no rule is broken by what is left of them.

    It ends: each round puts back at least one. A conflict that no change has part in is not this request's.
    """
    refused: dict[int, ParameterError] = {}
    while True:
        new = planted(settings, {path: wish.value for path, wish in changes.items()})
        reasons: dict[Path, str] = {}
        for conflict in conflicts(new):
            # What is put back already may have ended this conflict too: the next round will tell.
            if not any(path in reasons for side in conflict.sides for path in side):
                reasons |= dict.fromkeys(_blamed(conflict, changes), conflict.why)
        if not reasons:
            return new, changes, refused
        refused |= {changes[path].order: changes[path].refused(why) for path, why in reasons.items()}
        changes = {path: wish for path, wish in changes.items() if path not in reasons}


def _blamed(conflict: Conflict, changes: Mapping[Path, _Wish]) -> Sequence[Path]:
    """The changes on all sides but one: who was there before the request stays, else who was assigned first."""
    sides = [[path for path in side if path in changes] for side in conflict.sides]
    _, *later = sorted(sides, key=lambda side: max((changes[path].order for path in side), default=-1))
    return [path for side in later for path in side]


def _listing_order(parameter: Parameter) -> list[tuple[bool, str]]:
    """In each group its parameters by name, then its sub-groups by name."""
    *groups, name = parameter.name.split(".")
    return [*((True, group) for group in groups), (False, name)]


def _quotable(parameter: Parameter, text: str) -> str:
    """An error travels to logs and answers, where a key must not go."""
    return HIDDEN if isinstance(parameter.rule, Secret) else text


def _written_lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines(): it also splits at U+2028 and the like, and the numbers would not be an editor's.
    for number, line in enumerate(text.split("\n"), 1):
        written = line.removesuffix("\r")
        if written.strip() and not written.startswith("#"):
            yield number, written


def _repeated(lines: Mapping[int, tuple[str, str]]) -> dict[int, str]:
    last = {name.removeprefix("root."): number for number, (name, _) in lines.items()}
    where = {number: last[name.removeprefix("root.")] for number, (name, _) in lines.items()}
    return {
        number: f"the same parameter is on line {counts}, which counts"
        for number, counts in where.items()
        if counts != number
    }


def _one_line(error: ParameterError) -> str:
    # The name may be anything that stood in the file.
    return f"{ascii(error.name[:80])[1:-1]}: {error.why}"
