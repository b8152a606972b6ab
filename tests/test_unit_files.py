"""The files in systemd/, judged by systemd's own tools; no systemd has to be running."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[1] / "systemd"
SERVICE = SYSTEMD / "daisyport.service"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def said(*command: str) -> tuple[int, str]:
    """Run a command; return its status and all that it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False)
    return done.returncode, done.stdout


def settings_of_the_service() -> dict[str, list[str]]:
    lines = [line.partition("=") for line in SERVICE.read_text().splitlines() if not line.startswith("#")]
    found: dict[str, list[str]] = {}
    for key, equals, value in lines:
        if equals:
            found.setdefault(key, []).append(value)
    return found


@needs_systemd
def test_the_service_is_verified_without_a_word() -> None:
    assert said("systemd-analyze", "verify", str(SERVICE)) == (0, "")


@needs_systemd
def test_a_misspelt_setting_would_not_pass_unseen(tmp_path: Path) -> None:
    copy = tmp_path / "daisyport.service"
    copy.write_text(SERVICE.read_text().replace("WatchdogSec", "WatchdogSecs"))
    _, output = said("systemd-analyze", "verify", str(copy))
    assert "WatchdogSecs" in output


@needs_systemd
def test_the_service_is_exposed_to_little() -> None:
    analyze = ("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15")
    status, output = said(*analyze, str(SERVICE))
    assert status == 0, output


@needs_systemd
def test_the_user_can_be_made() -> None:
    status, output = said("systemd-sysusers", "--dry-run", str(SYSTEMD / "daisyport.sysusers"))
    assert status == 0, output


def test_the_sandbox_leaves_what_the_daemon_needs() -> None:
    found = settings_of_the_service()
    assert found["Type"] == ["notify"]
    assert found["SupplementaryGroups"] == ["dialout"]
    families = found["RestrictAddressFamilies"][0].split()
    assert {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"} == set(families)
    # A user namespace would show every peer of a PTZ socket as nobody, a private /dev would hide the tty.
    assert not {"PrivateUsers", "PrivateDevices", "PrivateNetwork"} & found.keys()


def test_the_service_reads_the_configuration_where_the_example_says_to_put_it() -> None:
    (command,) = settings_of_the_service()["ExecStart"]
    place = command.split(" --config ")[1]
    assert place in (SYSTEMD / "daisyport.toml").read_text()
