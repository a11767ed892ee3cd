"""Folders as finished runs leave them, small and at once: metrics of random predictions, checkpoint, adapter, data."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mf2.dataset_tools.export import export
from mf2.dataset_tools.schema import write_mfa
from mf2.evaluation.predictions import Predictions
from mf2.evaluation.scores import evaluate_predictions
from mf2.hub.cards import write_card
from mf2.labels_mf2 import EMOTIONS, LabelSpace

FREE = {"name": "Faces", "license": "apache-2.0", "synthetic": True, "fingerprint": "f" * 64, "rows": 96, "videos": 9}
RESTRICTED = FREE | {"name": "Aff-Wild2", "license": "other", "synthetic": False}


def measured_metrics(au_ids: list[int], thresholds: list[float], **data: Any) -> dict[str, Any]:
    """What `metrics.json` holds, scored on random predictions.

    Args:
        data: of the training and the evaluation data, where it differs from `FREE`.
    """
    rng = np.random.default_rng(0)
    keys = np.array([str(row // 5) for row in range(50)])
    predictions = Predictions(
        au_probs=rng.random((50, len(au_ids))),
        au_labels=rng.integers(0, 2, (50, len(au_ids))),
        emotion_probs=rng.dirichlet(np.ones(8), 50),
        emotion_labels=rng.integers(0, 8, 50),
        video_ids=keys,
        group_ids=keys,
        frames=np.arange(50),
        file_names=keys,
    )
    space = LabelSpace(tuple(au_ids), EMOTIONS, tuple(thresholds))
    description = FREE | {"emotion_ceiling": None} | data
    return {
        "model": {"name": "run", "license": "apache-2.0", "parameters": 20, "trainable_parameters": 10},
        "evaluation": {
            "data": description | {"split": "validation", "rows": 50},
            **evaluate_predictions(predictions, space, num_bootstrap=20),
        },
        "training": {
            "data": description | {"split": "train"},
            "unlabelled_aus": [],
            "tuning_rows": 40,
            "seed": 7,
            "steps": 30,
            "epochs": 2.0,
            "seconds": 61.5,
            "batch_size": 4,
        },
        "environment": {"torch": "2.15.0"},
    }


def finish_checkpoint(checkpoint: Path, folder: Path, data: dict[str, Any] = FREE) -> Path:
    """A copy of a saved model with everything that a training leaves beside it."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["training_data"] = [data]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return _finish(folder, measured_metrics(config["au_ids"], config["au_thresholds"], **data))


def finish_adapter(folder: Path) -> Path:
    """Add to a saved adapter what a training leaves beside it."""
    config = json.loads((folder / "adapter_config.json").read_text())
    return _finish(folder, measured_metrics(config["au_ids"], config["au_thresholds"]))


def _finish(folder: Path, metrics: dict[str, Any]) -> Path:
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
    settings = {"output_dir": str(folder), "train_data": "synth", "model": {"tokenizer": str(folder / "vocabulary")}}
    (folder / "training_config.yaml").write_text(yaml.safe_dump(settings))
    image = np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(image).save(folder / "overlay.png")
    (folder / "checkpoint-30").mkdir()
    (folder / "checkpoint-30" / "optimizer.pt").write_bytes(b"\x80\x04.")
    write_card(folder)
    return folder


def exported_faces(folder: Path, full: bool = False, **manifest: Any) -> Path:
    """A data set of eight faces of 8 × 8 pixels, exported for the Hub."""
    raw = write_mfa(folder / "raw", {"train": map(_row, range(6)), "validation": map(_row, (6, 7))}, manifest=manifest)
    return export(raw, folder / "exported", full=full)


def _row(index: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (index, 0, 0)).save(file, "JPEG")
    return {
        "image": file.getvalue(),
        "file_name": f"v{index}/{index:05d}.jpg",
        "dataset": "made",
        "video_id": f"v{index}",
        "group_id": f"v{index}",
        "frame": index,
        "emotion": index,
        "AU1": index % 2,
        "caption_emotion": "A calm face.",
        "caption_source": "template",
    }
