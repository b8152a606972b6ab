"""The whole gateway over real sockets, a pty and real curl, as a user tries it and as it fails."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from gateway.host.config import PortConfig
from protocol.parameters.hardware import ManagerHardware
from protocol.sharing.turn_rule import TurnRule
from tests.helpers import free_port, needs_curl, running_gateway

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers import Gateway

pytestmark = needs_curl


async def client(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    received = b""
    while len(received) < count:
        piece = await stream.receive_some(count - len(received))
        assert piece, f"the connection ended after {received!r}"
        received += piece
    return received


async def connected(gateway: Gateway, count: int, service: str = "GenericTCPServer") -> None:
    await gateway.until(lambda status: sum(client["service"] == service for client in status["clients"]) == count)


def taken(port: int) -> bool:
    """Return true if another program of this machine listens on that port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@pytest.mark.skipif(taken(3000), reason="another program has TCP port 3000, which the contract's example opens")
async def test_the_examples_of_the_contract_work_in_order_as_written(tmp_path: Path) -> None:
    managers = (ManagerHardware(serial=1, remote_port=3), ManagerHardware(serial=2))
    with trio.fail_after(20):
        async with running_gateway(tmp_path, ports=2, managers=managers, video_sources=4) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"
            assert await gateway.set({"PortManager.P1.SerialCGI.Enabled": "yes"}) == "OK"
            line = gateway.lines[0]

            await gateway.curl("/axis-cgi/com/serial.cgi?write=2153435253500c0d")
            assert await line.hear(8) == b"!SCRSP\x0c\x0d"

            await line.say(b":KL")
            assert await gateway.curl("/axis-cgi/com/serial.cgi?read=3&timeout=2000") == "#3A4B4C#"

            answer = await gateway.curl("/axis-cgi/param.cgi?action=update&Serial.Ser1.BaudRate=9600&DataBits=8")
            assert answer == "OK"

            answer = await gateway.curl(
                "/axis-cgi/param.cgi?action=update&PortManager.P0.GenericTCPServer.Enabled=yes"
                "&PortManager.P0.GenericTCPServer.Listener.Enabled=yes"
                "&PortManager.P0.GenericTCPServer.Listener.Port=3000&PortManager.P0.PortEnabled=yes"
            )
            assert answer == "OK"
            async with await client(3000) as tcp:
                await tcp.send_all(b"raw\x00\xff")
                assert await line.hear(5) == b"raw\x00\xff"
                await line.say(b"\xff\x00back")
                assert await receive_exactly(tcp, 6) == b"\xff\x00back"

            assert await gateway.curl("/axis-cgi/com/serial.cgi?port=2&camera=2") == ""
            assert "Cam2Port=2" in await gateway.curl("/axis-cgi/param.cgi?action=list&group=PTZ.CamPorts.Cam2Port")
            assert await gateway.curl("/axis-cgi/com/serial.cgi?port=-1&camera=2") == ""
            assert "Cam2Port=-1" in await gateway.curl("/axis-cgi/param.cgi?action=list&group=PTZ.CamPorts.Cam2Port")

            assert await gateway.curl("/axis-cgi/param.cgi?action=update&PortManager.P0.PortType=RemotePort") == "OK"
            answer = await gateway.curl(
                "/axis-cgi/param.cgi?action=update&RemotePort.R3.Host=10.0.0.1&RemotePort.R3.Port=2500"
                "&PortManager.P0.PortEnabled=yes"
            )
            assert answer == "OK"


