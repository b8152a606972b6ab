"""Users of a TLS service who have TLS itself work for them as fast as they can: nobody else notices."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tests.certificates import Authority
from tests.helpers import free_port
from tests.hostile.siege import besieged
from tests.hostile.test_floods import SECONDS
from tests.hostile.tls_records import FLOODS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long  # it measures time, so nothing else may run beside it


def over_tls(directory: Path) -> tuple[int, Path, str]:
    """Return the port of a TLS service, a certificate for it, and the table that has it."""
    port, authority = free_port(), Authority()
    (directory / "clients.pem").write_bytes(authority.pem)
    (directory / "admin.pem").write_bytes(authority.sign("admin")[0])
    table = f'[port_manager.tls]\nlisten = ["127.0.0.1:{port}"]\nclient_ca = "{directory}/clients.pem"\n'
    return port, directory / "admin.pem", table


@pytest.mark.parametrize(
    ("kind", "manner", "service"),
    [
        *((kind, "reads", "a port") for kind in FLOODS),
        ("key_updates", "does_not_read", "a port"),
        ("key_updates", "reads", "HTTP"),
    ],
)
async def test_whoever_floods_tls_delays_nobody_and_costs_no_memory(
    tmp_path: Path, kind: str, manner: str, service: str
) -> None:
    port, certificate, table = over_tls(tmp_path)
    with trio.fail_after(60):
        async with besieged(tmp_path, more_ports=table) as siege, siege.unharmed():
            there = port if service == "a port" else siege.owner.gateway.http_port
            flood = "tests.hostile.tls_records", str(there), str(certificate), kind, str(SECONDS), manner
            command = ["nice", "-n", "19", sys.executable, "-m", *flood]  # the work of an attacker is done elsewhere
            done = await trio.run_process(command, capture_stdout=True)
    print(int(done.stdout), "records")
    assert int(done.stdout) > 100


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_whoever_wants_to_negotiate_anew_without_end_delays_nobody(tmp_path: Path) -> None:
    port, certificate, table = over_tls(tmp_path)
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{port}", "-cert", str(certificate)]

    async def renegotiate() -> None:
        """Say R, which has openssl negotiate anew, until it is refused; and come again."""
        while True:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                assert process.stdin is not None
                with suppress(trio.BrokenResourceError):
                    while process.poll() is None:
                        await process.stdin.send_all(b"R\n")
                        await trio.sleep(0.005)
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()

    with trio.fail_after(60):
        async with besieged(tmp_path, more_ports=table) as siege, siege.unharmed():
            with trio.move_on_after(SECONDS):
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(renegotiate)
