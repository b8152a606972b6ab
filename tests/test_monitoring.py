"""What monitoring is made of: alert rules and a dashboard whose queries find what a real gateway says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from subprocess import STDOUT

import pytest
import trio

from gateway.app import run
from gateway.host.config import HttpConfig
from gateway.host.reload import Reload
from gateway.host.sdnotify import Notifier
from gateway.tasks.watch import Cell
from tests.gateway.web.test_openmetrics import families
from tests.helpers import configuration, free_port, lines, needs_curl
from tests.test_chain import chain

FOLDER = Path(__file__).parents[1] / "docs" / "operating"
TOKEN, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
pytestmark = needs_curl


def queries() -> dict[str, list[str]]:
    """Every query of the alert rules and of the dashboard, by its alert or panel."""
    rules = re.findall(
        r"- alert: (\w+)\n +expr: (?:>-\n)?((?:.|\n)*?)\n +(?:for|labels):", (FOLDER / "alerts.yml").read_text()
    )
    board = json.loads((FOLDER / "grafana.json").read_text())
    panels = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in board["panels"]}
    return {name: [query] for name, query in rules} | panels


async def test_each_query_of_the_rules_and_the_dashboard_asks_for_metrics_of_a_real_scrape(tmp_path: Path) -> None:
    found: set[str] = set()
    with trio.fail_after(30):
        async with chain(tmp_path) as (gateways, _):
            for gateway, peer in zip(gateways, ("cpu2", "cpu1"), strict=True):
                page = await gateway.curl("/metrics", user="viewer")
                assert f'peer_name="{peer}"' in page  # whoever is at the other end of its link
                found |= {sample.name for family in families(page) for sample in family.samples}
    # A pty has no driver that counts; a guest with a real one does.
    found |= {"daisyport_port_driver_errors_total"}
    # Nor has the self-signed certificate an end.
    found |= {"daisyport_tls_certificate_ends_timestamp_seconds"}
    asked = {name: set(re.findall(r"daisyport_\w+", " ".join(texts))) for name, texts in queries().items()}
    assert len(asked) > 25
    assert {name: sorted(metrics - found) for name, metrics in asked.items() if metrics - found} == {}
    # ``up`` is Prometheus' own.
    assert [name for name, metrics in asked.items() if not metrics] == ["DaisyportDown"]


@needs_promtool
@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")], ids=str)
async def test_the_alert_rules_are_right_as_promtool_finds(command: tuple[str, ...]) -> None:
    with trio.fail_after(30):
        done = await trio.run_process(
            ["promtool", *command], cwd=FOLDER, check=False, capture_stdout=True, stderr=STDOUT
        )
    assert done.returncode == 0, done.stdout.decode()


async def test_a_scraper_s_token_is_read_again_at_a_hang_up(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(f"{TOKEN}\n")
    port, stop = free_port(), trio.Event()

    async def scraped(token: str) -> str:
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {token}"]
        done = await trio.run_process([*command, f"http://127.0.0.1:{port}/metrics"], capture_stdout=True)
        return done.stdout.decode()

    with trio.fail_after(15), lines(tmp_path, 1) as ends:
        http = HttpConfig((("127.0.0.1", port),), metrics_token=file)
        config = configuration(tmp_path, ends, port, http=http)
        reloads = Cell(Reload(config))
        async with trio.open_nursery() as nursery:
            await nursery.start(run, config, stop, Notifier(None), reloads)
            assert [await scraped(token) for token in (TOKEN, OTHER)] == ["200", "401"]
            file.write_text(OTHER)
            assert await scraped(OTHER) == "401"
            reloads.set(Reload(config, 1))
            while await scraped(OTHER) != "200":
                pass
            assert await scraped(TOKEN) == "401"
            stop.set()
