"""The node id: made once, kept, and never guessed from what a file might have meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.state.node_id import node_id
from gateway.state.store import StoreError

if TYPE_CHECKING:
    from pathlib import Path


def test_it_is_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    made = node_id(tmp_path)
    assert len(made) == 16
    assert node_id(tmp_path) == made
    assert (tmp_path / "node_id").stat().st_mode & 0o077 == 0


def test_no_two_nodes_have_the_same(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert node_id(tmp_path) != node_id(tmp_path / "other")


@pytest.mark.parametrize("content", [b"", b"00", b"zz" * 16, b"\xff\xfe", b"00" * 17])
def test_a_damaged_file_is_told_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node_id").write_bytes(content)
    with pytest.raises(StoreError, match="32 hexadecimal digits; remove it"):
        node_id(tmp_path)
    assert (tmp_path / "node_id").read_bytes() == content


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        node_id(tmp_path / "missing")
