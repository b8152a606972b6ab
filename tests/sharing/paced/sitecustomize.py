"""Have a daemon take a pty for an adapter whose driver tells nothing of its queue, so that it paces what it writes.

A pty has the device number of one, and is written at full speed; all else about it stays as it is. On PYTHONPATH.
"""

import os
import types

_fstat = os.fstat
_PTYS = range(136, 144)
_USB_SERIAL = 188


def _as_an_adapter(fd: int) -> object:
    found = _fstat(fd)
    if os.major(found.st_rdev) not in _PTYS:
        return found
    values = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
    values["st_rdev"] = os.makedev(_USB_SERIAL, os.minor(found.st_rdev))
    return types.SimpleNamespace(**values)


os.fstat = _as_an_adapter  # type: ignore[assignment]