async def test_every_byte_of_four_clients_at_once_is_accounted_for_both_ways(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp(SerialCGI_Enabled="yes", PTZServer_Enabled="yes")
            line = gateway.lines[0]
            said = os.urandom(20_000)
            # Each writer has its own letter and counts in it, so that order and wholeness show on the line.
            tcp_messages = {letter: [b"%c%07d." % (letter, n) for n in range(400)] for letter in b"AB"}
            ptz_messages = [b"C%07d." % n for n in range(400)]
            cgi_messages = [b"D%07d." % n for n in range(12)]
            total = sum(map(len, tcp_messages.values())) + len(ptz_messages) + len(cgi_messages)
            heard: list[bytes] = []

            async def talk(stream: trio.SocketStream, messages: list[bytes]) -> None:
                for message in messages:
                    await stream.send_all(message)

            async def listen(stream: trio.SocketStream) -> None:
                heard.append(await receive_exactly(stream, len(said)))

            async def call() -> None:
                for message in cgi_messages:
                    assert await gateway.curl(f"/axis-cgi/com/serial.cgi?write={message.hex()}") == ""

            async with await client(port) as one, await client(port) as two, gateway.ptz() as driver:
                await connected(gateway, 2)
                await connected(gateway, 1, "PTZServer")
                async with trio.open_nursery() as nursery:
                    for stream in (one, two, driver):
                        nursery.start_soon(listen, stream)
                    nursery.start_soon(talk, one, tcp_messages[ord("A")])
                    nursery.start_soon(talk, two, tcp_messages[ord("B")])
                    nursery.start_soon(talk, driver, ptz_messages)
                    nursery.start_soon(call)
                    nursery.start_soon(line.say, said)
                    written = await line.hear(total * 9)

            messages = [written[at : at + 9] for at in range(0, len(written), 9)]
            for letter, expected in [*tcp_messages.items(), (ord("C"), ptz_messages), (ord("D"), cgi_messages)]:
                assert [message for message in messages if message[0] == letter] == expected
            assert heard == [said] * 3
            status = await gateway.status()
            assert status["bytes_from_line"] == len(said)
            assert status["bytes_to_line"] == total * 9


async def test_a_listener_moves_while_its_clients_stay(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            before = await gateway.open_tcp()
            async with await client(before) as tcp:
                await connected(gateway, 1)
                after = free_port()
                assert await gateway.update(GenericTCPServer_Listener_Port=after) == "OK"
                await tcp.send_all(b"still here")
                assert await gateway.lines[0].hear(10) == b"still here"
                with pytest.raises(OSError, match="connect"):
                    await client(before)
                async with await client(after) as newcomer:
                    await gateway.lines[0].say(b"both")
                    await connected(gateway, 2)
                    assert await receive_exactly(tcp, 4) == b"both"
                    await newcomer.aclose()


async def test_a_listener_that_is_disabled_keeps_its_clients_and_a_server_that_is_disabled_ends_them(
    tmp_path: Path,
) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            async with await client(port) as tcp:
                await connected(gateway, 1)
                assert await gateway.update(GenericTCPServer_Listener_Enabled="no") == "OK"
                await tcp.send_all(b"x")
                assert await gateway.lines[0].hear(1) == b"x"
                assert await gateway.update(GenericTCPServer_Enabled="no") == "OK"
                with pytest.raises((trio.BrokenResourceError, AssertionError)):
                    await receive_exactly(tcp, 1)


async def test_the_device_is_unplugged_and_comes_back_while_its_clients_stay(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp(SerialCGI_Enabled="yes")
            line = gateway.lines[0]
            async with await client(port) as tcp:
                await tcp.send_all(b"before")
                assert await line.hear(6) == b"before"

                line.unplug()
                await gateway.until(lambda status: status["state"] == "down")
                answer = await gateway.curl("/axis-cgi/com/serial.cgi?write=41")
                assert answer.startswith("Error:\n")
                assert str(line.path) in answer
                await tcp.send_all(b"stale!")
                await gateway.until(lambda status: any(client["dropped"] == 6 for client in status["clients"]))

                line.plug()
                await gateway.until(lambda status: status["state"] == "up")
                await tcp.send_all(b"after")
                assert await line.hear(5) == b"after"
                assert (await gateway.status())["bytes_dropped"] == 7  # and that of serial.cgi
                await line.say(b"answer")
                assert await receive_exactly(tcp, 6) == b"answer"
            await connected(gateway, 0)
            assert (await gateway.status())["bytes_dropped"] == 7  # and that of serial.cgi


async def test_port_enabled_no_then_yes_works_while_clients_are_connected(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp(SerialCGI_Enabled="yes")
            async with await client(port) as tcp:
                await connected(gateway, 1)
                assert await gateway.update(PortEnabled="no") == "OK"
                answer = await gateway.curl("/axis-cgi/com/serial.cgi?write=41")
                assert "PortManager.P0.PortEnabled=yes" in answer
                assert await gateway.update(PortEnabled="yes") == "OK"
                await tcp.send_all(b"again")
                assert await gateway.lines[0].hear(5) == b"again"


async def test_a_tcp_port_that_is_taken_is_refused_and_put_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign, trio.fail_after(15):
        taken = foreign.getsockname()[1]
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            answer = await gateway.update(GenericTCPServer_Listener_Port=taken, GenericTCPServer_Timeout=7)
            name = "root.PortManager.P0.GenericTCPServer.Listener.Port"
            assert answer == f"# Error: Error setting '{name}' to '{taken}'!"
            listed = await gateway.curl("/axis-cgi/param.cgi?action=list&group=PortManager.P0.GenericTCPServer")
            assert f"{name}={port}\n" in listed
            assert "GenericTCPServer.Timeout=7\n" in listed
            async with await client(port) as tcp:
                await tcp.send_all(b"x")
                assert await gateway.lines[0].hear(1) == b"x"


async def test_a_listener_that_cannot_be_enabled_does_not_open_another_port_instead(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign, trio.fail_after(15):
        taken = foreign.getsockname()[1]
        async with running_gateway(tmp_path) as gateway:
            answer = await gateway.update(
                GenericTCPServer_Enabled="yes",
                GenericTCPServer_Listener_Enabled="yes",
                GenericTCPServer_Listener_Port=taken,
            )
            assert answer.count("# Error") == 2
            services = (await gateway.status())["services"]
            assert not any(name.startswith("listen") for name in services)


async def test_a_tcp_port_that_is_taken_at_the_start_is_tried_again(tmp_path: Path) -> None:
    port = free_port()
    state = tmp_path / "state"
    state.mkdir()
    (state / "parameters").write_text(
        "root.PortManager.P0.GenericTCPServer.Enabled=yes\n"
        "root.PortManager.P0.GenericTCPServer.Listener.Enabled=yes\n"
        f"root.PortManager.P0.GenericTCPServer.Listener.Port={port}\n"
    )
    with socket.create_server(("127.0.0.1", port)) as foreign, trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            name = f"listen 127.0.0.1:{port}"
            assert "in use" in (await gateway.status())["services"][name]
            foreign.close()
            await gateway.until(lambda status: status["services"][name] == "up")
            async with await client(port) as tcp:
                await tcp.send_all(b"x")
                assert await gateway.lines[0].hear(1) == b"x"


async def test_two_ports_swap_their_listen_ports_in_one_request(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path, ports=2) as gateway:
            one, two = free_port(), free_port()
            server = "PortManager.P{}.GenericTCPServer."
            settings: dict[str, object] = {}
            for index, port in ((0, one), (1, two)):
                settings[server.format(index) + "Enabled"] = "yes"
                settings[server.format(index) + "Listener.Enabled"] = "yes"
                settings[server.format(index) + "Listener.Port"] = port
            assert await gateway.set(settings) == "OK"
            swap = {server.format(0) + "Listener.Port": two, server.format(1) + "Listener.Port": one}
            assert await gateway.set(dict(swap)) == "OK"
            async with await client(one) as tcp:
                await tcp.send_all(b"x")
                assert await gateway.lines[1].hear(1) == b"x"


async def test_write_then_read_is_a_turn_that_nobody_gets_into(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp(SerialCGI_Enabled="yes")
            line = gateway.lines[0]
            answers: list[str] = []

            async def ask() -> None:
                answers.append(await gateway.curl("/axis-cgi/com/serial.cgi?write=51&read=2&timeout=5000"))

            async with await client(port) as tcp, trio.open_nursery() as nursery:
                await connected(gateway, 1)
                nursery.start_soon(ask)
                assert await line.hear(1) == b"Q"
                await tcp.send_all(b"later")
                await line.say(b"o")
                await line.say(b"k")
                assert await line.hear(5) == b"later"
            assert answers == ["#6F6B#"]


async def test_a_caller_that_goes_away_in_the_middle_of_a_read_frees_the_line(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp(SerialCGI_Enabled="yes")
            line = gateway.lines[0]
            async with await client(port) as tcp, trio.open_nursery() as nursery:
                await connected(gateway, 1)
                nursery.start_soon(gateway.curl, "/axis-cgi/com/serial.cgi?write=51&read=2&timeout=9000")
                assert await line.hear(1) == b"Q"
                await tcp.send_all(b"next")
                nursery.cancel_scope.cancel()  # which kills curl
            async with await client(port) as again:
                await again.send_all(b"!")
                assert (await line.hear(5)).endswith(b"!")


async def test_a_client_that_half_closes_still_gets_the_answer(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            async with await client(port) as tcp:
                await tcp.send_all(b"question")
                await tcp.send_eof()
                assert await gateway.lines[0].hear(8) == b"question"
                await gateway.lines[0].say(b"answer")
                assert await receive_exactly(tcp, 6) == b"answer"
                assert await tcp.receive_some() == b""


async def test_connect_to_and_the_listener_work_at_once(tmp_path: Path) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    with trio.fail_after(15):
        async with listener, running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp(
                GenericTCPServer_ConnectTo_Enabled="yes",
                GenericTCPServer_ConnectTo_Host="127.0.0.1",
                GenericTCPServer_ConnectTo_Port=listener.socket.getsockname()[1],
            )
            async with await listener.accept() as dialled, await client(port) as tcp:
                await dialled.send_all(b"from afar")
                assert await gateway.lines[0].hear(9) == b"from afar"
                await connected(gateway, 2)
                await gateway.lines[0].say(b"to both")
                assert await receive_exactly(dialled, 7) == b"to both"
                assert await receive_exactly(tcp, 7) == b"to both"
            async with await listener.accept() as redialled:
                await redialled.send_all(b"back")
                assert await gateway.lines[0].hear(4) == b"back"


async def test_addresses_that_are_not_allowed_are_refused_and_a_new_list_ends_clients(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            async with await client(port) as tcp:
                await connected(gateway, 1)
                assert await gateway.update(GenericTCPServer_AllowedIPAddresses="10.0.0.0/8") == "OK"
                with pytest.raises((trio.BrokenResourceError, AssertionError)):
                    await receive_exactly(tcp, 1)
            async with await client(port) as tcp:
                with pytest.raises((trio.BrokenResourceError, AssertionError)):
                    await receive_exactly(tcp, 1)
            assert (await gateway.status())["clients_turned_away"] == 1


async def test_a_setting_that_the_driver_refuses_is_put_back_and_reported(tmp_path: Path) -> None:
    # A pty takes no parity: to the gateway it is a driver that refuses.
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            answer = await gateway.set({"Serial.Ser1.BaudRate": 19200, "Serial.Ser1.Parity": "Even"})
            assert answer == "# Error: Error setting 'root.Serial.Ser1.Parity' to 'Even'!"
            listed = await gateway.curl("/axis-cgi/param.cgi?action=list&group=Serial.Ser1")
            assert "Parity=None" in listed
            in_force = (await gateway.status())["settings_in_force"]
            assert (in_force["BaudRate"], in_force["Parity"]) == (19200, "None")


async def test_line_settings_change_in_place_without_a_word_to_the_clients(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            async with await client(port) as tcp:
                await connected(gateway, 1)
                assert await gateway.set({"Serial.Ser1.BaudRate": 115200, "Serial.Ser1.StopBits": 2}) == "OK"
                assert (await gateway.status())["settings_in_force"]["BaudRate"] == 115200
                await tcp.send_all(b"x")
                assert await gateway.lines[0].hear(1) == b"x"


async def test_a_client_that_never_reads_is_cut_and_the_others_hear_every_byte(tmp_path: Path) -> None:
    said = os.urandom(1 << 20) * 8
    with trio.fail_after(30):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            async with await client(port) as good, await client(port) as stuck:
                await connected(gateway, 2)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(gateway.lines[0].say, said)
                    assert await receive_exactly(good, len(said)) == said
                await connected(gateway, 1)
                await stuck.aclose()


async def test_a_hundred_reconnects_in_a_row_leak_nothing(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()

            async def once() -> None:
                async with await client(port) as tcp:
                    await tcp.send_all(b"x")
                    await gateway.lines[0].hear(1)
                    await gateway.lines[0].say(b"y")
                    await receive_exactly(tcp, 1)
                    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leave by reset

            await once()
            await connected(gateway, 0)
            descriptors, tasks = len(os.listdir("/proc/self/fd")), trio.lowlevel.current_statistics().tasks_living
            for _ in range(100):
                await once()
            await connected(gateway, 0)
            assert len(os.listdir("/proc/self/fd")) <= descriptors + 1
            assert trio.lowlevel.current_statistics().tasks_living <= tasks + 1


async def test_two_hundred_silent_connections_disturb_nobody(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            silent = []
            for number in range(200):  # of two addresses: one alone does not get so many
                stranger = trio.socket.socket()
                await stranger.bind((f"127.0.0.{2 + number % 2}", 0))
                await stranger.connect(("127.0.0.1", port))
                silent.append(trio.SocketStream(stranger))
            await connected(gateway, 200)
            async with await client(port) as tcp:
                await tcp.send_all(b"through")
                assert await gateway.lines[0].hear(7) == b"through"
            for stream in silent:
                await stream.aclose()
            await connected(gateway, 0)


async def test_it_stops_in_time_whatever_clients_and_line_do(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            stuck, silent = await client(port), await client(port)
            await connected(gateway, 2)
            with trio.move_on_after(1):
                await stuck.send_all(bytes(4 << 20))  # the far end reads nothing, so the line is full
            began = trio.current_time()
            gateway.stop.set()
        assert trio.current_time() - began < 4
        await stuck.aclose()
        await silent.aclose()


async def test_what_the_line_said_is_delivered_before_the_gateway_stops(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with running_gateway(tmp_path) as gateway:
            port = await gateway.open_tcp()
            async with await client(port) as tcp:
                await connected(gateway, 1)
                await gateway.lines[0].say(b"last words")
                await gateway.until(lambda status: status["bytes_from_line"] == 10)
                gateway.stop.set()
                assert await receive_exactly(tcp, 10) == b"last words"
                assert await tcp.receive_some() == b""


async def test_a_ptz_packet_is_written_whole_and_answers_come_as_packets(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            assert await gateway.update(PTZServer_Enabled="yes") == "OK"
            driver = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            driver.connect(str(gateway.config.runtime_dir / "ptz-P0.seq"))
            driver.setblocking(False)
            with driver:
                driver.send(b"\x81\x01\x06\x04\xff")
                assert await gateway.lines[0].hear(5) == b"\x81\x01\x06\x04\xff"
                await gateway.lines[0].say(b"\x90\x41\xff")
                await trio.lowlevel.wait_readable(driver)
                assert driver.recv(100) == b"\x90\x41\xff"


async def test_rates_beyond_115200_need_an_rs485_mode(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            answer = await gateway.set({"Serial.Ser1.BaudRate": 230400})
            assert answer == "# Error: Error setting 'root.Serial.Ser1.BaudRate' to '230400'!"


async def test_a_refused_update_says_in_a_header_what_would_be_right(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            answer = await gateway.curl(
                "/axis-cgi/param.cgi?action=update&Serial.Ser1.DataBits=9&Serial.Ser1.X%0d%0aY=1", "-i"
            )
            (header,) = [line for line in answer.splitlines() if line.startswith("Daisyport-Refused:")]
            assert "Serial.Ser1.DataBits: must be one of 7, 8; Serial.Ser1.X" in header


async def test_a_read_from_a_device_that_is_away_is_an_error_and_not_silence(tmp_path: Path) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"
            gateway.lines[0].unplug()
            await gateway.until(lambda status: status["state"] == "down")
            answer = await gateway.curl("/axis-cgi/com/serial.cgi?read=3&timeout=10")
            assert answer.startswith(f"Error:\n{gateway.lines[0].path}")


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_who_may_not_update_is_told_to_log_in_as_somebody_else(tmp_path: Path, role: str) -> None:
    with trio.fail_after(15):
        async with running_gateway(tmp_path) as gateway:
            target = "/axis-cgi/param.cgi?action=update&PortManager.P0.PortEnabled=no"
            answer = await gateway.curl(target, "-w", "%{http_code}", user=role)
            assert "401" in answer if role == "viewer" else "# Error: Error setting" in answer


async def test_a_reply_is_its_senders_alone_where_the_host_declares_turns(tmp_path: Path) -> None:
    turns = PortConfig(turn=TurnRule("line", end=b"\r\n", reply_timeout=9.0))
    with trio.fail_after(15):
        async with running_gateway(tmp_path, sharing=(turns,)) as gateway:
            port = await gateway.open_tcp()
            async with await client(port) as one, await client(port) as two:
                await connected(gateway, 2)
                for asker in (one, two):
                    await asker.send_all(b"?\r\n")
                    assert await gateway.lines[0].hear(3) == b"?\r\n"
                    await gateway.lines[0].say(b"reply\r\n")
                    assert await receive_exactly(asker, 7) == b"reply\r\n"
                await gateway.lines[0].say(b"to all")
                assert await receive_exactly(one, 6) == b"to all"
                assert await receive_exactly(two, 6) == b"to all"


async def test_at_a_stop_the_clients_of_another_port_hear_of_it_within_a_second_though_a_line_is_stuck(
    tmp_path: Path,
) -> None:
    """Nobody is left with a connection that is silent, on whichever port."""
    with trio.fail_after(20):
        async with running_gateway(tmp_path, ports=2) as gateway:
            tcp, other = await gateway.open_tcp(), free_port()
            server = "PortManager.P1.GenericTCPServer."
            listener = {"Enabled": "yes", "Listener.Enabled": "yes", "Listener.Port": other}
            assert await gateway.set({f"{server}{name}": value for name, value in listener.items()}) == "OK"
            async with await client(tcp) as stuck, await client(other) as moving:
                with trio.move_on_after(0.1):  # its line takes no more than a pty holds
                    await stuck.send_all(bytes(1 << 23))
                await moving.send_all(b"asked")
                assert await gateway.lines[1].hear(5) == b"asked"
                await gateway.lines[1].say(b"answered")
                assert await receive_exactly(moving, 8) == b"answered"
                gateway.stop.set()
                with trio.fail_after(1):
                    assert await moving.receive_some() == b""
