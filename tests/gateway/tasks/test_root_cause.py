"""The exception that a nest of groups is about."""

from __future__ import annotations

import pytest

from gateway.tasks.root_cause import root_cause


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_first_exception_that_is_no_group_is_found_in_any_depth(depth: int) -> None:
    cause = error = OSError("away")
    for _ in range(depth):
        error = ExceptionGroup("", [error, ValueError("later")])  # type: ignore[assignment]  # it grows into a group
    assert root_cause(error) is cause
