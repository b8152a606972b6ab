"""The smallest gateway: one line, any number of clients, no options. The harness's own test measures it.

python relay.py PORT DEVICE
"""

from __future__ import annotations

import os
import select
import socket
import sys

__all__ = ["relay"]


def relay(port: int, device: str) -> None:
    """Carry bytes between the device and every client until killed."""
    line = os.open(device, os.O_RDWR | os.O_NOCTTY)
    listener = socket.create_server(("127.0.0.1", port))
    clients: list[socket.socket] = []
    while True:
        descriptors: list[int | socket.socket] = [line, listener, *clients]
        ready, _, _ = select.select(descriptors, [], [])
        if listener in ready:
            clients.append(listener.accept()[0])
            clients[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if line in ready:
            data = os.read(line, 65536)
            for client in clients:
                client.sendall(data)
        for client in [one for one in clients if one in ready]:
            data = client.recv(4096)
            if data:
                os.write(line, data)
            else:
                clients.remove(client)


if __name__ == "__main__":
    relay(int(sys.argv[1]), sys.argv[2])
