"""Who loses his login while a request of his is at the line loses the line too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from gateway.state.users import Users
from tests.helpers import PASSWORD, needs_curl, running_gateway

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_curl

READ = "/axis-cgi/com/serial.cgi?port=1&write=51&read=5&wait=9"


@pytest.mark.parametrize("role", [None, "viewer"])
async def test_a_serial_cgi_at_the_line_ends_when_its_user_is_removed_or_demoted(
    tmp_path: Path, role: str | None
) -> None:
    answers: list[str] = []
    with trio.fail_after(30):
        async with running_gateway(tmp_path) as gateway:
            assert await gateway.update(SerialCGI_Enabled="yes") == "OK"

            async def ask() -> None:
                answers.append(await gateway.curl(READ, "-w", "%{http_code}", user="operator"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                assert await gateway.lines[0].hear(1) == b"Q"
                users = Users(gateway.config.state_dir)
                users.remove("operator")
                if role is not None:
                    users.add("operator", role, PASSWORD)
                begun = trio.current_time()
            assert trio.current_time() - begun < 3  # of nine
            assert answers[0].endswith("401")
            assert ("was removed" in answers[0]) == (role is None)
            await gateway.lines[0].say(b"kept")
            assert await gateway.curl("/axis-cgi/com/serial.cgi?port=1&read=4&wait=9") == "#6B657074#"
