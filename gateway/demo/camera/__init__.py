"""A simulated PTZ camera that answers VISCA and Pelco-D, the hardware of ``daisyport demo``."""

from __future__ import annotations

from gateway.demo.camera.body import Camera, live
from gateway.demo.camera.head import Heard

__all__ = ["Camera", "Heard", "live"]
