"""The arguments of the benchmarks. Does not import torch, so that help is fast."""

import argparse
import os
from collections.abc import Sequence

from mf2.utils.devices import PRECISIONS, TF32

SIZES = ("tiny", "base", "paper")
"""Model sizes, see `MF2Config.from_size`."""
BRANCH_SECTIONS = ("passes", "itg", "texts", "step", "memory", "regions")
FINETUNE_SECTIONS = ("steps", "memory", "inference", "cache")
GPU_SECTIONS = (
    "machine",
    "training",
    "parity",
    "profile",
    "inference",
    "paper",
    "generation",
    "finetuning",
    "options",
    "fsdp",
    "compiled_layers",
    "analysis",
    "flex",
    "commands",
    "compiled_inference",
    "compiled_model",
)
PARTS = ("speed", "floor", "start", "memory")
"""Sections of `mf2 benchmark analyze`."""
RUNTIMES = ("PyTorch", "torch.compile", "ONNX float32", "ONNX int8")
"""Runtimes compared by `mf2 benchmark throughput`."""
LAYERS = ("convolutions and products", "products")
"""Layers in int8: the recipes of `mf2 export --dtype int8`."""
LONG_PARTS = ("frames", "pictures", "report", "search")
"""Sections of `mf2 benchmark long`."""
HOUR_FRAMES = 90_000
"""Frames in an hour of video at 25 frames per second."""
PICTURES = ("crops", "photographs")
"""Kinds of pictures in `mf2 benchmark analyze`."""
LANDMARKS = ("mean_face", "given", "detect")
"""Landmark sources in `mf2 benchmark analyze`."""
SETTINGS = ("fitted", "spinning", "sleeping", "single")
"""Settings compared by `mf2 benchmark shared_machine`."""


TOOLS = ("emotiefflib", "deepface", "pyfeat", "openface")
"""Tools supported by `mf2 benchmark tools`."""


def add_tools_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 benchmark tools`."""
    add = parser.add_argument
    add("--data", required=True, help="MFA data set with the frames to analyse")
    add("--split", default="validation", help="[%(default)s]")
    add("--max_rows", type=int, help="maximum number of rows, evenly spaced [all]")
    add("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), help="which tools [all]")
    add("--openface", metavar="FILE", help="OpenFace's executable FaceLandmarkImg [the one on PATH]")
    add("--output_dir", required=True, metavar="FOLDER", help="folder for predictions and tools.json")


def add_branch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 benchmark branch`."""
    add_section_arguments(parser, BRANCH_SECTIONS, repeats=10)


def add_finetune_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 benchmark finetune`."""
    add_section_arguments(parser, FINETUNE_SECTIONS, repeats=6)


