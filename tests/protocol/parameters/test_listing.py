"""``action=list`` as it is recorded from real devices; each test names one form."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import Hardware, ManagerHardware, SerialHardware
from protocol.parameters.listing import MOST_GROUPS
from protocol.parameters.roles import Role

CATALOGUE = Catalogue(Hardware((SerialHardware(), SerialHardware()), (ManagerHardware(1, 0), ManagerHardware(2))))
DEFAULTS = CATALOGUE.restored("").settings
KEY = "PortManager.P0.RemotePortServer.AuthenticationKey"
KEYED = CATALOGUE.updated(DEFAULTS, [(KEY, "k=1&2")], Role.ADMIN).settings


def listed(*groups: str, role: Role = Role.ADMIN) -> str:
    return CATALOGUE.listed(DEFAULTS, groups, role)


def names(text: str) -> list[str]:
    return [line.partition("=")[0] for line in text.splitlines()]


SER1 = """\
root.Serial.Ser1.BaudRate=9600
root.Serial.Ser1.DataBits=8
root.Serial.Ser1.FlowControlRTSCTS=no
root.Serial.Ser1.FlowControlXONXOFF=no
root.Serial.Ser1.Parity=None
root.Serial.Ser1.PortMode=RS232
root.Serial.Ser1.StopBits=1
"""


@pytest.mark.parametrize("asked", ["Serial.Ser1", "root.Serial.Ser1"])
def test_a_group_answers_full_names_sorted_with_a_line_feed_after_the_last(asked: str) -> None:
    assert listed(asked) == SER1


def test_a_single_parameter_echoes_its_name_as_typed() -> None:
    assert listed("Serial.Ser1.BaudRate") == "Serial.Ser1.BaudRate=9600\n"
    assert listed("root.Serial.Ser1.BaudRate") == "root.Serial.Ser1.BaudRate=9600\n"


def test_both_kinds_mix_in_the_order_asked() -> None:
    assert names(listed("Serial.NbrOfPorts", "RemotePort.R0", "root.Serial.Ser2.Parity")) == [
        "Serial.NbrOfPorts",
        "root.RemotePort.R0.AuthenticationKey",
        "root.RemotePort.R0.AutoConf",
        "root.RemotePort.R0.Host",
        "root.RemotePort.R0.Port",
        "root.Serial.Ser2.Parity",
    ]


def test_parameters_come_before_sub_groups() -> None:
    answer = names(listed("PortManager.P0"))
    assert answer == [
        f"root.PortManager.P0.{name}"
        for name in (
            "PortEnabled",
            "PortType",
            "GenericTCPServer.AllowedIPAddresses",
            "GenericTCPServer.Enabled",
            "GenericTCPServer.Timeout",
            "GenericTCPServer.ConnectTo.Enabled",
            "GenericTCPServer.ConnectTo.Host",
            "GenericTCPServer.ConnectTo.Port",
            "GenericTCPServer.Listener.Enabled",
            "GenericTCPServer.Listener.Port",
            "PTZServer.Enabled",
            "RemotePortServer.AllowedIPAddresses",
            "RemotePortServer.AuthenticationKey",
            "RemotePortServer.Enabled",
            "RemotePortServer.Timeout",
            "RemotePortServer.Listener.Enabled",
            "RemotePortServer.Listener.Port",
            "SerialCGI.Enabled",
        )
    ]


@pytest.mark.parametrize("everything", [(), ("",), ("root",), ("root.",), ("*",), ("root.*",), ("**",)])
def test_nothing_asked_means_everything(everything: tuple[str, ...]) -> None:
    assert names(listed(*everything)) == [f"root.{name}" for name in CATALOGUE.parameters]


def test_an_empty_value_ends_at_the_equals_sign() -> None:
    assert listed("RemotePort.R0.Host") == "RemotePort.R0.Host=\n"


def test_values_are_raw() -> None:
    assert CATALOGUE.listed(KEYED, [KEY], Role.ADMIN) == f"{KEY}=k=1&2\n"


@pytest.mark.parametrize(
    "unknown",
    [
        "Does.Not.Exist",
        "root.Does.Not.Exist",
        "serial",
        "Serial.Ser",
        "Serial.",
        "Serial.Ser1.BaudRate.X",
        "Serial.*.Nothing",
        "Serial.Ser1.*.X",
        "root.root.Serial",
        "*" * 9 + "x" * 1000,
    ],
)
def test_what_does_not_exist_gives_an_error_line_in_its_place_as_typed(unknown: str) -> None:
    error = f"# Error: Error -1 getting param in group '{unknown}'\n"
    assert listed("Serial.NbrOfPorts", unknown, "Serial.Ser1") == f"Serial.NbrOfPorts=2\n{error}{SER1}"


def test_an_error_line_cannot_be_made_to_forge_another() -> None:
    assert listed("X\nroot.Y=1\u2028") == "# Error: Error -1 getting param in group 'X?root.Y=1?'\n"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("Serial.*.Parity", ["root.Serial.Ser1.Parity", "root.Serial.Ser2.Parity"]),
        ("root.Serial.Ser*.Parity", ["root.Serial.Ser1.Parity", "root.Serial.Ser2.Parity"]),
        ("Serial.Ser1.*tz*", []),
        ("Serial.Ser1.*its", ["root.Serial.Ser1.DataBits", "root.Serial.Ser1.StopBits"]),
        ("Serial.Ser1.*t*Bi*s", ["root.Serial.Ser1.DataBits", "root.Serial.Ser1.StopBits"]),
        ("*.Ser2.BaudRate", ["root.Serial.Ser2.BaudRate"]),
        ("Serial.*2.Ba*Ra*e", ["root.Serial.Ser2.BaudRate"]),
        ("Remote*.R0.Port", ["root.RemotePort.R0.Port"]),
        ("*.*.*.*.Host", [f"root.PortManager.P{n}.GenericTCPServer.ConnectTo.Host" for n in (0, 1)]),
        ("PTZ.Image*", ["root.PTZ.ImageSource.I0.PTZEnabled"]),
        ("Serial.Ser[12].Par?ty*", []),
    ],
)
def test_a_wildcard_stands_for_part_of_a_name_between_dots(pattern: str, expected: list[str]) -> None:
    found = names(listed(pattern))
    assert found == (expected or [f"# Error: Error -1 getting param in group '{pattern}'"])


@given(st.text(alphabet="*.SerialDtBs12P0", min_size=1, max_size=12).filter(lambda text: "*" in text))
def test_wildcards_match_part_by_part_as_a_shell_does(pattern: str) -> None:
    parts = pattern.split(".")

    def matches(name: str) -> bool:
        own = name.split(".")
        return len(own) >= len(parts) and all(map(fnmatchcase, own, parts))

    expected = [f"root.{name}" for name in CATALOGUE.parameters if matches(name)]
    assert names(listed(pattern)) == (expected or [f"# Error: Error -1 getting param in group '{pattern}'"])


def test_a_wildcard_for_a_group_means_all_that_is_in_it() -> None:
    assert listed("Serial.*1") == SER1


@pytest.mark.parametrize("hidden", ["Serial.Ser1.BaudRate", "Serial.Ser1", "PortManager", "Serial.*.BaudRate"])
def test_what_a_viewer_may_not_read_is_answered_as_unknown(hidden: str) -> None:
    assert listed(hidden, role=Role.VIEWER) == f"# Error: Error -1 getting param in group '{hidden}'\n"


def test_what_a_viewer_may_not_read_is_left_out_of_a_group() -> None:
    assert listed("Serial", role=Role.VIEWER) == "root.Serial.NbrOfPorts=2\n"
    assert "root.PTZ.CamPorts.Cam1Port=1\n" in listed(role=Role.VIEWER)


def test_an_operator_reads_the_tables_of_the_contract() -> None:
    assert listed("Serial.Ser1", role=Role.OPERATOR) == SER1


@pytest.mark.parametrize(("role", "value"), [(Role.ADMIN, "k=1&2"), (Role.OPERATOR, "******")])
def test_a_key_is_shown_to_an_admin_and_masked_for_an_operator(role: Role, value: str) -> None:
    assert f"\nroot.{KEY}={value}\n" in CATALOGUE.listed(KEYED, ["PortManager.P0"], role)
    assert CATALOGUE.listed(KEYED, [KEY], role) == f"{KEY}={value}\n"


def test_a_key_that_is_not_set_is_shown_as_empty() -> None:
    assert listed(KEY, role=Role.OPERATOR) == f"{KEY}=\n"


def test_a_line_is_not_repeated() -> None:
    assert listed("Serial.Ser1", "root.Serial.Ser1.*", "Serial.Ser1") == SER1


def test_groups_beyond_the_limit_are_answered_as_unknown() -> None:
    asked = [f"X{number}" for number in range(MOST_GROUPS)] + ["Serial.NbrOfPorts"]
    assert listed(*asked).endswith("# Error: Error -1 getting param in group 'Serial.NbrOfPorts'\n")
    assert listed(*asked[1:]).endswith("\nSerial.NbrOfPorts=2\n")
