"""What each of the two processes of `test_fsdp.py` runs, under torchrun: FSDP2 on gloo, by the shipped configuration.

The shipped file names the layers that are units of their own; accelerate itself runs FSDP on GPUs only, so that here
`fully_shard` is called as accelerate calls it. `rank<r>.json` says what differs from one process on the whole batch,
and from a run that was not interrupted.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from small_configs import small_config
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from two_process_worker import AUS, BRANCH, DEC, differences, half_of, make_batch

import mf2
from mf2.modeling_mf2 import MF2ForPreTraining

CONFIG = Path(mf2.__file__).parent / "training" / "configs" / "accelerate_fsdp.yaml"
TOWER = {"model_type": "blip_2_vision_model", "num_hidden_layers": 2}
FULL = StateDictOptions(full_state_dict=True)  # with `cpu_offload` the first process alone would have it
STEPS = 4


def make_model() -> MF2ForPreTraining:
    """On a tower of the paper's kind, all of it trained."""
    torch.manual_seed(0)
    fields = {"au_ids": AUS, "freeze_vision": False, "initializer_range": 0.2, "au_region_grid": 2}
    return MF2ForPreTraining(small_config(DEC, vision=TOWER, branch=BRANCH, **fields)).train()


def shard(model: MF2ForPreTraining) -> int:
    """Make units of the layers that the shipped file names, and of the rest; how many there are."""
    settings = yaml.safe_load(CONFIG.read_text())["fsdp_config"]
    assert settings["fsdp_version"] == 2
    names = settings["fsdp_transformer_layer_cls_to_wrap"].split(",")
    for module in list(model.modules()):
        if type(module).__name__ in names:
            fully_shard(module, reshard_after_forward=settings["fsdp_reshard_after_forward"])
    fully_shard(model, reshard_after_forward=settings["fsdp_reshard_after_forward"])
    return sum(isinstance(module, FSDPModule) for module in model.modules())


def optimizer_of(model: MF2ForPreTraining) -> torch.optim.Optimizer:
    # A large epsilon: Adam would blow differences of rounding up where a gradient is next to nothing.
    return torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3)


def train(model: MF2ForPreTraining, optimizer: torch.optim.Optimizer, batch: dict, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    batch = make_batch("caption", [])
    alone = make_model()
    train(alone, optimizer_of(alone), batch, range(STEPS))

    dist.init_process_group("gloo", timeout=timedelta(seconds=90))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    rows = half_of(batch, rank)
    model = make_model()
    num_units = shard(model)
    optimizer = optimizer_of(model)
    sharded = sum(parameter.to_local().numel() for parameter in model.parameters())
    train(model, optimizer, rows, range(STEPS // 2))
    halfway = get_state_dict(model, optimizer, options=FULL)
    if rank == 0:
        torch.save(halfway, folder / "halfway.pt")
    dist.barrier()
    train(model, optimizer, rows, range(STEPS // 2, STEPS))
    whole, _ = get_state_dict(model, optimizer, options=FULL)

    resumed = make_model()
    shard(resumed)
    optimizer = optimizer_of(resumed)
    weights, moments = torch.load(folder / "halfway.pt")
    set_state_dict(resumed, optimizer, model_state_dict=weights, optim_state_dict=moments, options=FULL)
    train(resumed, optimizer, rows, range(STEPS // 2, STEPS))
    continued, _ = get_state_dict(resumed, optimizer, options=FULL)

    report = {
        "world_size": world_size,
        "num_units": num_units,
        "share": sharded / sum(parameter.numel() for parameter in alone.parameters()),
        "from_one_process": differences(whole, alone.state_dict()) if rank == 0 else {},
        "from_uninterrupted": [name for name in whole if not torch.equal(whole[name], continued[name])],
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
