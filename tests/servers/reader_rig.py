"""Runs a reader of a data set as `mf2 data import` does, and checks that its report counts every row."""

import argparse

from mf2.dataset_tools.readers.interface import emotion_names
from mf2.dataset_tools.readers.registry import load_reader

DROPPED = ("malformed", "labelled_twice", "unlabelled", "missing_image", "no_part")


def read(name, root, *words):
    """The rows as dictionaries, the report, and what the emotions index."""
    reader = load_reader(name)
    parser = argparse.ArgumentParser()
    reader.add_arguments(parser)
    frames, report = reader.read(root, parser.parse_args(list(words)))
    counted = report.tally.counts
    dropped = sum(counted[name] for name in counted if name in DROPPED or name.startswith("dropped_"))
    assert counted["rows"] == dropped + counted.get("clips", counted["kept"]) and counted["kept"] == len(frames)
    return frames.to_pylist(), report, emotion_names(frames)


def counts(report):
    """What was counted at all."""
    return {name: number for name, number in report.tally.counts.items() if number}


def column(rows, name):
    return [row[name] for row in rows]
