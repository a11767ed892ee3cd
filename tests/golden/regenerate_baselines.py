"""Writes the golden outputs of the systems of the tables anew, where a change of theirs is meant:

PYTHONPATH=tests/servers python tests/golden/regenerate_baselines.py
"""

import json
from pathlib import Path

import torch
from baseline_models import fill_by_formula, small_baseline, small_batch

from mf2.baselines.registry import baseline_names


def main() -> None:
    golden = {}
    for name in baseline_names():
        model = fill_by_formula(small_baseline(name)).eval()
        with torch.no_grad():
            seen = model(small_batch(2)["pixel_values"].sign())
        logits = {"au": seen.au_logits, "emotion": seen.emotion_logits}
        golden[name] = {kind: [[round(x, 6) for x in row] for row in of.tolist()] for kind, of in logits.items()}
    Path(__file__).with_name("baselines.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
