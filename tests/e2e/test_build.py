"""`mf2 data build`: a stage runs again exactly when something that it reads has changed."""

import json
from collections import Counter

import pytest
import yaml
from openai_server import OpenAIServer
from samples import write_affwild2_labels, write_picture

from mf2.cli.data import main
from mf2.dataset_tools.index import read_frames
from mf2.dataset_tools.schema import CAPTION_COLUMNS, load_mfa, read_manifest

STAGES = ["index", "select", "import", "landmarks", "caption", "validate", "export"]

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def root(tmp_path):
    """Four videos of sixteen frames, two of each emotion."""
    root = tmp_path / "root"
    for v in range(4):
        write_affwild2_labels(root, f"v{v}", [[1, 0] * 6] * 16, [k % 8 for k in range(16)])
        for k in range(1, 17):
            write_picture(root / "cropped_aligned" / f"v{v}" / f"{k:05d}.jpg", v * 16 + k)
    return root


class Build:
    """Runs the command on a configuration that the test may change, and tells what was done last with each stage."""

    def __init__(self, root, folder, capsys):
        self.file, self.capsys = folder / "mfa.yaml", capsys
        self.config = {
            "reader": "affwild2",
            "root": str(root),
            "output_dir": str(folder / "out"),
            "stages": {
                "index": {"unlabelled": "drop"},
                "select": {"train_per_class": 4, "eval_per_class": 2, "min_frames": 1, "seed": 1},
                "import": {"captions": "none"},
                "landmarks": {"backend": "stub_detectors:RedFaces"},
                "caption": {"backend": "template"},
                "validate": {},
                "export": {"full": True},
            },
        }

    def __call__(self, *words):
        self.file.write_text(yaml.safe_dump(self.config))
        status = main(["build", "--config", str(self.file), *words])
        out, err = self.capsys.readouterr()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()]
        done = {row[0]: row[1] for row in rows if len(row) == 4 and row[1] in ("made", "unchanged", "would run")}
        return status, done, err


@pytest.fixture
def build(root, tmp_path, capsys):
    return Build(root, tmp_path, capsys)


def changed_from(stage):
    """What a build does when the first stage with new inputs is `stage`."""
    first = STAGES.index(stage)
    return {name: "made" if i >= first else "unchanged" for i, name in enumerate(STAGES)}


def test_stages_run_once_and_again_when_their_inputs_change(build, root, tmp_path):
    export = tmp_path / "out" / "export"
    assert build("--dry_run")[1] == dict.fromkeys(STAGES, "would run") and not (tmp_path / "out").exists()
    assert build()[:2] == (0, dict.fromkeys(STAGES, "made"))
    rows = load_mfa(export, "train")
    assert len(rows) == 32 and rows[0]["caption_source"] == "template"
    assert rows["landmarks"][0][0] == [float(rows[0]["image"].getpixel((0, 0))[0])] * 2
    assert len(load_mfa(export, "validation")) == 16
    assert build()[1] == build("--dry_run")[1] == dict.fromkeys(STAGES, "unchanged")

    build.config["stages"]["export"] = {"full": False}
    assert build()[1] == changed_from("export")
    build.config["stages"]["select"]["seed"] = 2
    assert build("--dry_run")[1] == {n: "unchanged" if n == "index" else "would run" for n in STAGES}
    assert build()[1] == changed_from("select")

    chosen = read_frames(tmp_path / "out" / "selection")["path"].to_pylist()
    spare = next(path for path in read_frames(tmp_path / "out" / "index")["path"].to_pylist() if path not in chosen)
    write_picture(root / spare, 200)  # a new picture under an old name matters where it is used
    assert build()[1] == dict.fromkeys(STAGES, "unchanged")
    write_picture(root / chosen[0], 200)
    assert build()[1] == changed_from("import")

    labels = root / "annotations" / "EXPR_Some_Challenge" / "Train_Set" / "v0.txt"
    labels.write_text(labels.read_text() + "3\n")  # a row without a crop: the index is the same in the end
    assert build()[1] == {name: "made" if name == "index" else "unchanged" for name in STAGES}


