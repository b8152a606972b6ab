"""The file of the scraper's token: what is in force, and what is wrong with a file that is not used."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from gateway.web.bearer import Bearer, TokenError, read_token
from gateway.web.message import Request
from protocol.endpoint import Endpoint

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = b"0123456789abcdef" * 2
REQUEST = Request("GET", b"/metrics", (), b"", Endpoint("::1", 40000))


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.touch(0o600)
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "content", [TOKEN, TOKEN + b"\n", b" " + TOKEN + b"\r\n", b"a" * 4096, b"A-z._~+/09" * 4 + b"=="]
)
def test_a_line_of_32_characters_or_more_is_a_token(tmp_path: Path, content: bytes) -> None:
    assert read_token(written(tmp_path / "token", content)) == content.strip()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the token must have at least 32 characters: openssl rand -hex 32"),
        (TOKEN[:-1] + b"\n", "the token must have at least 32 characters"),
        (TOKEN + b"\n" + TOKEN, "the token must be one line of letters, digits"),
        (b"pass word" * 9, "the token must be one line"),
        (b"\xff" * 32, "the token must be one line"),
        (b"a" * 4097, "the token must be one line"),
    ],
)
def test_any_other_content_is_refused_and_not_repeated(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(TokenError, match=re.escape(why)) as caught:
        read_token(written(tmp_path / "token", content))
    assert not content or content[:8].decode("latin-1") not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(TokenError, match="can be read by others than its owner: chmod 600"):
        read_token(written(tmp_path / "token", TOKEN, mode))


def test_a_file_that_is_not_there_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="cannot be read: No such file"):
        read_token(tmp_path / "none")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(TokenError, match="is not a regular file"):
        read_token(tmp_path / "fifo")
    with pytest.raises(TokenError, match=r"cannot be read: Is a directory|is not a regular file"):
        read_token(tmp_path)


def test_it_is_read_again_and_an_error_takes_the_token_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bearer = Bearer(written(tmp_path / "token", TOKEN))
    assert bearer.refusal(REQUEST, TOKEN) is not None
    bearer.load()
    assert bearer.refusal(REQUEST, TOKEN) is None
    written(tmp_path / "token", b"x" * 40)
    bearer.load()
    assert bearer.refusal(REQUEST, TOKEN) is not None
    assert bearer.refusal(REQUEST, b"x" * 40) is None
    (tmp_path / "token").chmod(0o644)
    bearer.load()
    assert bearer.refusal(REQUEST, b"x" * 40) is not None
    assert bearer.refusal(REQUEST, b"") is not None
    assert "no token opens /metrics" in caplog.text
    (tmp_path / "token").chmod(0o600)
    bearer.load()
    bearer.path = None
    bearer.load()
    assert bearer.refusal(REQUEST, b"x" * 40) is not None
