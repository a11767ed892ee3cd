r"""Measures seconds per pre-training step of several systems or settings, from loading images to the optimiser.

    mf2 benchmark training_steps --config training/configs/tables_pretrain.yaml --output seconds.json \
        --runs mf2='--train_data data/faces' linear='--train_data data/faces --baseline linear'

One process runs them in turns, on one thread. On a CPU, the process time is measured, which excludes other processes
except for shared caches.
"""

import argparse
import itertools
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mf2.auto_mf2 import register_auto_classes
from mf2.baselines.modeling import register_baselines
from mf2.benchmarks.timing import describe_machine, time_side_by_side
from mf2.training.arguments import PretrainArguments, parse_arguments
from mf2.training.lifecycle import start_run
from mf2.training.pretraining import load_data, make_model, make_trainer
from mf2.utils.files import write_json
from mf2.utils.markdown import markdown_table


def run(args: argparse.Namespace) -> None:
    """Time the runs in turns, and write and print the results."""
    for name in ("turns", "steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be >= 1.")
    flags = dict(parse_run(text) for text in args.runs)
    register_auto_classes()
    register_baselines()
    with tempfile.TemporaryDirectory() as folder:
        steppers = {
            name: Stepper(parse_arguments(PretrainArguments, make_words(words, args.config, Path(folder, name))))
            for name, words in flags.items()
        }
        torch.set_num_threads(1)
        device = next(iter(steppers.values())).device
        timings = time_side_by_side(
            {name: {"steps": partial(stepper.turn, args.steps)} for name, stepper in steppers.items()},
            args.turns,
            warm_up=1,
            device=device,
            title="turns",
            clock=time.process_time if device == "cpu" else time.perf_counter,
        )
    rows = {
        name: {
            "seconds_per_step": timing.seconds / args.steps,
            "turns": [seconds / args.steps for seconds in timing.phases["steps"]],
            "parameters": steppers[name].num_parameters,
        }
        for name, timing in timings.items()
    }
    write_json(args.output, {"runs": rows, "steps_a_turn": args.steps, "machine": describe_machine(device)})
    print(to_markdown(rows))


def parse_run(text: str) -> tuple[str, list[str]]:
    """Parse `NAME=FLAGS` to the name and the list of flags."""
    name, is_pair, flags = text.partition("=")
    if not (name and is_pair):
        raise ValueError(
            f"--runs has {text!r}; it must be NAME=FLAGS, flags of training/pretrain.py as linear='--baseline linear'."
        )
    return name, shlex.split(flags)


def make_words(flags: list[str], config: str | None, output_dir: Path) -> list[str]:
    """The command line of training/pretrain.py."""
    return [*(["--config", config] if config else []), *flags, "--output_dir", str(output_dir)]


class Stepper:
    """A training run that advances a few steps at a time, outside the Trainer's loop."""

    def __init__(self, arguments: PretrainArguments):
        settings, _ = start_run(arguments)
        self.device = settings.device.type
        train, evaluation, au_ids = load_data(arguments, settings)
        model, processor = make_model(arguments, train, au_ids)
        self._trainer = make_trainer(arguments, settings, model, processor, train, evaluation)
        self._model = self._trainer.model.train()
        self._optimizer = self._trainer.create_optimizer()
        self._batches = self._endless()
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())

    def _endless(self) -> Iterator[dict[str, Any]]:
        loader = self._trainer.get_train_dataloader()
        return itertools.chain.from_iterable(itertools.repeat(loader))

    def turn(self, steps: int) -> None:
        """Run some steps, spread over all stages of a training with stages."""
        for step in range(steps):
            if hasattr(self._model, "set_progress"):
                self._model.set_progress(step / steps)
            inputs = self._trainer._prepare_inputs(next(self._batches))
            self._trainer.compute_loss(self._model, inputs).backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._trainer.args.max_grad_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()


def to_markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per run, compared with the first."""
    reference = next(iter(rows.values()))["seconds_per_step"]
    cells = [
        [
            name,
            f"{row['parameters'] / 1e6:.2f}",
            f"{1000 * row['seconds_per_step']:.0f}",
            f"{row['seconds_per_step'] / reference:.2f}",
        ]
        for name, row in rows.items()
    ]
    return markdown_table(["", "parameters, M", "ms a step", "of the first"], cells)
