from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, final

import pytest

from protocol.frozen import frozen


@final
@frozen
class Point:
    """A place."""

    x: int
    y: int = 0
    tags: list[str] = field(default_factory=list)
    secret: str = field(default="s", repr=False, compare=False)
    code: ClassVar[int] = 7

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("a place left of the page")

    @property
    def sum(self) -> int:
        return self.x + self.y


@final
@dataclass(frozen=True, slots=True)
class Model:
    """The same by dataclasses alone; its repr says Point as well."""

    __qualname__ = "Point"

    x: int
    y: int = 0
    tags: list[str] = field(default_factory=list)
    secret: str = field(default="s", repr=False, compare=False)
    code: ClassVar[int] = 7


@final
@frozen(kw_only=True)
class Named:
    first: int = 1
    second: str


@final
@frozen
class Empty:
    pass


@final
@frozen
class Other:
    x: int
    y: int = 0


@final
@frozen
class Told:
    x: int

    def __repr__(self) -> str:
        return "told"


@pytest.mark.parametrize("arguments", [(1,), (1, 2), (1, 2, ["a"]), (1, 2, ["a"], "t")])
def test_the_fields_are_those_of_a_frozen_dataclass(arguments: tuple[Any, ...]) -> None:
    ours, model = Point(*arguments), Model(*arguments)
    assert repr(ours) == repr(model)
    assert asdict(ours) == asdict(model)
    assert [(each.name, each.default) for each in fields(ours)] == [(each.name, each.default) for each in fields(model)]
    assert Point.__match_args__ == Model.__match_args__
    assert (ours.code, ours.sum) == (7, ours.x + ours.y)


def test_equal_are_instances_of_one_class_with_equal_fields() -> None:
    assert Point(1, 2) == Point(1, 2, secret="another")
    assert Point(1, 2) != Point(1, 3)
    alike: list[object] = [Point(1, 2), (1, 2)]
    assert Other(1, 2) not in alike
    assert Empty() == Empty()


def test_equal_instances_have_one_hash() -> None:
    assert {Other(1, 2), Other(1, 2), Other(2, 1)} == {Other(1, 2), Other(2, 1)}
    assert len({Empty(), Empty()}) == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(1))  # for its list


def test_no_field_can_be_set_or_deleted_and_none_added() -> None:
    point: Any = Point(1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'x'"):
        del point.x
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'z'"):
        point.z = 2
    assert not hasattr(point, "__dict__")
    assert point == Point(1)


def test_a_replaced_field_makes_another_instance_which_is_checked_too() -> None:
    point = Point(1, 2)
    assert replace(point, y=3) == Point(1, 3)
    assert point == Point(1, 2)
    with pytest.raises(ValueError, match="left of the page"):
        replace(point, x=-1)


def test_each_instance_has_a_list_of_its_own() -> None:
    assert Point(1).tags is not Point(1).tags


def test_arguments_may_be_asked_for_by_name_alone() -> None:
    assert (Named(second="b").first, Named(first=2, second="b").second) == (1, "b")
    with pytest.raises(TypeError, match=r"Named\.__init__\(\) takes 1 positional argument but 3 were given"):
        Named(1, "b")  # type: ignore[call-arg]  # that is the test
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'second'"):
        Named()  # type: ignore[call-arg]  # that is the test


def test_a_method_of_the_class_itself_stays() -> None:
    assert repr(Told(1)) == "told"
    assert Told(1) == Told(1)


def test_no_class_of_ours_is_a_frozen_dataclass() -> None:
    root = Path(__file__).parents[2]
    slow = [
        str(path)
        for package in ("gateway", "protocol")
        for path in (root / package).rglob("*.py")
        if "@dataclass(frozen=True" in path.read_text()
    ]
    assert not slow
