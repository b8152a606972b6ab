"""The audit: who changed what, who logged in first, who was locked out, what could not be stored; and no secret."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import trio

from gateway.state import atomic_file
from gateway.tasks.audit import AUDIT
from tests.helpers import PASSWORD, needs_curl, running_gateway

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

pytestmark = needs_curl


def audited(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the audit, with each client's port as N."""
    lines = [record.getMessage() for record in caplog.records if record.name == AUDIT]
    return [re.sub(r"(127\.0\.0\.1):\d+", r"\1:N", line) for line in lines]


async def test_a_change_is_written_with_who_made_it_and_both_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"  # no change
    assert audited(caplog) == [
        "admin (admin) logged in from 127.0.0.1",
        "admin at 127.0.0.1:N set PortManager.P0.SerialCGI.Enabled from 'no' to 'yes'",
    ]


async def test_a_secret_is_written_by_its_name_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            for key in ("first-secret-key-of-16", "second-secret-key-of-16"):
                assert await gateway.update(RemotePortServer_AuthenticationKey=key) == "OK"
    name = "PortManager.P0.RemotePortServer.AuthenticationKey"
    assert audited(caplog)[1:] == [f"admin at 127.0.0.1:N set {name} from '******' to '******'"] * 2
    assert "secret-key" not in caplog.text


async def test_a_disk_that_takes_no_change_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    caplog.set_level("INFO")
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            monkeypatch.setattr(atomic_file, "replace", full)
            assert "No space left" in await gateway.update(SerialCGI_Enabled="yes")
    (line,) = (record for record in caplog.records if record.name == AUDIT and record.levelno == logging.ERROR)
    assert re.fullmatch(
        r"admin at 127\.0\.0\.1:\d+ changed nothing: .*parameters cannot be written, nothing was changed: "
        r"No space left on device",
        line.getMessage(),
    )


async def test_wrong_logins_are_written_without_names_that_no_user_has_and_then_the_lock_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with trio.fail_after(30):
        async with running_gateway(tmp_path) as gateway:
            for name in ("hunter2", "admin"):
                for _ in range(30):
                    await gateway.curl("/daisyport/status", "-u", f"{name}:wrong")
            assert await gateway.curl("/", "-u", f"viewer:{PASSWORD}") is not None
    lines = audited(caplog)
    assert "127.0.0.1:N: wrong login for a name that no user has" in lines
    assert "127.0.0.1 is locked out after wrong logins" in lines
    assert "hunter2" not in caplog.text
    assert "wrong" not in re.sub(r"wrong logins?", "", " ".join(lines))
    assert len(lines) <= 22  # the first ten of each kind
