"""The arguments of `mf2 tables` and `mf2 benchmark time_to_score`. Does not import torch, so that help is fast."""

import argparse
from pathlib import Path

from mf2.baselines.registry import baseline_names

TRANSFER = "transfer"
BUDGETS = ("steps", "time")
"""What systems of a table are given equally."""
TABLES = ("II", "III", "IV", "V", "captions", "methods", "affect", TRANSFER)


def add_tables_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 tables`."""
    add = parser.add_argument
    add("--tables", nargs="+", choices=TABLES, default=["II", "III", "IV", "V"], help="which tables")
    add("--data", required=True, help="MFA data set to pre-train and evaluate on")
    add("--llm_data", help="the same images with a language model's captions, for the table `captions`")
    add(
        "--systems",
        nargs="+",
        default=[],
        metavar="NAME=FILE.csv",
        help="predictions of other systems, for II and III",
    )
    add(
        "--baselines",
        nargs="*",
        default=list(baseline_names()),
        metavar="NAME",
        help="systems, or files of your own, to train beside MF² for II and III, none without a name [%(default)s]",
    )
    add(
        "--budgets",
        nargs="+",
        choices=BUDGETS,
        default=[BUDGETS[0]],
        help="what systems have in common with MF² in II and III, a table each: steps, or time by the seconds of a "
        "step, which are measured side by side first [steps]",
    )
    add("--task_data", help="data set of the table `methods` [--data]")
    add("--task_au_ids", help="AUs of that task, as [1, 2, 4] [the labelled ones]")
    add("--task_emotions", help="emotions of that task [the labelled ones]")
    add("--transfer_data", nargs="+", default=[], metavar="NAME=DATA", help="data sets of the table `transfer`")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="[0 1 2]")
    add("--output_dir", type=Path, required=True, help="folder for runs and tables")
    add("--pretrain_config", help="YAML file for pre-training")
    add("--finetune_config", help="YAML file for fine-tuning")
    add("--parallel", type=int, default=1, help="seeds that run at once [1]")
    add("--rows", nargs="+", metavar="ROW", help="train these rows of the tables alone [all]")
    add(
        "--list_commands",
        action="store_true",
        help="train nothing, print the commands of what is not done, for a queue: lines are independent of each other",
    )
    add("--only_show", action="store_true", help="train nothing, only show the results so far")


def add_time_to_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 benchmark time_to_score`."""
    add = parser.add_argument
    add("--model", required=True, help="checkpoint to adapt")
    add("--data", required=True, help="data set of the task")
    add("--au_ids", help="its AUs, as [1, 2, 4] [the labelled ones]")
    add("--emotions", help="its emotions [the labelled ones]")
    add("--configs", nargs="+", required=True, metavar="METHOD=FILE.yaml", help="methods and their settings")
    add("--eval_steps", default="8", help="steps between evaluations [8]")
    add("--seed", type=int, default=0, help="[0]")
    add("--output_dir", type=Path, required=True, help="folder for runs and `time_to_score.md`")
