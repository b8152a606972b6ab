"""docs/operating, held against what it describes."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.cli.main import make_parser
from gateway.host.reload import AT_ONCE
from tests.systemd.test_service import ELSEWHERE, RUN

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/operating"
PAGE = (FOLDER / "README.md").read_text()
PAGES = "\n".join(page.read_text() for page in sorted(FOLDER.glob("*.md")))
EXAMPLE = (ROOT / "systemd/daisyport.toml").read_text()


def keys_of_the_example() -> set[str]:
    """Every key that there is, with its table: the example names them all, as a test of the configuration holds."""
    table, keys = "", set()
    for line in EXAMPLE.splitlines():
        if header := re.fullmatch(r"(?:# )?\[+([\w.]+)\]+", line):
            table = f"{header[1]}."
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            keys.add(table + key[1])
    return keys


def test_each_key_of_the_configuration_has_its_row_and_says_when_it_counts() -> None:
    rows = dict(re.findall(r"(?m)^\| `([\w.]+)` \| (at once|at the next start) \|$", PAGE))
    assert rows.keys() == keys_of_the_example()
    assert {key for key, counts in rows.items() if counts == "at once"} == AT_ONCE


def commands() -> set[str]:
    """Every command of a block or in a sentence."""
    fenced = r"(?ms)^```(\w*)\n(.*?)^```$"
    blocks = [block for language, block in re.findall(fenced, PAGES) if not language]
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    sentences = re.sub(fenced, "", PAGES)
    programs = "daisyport|systemctl|journalctl|kill|curl|apt|/opt/daisyport/bin/pip"
    words = re.findall(rf"`((?:{programs}) [^`]*)`", sentences)
    return {re.sub(r"\s+", " ", line.partition(" # ")[0]).strip() for line in [*lines, *words]}


def test_each_command_is_run_on_a_real_systemd_or_has_its_reason() -> None:
    assert commands() == RUN.keys() | ELSEWHERE.keys()


def test_each_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"(?<![/\w])(?:systemd|docs|package)/[\w@./-]+\w", PAGES))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_each_link_between_the_pages_leads_somewhere() -> None:
    for page in FOLDER.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (FOLDER / target).exists(), (page.name, target)


def test_each_command_of_ours_on_the_pages_can_be_parsed() -> None:
    commands = re.findall(r"(?:^|[`(]|&& |; )daisyport ((?:[a-z0-9-]+ ?)[^`&;#|\n]*)", PAGES, re.MULTILINE)
    assert len(commands) > 20
    for command in commands:
        words = command.replace("...", "x").split()
        # Prose names some without the arguments that they ask for.
        if words not in (["user", "remove"], ["user", "add"], ["kick"]):
            make_parser().parse_args(words)


def test_each_message_is_one_that_the_gateway_has() -> None:
    said = " ".join(path.read_text() for path in [*ROOT.glob("gateway/**/*.py"), *ROOT.glob("protocol/**/*.py")])
    said = re.sub(r"\"\s*\n\s*f?\"", "", said) + "the session is over: loop"  # of two texts, which a reason joins
    for message in re.findall(r"(?m)^\| `([^`]+)`", (FOLDER / "messages.md").read_text()):
        # What the gateway puts in stands as ..., N, a number or a path.
        pieces = re.split(r"\.\.\.|\bN\b|[0-9]{2,}|/\S+|\bR0\b|[0-9]\b", message)
        parts = [part for part in pieces if len(part.strip(" :;,")) >= 5]
        assert parts, message
        for part in parts:
            assert part.strip(" :;,") in said, message
