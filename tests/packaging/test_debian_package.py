"""The Debian package, built here and installed on a clean Debian: one command, and the service is up."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.systemd.machine import booted_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.systemd.machine import Machine

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="systemd-nspawn is not installed"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]


@pytest.fixture(scope="module")
def machine(package: Path, debian: Path, memory: Path) -> Iterator[Machine]:
    """A booted machine, where somebody has just installed the package."""
    root = memory / "machine"
    subprocess.run(["cp", "-a", debian, root], check=True)
    (root / "src").mkdir()
    shutil.copy(package, root / "src/daisyport.deb")
    with booted_tree(root) as machine:
        # A directory where apt's own user cannot read is only a warning.
        machine.run("apt-get install -qq -y --no-install-recommends ./daisyport.deb", seconds=120)
        yield machine


def test_the_service_is_up_after_one_command_and_after_a_restart(machine: Machine) -> None:
    assert machine.says("systemctl is-active daisyport") == "active"
    assert machine.says("systemctl is-enabled daisyport") == "enabled"
    machine.until("systemctl show -p StatusText --value daisyport", lambda words: words.endswith(": 0 of 0 ports up"))
    machine.run("systemctl restart daisyport")
    assert machine.says("systemctl is-active daisyport") == "active"
    assert machine.says("stat -c %U /proc/$(systemctl show -p MainPID --value daisyport)") == "daisyport"


def test_its_commands_its_pages_and_its_health_are_there(machine: Machine) -> None:
    shown = machine.run("daisyport status").stdout
    assert "Daisyport " in shown
    assert machine.run("daisyport check").stdout.endswith("ok, and running\n")
    assert "share serial ports" in machine.says("zcat /usr/share/man/man1/daisyport.1.gz")
    assert "metrics_token" in machine.says("zcat /usr/share/man/man5/daisyport.toml.5.gz")
    assert machine.run("daisyport health").stdout == "ok\n"


def test_ten_lines_give_it_a_port_that_bytes_flow_through(machine: Machine) -> None:
    shutil.copy(ROOT / "tests/systemd/far_end.py", machine.root / "src/far_end.py")
    machine.run("systemd-run --quiet --unit=far-end python3 /src/far_end.py /dev/ttyV0")
    machine.run("printf '[[serial]]\\ndevice = \"/dev/ttyV0\"\\n' >> /etc/daisyport/daisyport.toml")
    machine.run("systemctl restart daisyport")
    machine.until("daisyport status", lambda shown: bool(re.search(r"P0 +up", shown)))
    machine.run("echo 'correct horse' | daisyport user add anna --role admin")


def test_an_upgrade_keeps_the_configuration_the_state_and_a_service_that_was_disabled(machine: Machine) -> None:
    before = machine.says("systemctl show -p MainPID --value daisyport")
    machine.run("systemctl disable daisyport")
    machine.run("apt-get install -qq -y --reinstall ./daisyport.deb", seconds=120)
    assert machine.says("systemctl is-enabled daisyport") == "disabled"
    assert machine.says("systemctl is-active daisyport") == "active"
    assert machine.says("systemctl show -p MainPID --value daisyport") != before
    assert "/dev/ttyV0" in machine.says("cat /etc/daisyport/daisyport.toml")
    assert "anna" in machine.says("daisyport user list")


def test_its_removal_keeps_the_state_and_a_purge_leaves_nothing(machine: Machine) -> None:
    machine.run("apt-get remove -qq -y daisyport", seconds=60)
    assert machine.says("systemctl is-active daisyport") in ("inactive", "failed")
    assert machine.says("ls -d /opt/daisyport").endswith("No such file or directory")
    assert "users" in machine.says("ls /var/lib/daisyport")
    machine.run("apt-get purge -qq -y daisyport", seconds=60)
    assert machine.says("ls -d /var/lib/daisyport* /etc/daisyport /usr/bin/daisyport 2>/dev/null") == ""
    assert machine.says("dpkg -l daisyport | tail -1").startswith("dpkg-query: no packages found")
