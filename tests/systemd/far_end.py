"""The device at the far end of a line, for a machine without any: a pty that says back what it is told, or is mute.

Run as ``python3 far_end.py /dev/ttyV0 [mute]``. Nothing but the standard library is there.
"""

from __future__ import annotations

import os
import signal
import sys
import tty

name, *options = sys.argv[1:]
master, slave = os.openpty()
tty.setraw(slave)
os.chmod(os.ttyname(slave), 0o666)
if os.path.lexists(name):
    os.unlink(name)
os.symlink(os.ttyname(slave), name)
if options == ["mute"]:
    signal.pause()
while True:
    os.write(master, os.read(master, 4096))
