"""`mf2 data validate`: captions of any origin as a report, and free text as a sentence an AU."""

import csv
import json

import pytest

from mf2.cli.data import main

GOOD = {
    "image_id": "a.jpg",
    "emotion": "happiness",
    "active_aus": "AU6+AU12",
    "caption_au": "1. AU6 (Cheek Raiser): The cheeks are raised.\n2. AU12 (Lip Corner Puller): A smile.",
    "caption_emotion": "The person looks happy.",
    "caption_key_au": "The person looks happy. AU12 (Lip Corner Puller) is decisive.",
}
BAD = {
    **GOOD,
    "image_id": "b.jpg",
    "caption_au": "**AU6 (Cheek Raiser)**: The cheeks are raised.",
    "caption_emotion": "The woman looks sad.",
    "caption_key_au": None,
}


def write_jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_valid_captions_pass(tmp_path, capsys):
    assert main(["validate", str(write_jsonl(tmp_path / "c.jsonl", GOOD))]) == 0
    assert capsys.readouterr().out.count("1 of 1 captions valid (100.0%)") == 3


def test_the_report_counts_every_broken_rule(tmp_path, capsys):
    path = write_jsonl(tmp_path / "c.jsonl", GOOD, BAD, {**BAD, "image_id": "c.jpg"})
    files = {name: str(tmp_path / f"{name}.json") for name in ("report", "invalid", "sentences")}
    assert main(["validate", str(path), *(part for name, file in files.items() for part in (f"--{name}", file))]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert {kind: (r["captions"], r["valid"], r["missing"]) for kind, r in report.items()} == {
        "au": (3, 1, 0), "emotion": (3, 1, 0), "key_au": (1, 1, 2)
    }  # fmt: skip
    assert report["au"]["violations"]["The caption must be plain text without markdown."] == 2
    assert report["emotion"]["violations"]["Words about identity, age, race or gender are not allowed: …."] == 2
    invalid = [json.loads(line) for line in (tmp_path / "invalid.json").open()]
    assert [(row["image_id"], row["kind"]) for row in invalid[:2]] == [("b.jpg", "au"), ("b.jpg", "emotion")]
    assert any("woman" in violation for violation in invalid[1]["violations"])
    sentences = [json.loads(line) for line in (tmp_path / "sentences.json").open()]
    assert sentences[0]["sentences"] == {"6": "The cheeks are raised.", "12": "A smile."}
    assert sentences[1]["sentences"] == {"6": "The cheeks are raised."}
    assert "      2  The caption must be plain text without markdown." in capsys.readouterr().out


def test_a_csv_with_a_column_for_each_au(tmp_path):
    row = {key: value for key, value in GOOD.items() if key != "active_aus"}
    row |= {"emotion": 4, "AU6": 1, "AU12": "1", "AU1": 0, "AU2": -1}
    with (tmp_path / "c.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    assert main(["validate", str(tmp_path / "c.csv")]) == 0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**GOOD, "emotion": "joy"}, "emotion is 'joy'"),
        ({**GOOD, "emotion": 8}, "emotion is 8"),
        ({"image_id": "a.jpg"}, "holds no captions"),
    ],
)
def test_unreadable_captions_are_one_clear_line(tmp_path, capsys, row, says):
    path = write_jsonl(tmp_path / "c.jsonl", row)
    assert main(["validate", str(path)]) == 1
    assert says in capsys.readouterr().err


def test_files_of_another_kind_are_refused(tmp_path, capsys):
    for name in ("c.txt", "missing.jsonl"):
        assert main(["validate", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert ".jsonl or .csv" in error and "missing.jsonl" in error


def test_what_is_not_there_is_named_without_a_row(tmp_path, capsys):
    assert main(["validate", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'nowhere'} is neither a data set folder" in error and "row" not in error