def test_frames_whose_captions_failed_are_replaced(build, tmp_path):
    """Two of the first answers are refusals: other frames of the same class take their place, and are asked for."""
    with OpenAIServer() as server:
        (tmp_path / "profiles.yaml").write_text(yaml.safe_dump({"loopback": server.profile}))
        (tmp_path / "prices.yaml").write_text("m: {input: 1, output: 10}")
        files = {name: str(tmp_path / f"{name}.yaml") for name in ("profiles", "prices")}
        build.config["stages"]["caption"] = {"profile": "loopback", "pilot": 0, "concurrency": 1, "yes": True, **files}
        build.config["stages"]["top_up"] = {}
        build.config["stages"]["select"] |= {"train_per_class": 3, "eval_per_class": 1}
        server.faults = ["refusal", "ok", "refusal"]
        assert build()[0] == 0
        num_asked = sum(server.hits.values())
        assert server.paid_twice() == 0
        assert set(build()[1].values()) == {"unchanged"} and sum(server.hits.values()) == num_asked

    letters = [json.loads(line) for line in (tmp_path / "out" / "captioned.captions" / "dead_letters.jsonl").open()]
    failed = {letter["image_id"].partition("/")[2] for letter in letters}
    rows = {split: load_mfa(tmp_path / "out" / "export", split) for split in ("train", "validation")}
    assert failed and not failed & {*rows["train"]["file_name"], *rows["validation"]["file_name"]}
    for split, per_class in (("train", 3), ("validation", 1)):
        assert set(Counter(rows[split]["emotion"]).values()) == {per_class}
        assert all(None not in rows[split][column] for column in CAPTION_COLUMNS)
    (only,) = json.loads((tmp_path / "out" / "selection" / "top_up.json").read_text())["rounds"]
    assert only["counts"]["failed"] == len(failed) == only["counts"]["same_video"] + only["counts"]["other_video"]
    assert read_manifest(tmp_path / "out" / "captioned")["captions"]["tally"]["outcomes"].keys() == {"valid"}


def test_a_dry_run_estimates_what_captions_would_cost(build, tmp_path, capsys):
    build.config["stages"]["caption"] = {"backend": "template"}
    build()
    build.config["stages"]["caption"] = {"backend": "template", "seed": 5}
    build.file.write_text(yaml.safe_dump(build.config))
    assert main(["build", "--config", str(build.file), "--dry-run"]) == 0
    assert "48 images would get template captions" in capsys.readouterr().out


def test_a_missing_product_is_made_again(build, tmp_path):
    build()
    (tmp_path / "out" / "export" / "manifest.json").unlink()
    (tmp_path / "out" / "export" / "README.md").unlink()
    status, _, err = build()
    assert status == 1 and "is not a data set" in err  # what is no data set is not overwritten
    assert "stage export" in err


def test_optional_stages_may_be_left_out(build, tmp_path):
    build.config["stages"] = {"index": None, "import": {"split": "random", "eval_fraction": 0.25}}
    assert build()[:2] == (0, {"index": "made", "import": "made"})
    assert len(load_mfa(tmp_path / "out" / "dataset", "train")) == 48


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reader": "affwild3"}, "No reader is called 'affwild3'; there are affwild2"),
        ({"out": "x"}, "must have exactly the keys reader, root, output_dir, stages."),
        ({"stages": {"index": {}}}, "including index and import."),
        ({"stages": {"index": {}, "import": {}, "dance": {}}}, "stages must be some of index, select"),
        ({"stages": {"index": {}, "import": {}, "top_up": {}}}, "top_up needs the stages select and caption."),
        ({"root": "/nowhere"}, "/nowhere is not a folder."),
        ({"stages": {"index": {}, "select": {"paper": True}, "import": {}}}, "stage select: A class needs 3,915"),
    ],
)
def test_a_wrong_configuration(build, change, message):
    build.config |= change
    status, _, err = build()
    errors = [line for line in err.splitlines() if line.startswith("mf2 data build: error: ")]
    assert status == 1 and len(errors) == 1 and message in errors[0]


def test_no_configuration(tmp_path, capsys):
    assert main(["build", "--config", str(tmp_path / "mfa.yaml")]) == 1
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "mfa.yaml").write_text("a: [")
    assert main(["build", "--config", str(tmp_path / "mfa.yaml")]) == 1
    assert "is not valid YAML" in capsys.readouterr().err
