"""All pages: run files parse, commands and links exist, nothing is of one machine."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import typer

from astor_rl.cli.app import app
from astor_rl.compare.spec import load_comparison
from astor_rl.config import load_config, parse_config

RUN = {
    "model": "m",
    "tasks": [{"name": "one", "task": "io_prediction", "source": "jsonl:x.jsonl"}],
}


def test_toml_blocks_are_run_files_or_parts_of_one(manual, page: Path, tmp_path: Path):
    for number, text in enumerate(manual.blocks(page.read_text(encoding="utf-8"), "toml")):
        if text.startswith("base = "):
            file = tmp_path / f"{number}.toml"
            file.write_text(text, encoding="utf-8")
            load_comparison(file)
        elif text.startswith("model"):
            file = tmp_path / f"{number}.toml"
            file.write_text(text, encoding="utf-8")
            load_config(file)
        else:
            parse_config({**RUN, **tomllib.loads(text)})


def test_commands_exist_with_their_options(manual, page: Path):
    commands = typer.main.get_command(app).commands
    makefile = (manual.root / "Makefile").read_text(encoding="utf-8")
    project = tomllib.loads((manual.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    text = page.read_text(encoding="utf-8")
    lines = [line for block in manual.blocks(text, "bash") for line in block.splitlines()]
    shown = [line for block in manual.blocks(text, "text") for line in block.splitlines()]
    for line in lines + [line.removeprefix("$ ") for line in shown if line.startswith("$ ")]:
        program, *arguments = shlex.split(line, comments=True)
        if program == "make":
            assert arguments[0] in targets, line
        elif program.removeprefix(".venv/bin/") == "astor":
            commands[arguments[0]].make_context(arguments[0], arguments[1:])
        else:
            extras = re.fullmatch(r"pip install -e '\.\[([a-z,]+)\]'", line)
            assert extras, f"a command that nothing checks: {line}"
            assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()


def test_every_command_is_on_the_map(manual):
    commands = set(typer.main.get_command(app).commands)
    assert set(re.findall(r"^\| `astor ([\w-]+)`", manual.text("index"), re.MULTILINE)) == commands


def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), target
        if anchor:
            text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
            titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            # GitHub's rule for the anchors of headings.
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, target


def test_nothing_of_one_machine(page: Path):
    assert not re.search(r"/(work|root|home|tmp)/", page.read_text(encoding="utf-8"))
