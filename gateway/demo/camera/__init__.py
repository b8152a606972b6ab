"""A simulated PTZ camera that answers VISCA and Pelco-D: what `daisyport demo` has in place of hardware.

Nothing in here knows of gateways, ports or parameters.
"""

from __future__ import annotations

from gateway.demo.camera.body import Camera, live
from gateway.demo.camera.head import Heard

__all__ = ["Camera", "Heard", "live"]
