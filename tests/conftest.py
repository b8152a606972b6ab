"""What all tests share: Hypothesis without its own clock, since a busy machine is no failure, and short folders.

`--hypothesis-profile=long` looks further.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("daisyport", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile("daisyport")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a folder whose name leaves room for Unix sockets in it.

    Their addresses hold 107 bytes, and ``tmp_path`` is deep where tests run on several workers.
    """
    with tempfile.TemporaryDirectory(prefix="dp-", dir="/tmp") as directory:
        yield Path(directory)
