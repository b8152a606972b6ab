"""The files of systemd/package/: made from the commands and the example, judged by the tools that read them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from gateway.cli.main import make_parser
from tests.packaging.generate import generated

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "systemd/package"
PAGES = [path for path in generated() if path.parent.name == "man"]


def said(*command: str, stdin: str = "") -> tuple[int, str]:
    done = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_manual_is_what_the_commands_and_the_example_say(page: Path) -> None:
    assert page.read_text() == generated()[page], "run python -m tests.packaging.generate"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_manual_is_set_without_a_warning(page: Path) -> None:
    assert said("groff", "-man", "-ww", "-z", "-Tutf8", str(page)) == (0, "")


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_manual_shows_each_key_as_it_is_written() -> None:
    _, text = said("groff", "-man", "-Tascii", "-rLL=200n", "-P-cbou", str(PACKAGE / "man/daisyport.toml.5"))
    shown = re.sub(r"\s+", " ", text)
    for key in re.findall(r"(?m)^(?:# )?(\w+ = .*?)(?: +#|$)", (ROOT / "systemd/daisyport.toml").read_text()):
        assert re.sub(r"\s+", " ", key) in shown


def test_a_shell_completes_each_command_and_its_options() -> None:
    bash = PACKAGE / "completions/daisyport"
    assert said("bash", "-n", str(bash)) == (0, "")
    (commands,) = [action.choices for action in make_parser()._actions if action.metavar == "COMMAND"]
    for file in (bash, PACKAGE / "completions/_daisyport"):
        assert commands is not None
        text = file.read_text()
        assert all(re.search(rf"\b{name}\b", text) for name in commands)
        assert all(option in text for option in ("--watch", "--log-format", "--config", "--role"))
    line = "source {}; COMP_WORDS=(daisyport sta); COMP_CWORD=1; _shtab_daisyport; echo ${{COMPREPLY[@]}}"
    assert said("bash", "-c", line.format(bash))[1].split() == ["status"]


@pytest.mark.parametrize("script", ["build-deb", "debian/postinst", "debian/prerm", "debian/postrm"])
def test_a_script_of_the_package_can_be_read_by_its_shell(script: str) -> None:
    file = PACKAGE / script
    shell = file.read_text().partition("\n")[0].removeprefix("#!")
    assert said(shell, "-n", str(file)) == (0, "")


def test_the_wheel_carries_each_file_that_an_installation_needs() -> None:
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    files = {file.relative_to(ROOT) for globs in carried.values() for each in globs for file in ROOT.glob(each)}
    wanted = [
        *(each for each in (ROOT / "systemd").iterdir() if each.is_file()),
        *(PACKAGE / "man").iterdir(),
        *(PACKAGE / "completions").iterdir(),
    ]
    assert {file.relative_to(ROOT) for file in [*wanted, PACKAGE / "70-daisyport.rules"]} == files
    # An installed file comes under its own name: none may cover another.
    assert all(len({Path(each).name for each in globs}) == len(globs) for globs in carried.values())


def test_the_udev_rule_keeps_modem_manager_off_plain_adapters_alone() -> None:
    rules = re.sub(r"\\\n", "", (PACKAGE / "70-daisyport.rules").read_text())
    (rule,) = [line for line in rules.splitlines() if line and not line.startswith("#")]
    parts = [part.strip() for part in rule.split(",")]
    assert all(re.fullmatch(r'[A-Z]+(\{\w+\})?(==|!=|=|\+=)"[^"]*"', part) for part in parts)
    assert 'ENV{ID_MM_DEVICE_IGNORE}="1"' in parts
    (vendors,) = [part for part in parts if part.startswith("ATTRS{idVendor}==")]
    modems = {"12d1", "1199", "2c7c", "1e0e", "1bc7"}  # Huawei, Sierra, Quectel, SIMCom, Telit
    assert not modems & set(re.findall(r"[0-9a-f]{4}", vendors))


def test_the_image_runs_the_commands_of_the_package_as_its_user() -> None:
    text = (PACKAGE / "Containerfile").read_text()
    assert '["/usr/bin/daisyport", "health"]' in text
    assert "USER daisyport" in text
    (run,) = re.findall(r"(?m)^CMD (\[.*\])", text)
    assert make_parser().parse_args(eval(run)).config == Path("/etc/daisyport/daisyport.toml")
