"""What a change of keys leaves on the disk where the parameters refuse it, and where they take only a part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gateway.rekey import KeyChanges
from gateway.state.old_keys import OldKeys
from gateway.state.store import Published
from gateway.tasks.watch import Cell
from protocol.errors import ParameterError
from protocol.link.key_frames import Rekey, Told
from protocol.parameters.catalogue import Catalogue, Update
from protocol.parameters.hardware import Hardware, ManagerHardware, SerialHardware

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from protocol.parameters.roles import Role

CLIENT = "RemotePort.R0.AuthenticationKey"
SERVER = "PortManager.P0.RemotePortServer.AuthenticationKey"
BEFORE = ("of last year", "of today", 3600.0)


class Refusing:
    """The parameters of a CPU in the middle of a chain, which refuse those of these names."""

    def __init__(self, *refused: str) -> None:
        hardware = Hardware((SerialHardware(),), (ManagerHardware(serial=1, remote_port=0),))
        self._catalogue = Catalogue(hardware)
        self._refused = refused
        stored = f"root.{CLIENT}=of today\nroot.{SERVER}=of today\n"
        self.published = Cell(Published(0, self._catalogue.restored(stored).settings))

    async def update(self, assignments: Sequence[tuple[str, str]], role: Role) -> Update:
        await trio.lowlevel.checkpoint()
        taken = [each for each in assignments if each[0] not in self._refused]
        update = self._catalogue.updated(self.published.value.settings, taken, role)
        self.published.set(Published(1, update.settings))
        errors = tuple(ParameterError(name, "", "the port did not take it") for name in self._refused)
        return replace(update, refused=errors)


@pytest.mark.parametrize("refused", [(CLIENT, SERVER), (CLIENT,)])
async def test_a_key_that_the_parameters_refuse_leaves_the_old_key_of_before_unless_the_server_has_the_new_one(
    refused: tuple[str, ...], tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    old_keys, changes = OldKeys(tmp_path), Refusing(*refused)
    await old_keys.keep(0, BEFORE)
    keys = KeyChanges(changes.published, changes, old_keys, lambda _: None, accepts=True)  # type: ignore[arg-type]
    told = Rekey(1, 20_000, 60, (bytes(16),), "of tomorrow")
    assert await keys.take(0, 0, told) == (Told.FAILED, ())
    kept = OldKeys(tmp_path).of(0)
    assert kept is not None
    assert kept[:2] == (BEFORE[:2] if SERVER in refused else ("of today", "of tomorrow"))
