"""Two processes on half a batch each train another system as one process does on the whole of it."""

import math
from pathlib import Path

import pytest
from two_processes import reports_of_two

WORKER = Path(__file__).with_name("two_process_baselines_worker.py")
CASES = {
    "linear": {"emotion", "au"},
    "ME-GraphAU, first stage": {"emotion", "au"},
    "ME-GraphAU, second stage": {"emotion", "au", "edge"},
    "HSEmotion": {"emotion", "au"},
    "Exp-BLIP": {"emo_itc", "emo_itm", "emo_itg", "emotion", "au"},
    "VL-FAU": {"emotion", "au", "local_text", "global_text"},
}
"""With the losses of each."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[dict]:
    return reports_of_two(WORKER, tmp_path_factory.mktemp("two_processes"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", ["averaged", "DDP", "statistics"])
def test_it_is_that_of_one_process(reports, case, what):
    """Losses and averaged gradients, gradients through DDP, and what normalisation keeps of the batch."""
    assert [report["results"][case][what] for report in reports] == [{}, {}]


def test_the_cases_are_what_they_say(reports):
    """Two processes, every system, losses of some size, and normalised graphs."""
    assert [report["world_size"] for report in reports] == [2, 2]
    results = reports[0]["results"]
    assert {case: set(result["losses"]) - {"loss"} for case, result in results.items()} == CASES
    assert all(
        math.isfinite(loss) and loss > 0.01 for result in results.values() for loss in result["losses"].values()
    )
    assert results["ME-GraphAU, first stage"]["num_statistics"] > 0
