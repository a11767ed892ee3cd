"""Label spaces of which a half is missing, or that the base never saw: trained, and used by every command."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny_mf2 import save_tiny, write_pictures
from transformers import AutoModel, pipeline

from mf2.auto_mf2 import register_auto_classes
from mf2.cli.main_command import main
from mf2.hub.cards import PinnedRepo, Placement
from mf2.hub.publish_checks import _CHECKS as CHECKS
from mf2.hub.publish_contents import open_folder, prepare
from mf2.labels_mf2 import AU_IDS
from mf2.training.arguments import FinetuneArguments, parse_arguments
from mf2.training.finetuning import finetune

NUM_PICTURES = 8
TEXT_SUFFIXES = {".md", ".json", ".csv", ".jsonl", ".html", ".yaml", ".txt"}
OBJECT = re.compile(r"\bnp\.(?:float|int|uint|bool|str)\w*\(|\btensor\(")
SPACES = {
    "two emotions": {"emotion": ("Bored", "Confused")},
    "two AUs": {"AU1": (0, 1), "AU12": (1, 0)},
    "one AU": {"AU4": (0, 1)},
    "new AUs": {"AU9": (0, 1), "AU14": (1, 0), "emotion": ("Happiness", "Sadness")},
}
METHODS = ("dfn", "full", "lora", "head")
RUNS = [("dfn", space) for space in SPACES] + [(m, s) for m in METHODS[1:] for s in ("two emotions", "one AU")]
USED = [("dfn", space) for space in SPACES] + [("full", "two emotions"), ("head", "one AU")]
SHORT = {
    "max_steps": 2,
    "tuning_rows": 4,
    "overlay_faces": 0,
    "cpu_threads": 1,
    "dataloader_num_workers": 0,
    "per_device_train_batch_size": 4,
    "warmup_steps": 0,
    "views": 1,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, NUM_PICTURES)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "mf2-tiny", au_text_mode="per_au")


def write_labels(pictures: Path, space: str) -> Path:
    """A CSV of the pictures in four groups, with labels of that space alone."""
    file = pictures / f"{space.replace(' ', '_')}.csv"
    columns = SPACES[space]
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["path", "group_id", *columns])
        for number in range(NUM_PICTURES):
            values = [labels[number % 2] for labels in columns.values()]
            writer.writerow([f"face-{number}.png", f"g{number // 2}", *values])
    return file


@pytest.fixture(scope="module")
def trained(base, pictures, tmp_path_factory):
    """A function: the folder of a method in a space, trained once."""
    root, done = tmp_path_factory.mktemp("runs"), {}

    def train(method: str, space: str) -> tuple[Path, dict]:
        if (method, space) not in done:
            folder = root / f"{method}-{space.replace(' ', '-')}"
            values = {"model": base, "data": write_labels(pictures, space), "output_dir": folder, "method": method}
            argv = [part for name, value in (values | SHORT).items() for part in (f"--{name}", str(value))]
            done[method, space] = folder, finetune(parse_arguments(FinetuneArguments, argv))
        return done[method, space]

    return train


@pytest.mark.parametrize(("method", "space"), RUNS)
def test_training_ends_with_a_card(trained, method, space):
    """Of what the data label; methods but DFN keep the base's AUs where the task has none."""
    folder, metrics = trained(method, space)
    columns = SPACES[space]
    register_auto_classes()
    model = AutoModel.from_pretrained(folder)
    au_ids = tuple(int(code[2:]) for code in columns if code != "emotion")
    kept = AU_IDS if method != "dfn" and not au_ids else au_ids
    assert model.label_space.au_ids == kept
    assert sorted(model.label_space.emotions) == sorted(columns.get("emotion", ()))
    assert (metrics["evaluation"]["aus"]["f1"] is None) == (not au_ids)
    assert bool(metrics["evaluation"]["emotion"]["num_labelled"]) == ("emotion" in columns)
    assert (folder / "README.md").is_file()


def run(*argv: object) -> None:
    """A command that must end well."""
    assert main([str(part) for part in argv]) == 0


