"""Descriptors that outlive the process: what the service manager is told, and what becomes of what it kept."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gateway.host.descriptor_store import DescriptorStore, tty_name
from gateway.host.sdnotify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


@pytest.fixture
def notifier(tmp_path: Path, manager: socket.socket) -> Iterator[Notifier]:
    with contextlib.closing(Notifier(str(tmp_path / "notify"))) as notifier:
        yield notifier


def test_a_copy_is_kept_under_its_name_though_its_other_end_hangs_up_until_it_is_forgotten(
    manager: socket.socket, notifier: Notifier
) -> None:
    store = DescriptorStore(notifier)
    reader, writer = os.pipe()
    store.keep("tty-P0-/run/t", writer)
    os.close(writer)
    told, ancillary, *_ = manager.recvmsg(4096, socket.CMSG_SPACE(4))
    assert told == b"FDSTORE=1\nFDNAME=tty-P0-/run/t\nFDPOLL=0"
    ((level, kind, data),) = ancillary
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    (copy,) = array.array("i", data)
    os.write(copy, b"it goes on")
    assert os.read(reader, 100) == b"it goes on"
    store.forget("tty-P0-/run/t")
    assert manager.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=tty-P0-/run/t"
    os.close(copy)
    os.close(reader)


def test_what_has_no_place_any_more_is_closed_and_given_up(manager: socket.socket, notifier: Notifier) -> None:
    wanted, other = os.pipe()
    store = DescriptorStore(notifier, {"wanted": wanted, "other": other})
    store.retain({"wanted", "new"})
    assert manager.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=other"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(other)
    assert (store.take("other"), store.take("new"), store.take("wanted"), store.take("wanted")) == (
        None,
        None,
        wanted,
        None,
    )
    store.leave("wanted", wanted)
    store.close()
    store.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(wanted)


def test_without_a_service_manager_nothing_is_kept_and_nothing_fails() -> None:
    store = DescriptorStore(Notifier(None))
    store.keep("tty", 0)
    store.forget("tty")
    assert store.take("tty") is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/run/daisyport/tty-P0", "tty-P0-/run/daisyport/tty-P0"),
        ("/run/a:b c\n/é", "tty-P0-/run/a%3Ab%20c%0A/%C3%A9"),
    ],
)
def test_a_name_has_no_character_that_a_service_manager_refuses(path: str, name: str) -> None:
    assert tty_name("P0", path) == name


def test_names_of_long_paths_are_short_enough_and_differ() -> None:
    one, other = (tty_name("P0", "/run/" + "x" * 400 + end) for end in "ab")
    assert one != other
    assert max(len(one), len(other)) <= 255
