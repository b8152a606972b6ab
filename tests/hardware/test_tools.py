"""A host that cannot run a guest says so, and CI does not pass without one."""

from __future__ import annotations

import pytest

from tests.hardware.image import require_tools


def test_a_host_without_the_tools_skips_the_tests_and_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed: qemu-system-x86_64, cpio"):
        require_tools(["qemu-system-x86_64", "cpio"])
    require_tools([])


def test_ci_fails_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="not installed: cpio"):
        require_tools(["cpio"])
    require_tools([])
