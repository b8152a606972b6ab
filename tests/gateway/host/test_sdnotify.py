from __future__ import annotations

import os
import resource
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from gateway.host.sdnotify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A service manager's socket, and its address as NOTIFY_SOCKET gives it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@daisyport-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        listener.settimeout(5)
        yield address, listener


def test_every_word_arrives_as_a_datagram_of_its_own(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    with closing(Notifier.from_environment({"NOTIFY_SOCKET": address})) as notifier:
        notifier.ready()
        notifier.status("P0 listens on :3000")
        notifier.watchdog()
        notifier.stopping()
    told = [listener.recv(4096) for _ in range(4)]
    assert told == [b"READY=1", b"STATUS=P0 listens on :3000", b"WATCHDOG=1", b"STOPPING=1"]


def test_a_status_cannot_forge_another_word(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    with closing(Notifier.from_environment({"NOTIFY_SOCKET": address})) as notifier:
        notifier.status("two\nSTOPPING=1\r\0" + "x" * 1000)
    told = listener.recv(4096)
    assert told.startswith(b"STATUS=two?STOPPING=1??xxx")
    assert len(told) == len(b"STATUS=") + 256


def test_what_a_full_socket_did_not_take_goes_along_with_the_next_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, closing(Notifier(address)) as notifier:
        listener.bind(address)
        listener.settimeout(5)
        while not caplog.records:
            notifier.watchdog()
        notifier.ready()
        assert len(caplog.records) == 1, "a full socket is named once"
        while listener.recv(4096, socket.MSG_PEEK) == b"WATCHDOG=1":
            listener.recv(4096)
            notifier.status("up")
        assert listener.recv(4096) == b"WATCHDOG=1\nREADY=1\nSTATUS=up"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_manager_every_word_is_spoken_to_nobody(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier.from_environment({**environ, "WATCHDOG_USEC": "1000000"})
    notifier.ready()
    notifier.stopping()
    assert notifier.watchdog_seconds is None
    assert not caplog.records


def test_a_manager_that_went_away_is_named_once_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Notifier(str(tmp_path / "nobody"))) as notifier:
        notifier.ready()
        notifier.watchdog()
    (record,) = caplog.records
    assert record.getMessage().endswith("nobody' takes nothing: No such file or directory")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_for_the_process_it_names(environ: dict[str, str], seconds: float | None) -> None:
    with closing(Notifier.from_environment({"NOTIFY_SOCKET": "@x", **environ})) as notifier:
        assert notifier.watchdog_seconds == seconds


def test_the_watchdog_is_fed_when_no_descriptor_is_left(manager: tuple[str, socket.socket]) -> None:
    address, listener = manager
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(Notifier(address, 30)) as notifier:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            notifier.watchdog()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert listener.recv(100) == b"WATCHDOG=1"


def test_a_manager_whose_socket_was_made_anew_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with closing(Notifier(str(path))) as notifier:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
                listener.bind(str(path))
                notifier.watchdog()
                assert listener.recv(100) == b"WATCHDOG=1"
            path.unlink()


def test_a_socket_that_could_not_be_made_at_the_start_is_made_later(
    manager: tuple[str, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    address, listener = manager
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        notifier = Notifier(address)
        notifier.ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "takes nothing: Too many open files" in caplog.text
    with closing(notifier):
        notifier.watchdog()
    assert listener.recv(100) == b"READY=1\nWATCHDOG=1"
