"""What each of the two processes of `test_two_processes.py` runs, under torchrun.

Every case is trained for one step by one process on the whole batch (before the process group exists) and by both on
their halves. What differs is written to `rank<r>.json`, for each case.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from small_configs import small_config
from torch.nn.parallel import DistributedDataParallel

from mf2.modeling_mf2 import MF2ForPreTraining

HALF, AUS, DEC = 3, (1, 12, 25, 26), 49
BATCH = 2 * HALF
BRANCH = {"num_query_tokens": 2, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
# Per case: fields of the configuration, and what is done to the batch.
CASES = {
    "a sentence an AU, frozen tower": ({"au_text_mode": "per_au"}, []),
    "a sentence an AU, tower trained, two levels": (
        {"au_text_mode": "per_au", "freeze_vision": False, "local_feature_levels": [-1, 1]},
        [],
    ),
    "a sentence an AU, drawn AUs": ({"au_text_mode": "per_au", "au_pairs_per_image": 2}, []),
    "one caption, frozen tower": ({"au_text_mode": "caption"}, []),
    "one caption, tower trained": ({"au_text_mode": "caption", "freeze_vision": False}, []),
    "captions without ids": ({"au_text_mode": "per_au"}, ["no caption ids"]),
    "second process without text": ({"au_text_mode": "per_au", "freeze_vision": False}, ["no text"]),
    "second process without text, one caption": ({"au_text_mode": "caption"}, ["no text"]),
    "second process without labels": ({"au_text_mode": "caption"}, ["no labels"]),
    "no text, a sentence an AU": ({"au_text_mode": "per_au", "freeze_vision": False}, ["no text at all"]),
    "no text, one caption": ({"au_text_mode": "caption"}, ["no text at all"]),
    "one text, a sentence an AU": ({"au_text_mode": "per_au"}, ["one text"]),
    "one text, one caption": ({"au_text_mode": "caption"}, ["one text"]),
    "no negatives, a sentence an AU": ({"au_text_mode": "per_au"}, ["no negatives"]),
    "no negatives, one caption": ({"au_text_mode": "caption"}, ["no negatives"]),
    "nothing labelled, a sentence an AU": ({"au_text_mode": "per_au"}, ["nothing labelled"]),
    "nothing labelled, one caption": ({"au_text_mode": "caption"}, ["nothing labelled"]),
    "a row each, a sentence an AU": ({"au_text_mode": "per_au"}, ["a row each"]),
    "a row each, one caption": ({"au_text_mode": "caption"}, ["a row each"]),
    "valence and arousal": ({"au_text_mode": "caption", "affect": True}, ["affect"]),
    "second process without labels of valence": (
        {"au_text_mode": "per_au", "affect": True, "affect_mse_weight": 0.5},
        ["affect", "no labels"],
    ),
    "no valence and arousal labelled": ({"au_text_mode": "caption", "affect": True}, ["affect", "nothing labelled"]),
    "gradient checkpointing": ({"au_text_mode": "caption", "freeze_vision": False}, ["checkpointing"]),
}


def make_model(fields: dict, changes: list[str]) -> MF2ForPreTraining:
    torch.manual_seed(0)
    config = small_config(
        DEC,
        vision={"num_hidden_layers": 2},
        branch=BRANCH,
        au_ids=AUS,
        initializer_range=0.2,
        au_region_grid=2,
        au_pos_weight=[1, 2, 3, 4],
        **fields,
    )
    model = MF2ForPreTraining(config).train()
    if "checkpointing" in changes:
        model.activation_checkpointing_enable()
    return model


def make_batch(au_text_mode: str, changes: list[str]) -> dict[str, torch.Tensor]:
    """Rows of both processes: texts that recur within and across them, shorter in the second, and gaps everywhere."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(BATCH, len(AUS), 2, 2, generator=generator) * 0.86
    texts = torch.randint(4, DEC, (6, 9), generator=generator)
    texts[:, 0] = 2
    lengths = torch.tensor([9, 5, 4, 6, 3, 5])
    texts = texts * (torch.arange(9) < lengths[:, None])  # text 0 is the long one
    captions = torch.tensor([0, 1, 2, 1, 3, 4])
    au_captions = captions
    if au_text_mode == "per_au":
        rows = ([0, 1, 2, 1], [1, 1, 3, 2], [2, 1, 4, 4], [1, 1, 2, 5], [3, 1, 5, 3], [4, 1, 2, 1])
        au_captions = torch.tensor(rows)
    batch = {
        "pixel_values": torch.randn(BATCH, 3, 32, 32, generator=generator),
        "au_boxes": torch.cat([corners, corners + 0.14], dim=-1),
        "emotion_labels": torch.tensor([0, 5, 2, -100, 7, -100]),
        "au_labels": torch.randint(-1, 2, (BATCH, len(AUS)), generator=generator),
        "input_ids": texts[captions],
        "au_input_ids": texts[au_captions],
        "caption_ids": captions,
        "au_caption_ids": au_captions,
    }
    batch["input_ids"][2] = 0
    batch["au_input_ids"][1] = 0
    if "no text" in changes:
        batch["input_ids"][HALF:] = 0
        batch["au_input_ids"][HALF:] = 0
    if "no text at all" in changes:
        batch["input_ids"][:] = 0
        batch["au_input_ids"][:] = 0
    if "one text" in changes:  # the second process's
        batch["input_ids"][:-1] = 0
        batch["au_input_ids"][:-1] = 0
    if "no negatives" in changes:
        for name in ("input_ids", "au_input_ids", "caption_ids", "au_caption_ids"):
            batch[name][:] = batch[name].flatten(0, -2 if "input" in name else -1)[0]
    if "affect" in changes:
        batch["affect_labels"] = torch.rand(BATCH, 2, generator=generator) * 2 - 1
        batch["affect_labels"][1, 0] = batch["affect_labels"][4] = torch.nan
        if "nothing labelled" in changes:
            batch["affect_labels"][:] = torch.nan
        if "no labels" in changes:
            batch["affect_labels"][HALF:, 0] = torch.nan
    if "nothing labelled" in changes:
        batch["emotion_labels"][:] = -100
        batch["au_labels"][:] = -1
    if "a row each" in changes:
        batch = {name: tensor[[0, -1]] for name, tensor in batch.items()}
    if "no labels" in changes:
        batch["emotion_labels"][HALF:] = -100
        batch["au_labels"][HALF:] = -1
    if "no caption ids" in changes:
        del batch["caption_ids"], batch["au_caption_ids"]
    for name in ("input_ids", "au_input_ids"):
        batch[name.replace("input_ids", "attention_mask")] = (batch[name] != 0).long()
    return batch


