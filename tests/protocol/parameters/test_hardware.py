from __future__ import annotations

import itertools

import pytest

from protocol.parameters.hardware import Hardware, ManagerHardware, PortMode, PortType, SerialHardware

EVERYTHING = SerialHardware(tuple(PortMode), termination=True, bias=True)


def test_a_port_offers_what_its_modes_and_its_wires_allow() -> None:
    offered = [
        ((mode.value), port.has_fast_rates, port.has_xon_xoff, port.has_rts_cts, port.has_termination, port.has_bias)
        for mode in PortMode
        for port in [SerialHardware((mode,), termination=True, bias=True)]
    ]
    assert offered == [
        ("RS232", False, True, True, False, False),
        ("RS485", True, False, False, True, True),
        ("RS485_4", True, True, False, True, True),
        ("RS422", False, True, False, True, True),
    ]


@pytest.mark.parametrize("modes", list(itertools.permutations(PortMode, 2)))
def test_a_port_with_two_modes_offers_what_either_of_them_allows(modes: tuple[PortMode, ...]) -> None:
    both = SerialHardware(modes, termination=True, bias=True)
    alone = [SerialHardware((mode,), termination=True, bias=True) for mode in modes]
    for fact in ("has_fast_rates", "has_xon_xoff", "has_rts_cts", "has_termination", "has_bias"):
        assert getattr(both, fact) == any(getattr(port, fact) for port in alone)


def test_a_port_without_the_wires_offers_none_of_them() -> None:
    bare = SerialHardware(tuple(PortMode), xon_xoff=False, rts_cts=False)
    assert not any((bare.has_xon_xoff, bare.has_rts_cts, bare.has_termination, bare.has_bias))


def test_a_port_needs_a_mode() -> None:
    with pytest.raises(ValueError, match="at least one mode"):
        SerialHardware(())


@pytest.mark.parametrize(
    ("manager", "types"),
    [
        (ManagerHardware(serial=1), (PortType.SERIAL,)),
        (ManagerHardware(remote_port=0), (PortType.REMOTE,)),
        (ManagerHardware(serial=1, remote_port=0), (PortType.SERIAL, PortType.REMOTE)),
    ],
)
def test_a_port_manager_offers_what_it_can_be_pointed_at(manager: ManagerHardware, types: tuple[PortType, ...]) -> None:
    assert manager.types == types
    assert manager.default_type is types[0]


def test_a_port_manager_with_nothing_to_manage_is_refused() -> None:
    with pytest.raises(ValueError, match="a serial port, a remote port, or both"):
        ManagerHardware()


@pytest.mark.parametrize("number", [0, 2])
def test_a_port_manager_of_a_serial_port_that_is_not_there_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"port manager 0: there is no serial port {number}"):
        Hardware((EVERYTHING,), (ManagerHardware(number),))


def test_a_negative_remote_port_is_refused() -> None:
    with pytest.raises(ValueError, match="numbered from 0"):
        Hardware((), (ManagerHardware(remote_port=-1),))


def test_remote_ports_reach_up_to_the_highest_index_in_use() -> None:
    managers = (ManagerHardware(remote_port=3), ManagerHardware(remote_port=1), ManagerHardware(serial=1))
    assert Hardware((EVERYTHING,), managers).remote_ports == 4
    assert Hardware((EVERYTHING,), managers[2:]).remote_ports == 0
