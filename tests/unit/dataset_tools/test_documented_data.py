"""What the documentation shows of data is what the commands make."""

import re
from pathlib import Path

import pytest
import yaml

from mf2.cli.data import COMMANDS
from mf2.dataset_tools.build import plan, read_config
from mf2.dataset_tools.schema import CAPTION_COLUMNS
from mf2.dataset_tools.stages import make_stage_parser
from mf2.dataset_tools.synthetic.synth import SynthConfig, label_table, make_row

DOCS = Path(__file__).parents[3] / "docs"
DATA = "\n".join((DOCS / page).read_text("utf-8") for page in ("data.md", "captions.md"))


def test_the_captions_are_those_of_the_second_face():
    shown = " ".join(re.findall(r"^> ?(.*)$", DATA, re.M)).split()
    row = make_row(SynthConfig(), "train", 1)
    expected = [word for column in CAPTION_COLUMNS for word in (f"**{column}**", *row[column].split())]
    assert shown == expected


@pytest.mark.parametrize(("split", "column"), [("train", 1), ("validation", 2)])
def test_the_counts_are_those_of_the_generator(split, column):
    _, aus = label_table(SynthConfig(num_train=48, num_eval=16), split)
    for index, name in enumerate(("AU1", "AU2")):
        (line,) = [line for line in DATA.splitlines() if line.startswith(f"| {name} |")]
        active = int(aus[:, index].sum())
        assert line.split("|")[column + 1].strip() == f"{active} / {len(aus) - active} / 0"


def test_the_configuration_is_one(tmp_path):
    """Every stage's options are parsed as the command would."""
    (block,) = re.findall(r"```yaml\n# mfa\.yaml\n(.*?)```", DATA, re.S)
    (tmp_path / "mfa.yaml").write_text(yaml.safe_dump(yaml.safe_load(block) | {"root": str(tmp_path)}))
    stages = list(plan(read_config(tmp_path / "mfa.yaml")))
    assert len(stages) == 8
    for stage in stages:
        parser = make_stage_parser(stage.name)
        parser.parse_args(stage.argv)


def test_every_command_is_named():
    assert not [name for name in COMMANDS if name not in DATA]