def add_long_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 benchmark long`."""
    parser.add_argument(
        "--only", nargs="+", choices=LONG_PARTS, default=LONG_PARTS, help="what to measure [everything]"
    )
    parser.add_argument("--images", type=int, default=100_000, help="frames, and pictures, to analyse [100000]")
    parser.add_argument(
        "--model", default="tiny", help=f"{', '.join(SIZES)} with random weights, or a checkpoint [tiny]"
    )
    parser.add_argument("--runtime", choices=("torch", "onnx"), default="torch", help="of the analysis [torch]")
    parser.add_argument("--batch_size", type=int, default=16, help="faces per forward pass of the analysis [16]")
    parser.add_argument("--work_dir", metavar="DIR", help="for images and results, to resume from [temporary]")
    parser.add_argument("--report_frames", type=int, default=HOUR_FRAMES, help="of the reported video [an hour]")
    parser.add_argument("--faces", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="of the index")
    parser.add_argument("--queries", type=int, default=32, help="vectors of a face in the index [32, as at base]")
    parser.add_argument("--width", type=int, default=256, help="of such a vector [256, as at base]")
    parser.add_argument(
        "--pictures", metavar="DIR", help="imitate the embeddings of these faces by --model in the index [random ones]"
    )
    parser.add_argument("--searches", type=int, default=20, help="queries by a face, and by a text [20]")
    parser.add_argument("--candidates", type=int, default=500, help="of an approximate search [500]")
    parser.add_argument("--seed", type=int, default=0, help="of weights and values [0]")
    parser.add_argument("--output", metavar="FILE.json", help="also write the results to this file")


def add_section_arguments(parser: argparse.ArgumentParser, sections: Sequence[str], repeats: int) -> None:
    """Add the arguments of benchmarks with sections.

    Args:
        parser: the parser to add them to.
        sections: names of the sections.
        repeats: default of `--repeats`.
    """
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "base"], help="model sizes")
    parser.add_argument("--only", nargs="+", choices=sections, default=sections, help="sections")
    parser.add_argument("--output", metavar="FILE.json", help="also write the results to this file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="[cpu]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16 is autocast")
    parser.add_argument(
        "--repeats", type=int, default=repeats, help="timed repeats; a third for whole steps [%(default)s]"
    )
    parser.add_argument("--batch_size", type=int, help="images [cuda: 56; cpu: 32 for tiny, 2 for the others]")
    parser.add_argument("--threads", type=int, help="of the CPU [torch's own]")
    parser.add_argument("--seed", type=int, default=0, help="of weights, captions and negatives [0]")
    parser.add_argument("--dropout", type=float, help="of the Q-Formers in training steps [the configuration's]")


def add_analyze_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 benchmark analyze`."""
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what to measure [everything]")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "base"], help="model sizes")
    parser.add_argument("--pictures", type=int, default=256, help="pictures of a timed run [256]")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 16], help="faces in a pass [1 16]")
    parser.add_argument("--kinds", nargs="+", choices=PICTURES, default=PICTURES, help="[both]")
    parser.add_argument(
        "--landmarks",
        nargs="+",
        choices=LANDMARKS,
        default=["mean_face", "given"],
        help="where faces are; `detect` needs the default detector's weights [mean_face given]",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=TF32, help="of a GPU, see mf2 analyze [%(default)s]"
    )
    parser.add_argument("--frames", type=int, default=10_000, help="frames of the long video [10000]")
    parser.add_argument("--first_frames", type=int, default=1000, help="frames of its beginning [1000]")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats [5]")
    parser.add_argument("--device", default="cpu", help="[cpu]")
    parser.add_argument("--threads", type=int, help="of the CPU [torch's own]")
    parser.add_argument("--seed", type=int, default=0, help="of the weights [0]")
    parser.add_argument("--output", metavar="FILE.json", help="also write the results to this file")


def add_throughput_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mf2 benchmark throughput`."""
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        default=["tiny", "base"],
        metavar="SIZE|NAME=CHECKPOINT",
        help=f"a size of {', '.join(SIZES)} with random weights, or a checkpoint with a name for it [tiny base]",
    )
    add("--runtimes", nargs="+", choices=RUNTIMES[1:], default=RUNTIMES[1:], help="beside eager PyTorch [all]")
    add("--layers", choices=LAYERS, default="products", help="what int8 computes in int8 [%(default)s]")
    add("--batch_sizes", type=int, nargs="+", default=[1, 16], help="faces in a pass [1 16]")
    add("--threads", type=int, nargs="+", default=[1, 2], help="of an operator [1 2]")
    add("--pictures", metavar="FOLDER", help="also time from these pictures on, their faces detected [no]")
    add("--work_dir", metavar="DIR", help="for exported models, which a further run uses [temporary]")
    add("--repeats", type=int, default=10, help="timed repeats [%(default)s]")
    add("--seed", type=int, default=0, help="of random weights [%(default)s]")
    add("--output", metavar="FILE.json", help="write the results there, too")


def add_shared_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 benchmark shared_machine`."""
    add = parser.add_argument
    add("--settings", nargs="+", choices=SETTINGS, default=SETTINGS, help="what is compared [all]")
    add("--busy", type=int, nargs="+", default=[0, 6], metavar="N", help="busy loops beside the steps [0 6]")
    add("--busy_s", type=float, default=120, help="seconds to measure for, at most; the loops end then [120]")
    add("--turns", type=int, default=3, help="turns of each setting [3]")
    add("--steps", type=int, default=2, help="timed steps of a turn [2]")
    add("--threads", type=int, default=os.cpu_count(), help="of an operator [%(default)s]")
    add("--size", choices=SIZES, default="tiny", help="of the model [%(default)s]")
    add("--batch_size", type=int, default=32, help="[%(default)s]")
    add("--output", metavar="FILE.json", help="also write the results to this file")


def add_training_steps_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 benchmark training_steps`."""
    add = parser.add_argument
    add("--config", metavar="FILE.yaml", help="settings of all, as for training/pretrain.py")
    add(
        "--runs",
        nargs="+",
        required=True,
        metavar="NAME=FLAGS",
        help="what is compared: flags of training/pretrain.py in one word, such as linear='--baseline linear'",
    )
    add("--turns", type=int, default=5, help="timed turns of each [%(default)s]")
    add("--steps", type=int, default=4, help="steps of a turn [%(default)s]")
    add("--output", required=True, metavar="FILE.json", help="where the seconds go")


def add_gpu_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 benchmark gpu`."""
    names = ", ".join(GPU_SECTIONS)
    parser.add_argument(
        "--sections", nargs="+", choices=GPU_SECTIONS, metavar="NAME", help=f"in the order given: {names} [all]"
    )
    parser.add_argument(
        "--output_dir", default="outputs/gpu", help="for gpu.json, rows.jsonl and gpu.log [%(default)s]"
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="of the whole run; what is over is skipped [7]")
    parser.add_argument("--scale_limits", type=float, default=1.0, help="factor on each section's time limit [1]")
    parser.add_argument("--seed", type=int, default=0, help="of weights, captions and negatives [0]")
    parser.add_argument("--dry_run", action="store_true", help="tiny sizes on the CPU: whether everything runs")
