"""`mf2 benchmark …`: the benchmarks."""

from collections.abc import Sequence

from ..utils.command_line import Command, run_one_of

COMMANDS = {
    "branch": Command(
        "benchmarks.branch",
        "time our branch beside passes of transformers' Blip2QFormerModel on the same weights and inputs",
        "mf2 benchmark branch --sizes tiny --repeats 5",
        "benchmarks.arguments:add_branch_arguments",
    ),
    "finetune": Command(
        "benchmarks.finetune",
        "time fine-tuning methods side by side: full, LoRA, head only, DFN live and DFN from cached states",
        "mf2 benchmark finetune --sizes tiny --threads 1",
        "benchmarks.arguments:add_finetune_arguments",
    ),
    "analyze": Command(
        "benchmarks.analyze",
        "time `mf2 analyze` beside the plain model loop, and see that its memory stays flat on a long video",
        "mf2 benchmark analyze --sizes tiny --threads 1",
        "benchmarks.arguments:add_analyze_arguments",
    ),
    "throughput": Command(
        "benchmarks.throughput",
        "time the image path on a CPU: PyTorch, torch.compile, onnxruntime in float32 and int8",
        "mf2 benchmark throughput --models tiny demo=outputs/demo --threads 1",
        "benchmarks.arguments:add_throughput_arguments",
    ),
    "long": Command(
        "benchmarks.long",
        "see what grows with the amount: 100,000 frames and pictures, the report of an hour, an index of faces",
        "mf2 benchmark long --images 10000",
        "benchmarks.arguments:add_long_arguments",
    ),
    "shared_machine": Command(
        "benchmarks.shared_machine",
        "time a training step beside busy processes, by how many threads it has and how these wait for each other",
        "mf2 benchmark shared_machine --busy 0 6",
        "benchmarks.arguments:add_shared_machine_arguments",
    ),
    "training_steps": Command(
        "benchmarks.training_steps",
        "time a pre-training step of several systems or settings in turns, from the data to the optimiser",
        "mf2 benchmark training_steps --config training/configs/tables_pretrain.yaml --output seconds.json \\\n"
        "  --runs mf2='--train_data data/faces' linear='--train_data data/faces --baseline linear'",
        "benchmarks.arguments:add_training_steps_arguments",
    ),
    "gpu": Command(
        "benchmarks.gpu",
        "measure on a GPU what a CPU cannot tell: training, throughput, parity, each section with a time limit",
        "mf2 benchmark gpu --output_dir outputs/gpu\nmf2 benchmark gpu --dry_run --sections training parity",
        "benchmarks.arguments:add_gpu_arguments",
    ),
    "tools": Command(
        "benchmarks.tools",
        "run other installed tools over the same frames: predictions for mf2 evaluate, and seconds a picture",
        "mf2 benchmark tools --data data/faces --output_dir outputs/tools",
        "benchmarks.arguments:add_tools_arguments",
    ),
    "time_to_score": Command(
        "experiments.time_to_score",
        "time each fine-tuning method to the same validation score, what it prepares included",
        "mf2 benchmark time_to_score --model outputs/demo --data data/mine --output_dir outputs/time_to_score \\\n"
        "  --configs dfn=training/configs/dfn.yaml full=training/configs/full.yaml",
        "experiments.arguments:add_time_to_score_arguments",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mf2 benchmark COMMAND …`; returns the exit status."""
    return run_one_of("mf2 benchmark", COMMANDS, argv, "Measure times and memory side by side.")
