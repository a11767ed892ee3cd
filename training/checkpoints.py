"""Checkpoints: the one that a run resumes from, and the final folder for the Hub."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, Trainer

from mf2.configuration_mf2 import MF2Config
from mf2.hub.file_names import INDEX_NAME
from mf2.processing_mf2 import MF2Processor
from mf2.utils.files import read_json

STATE_NAME = "trainer_state.json"


# ------------------------------------------------------------------------------------------------------------ resuming
def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint is complete; the trainer's state is written last."""
    try:
        read_json(checkpoint / STATE_NAME)
    except (OSError, json.JSONDecodeError):
        return False
    return any(checkpoint.glob("rng_state*.pth"))


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """The `checkpoint-N` folders of a run, oldest first, complete or not."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def find_resume_checkpoint(choice: str, output_dir: str | Path) -> Path | None:
    """Return the checkpoint to resume from; `choice` is `auto`, `none`, or a folder.

    Raises:
        FileExistsError: `none`, but the output folder has checkpoints of an earlier run.
        ValueError: the named folder is not a complete checkpoint.
    """
    existing = list_checkpoints(output_dir)
    if choice == "auto":
        complete = [path for path in existing if is_complete(path)]
        return complete[-1] if complete else None
    if choice == "none":
        if existing:
            raise FileExistsError(
                f"{output_dir} holds {existing[-1].name} of an earlier run; choose another --output_dir, remove it, "
                f"or continue with --resume_from_checkpoint auto."
            )
        return None
    if not is_complete(Path(choice)):
        raise ValueError(f"{choice} is no complete checkpoint: it lacks {STATE_NAME} or rng_state.pth.")
    return Path(choice)


# ------------------------------------------------------------------------------------------------------------- writing


def save_for_hub(trainer: Trainer, processor: MF2Processor, output_dir: str | Path) -> None:
    """Write configuration, safetensors, remote code and processor into the folder; every process must call it.

    Files are written to a temporary folder and then moved, so that a full disk does not damage existing files. Weights
    of an earlier save under other names are removed, as loaders might prefer them.
    """
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        with saving_folder(processor, output_dir) as folder:
            save_model(trainer.accelerator.unwrap_model(trainer.model), folder, state_dict=state_dict)
    trainer.accelerator.wait_for_everyone()


@contextmanager
def saving_folder(processor: MF2Processor, output_dir: str | Path) -> Iterator[Path]:
    """A temporary folder for saving; after the block, its files and the processor's are moved to `output_dir`."""
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=output_dir) as name:
        folder = Path(name)
        yield folder
        processor.save_pretrained(folder)
        move_checkpoint(folder, Path(output_dir))


def save_model(model: PreTrainedModel, folder: Path, **kwargs: Any) -> None:
    """`save_pretrained`, with a generation configuration for MF² models."""
    model.save_pretrained(folder, **kwargs)
    if model.config.model_type != MF2Config.model_type:
        return
    GenerationConfig.from_model_config(model.config).save_pretrained(folder)


def move_checkpoint(source: Path, target: Path) -> None:
    """Move the files of a checkpoint over those of an earlier one, and remove that one's other weights."""
    names = {file.name for file in source.iterdir()}
    for name in sorted(names, key=lambda name: name == INDEX_NAME):  # the index last, so that its shards exist
        source.joinpath(name).replace(target / name)
    for stale in [*target.glob("model*.safetensors"), target / INDEX_NAME]:
        if stale.name not in names:
            stale.unlink(missing_ok=True)


def has_weights(folder: Path) -> bool:
    """Whether a folder contains the weights of a checkpoint or an adapter."""
    return any(folder.glob("model*.safetensors")) or (folder / "adapter_model.safetensors").is_file()
