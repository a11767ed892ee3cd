"""Makes the golden checkpoint, its faces and what it says of them anew:

    python tests/golden/regenerate.py

Needed where outputs are meant to change: with the architecture, the processor or the checkpoint's format. Look at the
difference before committing it: `tests/parity/test_golden.py` holds every dtype, backend and export against it.

    faces/             20 generated faces in the MFA schema
    checkpoint/        a micro MF² that was trained on others for a minute: configuration, weights, processor
    outputs.safetensors, captions.json    its logits, embeddings and greedy captions, in float32 on the CPU
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import save_file

from mf2.auto_mf2 import register_auto_classes
from mf2.dataset_tools.schema import load_mfa, write_mfa
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.evaluation.caption_scores import caption_kinds
from mf2.evaluation.predictions import image_batches
from mf2.evaluation.protocols import load_protocol
from mf2.labels_mf2 import AU_IDS
from mf2.modeling_mf2 import MF2ForConditionalGeneration, MF2Model
from mf2.processing_mf2 import MF2Processor
from mf2.training.arguments import PretrainArguments
from mf2.training.checkpoints import save_for_hub
from mf2.training.lifecycle import start_run
from mf2.training.pretraining import load_data, make_model, make_trainer
from mf2.utils.files import read_json, write_json

HERE = Path(__file__).parent
FACES, CHECKPOINT = HERE / "faces", HERE / "checkpoint"
OUTPUTS, CAPTIONS = HERE / "outputs.safetensors", HERE / "captions.json"
OUTPUT_NAMES = ("au_logits", "emotion_logits", "au_embeds", "emotion_embeds")
KEPT_FILES = ("config.json", "generation_config.json", "model.safetensors", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SYNTH = {"num_train": 512, "num_eval": 20, "frames_per_identity": 4, "image_size": 64, "seed": 2025}
BRANCH = {"hidden_size": 32, "intermediate_size": 64, "num_query_tokens": 2}
TRAINING: dict[str, Any] = {
    "synth": SYNTH,
    "image_size": 64,
    "size": "tiny",
    "model": {
        "vision_config": {
            "model_type": "resnet",
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 64],
            "depths": [1, 1, 1],
            "layer_type": "basic",
        },
        "emo_config": BRANCH,
        "au_config": BRANCH,
        "projection_dim": 16,
        "emo_text": "random",
        "au_region_grid": 2,
        "emotion_weight": 5.0,
        "au_weight": 5.0,
    },
    "num_train_epochs": 14.0,
    "per_device_train_batch_size": 32,
    "learning_rate": 3e-3,
    "warmup_steps": 40.0,
    "save_steps": 1000,
    "eval_steps": 1000,
    "dataloader_num_workers": 0,
    "cpu_threads": 1,
    "seed": 2025,
}


def make_faces() -> None:
    """Draw the faces: the validation split of the sample on which the checkpoint is trained, whatever its size."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = synthesize(Path(scratch, "faces"), SynthConfig(**SYNTH | {"num_train": 1}), show_progress=False)
        rows = load_mfa(folder, "validation").cast_column("image", datasets.Image(decode=False))
        rows = ({**row, "image": row["image"]["bytes"]} for row in rows)
        manifest = {"pretty_name": "Golden faces", "license": "apache-2.0", "source": "synthetic"}
        write_mfa(FACES, {"validation": rows}, manifest=manifest, overwrite=FACES.exists())


def make_checkpoint() -> None:
    """Train the checkpoint, and keep what is needed to load it with this package."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = PretrainArguments(output_dir=scratch, **TRAINING)
        settings, _ = start_run(arguments)
        train, evaluation = load_data(arguments, settings)
        model, processor = make_model(arguments, train)
        trainer = make_trainer(arguments, settings, model, processor, train, evaluation)
        trainer.train()
        save_for_hub(trainer, processor, scratch)
        shutil.rmtree(CHECKPOINT, ignore_errors=True)
        CHECKPOINT.mkdir()
        for name in (*KEPT_FILES, *TOKENIZER_FILES):
            shutil.copyfile(Path(scratch, name), CHECKPOINT / name)
    config = read_json(CHECKPOINT / "config.json")
    config.pop("auto_map")  # it is tested with the package's code, which is not copied here
    write_json(CHECKPOINT / "config.json", config)


@torch.no_grad()
def golden_outputs(model: MF2Model, processor: MF2Processor, batch_size: int = 20) -> dict[str, torch.Tensor]:
    """What a model says of the faces, in float32."""
    split = load_protocol(str(FACES), "validation", "mfa", AU_IDS)
    batches = image_batches(split, processor.image_processor, batch_size, model.device)
    outputs = [MF2Model.forward(model, **batch) for batch in batches]
    return {name: torch.cat([output[name] for output in outputs]).float().cpu() for name in OUTPUT_NAMES}


def golden_captions(model: MF2ForConditionalGeneration, processor: MF2Processor) -> dict[str, list[str]]:
    """What it writes of them, greedily, by kind of caption."""
    split = load_protocol(str(FACES), "validation", "mfa", AU_IDS)
    (batch,) = image_batches(split, processor.image_processor, len(split.rows), model.device)
    return {
        kind: processor.batch_decode(model.generate(**batch, caption_kind=kind, num_beams=1, max_new_tokens=24))
        for kind in caption_kinds(model.config)
    }


def main() -> None:
    register_auto_classes()
    make_faces()
    make_checkpoint()
    model = MF2ForConditionalGeneration.from_pretrained(CHECKPOINT).eval()
    processor = MF2Processor.from_pretrained(CHECKPOINT)
    save_file(golden_outputs(model, processor), OUTPUTS)
    write_json(CAPTIONS, golden_captions(model, processor))


if __name__ == "__main__":
    main()
