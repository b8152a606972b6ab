"""How the settings tree declares its parameters, and what becomes of a declaration on given hardware.

A field of a tree's dataclass is declared by ``parameter`` (or ``parameters`` where it is numbered) or by
``group`` (``groups``): its metadata hold the contract's name and rules. ``grow`` walks such a tree once and
gives the tree of default values together with every parameter that exists. This room knows no parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, final

from protocol.parameters.hardware import Hardware, ManagerHardware, SerialHardware
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from protocol.parameters.values import Rule

__all__ = ["Parameter", "Path", "Place", "group", "groups", "grow", "parameter", "parameters", "planted", "value_at"]

T = TypeVar("T")

Path = tuple[str | int, ...]
"""The way from the tree's root to a value: attribute names and tuple indices."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where in the tree a declaration stands: on which hardware, and in which of the numbered groups.

    ``index`` counts from 0 whatever the contract's numbers start from.
    """

    hardware: Hardware
    index: int = 0

    @property
    def serial(self) -> SerialHardware:
        """The hardware of the serial port at this place in Serial.Ser#."""
        return self.hardware.serial[self.index]

    @property
    def manager(self) -> ManagerHardware:
        """What the port manager at this place in PortManager.P# can be pointed at."""
        return self.hardware.managers[self.index]


@final
@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter that exists: ``name`` is the full name without ``root.``, ``path`` the way to its value.

    Whoever has at least the role ``read`` may read it, ``write`` write it. ``default`` is the typed value.
    """

    name: str
    path: Path
    rule: Rule[Any]
    default: Any
    read: Role
    write: Role
    nice_name: str

    @property
    def default_text(self) -> str:
        """The default as it is listed."""
        return self.rule.format(self.default)


@final
@dataclass(frozen=True, slots=True)
class _Declaration(Generic[T]):
    rule: Rule[T]
    default: T
    read: Role
    write: Role
    nice_name: str | None
    where: Callable[[Place], bool] | None
    rule_at: Callable[[Place], Rule[T]] | None
    default_at: Callable[[Place], T] | None


Numbers = Callable[[Hardware], range]
_KEY: Final = "daisyport"


@final
@dataclass(frozen=True, slots=True)
class _Field:
    """A field's metadata: ``item`` is a declaration, or a group's class; ``numbers`` makes it a tuple of them."""

    name: str
    item: _Declaration[Any] | type[Any]
    numbers: Numbers | None = None


def parameter(
    name: str,
    rule: Rule[T],
    default: T,
    *,
    read: Role = Role.OPERATOR,
    write: Role = Role.ADMIN,
    nice_name: str | None = None,
    where: Callable[[Place], bool] | None = None,
    rule_at: Callable[[Place], Rule[T]] | None = None,
    default_at: Callable[[Place], T] | None = None,
) -> T:
    """Declare a field as the parameter ``name``.

    ``where`` says whether it exists at a place (everywhere, if not given; its value is then the default that
    nobody sees). ``rule_at`` and ``default_at`` stand in for ``rule`` and ``default`` where these depend on
    the place.
    """
    item = _Declaration(rule, default, read, write, nice_name, where, rule_at, default_at)
    return field(default=default, metadata={_KEY: _Field(name, item)})


def parameters(
    name: str,
    rule: Rule[T],
    default: T,
    numbers: Numbers,
    *,
    read: Role = Role.OPERATOR,
    write: Role = Role.ADMIN,
    rule_at: Callable[[Place], Rule[T]] | None = None,
    default_at: Callable[[Place], T] | None = None,
) -> tuple[T, ...]:
    """Declare a field as numbered parameters; ``name`` holds ``{}`` where the number goes."""
    item = _Declaration(rule, default, read, write, None, None, rule_at, default_at)
    return cast("tuple[T, ...]", field(default=(), metadata={_KEY: _Field(name, item, numbers)}))


def group(name: str, members: type[T]) -> T:
    """Declare a field as the group ``name`` with these members."""
    return field(default_factory=members, metadata={_KEY: _Field(name, members)})


def groups(name: str, members: type[T], numbers: Numbers) -> tuple[T, ...]:
    """Declare a field as numbered groups; ``name`` holds ``{}`` where the number goes."""
    return cast("tuple[T, ...]", field(default=(), metadata={_KEY: _Field(name, members, numbers)}))


def grow(tree: type[T], hardware: Hardware) -> tuple[T, tuple[Parameter, ...]]:
    """The tree with the defaults of this hardware, and the parameters that exist on it, in no useful order."""
    found: list[Parameter] = []
    root = _grow_group(tree, "", (), Place(hardware), found)
    return root, tuple(found)


def _grow_group(members: type[T], prefix: str, path: Path, place: Place, found: list[Parameter]) -> T:
    values: dict[str, Any] = {}
    for member in fields(cast("Any", members)):
        declared: _Field = member.metadata[_KEY]
        values[member.name] = _grow_field(declared, prefix, (*path, member.name), place, found)
    return members(**values)


def _grow_field(declared: _Field, prefix: str, path: Path, place: Place, found: list[Parameter]) -> Any:
    if declared.numbers is None:
        return _grow_item(declared.item, prefix + declared.name, path, place, found)
    return tuple(
        _grow_item(
            declared.item,
            prefix + declared.name.format(number),
            (*path, index),
            Place(place.hardware, index),
            found,
        )
        for index, number in enumerate(declared.numbers(place.hardware))
    )


def _grow_item(item: _Declaration[Any] | type[Any], name: str, path: Path, place: Place, found: list[Parameter]) -> Any:
    if not isinstance(item, _Declaration):
        return _grow_group(item, f"{name}.", path, place, found)
    if item.where and not item.where(place):
        return item.default
    rule = item.rule_at(place) if item.rule_at else item.rule
    default = item.default_at(place) if item.default_at else item.default
    nice_name = item.nice_name or _nice(name.rpartition(".")[2])
    found.append(Parameter(name, path, rule, default, item.read, item.write, nice_name))
    return default


def value_at(tree: Any, path: Path) -> Any:
    """The value that a path leads to."""
    for step in path:
        tree = tree[step] if isinstance(step, int) else getattr(tree, step)
    return tree


def planted(tree: T, values: Mapping[Path, Any]) -> T:
    """The tree with these values in it; every branch without one is the same object as before."""
    if not values:
        return tree
    return cast("T", _planted(tree, values))


def _planted(node: Any, values: Mapping[Path, Any]) -> Any:
    if () in values:
        return values[()]
    branches: dict[str | int, dict[Path, Any]] = {}
    for (step, *rest), value in values.items():
        branches.setdefault(step, {})[tuple(rest)] = value
    grown = {step: _planted(value_at(node, (step,)), branch) for step, branch in branches.items()}
    if isinstance(node, tuple):
        return tuple(grown.get(index, child) for index, child in enumerate(node))
    return replace(node, **cast("dict[str, Any]", grown))


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _nice(name: str) -> str:
    """``NbrOfPorts`` -> ``Nbr of ports``, ``AllowedIPAddresses`` -> ``Allowed IP addresses``."""
    first, *others = _WORD.findall(name)
    return " ".join([first, *(word if word.isupper() else word.lower() for word in others)])
