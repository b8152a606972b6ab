# ruff: noqa: RUF009 -- a tree like the product's, small enough to be read
from __future__ import annotations

from dataclasses import dataclass

import pytest

from protocol.parameters.declare import Place, build, group, groups, parameter, parameters, value_at, with_values
from protocol.parameters.hardware import Hardware, ManagerHardware, SerialHardware
from protocol.parameters.roles import Role
from protocol.parameters.values import Integer, YesNo

SMALL = Integer(0, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    enabled: bool = parameter("Enabled", YesNo(), default=False)
    digit: int = parameter("ADigit", SMALL, 5, default_at=lambda place: place.index, rule_at=lambda _: Integer(0, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    leaf: Leaf = group("Leaf", Leaf)
    leaves: tuple[Leaf, ...] = groups("Leaves.L{}", Leaf, lambda hardware: range(1, len(hardware.serial) + 1))
    numbers: tuple[int, ...] = parameters("No{}", SMALL, 7, lambda _: range(2), read=Role.VIEWER)
    lacking: int = parameter("Lacking", SMALL, 8, where=lambda place: bool(place.hardware.managers))
    fact: int = parameter("Fact", SMALL, 9, write=Role.NOBODY, nice_name="A fact")


HARDWARE = Hardware((SerialHardware(), SerialHardware()), ())
TREE, FOUND = build(Tree, HARDWARE)
NAMED = {found.name: found for found in FOUND}


def test_a_tree_is_built_with_the_defaults_of_its_hardware() -> None:
    first, second = Leaf(enabled=False, digit=0), Leaf(enabled=False, digit=1)
    assert Tree(leaf=first, leaves=(first, second), numbers=(7, 7), lacking=8, fact=9) == TREE


def test_each_parameter_that_exists_is_found_once_under_its_full_name() -> None:
    assert sorted(found.name for found in FOUND) == [
        "Fact",
        "Leaf.ADigit",
        "Leaf.Enabled",
        "Leaves.L1.ADigit",
        "Leaves.L1.Enabled",
        "Leaves.L2.ADigit",
        "Leaves.L2.Enabled",
        "No0",
        "No1",
    ]


def test_a_parameter_carries_what_its_declaration_says_at_its_place() -> None:
    digit = NAMED["Leaves.L2.ADigit"]
    assert digit.path == ("leaves", 1, "digit")
    assert digit.default == 1
    assert digit.rule == Integer(0, 3)
    assert (digit.read, digit.write) == (Role.OPERATOR, Role.ADMIN)
    assert (NAMED["No0"].read, NAMED["Fact"].write) == (Role.VIEWER, Role.NOBODY)


def test_every_path_leads_to_the_default() -> None:
    assert all(value_at(TREE, found.path) == found.default for found in FOUND)


def test_nice_names_are_made_of_the_names_unless_they_are_given() -> None:
    assert NAMED["Leaves.L1.ADigit"].nice_name == "A digit"
    assert NAMED["Fact"].nice_name == "A fact"


def test_a_place_knows_the_hardware_that_its_index_means() -> None:
    serial = (SerialHardware(), SerialHardware(xon_xoff=False))
    managers = (ManagerHardware(serial=2), ManagerHardware(serial=1))
    place = Place(Hardware(serial, managers), 1)
    assert (place.serial, place.manager) == (serial[1], managers[1])


def test_new_values_replace_what_is_named_and_keep_the_rest_as_it_is() -> None:
    new = with_values(TREE, {("leaves", 1, "digit"): 3, ("numbers", 0): 1})
    assert (new.leaves[1].digit, new.numbers) == (3, (1, 7))
    assert new.leaves[0] is TREE.leaves[0]
    assert new.leaf is TREE.leaf
    assert TREE.leaves[1].digit == 1


def test_no_new_values_give_the_same_tree() -> None:
    assert with_values(TREE, {}) is TREE


def test_a_path_that_leads_nowhere_is_our_bug_and_says_so() -> None:
    with pytest.raises(AttributeError):
        value_at(TREE, ("leaves", "digit"))
