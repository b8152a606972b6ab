"""``daisyport backup`` and ``restore`` from one machine to the same, or to another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

from gateway.cli.main import main
from gateway.state import machine
from gateway.state.backup import About, pack
from gateway.state.users import Users
from tests.helpers import running_gateway

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PARAMETERS = "root.Serial.Ser1.BaudRate=300\nroot.RemotePort.R0.AuthenticationKey=the key\n"


def host(folder: Path, chassis: str = "blade 7", *, filled: bool = True) -> Path:
    """A host with a configuration and a state; returns the configuration file."""
    state = folder / "state"
    state.mkdir(parents=True)
    if filled:
        (state / "parameters").write_text(PARAMETERS)
        (state / "node_key").write_text("secret")
        Users(state, "cpu1").add("anna", "admin", "correct horse")
    file = folder / "daisyport.toml"
    where = f'state_dir = "{state}"\nruntime_dir = "{folder}/run"\n'
    file.write_text(f'{where}chassis = "{chassis}"\n[[serial]]\ndevice = "/dev/none"\n')
    return file


def on(monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    """Be the machine with this mark."""
    monkeypatch.setattr(machine, "machine_mark", lambda _: mark)


def test_a_backup_brings_a_machine_back_to_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, "ab" * 32)
    file, archive = host(tmp_path / "a"), tmp_path / "cpu1.tar.gz"
    assert main(["backup", str(archive), "--config", str(file)]) == 0
    assert archive.stat().st_mode & 0o777 == 0o600
    assert main(["backup", str(archive), "--config", str(file)]) == 1  # it is not written over
    state = tmp_path / "a/state"
    (state / "parameters").write_text("root.Serial.Ser1.BaudRate=9600\n")
    (state / "users").unlink()
    capfd.readouterr()
    assert main(["restore", str(archive), "--config", str(file)]) == 0
    assert capfd.readouterr().out.endswith(": node_key, parameters, users\n")
    assert (state / "parameters").read_text() == PARAMETERS
    assert [user.name for user in Users(state, "cpu1").everyone] == ["anna"]


def test_another_machine_in_another_chassis_gets_neither_identity_nor_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, "ab" * 32)
    archive = tmp_path / "cpu1.tar.gz"
    assert main(["backup", str(archive), "--config", str(host(tmp_path / "a"))]) == 0
    on(monkeypatch, "cd" * 32)
    file = host(tmp_path / "b", "blade 8", filled=False)
    before = file.read_text()
    assert main(["restore", str(archive), "--config", str(file)]) == 0
    shown = capfd.readouterr().out
    assert "left out: node_key: it is the identity of" in shown
    assert "left out: 1 AuthenticationKeys: they are of another chassis; --keys restores them" in shown
    assert f"left out: daisyport.toml: {file} is there and differs; --configuration restores it" in shown
    assert not (tmp_path / "b/state/node_key").exists()
    assert (tmp_path / "b/state/parameters").read_text() == "root.Serial.Ser1.BaudRate=300\n"
    assert file.read_text() == before


def test_a_host_without_a_configuration_gets_that_of_the_backup_which_says_nothing_of_its_chassis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, "ab" * 32)
    archive, file = tmp_path / "cpu1.tar.gz", host(tmp_path / "a")
    assert main(["backup", str(archive), "--config", str(file)]) == 0
    on(monkeypatch, "cd" * 32)
    new = tmp_path / "etc/daisyport.toml"
    assert main(["restore", str(archive), "--config", str(new), "--identity"]) == 0
    assert new.read_text() == file.read_text()
    assert "1 AuthenticationKeys: they are of another chassis" in capfd.readouterr().out
    assert main(["restore", str(archive), "--config", str(new), "--keys", "--configuration"]) == 0
    assert "the key" in (tmp_path / "a/state/parameters").read_text()


def test_nothing_is_written_of_a_backup_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on(monkeypatch, "ab" * 32)
    file, archive = host(tmp_path / "a"), tmp_path / "cpu1.tar.gz"
    state = tmp_path / "a/state"
    (state / "users").write_bytes(b"x" * 100)
    (state / "parameters").write_text("root.Serial.Ser1.BaudRate=many\n")
    assert main(["backup", str(archive), "--config", str(file)]) == 0
    for wrong, why in (("noise", "it is no backup"), ("nothing", "No such file"), ("toml", "the configuration in")):
        path = tmp_path / wrong
        if wrong == "noise":
            path.write_bytes(b"noise")
        if wrong == "toml":
            good = file.read_bytes()
            file.write_text("chassis = 5\n")
            backup = tmp_path / "broken"
            backup.mkdir()
            path.write_bytes(pack(backup, b"chassis = 5\n", About("1", "n", "", "")))
            file.write_bytes(good)
        assert main(["restore", str(path), "--config", str(file), "--configuration"]) == 1
        assert why in capfd.readouterr().err
    assert (state / "parameters").read_text() == "root.Serial.Ser1.BaudRate=many\n"
    assert main(["restore", str(archive), "--config", str(file)]) == 0
    assert "Warning: parameters line 1: Serial.Ser1.BaudRate: must be one of" in capfd.readouterr().out
    assert main(["backup", str(tmp_path / "x"), "--config", str(tmp_path / "no.toml")]) == 78


async def test_a_gateway_that_runs_is_backed_up_and_not_restored_over(short_path: Path) -> None:
    with trio.fail_after(30):
        async with running_gateway(short_path) as gateway:
            file = short_path / "daisyport.toml"
            file.write_text(f'state_dir = "{short_path}/state"\nruntime_dir = "{gateway.config.runtime_dir}"\n')
            command = [sys.executable, "-m", "gateway"]
            done = []
            for verb in ("backup", "restore"):
                words = [*command, verb, str(short_path / "b.tar.gz"), "--config", str(file)]
                done.append(await trio.run_process(words, capture_stdout=True, capture_stderr=True, check=False))
    assert done[0].returncode == 0
    assert done[1].returncode == 1
    assert done[1].stderr.decode() == f"daisyport: a gateway works on {short_path}/state: systemctl stop daisyport\n"
