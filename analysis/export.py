"""`mf2 export`: exports the image path of a checkpoint to ONNX, after checking it against PyTorch."""

import argparse
from pathlib import Path

from ..hub.sources import check_model_source
from .onnx_settings import CHECKED_BATCHES, MIN_OPSET, TOLERANCES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mf2 export`."""
    add = parser.add_argument
    add("--model", required=True, help="checkpoint, or adapter with its base: a folder or Hub repository")
    add(
        "--onnx",
        required=True,
        type=Path,
        metavar="FILE",
        help="file to write; weights above 2 GB go into a second file next to it",
    )
    add("--opset", type=int, default=MIN_OPSET, metavar="N", help=f"at least {MIN_OPSET} [%(default)s]")
    add("--dtype", choices=tuple(TOLERANCES), default="float32", help="type of the weights [%(default)s]")


def run(args: argparse.Namespace) -> int:
    """Export, and print the largest difference to PyTorch."""
    check_model_source(args.model, "mf2 export")
    from transformers import AutoModel, AutoProcessor

    from ..auto_mf2 import register_auto_classes
    from .onnx_export import export_onnx

    register_auto_classes()
    model = AutoModel.from_pretrained(args.model).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    worst = export_onnx(model, processor, args.onnx, opset=args.opset, dtype=args.dtype)
    print(
        f"{args.onnx}: opset {args.opset}, {args.dtype}; at most {worst:.2g} from PyTorch on batches of "
        f"{', '.join(map(str, CHECKED_BATCHES))} (tolerance {TOLERANCES[args.dtype]:g})"
    )
    return 0
