"""The image of a container, built from its Containerfile on a clean Debian, and run as the operating pages run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]


class Builder:
    """``buildah``, which is what ``podman build`` calls, with a store of its own that needs nothing of this host."""

    def __init__(self, store: Path) -> None:
        self._words = ["buildah", "--storage-driver=overlay", f"--root={store}/root", f"--runroot={store}/run"]

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        # Without namespaces, since the host that runs this test may have none to give.
        environ = os.environ | {"BUILDAH_ISOLATION": "chroot"}
        return subprocess.Popen(
            [*self._words, *words],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def does(self, *words: str | Path) -> str:
        """Return what a command prints, which must be a success."""
        process = self.start(*words)
        said, _ = process.communicate()
        assert process.returncode == 0, f"{words}: status {process.returncode}\n{said[-4000:]}"
        return said.strip()


@pytest.fixture(scope="module")
def builder(memory: Path) -> Builder:
    return Builder(memory / "images")


@pytest.fixture(scope="module")
def image(builder: Builder, package: Path, debian: Path) -> dict[str, Any]:
    """What is told of the image ``daisyport``, which a clean Debian in the place of the registry's is the base of."""
    base = builder.does("from", "scratch")
    builder.does("add", base, debian, "/")
    builder.does("commit", "--rm", base, "docker.io/library/debian:12-slim")
    shutil.copy(ROOT / "systemd/package/Containerfile", package.parent)
    builder.does("build", "--pull=never", "--format=docker", "-t", "daisyport", package.parent)
    told: dict[str, Any] = json.loads(builder.does("inspect", "--type=image", "daisyport"))["Docker"]["config"]
    return told


def descendants(process: int) -> Iterator[int]:
    """The processes that a process started, each behind the one that started it."""
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def test_the_image_has_its_port_up_as_its_user_is_healthy_and_stops(
    builder: Builder, image: dict[str, Any], tmp_path: Path
) -> None:
    master, slave = os.openpty()
    os.fchmod(slave, 0o666)
    config = tmp_path / "daisyport.toml"
    config.write_text(f'[http]\nlisten = ["127.0.0.1:{free_port()}"]\n[[serial]]\ndevice = "{os.ttyname(slave)}"\n')
    config.chmod(0o644)
    container = builder.does("from", "--pull=never", "localhost/daisyport")
    mounted = f"{config}:/etc/daisyport/daisyport.toml:ro"
    running = builder.start("run", "-v", mounted, container, "--", *image["Entrypoint"], *image["Cmd"])
    try:
        for line in running.stdout or ():
            if line.endswith("P0 Ser1: up\n"):
                break
        else:
            pytest.fail("the gateway ended before its port was up")
        instruction, *check = image["Healthcheck"]["Test"]
        assert (instruction, builder.does("run", container, "--", *check)) == ("CMD", "ok")
        *_, daemon = descendants(running.pid)
        assert os.stat(f"/proc/{daemon}").st_uid != 0
        os.kill(daemon, getattr(signal, image["StopSignal"]))
        assert running.wait(20) == 0
    finally:
        running.terminate()
        running.communicate()
        os.close(master)
        os.close(slave)
