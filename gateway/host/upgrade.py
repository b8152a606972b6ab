"""Refuse to load files of another version into a running process.

Modules that only some configurations need are loaded at their first use, which may be months after the start. If an
upgrade has replaced the files meanwhile, that would mix two versions, and cause errors that nobody can explain. So the
installed version is compared first.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import gateway

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["UPGRADE_WAITS", "UpgradeWaits", "guard_imports", "installed_version"]

UPGRADE_WAITS: Final = "an upgrade waits for a restart"
_VERSION: Final = re.compile(r'^__version__ = "(.*)"$', re.MULTILINE)


@final
class UpgradeWaits(ImportError):
    """The installed version is not the one that runs; the message says what to do."""


def installed_version() -> str:
    """Return the version in the files, which an upgrade may have replaced; empty where they are gone."""
    try:
        found = _VERSION.search(Path(gateway.__file__).read_text(encoding="utf-8"))
    except OSError:
        return ""
    return found[1] if found else ""


@final
class _Guard:
    """A finder that finds nothing itself: it only checks the version before the others look.

    It is not derived from importlib.abc.MetaPathFinder, which would load two dozen modules at each start.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder. Raises UpgradeWaits."""
        if name.partition(".")[0] in ("gateway", "protocol") and installed_version() != gateway.__version__:
            installed = installed_version() or "no version"
            raise UpgradeWaits(f"{UPGRADE_WAITS}: {gateway.__version__} runs, {installed} is installed")
        return None


def guard_imports() -> None:
    """Check the installed version before each module of ours that is loaded from now on."""
    sys.meta_path.insert(0, _Guard())
