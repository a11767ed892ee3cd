"""Every block of README and docs that can run, runs: Python as it stands, commands as far as their arguments."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from peft import get_peft_model
from samples import write_mfa_folder, write_picture
from tiny_checkpoint import save_tiny_checkpoint

import mf2
from mf2.baselines.registry import FILES_VARIABLE
from mf2.cli.main_command import main
from mf2.labels_mf2 import MEAN_FACE_68
from mf2.peft_dfn import DFNConfig
from mf2.training.arguments import FinetuneArguments, PretrainArguments, parse_arguments

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
ARGUMENTS = {"training/pretrain.py": PretrainArguments, "training/finetune.py": FinetuneArguments}
LAUNCHERS = {"accelerate", "torchrun"}
ELSEWHERE = {"pip", "python", "pytest", "pre-commit", "mkdocs", "make", ".", "export", "srun", "hf"}
"""Programs whose arguments are not ours to check."""


def blocks(*languages: str) -> list[tuple[str, str]]:
    """(page, text) of the fenced blocks in these languages."""
    return [
        (page.name, text)
        for page in PAGES
        for language, text in BLOCK.findall(page.read_text("utf-8"))
        if language in languages
    ]


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command line; lines that end in a backslash go on, `&&` separates two."""
    found = []
    for page, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words:
                    found.append((page, words))
    return found


def written_files(page: str, folder: Path) -> dict[str, str]:
    """Name -> path of the files that a page's Python blocks are, by their first line: `# my_system.py`."""
    files = {}
    for name, text in blocks("python"):
        if name == page and (first := re.match(r"# (\w+\.py)\n", text)):
            (folder / first[1]).write_text(text, "utf-8")
            files[first[1]] = str(folder / first[1])
    return files


class Understood(Exception):  # noqa: N818
    """Raised in place of running a command whose arguments were understood."""


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda part: part if isinstance(part, str) else part[0])
def test_commands_name_arguments_that_there_are(page, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(FILES_VARIABLE, "")
    files = written_files(page, tmp_path)
    program, *rest = [files.get(word, word) for word in words]
    if program == "mf2":
        understand = argparse.ArgumentParser.parse_args

        def only_parse(self, *args, **kwargs):
            understand(self, *args, **kwargs)
            raise Understood

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
        with pytest.raises(Understood):
            raise Understood if rest[-1] == "--help" else SystemExit(main(rest))
    elif program in LAUNCHERS and any(word in ARGUMENTS for word in rest):
        script = next(word for word in rest if word in ARGUMENTS)
        parse_arguments(ARGUMENTS[script], [word for word in rest[rest.index(script) + 1 :] if word != "--help"])
    else:
        assert program in ELSEWHERE | LAUNCHERS, f"{page}: nobody knows {shlex.join(words)}"


def test_make_has_the_targets_that_are_named():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {target for page in PAGES for target in re.findall(r"`make ([a-z-]+)`", page.read_text("utf-8"))}
    assert named <= targets


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory) -> Path:
    """A folder with what the blocks name: a checkpoint, two adapters, data and pictures."""
    folder = tmp_path_factory.mktemp("sandbox")
    base = folder / "outputs" / "demo"
    save_tiny_checkpoint(base)
    write_mfa_folder(base / "data", landmarks=[[16 * x, 16 * y] for x, y in MEAN_FACE_68])
    for name, au_ids in {"dfn": (1, 4, 12), "other": (9, 12)}.items():
        config = DFNConfig(r=2, au_ids=list(au_ids), emotions=[], base_model_name_or_path=str(base))
        get_peft_model(mf2.MF2Model.from_pretrained(base), config).save_pretrained(base.with_name(name))
    write_picture(folder / "face.jpg", 100, size=64)
    return folder


@pytest.mark.parametrize("page", sorted({page for page, _ in blocks("python")}))
def test_python_runs(page, sandbox):
    """The page's blocks in order, as one program."""
    code = "\n".join(text for name, text in blocks("python") if name == page)
    env = os.environ | {"HF_HOME": str(sandbox / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=sandbox, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{code}\n{done.stderr[-3000:]}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 180


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Relative links of a page, and the headings that they name."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("http", "mailto")):
            continue
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
            assert heading in slugs, f"{page.name}: {target}"
