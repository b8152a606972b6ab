"""A module that is loaded at its first use is read beside the loop, once, and an error in it is told to who asked."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.tasks.load import load
from tests.gateway.line import real_time
from tests.live import daemon

if TYPE_CHECKING:
    from pathlib import Path

WATCHED = """
import os, sys, threading
from gateway.cli.main import main
from gateway.host.sdnotify import Notifier

main_thread, ready = threading.get_ident(), Notifier.ready

def tell(event, args):
    if event == "import" and threading.get_ident() == main_thread:
        os.write(2, f"imported in the loop: {args[0]}\\n".encode())

def tell_from_now_on(notifier):
    sys.addaudithook(tell)
    ready(notifier)

Notifier.ready = tell_from_now_on
sys.exit(main(sys.argv[1:]))
"""
"""The daemon, which says what it imports in its main thread once it is ready."""
WEB_SOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {'A' * 22}==",
)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


async def test_it_is_read_in_a_thread_and_once(modules: Path) -> None:
    (modules / "slow_module.py").write_text("import threading\nread_by = threading.get_ident()\n")
    with real_time():
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(load, "slow_module")
        assert sys.modules["slow_module"].read_by != threading.get_ident()
        before = trio.lowlevel.current_statistics().run_sync_soon_queue_size
        await load("slow_module")
        assert trio.lowlevel.current_statistics().run_sync_soon_queue_size == before


async def test_an_error_is_raised_each_time_until_the_module_can_be_read(modules: Path) -> None:
    with real_time():
        for _ in range(2):
            with pytest.raises(ImportError, match="absent_module"):
                await load("absent_module")
        (modules / "absent_module.py").write_text("")
        sys.path_importer_cache.clear()
        await load("absent_module")


async def test_what_a_running_daemon_needs_for_the_first_time_is_not_read_in_its_loop(short_path: Path) -> None:
    (short_path / "watched.py").write_text(WATCHED)
    program, config = [str(short_path / "watched.py")], "[[port_manager]]\nserial = 1\nremote_port = 0"
    headers = [word for header in WEB_SOCKET for word in ("-H", header)]
    chained = {
        "PortManager.P0.RemotePortServer.Enabled": "yes",
        "RemotePort.R0.AutoConf": "no",
        "RemotePort.R0.Host": "127.0.0.1",
        "PortManager.P0.PortType": "RemotePort",
    }
    update = "&".join(f"{name}={value}" for name, value in chained.items())
    with trio.fail_after(60):
        async with daemon(short_path, config=config, program=program) as live:
            for target in ("/", "/metrics", "/daisyport/status", f"/axis-cgi/param.cgi?action=update&{update}"):
                assert (await live.curl(target))[0] == "200"
            assert '"chain"' in (await live.curl("/daisyport/chain"))[1]
            for query in ("", "?trace=1"):
                assert (await live.curl(f"/daisyport/ports/P0{query}", "-m", "1", *headers))[0] == "101"
    assert "P0 R0:" in live.log  # the remote port was tried
    assert "imported in the loop" not in live.log
