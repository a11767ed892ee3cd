"""What publishers and visitors do with the loopback Hub in processes of their own; reports travel as JSON."""

import contextlib
import importlib
import io
import json
import os
import time
import urllib.request
from typing import Any

import numpy as np
import torch
from PIL import Image

# ----------------------------------------------------------------------------------------------------------- publisher
UNCHECKED = "--unchecked"
"""A word of these commands: do not load it in a clean process first."""

AS = "--as="
"""Begins a word of these commands: the token, instead of the process's own; empty for none."""


def publish(commands: list[list[str]]) -> list[dict[str, Any]]:
    """Run `mf2 publish` with each list of words, one after the other: `status`, `out` and `err`."""
    main = importlib.import_module("mf2.cli").main
    checks = importlib.import_module("mf2.hub.publish_checks")
    loading_check, own_token = checks.find_loading_problems, os.environ["HF_TOKEN"]
    reports = []
    for words in commands:
        checks.find_loading_problems = (lambda contents: iter(())) if UNCHECKED in words else loading_check
        os.environ["HF_TOKEN"] = next((word.removeprefix(AS) for word in words if word.startswith(AS)), own_token)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["publish", *(word for word in words if not word.startswith((UNCHECKED, AS)))])
        reports.append({"status": status, "out": out.getvalue(), "err": err.getvalue()})
    return reports


def publish_among_faults(
    paths: list[str], faults: dict[str, list], first: list[str], endpoint: str
) -> dict[str, dict[str, Any]]:
    """For each fault publish to a repository of its name, with the fault and then twice without.

    Args:
        paths: what is there before, and what is published then.
        faults: name -> arguments of the server's `Fault`.
        first: names of those where nothing is there before, and the first path is published.
    Returns:
        Name -> `broken`, the report with the fault; `between`, what the server then has; `again`, the reports without;
        `after`, what it has in the end.
    """
    time.sleep = lambda seconds: None  # the client waits between its own retries

    def set_faults(*faults: list) -> dict[str, Any]:
        request = urllib.request.Request(f"{endpoint}/faults", json.dumps(faults).encode(), method="PUT")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    found = {}
    for name, fault in faults.items():
        rest = ["--repo", f"alice/{name}", "--public", UNCHECKED]
        if name not in first:
            publish([[paths[0], *rest]])
        command = [paths[0] if name in first else paths[1], *rest]
        set_faults(fault)
        (broken,) = publish([command])
        between = set_faults().get(f"alice/{name}")
        again = publish([command, command])
        found[name] = {"broken": broken, "between": between, "again": again, "after": set_faults()[f"alice/{name}"]}
    return found


# ------------------------------------------------------------------------------------------------------------- visitor
def picture() -> Image.Image:
    """40 × 50 pixels, the same in every process."""
    y, x = np.mgrid[0:50, 0:40]
    return Image.fromarray(np.stack([(x * 5) % 256, (y * 4) % 256, (x + y) % 256], axis=-1).astype(np.uint8))


@torch.no_grad()
def answers(model: Any, processor: Any) -> dict[str, Any]:
    """Logits of the picture, and what they mean."""
    outputs = model.eval()(**processor(images=picture(), return_tensors="pt"))
    logits = {"aus": outputs.au_logits.tolist()}
    if outputs.emotion_logits is not None:
        logits["emotion"] = outputs.emotion_logits.tolist()
    return {"logits": logits, "label_space": model.label_space.to_dict()}


def run_lines(lines: str) -> dict[str, Any]:
    """Run the lines that `mf2 publish` printed and ask what they loaded."""
    names: dict[str, Any] = {}
    exec(lines, names)
    return answers(names["model"], names["processor"])


def visit_checkpoint(pinned: str, repo_id: str, revisions: list[str], private_id: str, token: str) -> dict[str, Any]:
    """A stranger loads it by the printed lines, by branch, by tag and by sha; then what is private."""
    from transformers import AutoModel, AutoProcessor

    def load(name: str, **kwargs: Any) -> dict[str, Any]:
        loaded = [each.from_pretrained(name, trust_remote_code=True, **kwargs) for each in (AutoModel, AutoProcessor)]
        return answers(*loaded)

    try:
        load(private_id)
        refusal = "none"
    except OSError as error:
        refusal = str(error)
    return {
        "refusal": refusal,
        "pinned": run_lines(pinned),
        "revisions": {revision: load(repo_id, revision=revision) for revision in revisions},
        "private": load(private_id, token=token),
    }


def visit_adapter(pinned: str, repo_id: str, base_id: str) -> dict[str, Any]:
    """A stranger loads one by the printed lines, and another in one line, onto a loaded base, and by PEFT."""
    from peft import PeftModel
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(repo_id, trust_remote_code=True)
    report = {"pinned": run_lines(pinned)}
    report["one line"] = answers(AutoModel.from_pretrained(repo_id, trust_remote_code=True), processor)
    base = AutoModel.from_pretrained(base_id, trust_remote_code=True)
    report["base"] = answers(base, AutoProcessor.from_pretrained(base_id, trust_remote_code=True))
    base.load_adapter(repo_id, adapter_name="later")
    report["loaded"] = answers(base, processor)
    wrapped = PeftModel.from_pretrained(AutoModel.from_pretrained(base_id, trust_remote_code=True), repo_id)
    with torch.no_grad():
        outputs = wrapped.eval()(**processor(images=picture(), return_tensors="pt"))
    report["peft"] = outputs.au_logits.tolist()
    return report


def visit_dataset(pinned: str, repo_id: str, revisions: list[str], private_id: str, token: str) -> dict[str, Any]:
    """A stranger loads it by the printed lines, in a stream, by revision; then what is private."""
    import datasets
    from datasets import load_dataset

    datasets.config.USE_PARQUET_EXPORT = False
    names: dict[str, Any] = {}
    exec(pinned, names)
    try:
        load_dataset(private_id)
        refusal = "none"
    except Exception as error:
        refusal = type(error).__name__
    streamed = load_dataset(repo_id, split="train", streaming=True)
    return {
        "columns": {split: rows.column_names for split, rows in names["data"].items()},
        "frames": {split: list(rows["frame"]) for split, rows in names["data"].items()},
        "streamed": [row["frame"] for row in streamed],
        "revisions": {name: len(load_dataset(repo_id, split="train", revision=name)) for name in revisions},
        "refusal": refusal,
        "private": len(load_dataset(private_id, split="train", token=token)),
    }


def folder_answers(folder: str) -> dict[str, Any]:
    """What the package itself makes of a folder."""
    importlib.import_module("mf2.auto_mf2").register_auto_classes()
    from transformers import AutoModel, AutoProcessor

    return answers(AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder))
