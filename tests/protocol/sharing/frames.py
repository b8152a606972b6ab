"""Requests and replies as the standards print them."""

from __future__ import annotations

from protocol.sharing.modbus_rtu import framed

UNIT = b"\x11"

WHOLE = {
    "read coils": ("11 01 00 13 00 25 0e 84", "11 01 05 cd 6b b2 0e 1b 45 e6"),
    "read discrete inputs": ("11 02 00 c4 00 16 ba a9", "11 02 03 ac db 35 20 18"),
    "read holding registers": ("11 03 00 6b 00 03 76 87", "11 03 06 ae 41 56 52 43 40 49 ad"),
    "read input registers": ("11 04 00 08 00 01 b2 98", "11 04 02 00 0a f8 f4"),
    "write a coil": ("11 05 00 ac ff 00 4e 8b", "11 05 00 ac ff 00 4e 8b"),
    "write a register": ("11 06 00 01 00 03 9a 9b", "11 06 00 01 00 03 9a 9b"),
    "write coils": ("11 0f 00 13 00 0a 02 cd 01 bf 0b", "11 0f 00 13 00 0a 26 99"),
    "write registers": ("11 10 00 01 00 02 04 00 0a 01 02 c6 f0", "11 10 00 01 00 02 12 98"),
    "an exception": ("0a 01 04 a1 00 01 ac 63", "0a 81 02 b0 53"),
}
"""With their CRC, as on the wire."""

PDUS = {
    "read exception status": ("07", "07 6d"),
    "return query data": ("08 00 00 a5 37", "08 00 00 a5 37"),
    "clear counters": ("08 00 0a 00 00", "08 00 0a 00 00"),
    "event counter": ("0b", "0b ff ff 01 08"),
    "event log": ("0c", "0c 08 00 00 01 08 01 21 20 00"),
    "server id": ("11", "11 02 2a ff"),
    "read file record": (
        "14 0e 06 00 04 00 01 00 02 06 00 03 00 09 00 02",
        "14 0c 05 06 0d fe 00 20 05 06 33 cd 00 40",
    ),
    "write file record": (
        "15 0d 06 00 04 00 07 00 03 06 af 04 be 10 0d",
        "15 0d 06 00 04 00 07 00 03 06 af 04 be 10 0d",
    ),
    "mask write": ("16 00 04 00 f2 00 25", "16 00 04 00 f2 00 25"),
    "read and write registers": (
        "17 00 03 00 06 00 0e 00 03 06 00 ff 00 ff 00 ff",
        "17 0c 00 fe 0a cd 00 01 00 03 00 0d 00 ff",
    ),
    "read FIFO queue": ("18 04 de", "18 00 06 00 02 01 b8 12 84"),
    "device identification": (
        "2b 0e 01 00",
        "2b 0e 01 01 00 00 03 00 16"
        + b"Company identification".hex()
        + "01 0f"
        + b"Product code XX".hex()
        + "02 05"
        + b"V2.11".hex(),
    ),
}
"""Without the unit and the CRC, as the application protocol prints them."""

CUSTOM = {
    "CANopen over Modbus": ("2b 0d 00 01 02 03", "2b 0d 00 01 02 03 04 05"),
    "somebody's own function": ("41 01 02 03", "41 99"),
}
"""Requests and replies whose length no standard tells."""


def bytes_of(text: str) -> bytes:
    return bytes.fromhex(text)


def on_wire(pdu: str) -> bytes:
    return framed(UNIT + bytes_of(pdu))


EXCHANGES = {name: (bytes_of(request), bytes_of(reply)) for name, (request, reply) in WHOLE.items()} | {
    name: (on_wire(request), on_wire(reply)) for name, (request, reply) in PDUS.items()
}
"""Request and reply, whose ends their first bytes tell (but for the request of diagnostics with data)."""

OWN = {name: (on_wire(request), on_wire(reply)) for name, (request, reply) in CUSTOM.items()}
"""Request and reply, whose ends only their CRC and silence tell."""

READ, READ_REPLY = EXCHANGES["read holding registers"]

VISCA = {
    "command": ("81 01 06 01 18 14 03 01 ff", "90 41 ff 90 51 ff"),
    "inquiry": ("81 09 04 47 ff", "90 50 02 0a 0b 0c ff"),
    "syntax error": ("81 01 04 99 ff", "90 60 02 ff"),
    "not executable": ("81 01 04 47 00 00 00 00 ff", "90 61 41 ff"),
    "cancelled": ("81 01 06 01 18 14 03 01 ff", "90 42 ff 90 62 04 ff"),
    "cancel": ("81 22 ff", "90 62 04 ff"),
    "interface clear": ("81 01 00 01 ff", "90 50 ff"),
    "interface clear of all": ("88 01 00 01 ff", "88 01 00 01 ff"),
    "address set": ("88 30 01 ff", "88 30 03 ff"),
    "another camera": ("87 09 04 00 ff", "f0 50 02 ff"),
}

VISCA_EXCHANGES = {name: (bytes_of(request), bytes_of(reply)) for name, (request, reply) in VISCA.items()}