def half_of(batch: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """A process's rows, its texts cut to its own longest."""
    rows = {name: tensor.chunk(2)[rank] for name, tensor in batch.items()}
    for prefix in ("", "au_"):
        mask = rows[f"{prefix}attention_mask"]
        length = max(int(mask.sum(-1).max()), 1)
        rows[f"{prefix}attention_mask"] = mask[..., :length]
        rows[f"{prefix}input_ids"] = rows[f"{prefix}input_ids"][..., :length]
    return rows


def step(model: torch.nn.Module, batch: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Losses and gradients of one step, by name."""
    torch.manual_seed(seed)
    outputs = model(**batch)
    outputs.loss.backward()
    losses = {"loss": outputs.loss, **outputs.losses}
    parameters = getattr(model, "module", model).named_parameters()
    gradients = {f"grad {name}": p.grad for name, p in parameters if p.requires_grad}
    return {name: value.detach() for name, value in losses.items()} | gradients


def average(tensors: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    """The mean over the processes."""
    for tensor in tensors.values():
        if tensor is not None:
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
    return tensors


def difference(ours: torch.Tensor | None, expected: torch.Tensor | None) -> str | None:
    try:
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    except AssertionError as error:
        return str(error)


def differences(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, str]:
    """What is wrong with which tensor."""
    found = {name: difference(ours.get(name), expected[name]) for name in expected}
    return {name: message for name, message in found.items() if message}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    batches = {case: make_batch(fields["au_text_mode"], changes) for case, (fields, changes) in CASES.items()}
    alone = {case: step(make_model(*CASES[case]), batches[case], seed=7) for case in CASES}

    dist.init_process_group("gloo", timeout=timedelta(seconds=90))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    assert world_size == 2, f"{world_size} processes instead of two"
    results = {}
    for case in CASES:
        rows, seed = half_of(batches[case], rank), 7 + 100 * rank  # only the first process's numbers may count
        averaged = average(step(make_model(*CASES[case]), rows, seed))
        through_ddp = step(DistributedDataParallel(make_model(*CASES[case])), rows, seed)
        gradients = {name: value for name, value in alone[case].items() if name.startswith("grad ")}
        results[case] = {
            "averaged": differences(averaged, alone[case]),
            "DDP": differences(through_ddp, gradients),
            "text lengths": [rows["input_ids"].shape[-1], rows["au_input_ids"].shape[-1]],
            "loss": alone[case]["loss"].item(),
            "parameters": len(gradients),
            "without gradient": [name for name, value in gradients.items() if value is None],
        }
    report = {"world_size": world_size, "results": results}
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
