"""The data set on disk: what is written is what is read, and everything else is one clear error."""

import io
import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, Image, load_dataset
from PIL import Image as PILImage

from mf2.cli.data import main
from mf2.dataset_tools import schema
from mf2.labels_mf2 import AU_IDS, EMOTIONS

pytestmark = [pytest.mark.dependencies, pytest.mark.usefixtures("private_cache")]


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    PILImage.new("RGB", (8, 8), (value, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def make_row(index: int, **changes) -> dict:
    row = {
        "image": jpeg(index),
        "file_name": f"v{index % 3}/{index:05d}.jpg",
        "dataset": "made",
        "video_id": f"v{index % 3}",
        "group_id": f"v{index % 3}",
        "frame": index,
        "emotion": index % len(EMOTIONS),
        "AU1": index % 2,
        "AU12": 1,
        "landmarks": np.full((68, 2), index, np.float32),
        "caption_au": "text",
    }
    return {key: value for key, value in (row | changes).items() if value is not ...}


def write(folder, rows, **options):
    options = {"manifest": {"license": "other", "pretty_name": "Made", "seed": 3}} | options
    return schema.write_mfa(folder, {"train": rows}, **options)


def test_rows_come_back_as_written(tmp_path):
    rows = [make_row(i) for i in range(7)]
    rows[2] |= {"emotion": None, "landmarks": None}
    rows[3] |= {"emotion": -100, "caption_au": None}
    write(tmp_path / "d", rows, rows_per_shard=3)
    loaded = schema.load_mfa(tmp_path / "d", "train")
    assert loaded.features == schema.mfa_features()
    assert [row["frame"] for row in loaded] == list(range(7))
    assert loaded[2]["emotion"] is None and loaded[3]["emotion"] is None and loaded[4]["emotion"] == 4
    assert loaded[2]["landmarks"] is None and np.asarray(loaded[5]["landmarks"]).tolist() == [[5.0, 5.0]] * 68
    assert loaded[1]["AU1"] == 1 and loaded[1]["AU2"] == -1
    assert loaded.features["emotion"].names == list(EMOTIONS)
    raw = loaded.cast_column("image", Image(decode=False))
    assert raw[6]["image"]["bytes"] == jpeg(6)  # the file's own bytes, not encoded again
    assert loaded[6]["image"].size == (8, 8)


def test_load_dataset_reads_the_folder_itself(tmp_path):
    """The folder must be a Hub data set as it stands: split names from the card, features from the shards."""
    folder = schema.write_mfa(
        tmp_path / "d",
        {"train": [make_row(i) for i in range(4)], "validation": [make_row(9)]},
        manifest={"license": "other", "pretty_name": "Made"},
        rows_per_shard=2,
    )
    both = load_dataset(str(folder))
    assert {name: len(split) for name, split in both.items()} == {"train": 4, "validation": 1}
    assert both["train"].features == schema.mfa_features()
    streamed = list(load_dataset(str(folder), split="train", streaming=True))
    assert [row["frame"] for row in streamed] == [0, 1, 2, 3]
    front_matter = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front_matter["license"] == "other" and front_matter["pretty_name"] == "Made"


def test_shards_manifest_and_fingerprint(tmp_path):
    one = write(tmp_path / "one", [make_row(i) for i in range(7)], rows_per_shard=3)
    manifest = json.loads((one / "manifest.json").read_text())
    shards = manifest["splits"]["train"]["shards"]
    assert [shard["file"] for shard in shards] == [f"data/train-{i:05d}-of-00003.parquet" for i in range(3)]
    assert [shard["num_rows"] for shard in shards] == [3, 3, 1]
    assert manifest["seed"] == 3 and manifest["splits"]["train"]["num_rows"] == 7
    assert {file.name for file in one.iterdir()} == {"README.md", "manifest.json", "data"}
    again = write(tmp_path / "again", (make_row(i) for i in range(7)), rows_per_shard=3)
    for shard in shards:
        assert (one / shard["file"]).read_bytes() == (again / shard["file"]).read_bytes()
    other = write(tmp_path / "other", [make_row(i, AU4=1) for i in range(7)])
    assert schema.dataset_fingerprint(one) == schema.dataset_fingerprint(again)
    assert schema.dataset_fingerprint(one) != schema.dataset_fingerprint(other)


def test_without_images_and_with_other_aus(tmp_path):
    rows = [make_row(1, image=..., AU9=1)]
    write(tmp_path / "d", rows, with_images=False, au_ids=(*AU_IDS, 9))
    loaded = schema.load_mfa(tmp_path / "d", "train", with_images=False)
    assert "image" not in loaded.features and loaded[0]["AU9"] == 1
    with pytest.raises(ValueError, match="annotations alone, without the column image"):
        schema.load_mfa(tmp_path / "d", "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"AU4": 2}, "AU4 is 2"),
        ({"AU4": 0.5}, "AU4 is 0.5"),
        ({"AU4": None}, "AU4 is None"),
        ({"AU3": 1}, "unknown columns AU3"),
        ({"emotion": 8}, "emotion is 8"),
        ({"emotion": -1}, "emotion is -1"),
        ({"landmarks": np.zeros((67, 2))}, r"landmarks have shape \(67, 2\)"),
        ({"landmarks": np.full((68, 2), np.nan)}, "finite"),
        ({"image": "/home/me/face.jpg"}, "encoded file as bytes, not str"),
        ({"image": ...}, "lacks image"),
        ({"group_id": ...}, "lacks group_id"),
    ],
)
def test_a_bad_row_is_named_and_leaves_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"v2/00002.jpg.*{message}"):
        write(tmp_path / "d", [make_row(1), make_row(2, **changes)])
    assert list(tmp_path.iterdir()) == []


