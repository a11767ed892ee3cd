"""What each of the two processes of `test_two_process_baselines.py` runs, as `two_process_worker.py` does for MF²."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from baseline_models import small_baseline, small_batch
from small_configs import VIT
from torch.nn.parallel import DistributedDataParallel
from two_process_worker import average, differences, half_of, step

from mf2.baselines.modeling import BaselineModel

BATCH = 6
SHORT_TEXT = 4
"""Tokens of the second process's texts."""
# Per case: name of the system, its options, and the share of the training that is done.
CASES = {
    "linear": ("linear", {}, 1.0),
    "ME-GraphAU, first stage": ("me_graphau", {}, 0.0),
    "ME-GraphAU, second stage": ("me_graphau", {"au_rates": [0.5, 0.2, 0.4, 0.1]}, 1.0),
    "HSEmotion": ("hsemotion", {"class_weights": [1.0, 2.0, 5.0]}, 1.0),
    "Exp-BLIP": ("exp_blip", {}, 1.0),
    "VL-FAU": ("vl_fau", {}, 1.0),
}


def make_model(case: str) -> BaselineModel:
    """On a tower without statistics of a batch, which are not shared."""
    name, options, progress = CASES[case]
    vision = VIT | {"num_hidden_layers": 2}
    model = small_baseline(name, vision=vision, baseline_options=options, initializer_range=0.2)
    model.set_progress(progress)
    return model


def make_batch() -> dict[str, torch.Tensor]:
    """Labels that are missing more often in one half than in the other, texts that recur and are shorter there."""
    batch = small_batch(BATCH)
    batch["au_labels"][:2, 1:] = -1
    for name in ("", "au_"):
        ids, numbers = batch[f"{name}input_ids"], batch[f"{name}caption_ids"]
        ids[BATCH // 2 :, ..., SHORT_TEXT:] = 0
        ids[5], numbers[5] = ids[3], numbers[3]
        batch[f"{name}attention_mask"] = (ids != 0).long()
    return batch


def statistics(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What the system keeps of the batches that it has seen."""
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name}


def compare(case: str, batch: dict[str, torch.Tensor], alone: dict, kept: dict) -> dict:
    """What this process has with its half that one process had not with the whole."""
    rank = dist.get_rank()
    rows, seed = half_of(batch, rank), 7 + 100 * rank  # only the first process's numbers may count
    model, wrapped = make_model(case), make_model(case)
    averaged = average(step(model, rows, seed))
    ddp = DistributedDataParallel(wrapped, find_unused_parameters=wrapped.system.skips_parameters)
    gradients = {name: value for name, value in alone.items() if name.startswith("grad ") and value is not None}
    return {
        "averaged": differences(averaged, alone),
        "DDP": differences(step(ddp, rows, seed), gradients),
        "statistics": differences(statistics(model), kept),
        "num_statistics": len(kept),
        "losses": {name: value.item() for name, value in alone.items() if not name.startswith("grad ")},
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    batch, alone = make_batch(), {}
    for case in CASES:
        model = make_model(case)
        alone[case] = (step(model, batch, seed=7), statistics(model))
    dist.init_process_group("gloo", timeout=timedelta(seconds=90))
    results = {case: compare(case, batch, *alone[case]) for case in CASES}
    report = {"world_size": dist.get_world_size(), "results": results}
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
