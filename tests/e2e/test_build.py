"""`mf2 data build`: a stage runs again exactly when something that it reads has changed."""

import io

import pytest
import yaml
from PIL import Image

from mf2.dataset_tools.cli import main
from mf2.dataset_tools.index import read_frames
from mf2.dataset_tools.schema import load_mfa
from mf2.labels_mf2 import AU_IDS, EMOTIONS

AU_HEADER, EXPR_HEADER = ",".join(f"AU{au_id}" for au_id in AU_IDS), ",".join(EMOTIONS)
AU_ROW = ",".join(["1", "0"] * 6)
STAGES = ["index", "select", "import", "caption", "export"]


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def root(tmp_path):
    """Four videos of sixteen frames, two of each emotion."""
    root = tmp_path / "root"
    for v in range(4):
        labels = {"AU": [AU_HEADER, *[AU_ROW] * 16], "EXPR": [EXPR_HEADER, *(str(k % 8) for k in range(16))]}
        for task, lines in labels.items():
            path = root / "annotations" / f"{task}_Set" / "Training_Set" / f"v{v}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
        for k in range(1, 17):
            write_image(root / "cropped_aligned" / f"v{v}" / f"{k:05d}.jpg", v * 16 + k)
    return root


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "JPEG")
    path.write_bytes(file.getvalue())


class Build:
    """Runs the command on a configuration that the test may change, and tells which stages were made."""

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
                "caption": {"backend": "template"},
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
    assert len(load_mfa(export, "validation")) == 16
    assert build()[1] == build("--dry_run")[1] == dict.fromkeys(STAGES, "unchanged")

    build.config["stages"]["export"] = {"full": False}
    assert build()[1] == changed_from("export")
    build.config["stages"]["select"]["seed"] = 2
    assert build("--dry_run")[1] == {n: "unchanged" if n == "index" else "would run" for n in STAGES}
    assert build()[1] == changed_from("select")

    chosen = read_frames(tmp_path / "out" / "selection")["path"].to_pylist()
    spare = next(path for path in read_frames(tmp_path / "out" / "index")["path"].to_pylist() if path not in chosen)
    write_image(root / spare, 200)  # a new picture under an old name matters where it is used
    assert build()[1] == dict.fromkeys(STAGES, "unchanged")
    write_image(root / chosen[0], 200)
    assert build()[1] == changed_from("import")

    labels = root / "annotations" / "EXPR_Set" / "Training_Set" / "v0.txt"
    labels.write_text(labels.read_text() + "3\n")  # a row without a crop: the index is the same in the end
    assert build()[1] == {name: "made" if name == "index" else "unchanged" for name in STAGES}


def test_a_missing_product_is_made_again(build, tmp_path):
    build()
    (tmp_path / "out" / "export" / "manifest.json").unlink()
    (tmp_path / "out" / "export" / "README.md").unlink()
    status, _, err = build()
    assert status == 1 and "is no data set of ours" in err  # what is no data set is not overwritten
    assert "stage export" in err


def test_optional_stages_may_be_left_out(build, tmp_path):
    build.config["stages"] = {"index": None, "import": {"split": "random", "eval_fraction": 0.25}}
    assert build()[:2] == (0, {"index": "made", "import": "made"})
    assert len(load_mfa(tmp_path / "out" / "dataset", "train")) == 48


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reader": "affwild3"}, "No reader is called 'affwild3'; there are affwild2."),
        ({"out": "x"}, "must have exactly the keys reader, root, output_dir, stages."),
        ({"stages": {"index": {}}}, "index and import among them."),
        ({"stages": {"index": {}, "import": {}, "dance": {}}}, "stages must be some of index, select"),
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
