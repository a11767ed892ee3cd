"""`mf2 export`: exports the image path of a checkpoint to ONNX, after checking it against PyTorch."""

import argparse
from pathlib import Path
from typing import Any

from ..hub.sources import check_model_source
from .onnx_settings import CHECKED_BATCHES, INT8, MAX_LOSS, MIN_OPSET, TOLERANCES


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
    add("--dtype", choices=(*TOLERANCES, INT8), default="float32", help="type of the weights [%(default)s]")
    add(
        "--calibration_data",
        metavar="DATA",
        help="of int8: labelled MFA data set, split train for the ranges of "
        f"activations, validation to check that no score loses more than {100 * MAX_LOSS:g} points",
    )
    add("--calibration_faces", type=int, default=128, metavar="N", help="of split train [%(default)s]")
    add("--max_check_faces", type=int, metavar="N", help="of split validation [all]")


def run(args: argparse.Namespace) -> int:
    """Export, and print the largest difference to PyTorch."""
    check_arguments(args)
    check_model_source(args.model, "mf2 export")
    from transformers import AutoModel, AutoProcessor

    from ..auto_mf2 import register_auto_classes
    from .onnx_export import export_onnx

    register_auto_classes()
    model = AutoModel.from_pretrained(args.model).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    if args.dtype == INT8:
        return _run_int8(args, model, processor)
    worst = export_onnx(model, processor, args.onnx, opset=args.opset, dtype=args.dtype)
    print(
        f"{args.onnx}: opset {args.opset}, {args.dtype}; at most {worst:.2g} from PyTorch on batches of "
        f"{', '.join(map(str, CHECKED_BATCHES))} (tolerance {TOLERANCES[args.dtype]:g})"
    )
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise a `ValueError` where int8 and its faces do not go together."""
    if (args.dtype == INT8) != bool(args.calibration_data):
        raise ValueError(
            f"--dtype is {args.dtype} and --calibration_data {args.calibration_data}; int8 needs labelled faces, and "
            "other types none."
        )
    for name in ("calibration_faces", "max_check_faces"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1.")


def _run_int8(args: argparse.Namespace, model: Any, processor: Any) -> int:
    """Export in int8, and say what that costs."""
    from .onnx_int8 import export_int8

    record = export_int8(
        model,
        processor,
        args.onnx,
        args.calibration_data,
        calibration_faces=args.calibration_faces,
        max_check_faces=args.max_check_faces,
        opset=args.opset,
    )
    size = args.onnx.stat().st_size / 1e6
    print(f"{args.onnx}: opset {args.opset}, int8, {size:.1f} MB; {record.to_line()}")
    return 0
