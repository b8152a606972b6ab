"""Declare the parameters of a settings tree, and build the tree for given hardware.

A field of the tree's dataclasses is declared by ``parameter`` (``parameters`` where it is numbered) or by ``group``
(``groups``); its metadata hold the contract's name and rules. ``build`` walks the classes once, and returns the tree
of default values together with every parameter that exists on the hardware.

So each parameter is written down once, as a field: the type checker sees an attribute, and list, update, definitions
and storage see a name, a path, a rule and two roles. The price is `Any` in this file, and in no other: a dataclass
field's metadata, and a path from attribute names and tuple indices, are beyond the type system.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, final

from protocol.frozen import frozen
from protocol.parameters.hardware import Hardware, ManagerHardware, SerialHardware
from protocol.parameters.roles import Role

if TYPE_CHECKING:
    from protocol.parameters.values import Rule

__all__ = [
    "Parameter",
    "Path",
    "Place",
    "build",
    "group",
    "groups",
    "parameter",
    "parameters",
    "value_at",
    "with_values",
]

T = TypeVar("T")

Path = tuple[str | int, ...]
"""The way from the tree's root to a value: attribute names and tuple indices."""


@final
@frozen
class Place:
    """The place of a declaration in the tree: the hardware, and the index of the numbered group.

    ``index`` counts from 0, whatever number the contract begins with.
    """

    hardware: Hardware
    index: int = 0

    @property
    def serial(self) -> SerialHardware:
        """Return the hardware of the serial port at this place in Serial.Ser#."""
        return self.hardware.serial[self.index]

    @property
    def manager(self) -> ManagerHardware:
        """Return the hardware of the port manager at this place in PortManager.P#."""
        return self.hardware.managers[self.index]


@final
@frozen
class Parameter:
    """One parameter that exists: ``name`` is the full name without ``root.``, ``path`` the way to its value.

    ``read`` and ``write`` are the least roles that may read and write it. ``default`` is the typed value.
    """

    name: str
    path: Path
    rule: Rule[Any]
    default: Any
    read: Role
    write: Role
    nice_name: str


@final
@frozen
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
@frozen
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

    ``where`` returns whether it exists at a place (without it: everywhere). Where it does not exist, the field keeps
    its default, and no client sees it. ``rule_at`` and ``default_at`` replace ``rule`` and ``default`` where these
    depend on the place.
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


def build(tree: type[T], hardware: Hardware) -> tuple[T, tuple[Parameter, ...]]:
    """Return the tree with the defaults of this hardware, and the parameters that exist on it, in any order."""
    found: list[Parameter] = []
    root = _build_group(tree, "", (), Place(hardware), found)
    return root, tuple(found)


def _build_group(members: type[T], prefix: str, path: Path, place: Place, found: list[Parameter]) -> T:
    values: dict[str, Any] = {}
    for member in fields(cast("Any", members)):
        declared: _Field = member.metadata[_KEY]
        name, way = prefix + declared.name, (*path, member.name)
        if declared.numbers is None:
            values[member.name] = _build_item(declared.item, name, way, place, found)
        else:
            values[member.name] = tuple(
                _build_item(declared.item, name.format(number), (*way, index), Place(place.hardware, index), found)
                for index, number in enumerate(declared.numbers(place.hardware))
            )
    return members(**values)


def _build_item(
    item: _Declaration[Any] | type[Any], name: str, path: Path, place: Place, found: list[Parameter]
) -> Any:
    if not isinstance(item, _Declaration):
        return _build_group(item, f"{name}.", path, place, found)
    if item.where and not item.where(place):
        return item.default
    rule = item.rule_at(place) if item.rule_at else item.rule
    default = item.default_at(place) if item.default_at else item.default
    nice_name = item.nice_name or _nice(name.rpartition(".")[2])
    found.append(Parameter(name, path, rule, default, item.read, item.write, nice_name))
    return default


def value_at(tree: Any, path: Path) -> Any:
    """Return the value that a path leads to."""
    for step in path:
        tree = tree[step] if isinstance(step, int) else getattr(tree, step)
    return tree


def with_values(tree: T, values: Mapping[Path, Any]) -> T:
    """Return the tree with these values in it; every branch without one is the same object as before."""
    return cast("T", _with_values(tree, values)) if values else tree


def _with_values(node: Any, values: Mapping[Path, Any]) -> Any:
    if () in values:  # the end of a path, which is then the only one here
        return values[()]
    branches: dict[str | int, dict[Path, Any]] = {}
    for (step, *rest), value in values.items():
        branches.setdefault(step, {})[tuple(rest)] = value
    new = {step: _with_values(value_at(node, (step,)), branch) for step, branch in branches.items()}
    if isinstance(node, tuple):
        return tuple(new.get(index, child) for index, child in enumerate(node))
    return replace(node, **cast("dict[str, Any]", new))


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _nice(name: str) -> str:
    """Turn ``NbrOfPorts`` into ``Nbr of ports``, and ``AllowedIPAddresses`` into ``Allowed IP addresses``."""
    first, *others = _WORD.findall(name)
    return " ".join([first, *(word if word.isupper() else word.lower() for word in others)])
