from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import Hardware, Identity, ManagerHardware, SerialHardware
from protocol.parameters.roles import Role

IDENTITY = Identity(model="<DP & 4>", firmware_version="1.2.3")
CATALOGUE = Catalogue(Hardware((SerialHardware(),), (ManagerHardware(1, 0),), 1, IDENTITY))
SCHEMA = "{http://www.axis.com/ParameterDefinitionsSchema}"
KEY = "RemotePort.R0.AuthenticationKey"
KEYED = CATALOGUE.updated(CATALOGUE.restored("").settings, [(KEY, 'ключ"<')], Role.ADMIN).settings


def defined(*groups: str, role: Role = Role.ADMIN) -> str:
    return CATALOGUE.defined(KEYED, groups, role, "cam.example:8080")


HEAD = """\
<?xml version="1.0" encoding="iso-8859-1" ?>
<parameterDefinitions xmlns="http://www.axis.com/ParameterDefinitionsSchema" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://www.axis.com/ParameterDefinitionsSchema \
http://cam.example:8080/pub/parameterdefinitions.xsd" version="1.0">
  <model>&lt;DP &amp; 4&gt;</model>
  <firmwareVersion>1.2.3</firmwareVersion>
"""

TWO_GROUPS = """\
  <group name="root">
    <group name="PortManager">
      <group name="P0">
        <group name="GenericTCPServer">
          <group name="ConnectTo">
            <parameter name="Host" value="" securityLevel="7746" niceName="Host">
              <type>
                <hostname />
              </type>
            </parameter>
          </group>
          <group name="Listener">
            <parameter name="Enabled" value="no" securityLevel="7746" niceName="Enabled">
              <type>
                <bool true="yes" false="no" />
              </type>
            </parameter>
          </group>
        </group>
      </group>
    </group>
    <group name="Serial">
      <parameter name="NbrOfPorts" value="1" securityLevel="7707" niceName="Nbr of ports">
        <type readonly="true">
          <int />
        </type>
      </parameter>
    </group>
  </group>
</parameterDefinitions>
"""


def test_definitions_are_indented_as_recorded() -> None:
    host, enabled = (f"PortManager.P0.GenericTCPServer.{name}" for name in ("ConnectTo.Host", "Listener.Enabled"))
    assert defined("Serial.NbrOfPorts", host, enabled) == HEAD + TWO_GROUPS


def flat(element: ET.Element, prefix: str = "") -> dict[str, ET.Element]:
    found = {f"{prefix}{p.attrib['name']}": p for p in element.findall(f"{SCHEMA}parameter")}
    for group in element.findall(f"{SCHEMA}group"):
        found |= flat(group, f"{prefix}{group.attrib['name']}.")
    return found


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.ADMIN])
def test_definitions_and_list_agree(role: Role) -> None:
    parsed = flat(ET.fromstring(defined(role=role).encode("iso-8859-1")))
    answer = dict(line.split("=", 1) for line in CATALOGUE.listed(KEYED, (), role).splitlines())
    assert {name: element.attrib["value"] for name, element in parsed.items()} == answer


def test_each_type_describes_the_values_that_an_update_takes() -> None:
    for name, element in flat(ET.fromstring(defined())).items():
        parameter = CATALOGUE.parameters[name.removeprefix("root.")]
        for entry in element.iter(f"{SCHEMA}entry"):
            parameter.rule.parse(entry.attrib["value"])
        for bound in element.iter(f"{SCHEMA}int"):
            assert all(parameter.rule.parse(text) == int(text) for text in bound.attrib.values())


def test_a_key_is_masked_for_whoever_may_not_write_it() -> None:
    assert 'value="******"' in defined(KEY, role=Role.OPERATOR)
    assert 'value="&#1082;&#1083;&#1102;&#1095;&quot;&lt;"' in defined(KEY)


def test_what_is_unknown_is_left_out() -> None:
    assert defined("No.Such.Group") == HEAD + "</parameterDefinitions>\n"