def check_plain_numbers(printed: Any, *folders: Path) -> None:
    """Numbers are shown as numbers, never as NumPy's or torch's objects, on the screen and in every text."""
    texts = {"the screen": printed.out + printed.err}
    for file in (file for folder in folders for file in folder.rglob("*") if file.suffix in TEXT_SUFFIXES):
        texts[file.name] = file.read_text("utf-8")
    assert len(texts) > 5 or not folders
    for name, text in texts.items():
        assert not (found := OBJECT.search(text)), f"{name}: {text[max(found.start() - 60, 0) : found.end() + 20]}"


@pytest.mark.parametrize(("method", "space"), USED)
def test_every_command_takes_it(trained, pictures, tmp_path, capsys, method, space):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    folder, _ = trained(method, space)
    face, labels = pictures / "face-0.png", write_labels(pictures, space)
    crops = ("--landmarks", "mean_face")
    config = json.loads((folder / ("adapter_config.json" if method == "dfn" else "config.json")).read_text())
    codes, emotions = [f"AU{au_id}" for au_id in config["au_ids"]], config["emotions"]

    measured = ("--data", labels, "--allow_seen", "--num_bootstrap", 5, "--output_dir", tmp_path / "evaluation")
    run("evaluate", "--model", folder, *measured, *crops)
    run("analyze", face, "--model", folder, "--captions", "emotion", "--overlay", "--report", *crops,
        "--output", tmp_path / "analysis")  # fmt: skip
    (row,) = pq.read_table(tmp_path / "analysis" / "faces.parquet").to_pylist()
    assert [code for code in row if code.startswith("AU")] == codes
    assert [name for name in row if name.startswith("emotion_")] == [f"emotion_{name}" for name in emotions]
    run("report", tmp_path / "analysis")
    run("explain", face, "--model", folder, "--rerank", "none", *crops, "--output", tmp_path / "explanation")
    (explained,) = json.loads((tmp_path / "explanation" / "explanation.json").read_text())["faces"]
    assert list(explained["aus"]) == codes
    assert ("au" in explained["captions"]) == bool(codes)
    run("search", "brows lowered", pictures, "--model", folder, *crops, "--index", tmp_path / "index",
        "--output", tmp_path / "found")  # fmt: skip
    analyse = pipeline("facial-state-analysis", model=str(folder), landmarks="mean_face", trust_remote_code=True)
    (found,) = analyse(str(face), captions=explained["captions"], rerank="none")
    assert list(found.get("au_probs", {})) == codes
    assert list(found.get("emotion_probs", {})) == emotions
    if not codes:
        with pytest.raises(ValueError, match="recognises emotions only"):
            analyse(str(face), captions="au")
        check_plain_numbers(capsys.readouterr())
        wanted = ("analyze", face, "--model", folder, "--captions", "au", *crops, "--output", tmp_path / "refused")
        assert main([str(part) for part in wanted]) == 1
        assert "recognises emotions only" in capsys.readouterr().err
    if method == "dfn":
        run("export", "--model", folder, "--onnx", tmp_path / "faces.onnx")
        run("analyze", face, "--model", tmp_path / "faces.onnx", "--overlay", "--report", *crops,
            "--output", tmp_path / "exported")  # fmt: skip
        (exported,) = pq.read_table(tmp_path / "exported" / "faces.parquet").to_pylist()
        numbers = [name for name in exported if name.startswith(("AU", "emotion_"))]
        assert [exported[name] for name in numbers] == pytest.approx([row[name] for name in numbers], abs=1e-4)
        assert (tmp_path / "exported" / "overlay" / "face-0.png").is_file()
    base_repo = PinnedRepo("org/base", "a" * 40) if method == "dfn" else None
    contents = prepare(open_folder(folder), Placement("org/faces", base_repo, permission="made for this test"))
    problems = [problem for find in CHECKS["model"] for problem in find(contents)]
    assert not problems
    run("calibrate", "--model", folder, "--data", labels, "--force")
    assert len(list((folder / "data").iterdir())) == 1, "what fine-tuning imported"
    check_plain_numbers(capsys.readouterr(), folder, tmp_path)
