"""The files in systemd/, judged by systemd's own tools; no systemd has to be running."""

from __future__ import annotations

import os
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


def settings_of(file: Path) -> dict[str, list[str]]:
    lines = [line.partition("=") for line in file.read_text().splitlines() if not line.startswith("#")]
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
    found = settings_of(SERVICE)
    assert found["Type"] == ["notify"]
    assert found["SupplementaryGroups"] == ["dialout"]
    families = found["RestrictAddressFamilies"][0].split()
    assert {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"} == set(families)
    # A user namespace would show every peer of a PTZ socket as nobody, a private /dev would hide the tty.
    assert not {"PrivateUsers", "PrivateDevices", "PrivateNetwork"} & found.keys()


def test_a_mistake_in_the_configuration_is_not_tried_again_and_a_certificate_is_reloaded() -> None:
    found = settings_of(SERVICE)
    assert found["RestartPreventExitStatus"] == [str(os.EX_CONFIG)]
    check, hang_up = found["ExecReload"]
    assert check == found["ExecStart"][0].replace(" run ", " check ")
    assert hang_up == "/bin/kill -HUP $MAINPID"
    assert (found["Restart"], found["StartLimitIntervalSec"]) == (["always"], ["0"])


@needs_systemd
@pytest.mark.parametrize("name", ["daisyport@.service", "daisyport.socket"])
def test_the_other_units_are_verified_without_a_word(name: str, tmp_path: Path) -> None:
    for file in SYSTEMD.glob("*.*"):
        shutil.copy(file, tmp_path)
    assert said("systemd-analyze", "verify", str(tmp_path / name)) == (0, "")


def test_an_instance_is_the_service_under_another_name() -> None:
    service, instance = settings_of(SERVICE), settings_of(SYSTEMD / "daisyport@.service")
    differing = {key for key in service.keys() | instance.keys() if service.get(key) != instance.get(key)}
    assert differing == {
        "Description",
        "ExecStart",
        "ExecReload",
        "SyslogIdentifier",
        "StateDirectory",
        "RuntimeDirectory",
        "LogsDirectory",
    }
    assert {key for key in differing if "%i" not in "".join(instance[key])} == set()


def test_the_growing_pause_is_for_a_newer_systemd_and_not_in_the_unit() -> None:
    assert settings_of(SYSTEMD / "restart-pause.conf").keys() == {"RestartSteps", "RestartMaxDelaySec"}
    assert not settings_of(SERVICE).keys() & {"RestartSteps", "RestartMaxDelaySec"}


def test_the_service_reads_the_configuration_where_the_example_says_to_put_it() -> None:
    (command,) = settings_of(SERVICE)["ExecStart"]
    place = command.split(" --config ")[1]
    assert place in (SYSTEMD / "daisyport.toml").read_text()