def test_no_rows_and_unknown_splits_are_errors(tmp_path):
    with pytest.raises(ValueError, match="'train' has no rows"):
        write(tmp_path / "d", [])
    with pytest.raises(ValueError, match="'dev'"):
        schema.write_mfa(tmp_path / "d", {"dev": [make_row(1)]}, manifest={})


def test_an_existing_folder_is_only_replaced_on_request(tmp_path):
    folder = write(tmp_path / "d", [make_row(1)])
    with pytest.raises(FileExistsError, match="--overwrite"):
        write(folder, [make_row(2)])
    write(folder, [make_row(2)], overwrite=True)
    assert schema.load_mfa(folder, "train")[0]["frame"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not overwritten"):
        write(tmp_path / "mine", [make_row(2)], overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def rewrite_shard(folder, change):
    """Replace the first shard by what `change` makes of its pyarrow table."""
    file = next((folder / "data").iterdir())
    pq.write_table(change(pq.read_table(file)), file)


def drop_columns(table: pa.Table) -> pa.Table:
    return table.drop_columns(["AU4", "landmarks"])


def widen_au(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("AU4"), "AU4", table["AU4"].cast(pa.int64()))


def break_label(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("AU4"), "AU4", pa.array([9], pa.int8()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_columns, r"d \(train\) lacks the columns AU4, landmarks"),
        (widen_au, r"AU4 is Value\('int64'\) instead of Value\('int8'\)"),
        (break_label, "AU4 runs from 9 to 9"),
        (lambda table: table.slice(0, 0), "has no rows"),
    ],
)
def test_a_data_set_that_breaks_the_schema(tmp_path, change, message):
    folder = write(tmp_path / "d", [make_row(1)])
    rewrite_shard(folder, change)
    with pytest.raises(ValueError, match=message):
        schema.load_mfa(folder, "train")


def test_what_is_not_there(tmp_path):
    folder = write(tmp_path / "d", [make_row(1)])
    with pytest.raises(FileNotFoundError, match="no split 'validation'; it has train"):
        schema.load_mfa(folder, "validation")
    with pytest.raises(FileNotFoundError, match="neither a data set folder nor a Hub id"):
        schema.load_mfa(tmp_path / "nothing", "train")
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json"):
        schema.load_mfa(tmp_path, "train")
    shard = next((folder / "data").iterdir())
    shard.write_bytes(b"PAR1 cut off")
    with pytest.raises(ValueError, match="cannot be read"):
        schema.load_mfa(folder, "train")
    shutil.rmtree(folder / "data")
    with pytest.raises(FileNotFoundError, match="copy it again"):
        schema.load_mfa(folder, "train")


def test_null_labels_from_elsewhere_are_refused():
    features = schema.mfa_features(with_images=False)
    row = dict.fromkeys(features) | {"frame": 1}
    with pytest.raises(ValueError, match="AU1 runs from None to None with 1 nulls"):
        schema.check_mfa(Dataset.from_list([row], features=features), "there", with_images=False)


def test_writing_streams(tmp_path):
    """The peak of memory must not grow with the data set: 60 MB of pixels pass through a few MB."""
    script = """
        import resource, sys
        from mf2.dataset_tools.schema import write_mfa
        from test_rows import row
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        write_mfa(sys.argv[1] + "/small", {"train": (row(i) for i in range(200))}, manifest={}, rows_per_shard=100)
        before = peak()
        write_mfa(sys.argv[1] + "/large", {"train": (row(i) for i in range(3000))}, manifest={}, rows_per_shard=100)
        print(peak() - before)
    """
    (tmp_path / "test_rows.py").write_text(
        "def row(i):\n"
        "    image = i.to_bytes(4, 'big') * 5000\n"
        "    return dict(image=image, file_name=f'{i}.jpg', dataset='d', video_id='v', group_id='v', frame=i)\n"
    )
    run = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    growth = float(subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert growth < 30


def test_command_help_is_quick_and_errors_are_one_line(tmp_path, capsys):
    code = (
        "import sys; from mf2.cli.data import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'torch', 'pandas', 'pyarrow', 'datasets', 'numpy'} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "import" in out and out.strip().endswith("[]")
    with pytest.raises(SystemExit):
        main(["dance"])
    assert "invalid choice: 'dance'" in capsys.readouterr().err


def test_a_data_set_has_the_aus_and_emotions_that_it_codes(tmp_path):
    """DISFA has AU9 and no AU7; a list of five emotions must never be read as the first five of ours."""
    row = make_row(1, emotion=4, AU9=1, AU12=...)
    own = ["Neutral", "Anger", "Contempt", "Joy", "Boredom"]
    folder = write(tmp_path / "d", [row], au_ids=(1, 9), emotions=own)
    manifest = schema.read_manifest(folder)
    assert manifest["au_ids"] == [1, 9] and manifest["emotions"] == own
    loaded = schema.load_mfa(folder, "train", au_ids=None)
    assert schema.au_ids_in_columns(loaded.features) == (1, 9) and loaded.features["emotion"].names == own
    assert (loaded[0]["AU9"], loaded[0]["emotion"]) == (1, 4)
    with pytest.raises(ValueError, match="emotion is ClassLabel"):
        schema.load_mfa(folder, "train", au_ids=(1, 9))
    with pytest.raises(ValueError, match="emotion is 5"):
        write(tmp_path / "e", [row | {"emotion": 5}], au_ids=(1, 9), emotions=own)


def test_needed_aus_without_a_column_can_be_unlabelled(tmp_path):
    folder = write(tmp_path / "d", [make_row(i, AU12=...) for i in range(3)], au_ids=(1,))
    with pytest.raises(ValueError, match="lacks the columns AU12"):
        schema.load_mfa(folder, "train", au_ids=(1, 12))
    loaded = schema.load_mfa(folder, "train", au_ids=(1, 12), fill_aus=True)
    assert loaded["AU1"] == [0, 1, 0] and loaded["AU12"] == [-1] * 3


def test_an_au_without_a_region_has_no_column(tmp_path):
    with pytest.raises(ValueError, match="AU 45 has no region rule"):
        write(tmp_path / "d", [make_row(1)], au_ids=(1, 12, 45))


# --------------------------------------------------------------------------------------------- valence and arousal
def test_valence_and_arousal_come_back_as_written(tmp_path):
    rows = [make_row(0, valence=-1, arousal=0.25), make_row(1, valence=float("nan")), make_row(2)]
    write(tmp_path / "d", rows, affect=True)
    loaded = schema.load_mfa(tmp_path / "d", "train", affect=True)
    assert loaded.features == schema.mfa_features(affect=True)
    found = [(row["valence"], row["arousal"]) for row in loaded]
    assert found[0] == (-1, 0.25) and np.isnan(found[1:]).all()
    assert schema.read_manifest(tmp_path / "d")["affect"] == ["valence", "arousal"]
    assert "valence and arousal lie in -1..1" in (tmp_path / "d" / "README.md").read_text()


def test_a_data_set_without_valence_and_arousal_says_so_where_they_are_needed(tmp_path):
    write(tmp_path / "d", [make_row(0)])
    assert "valence" not in schema.load_mfa(tmp_path / "d", "train").features
    assert "affect" not in schema.read_manifest(tmp_path / "d")
    with pytest.raises(ValueError, match="lacks the columns valence, arousal"):
        schema.load_mfa(tmp_path / "d", "train", affect=True)


@pytest.mark.parametrize("value", [1.01, -5, float("inf"), "0.5"])
def test_valence_out_of_range_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"Row 'v0/00000.jpg': valence is .*; it must lie in -1..1, or be NaN"):
        write(tmp_path / "d", [make_row(0, valence=value)], affect=True)


def test_arousal_out_of_range_in_a_file_is_refused(tmp_path):
    folder = write(tmp_path / "d", [make_row(0, arousal=0.5), make_row(1)], affect=True)
    (shard,) = (folder / "data").iterdir()
    table = pq.read_table(shard)
    column = table.schema.get_field_index("arousal")
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array([-5, np.nan], pa.float32())), shard)
    with pytest.raises(ValueError, match=r"arousal runs from -5.0 to -5.0 with 0 nulls; it must lie in -1..1"):
        schema.load_mfa(folder, "train")
