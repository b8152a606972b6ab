"""docs/from-ser2net.md, held against the options of ser2net and against what there is here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.host.config_file import parse
from protocol.parameters.catalogue import Catalogue
from protocol.parameters.hardware import Hardware, ManagerHardware, PortMode, SerialHardware

PAGE = (Path(__file__).parent.parent / "docs/from-ser2net.md").read_text()

OPTIONS = re.findall(
    r"\S+",
    """
    kickolduser banner signature openstr closestr closeon accepter-retry-time connector-retry-time trace-read
    trace-write trace-both trace-hexdump trace-timestamp trace-read-hexdump trace-write-hexdump
    trace-both-hexdump trace-read-timestamp trace-write-timestamp trace-both-timestamp telnet-brk-on-sync
    chardelay chardelay-scale chardelay-min chardelay-max sendon dev-to-net-bufsize net-to-dev-bufsize led-tx
    led-rx max-connections remaddr no-con-to-acc no-acc-to-con connback authdir pamauth allowed-users mdns
    mdns-interface mdns-nettype mdns-name mdns-type mdns-domain mdns-host mdns-txt mdns-sysattrs timeout enable
    define include default delete_default rotator admin led authdir-admin pamauth-admin speed local rtscts
    xonxoff nobreak nouucplock hangup-when-done rs485 drain_time char_drain_wait
    """,
)
"""All that ser2net.yaml(5) of ser2net 4.3 names, and gensio's serialdev."""

HARDWARE = Hardware(serial=(SerialHardware(modes=tuple(PortMode)),), managers=(ManagerHardware(1, 0),))

ROWS = re.findall(r"(?m)^\| (.+?) \| (.+) \|$", PAGE)


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_of_ser2net_has_a_row_that_says_what_it_is_here(option: str) -> None:
    rows = [here for there, here in ROWS if option in re.findall(r"[\w-]+", there)]
    assert rows
    assert all(len(here) > 3 for here in rows)


def test_the_file_that_the_page_shows_is_one_without_errors() -> None:
    (example,) = re.findall(r"(?s)```toml\n(.+?)```", PAGE)
    assert len(parse(example.encode()).managers) == 1


def test_the_parameters_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"\b(?:PortManager\.P0|Serial\.Ser1|RemotePort\.R0)(?:\.\w+)+", PAGE))
    assert named
    assert {name for name in named if name not in Catalogue(HARDWARE).parameters} == set()


def test_the_keys_that_the_page_names_are_there() -> None:
    example = (Path(__file__).parent.parent / "systemd/daisyport.toml").read_text()
    for table, key in re.findall(r"`\[+(\w+)\]+ (\w+)", PAGE):
        part = re.split(rf"(?m)^(?:# )?\[+{table}\]+$", example)[1]
        assert re.search(rf"(?m)^(?:# )?{key} = ", part), (table, key)
