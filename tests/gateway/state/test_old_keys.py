"""Old keys outlive the process, as long as they are taken; a file that cannot be read costs nobody more than them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from gateway.state.old_keys import OldKeys
from gateway.state.store import StoreError
from protocol.link.key_rules import LONGEST_OLD_KEY

if TYPE_CHECKING:
    from pathlib import Path


async def test_an_old_key_is_kept_for_its_time(tmp_path: Path) -> None:
    keys = OldKeys(tmp_path)
    assert keys.of(1) is None
    await keys.keep(1, ("secret", "next", 60))
    await keys.keep(2, ("over", "next", -1))
    again = OldKeys(tmp_path)
    kept = again.of(1)
    assert kept is not None
    assert kept[:2] == ("secret", "next")
    assert 58 < kept[2] <= 60
    assert again.of(2) is None
    assert (tmp_path / "old_keys").stat().st_mode & 0o777 == 0o600
    await again.keep(1, None)
    assert json.loads((tmp_path / "old_keys").read_text()) == []


def test_a_clock_that_was_wrong_keeps_no_key_for_ever(tmp_path: Path) -> None:
    (tmp_path / "old_keys").write_text(json.dumps([{"port": 0, "key": "x", "beside": "y", "until": time.time() * 2}]))
    assert OldKeys(tmp_path).of(0) == ("x", "y", LONGEST_OLD_KEY)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"port": 0}]', '[{"port": "x", "key": "secret"}]'])
def test_a_file_that_makes_no_sense_is_told_without_its_content(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "old_keys").write_text(content)
    assert OldKeys(tmp_path).of(0) is None
    assert "cannot be used, so no old key is accepted" in caplog.text
    assert "secret" not in caplog.text


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "old_keys").mkdir()
    assert OldKeys(tmp_path).of(0) is None
    assert "cannot be read, so no old key is accepted: not a regular file" in caplog.text


async def test_what_the_disk_does_not_take_is_not_kept(tmp_path: Path) -> None:
    keys = OldKeys(tmp_path / "not there")
    with pytest.raises(StoreError, match="nothing was changed: No such file or directory"):
        await keys.keep(0, ("secret", "next", 60))
    assert keys.of(0) is None
