"""Search: the index never serves what is stale nor works twice, and the best faces come first."""

import json
import os
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_mf2 import make_tiny, save_tiny, write_pictures

from mf2.analysis.face_arguments import FaceSearch
from mf2.analysis.faces import make_finder
from mf2.analysis.media import find_sources
from mf2.analysis.search import face_index
from mf2.analysis.search.face_index import Encoder, FaceIndex
from mf2.analysis.search.fingerprint import fingerprint
from mf2.analysis.search.ranking import describe, encode_face, search, text_scorer
from mf2.analysis.search.scoring import FaceScorer
from mf2.cli import main
from mf2.dataset_tools.captions import template_captions
from mf2.labels_mf2 import PROTOTYPES

MEAN_FACE = make_finder(FaceSearch("mean_face"), "", None, [])
TEXT = "The lip corners are pulled up."


@pytest.fixture(scope="module")
def tiny():
    return make_tiny()


@pytest.fixture
def encoder(tiny) -> Encoder:
    return Encoder(*tiny, MEAN_FACE, batch_size=4)


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "faces", 7)


def make_index(tmp_path, encoder, name="index") -> tuple[FaceIndex, int]:
    index = FaceIndex(tmp_path / name, encoder, "mean_face")
    return index, index.update(find_sources([tmp_path / "faces"])[0])


def all_embeds(index: FaceIndex) -> dict[str, torch.Tensor]:
    return {path: row for shard in index.shards() for path, row in zip(*shard_rows(shard), strict=True)}


def shard_rows(shard):
    return shard.paths, shard.tensors["embeds"].float()


# -------------------------------------------------------------------------------------------------------------- index
def test_faces_are_encoded_once(tmp_path, encoder, pictures):
    first, num_encoded = make_index(tmp_path, encoder)
    assert (num_encoded, len(first)) == (7, 7)
    again, num_encoded = make_index(tmp_path, encoder)
    assert num_encoded == 0
    assert all_embeds(again).keys() == all_embeds(first).keys() == {str(path) for path in pictures}


def test_what_is_kept_is_what_the_model_gives(tmp_path, tiny, encoder, pictures):
    model, processor = tiny
    index, _ = make_index(tmp_path, encoder)
    batch = processor(images=[Image.open(path) for path in pictures])
    with torch.no_grad():
        expected = model.get_image_features(batch["pixel_values"], batch["au_boxes"]).pooler_output
    kept = all_embeds(index)
    torch.testing.assert_close(torch.stack([kept[str(path)] for path in pictures]), expected, atol=1e-3, rtol=0)


def test_only_a_changed_file_is_encoded_again(tmp_path, encoder, pictures):
    before = all_embeds(make_index(tmp_path, encoder)[0])
    Image.open(pictures[5]).save(pictures[2])
    index, num_encoded = make_index(tmp_path, encoder)
    assert num_encoded == 1
    after = all_embeds(index)
    torch.testing.assert_close(after[str(pictures[2])], before[str(pictures[5])], atol=2e-3, rtol=0)
    assert (after[str(pictures[2])] - before[str(pictures[2])]).abs().max() > 0.02
    assert torch.equal(after[str(pictures[3])], before[str(pictures[3])])


def test_a_file_of_the_same_size_and_another_time_is_encoded_again(tmp_path, encoder, pictures):
    make_index(tmp_path, encoder)
    os.utime(pictures[0], ns=(1, 1))
    assert make_index(tmp_path, encoder)[1] == 1


def test_a_file_that_is_gone_is_forgotten_with_its_shard(tmp_path, encoder, pictures, monkeypatch):
    monkeypatch.setattr(face_index, "FILES_PER_SHARD", 3)
    make_index(tmp_path, encoder)
    for path in pictures[:3]:
        path.unlink()
    index, num_encoded = make_index(tmp_path, encoder)
    assert (num_encoded, len(index)) == (0, 4)
    assert sorted(path.name for path in index.folder.iterdir()) == [
        "faces-00001.safetensors",
        "faces-00002.safetensors",
        "files-00001.json",
        "files-00002.json",
        "index.json",
    ]


def test_a_shard_ends_after_many_faces(tmp_path, encoder, pictures, monkeypatch):
    """So that the faces of many videos are not in memory at once."""
    pictures[1].write_bytes(b"")
    whole = all_embeds(make_index(tmp_path, encoder, "whole")[0])
    monkeypatch.setattr(face_index, "FACES_PER_SHARD", 2)
    index, _ = make_index(tmp_path, encoder)
    assert [len(shard.paths) for shard in index.shards()] == [2, 2, 2]
    assert list(index.errors) == [str(pictures[1])]
    cut = all_embeds(make_index(tmp_path, encoder)[0])
    assert cut.keys() == whole.keys() and all(torch.equal(cut[path], whole[path]) for path in cut)


@pytest.mark.parametrize("change", ["weights", "branch", "fps", "size"])
def test_an_index_of_something_else_is_not_used(tmp_path, tiny, encoder, pictures, change):
    make_index(tmp_path, encoder)
    model, processor = make_tiny()
    if change == "weights":
        with torch.no_grad():
            model.emo.vision_projection.bias[0] += 1e-3
    elif change == "size":
        processor.image_processor.size = {"height": 40, "width": 40}
    other = {"branch": {"branch": "au"}, "fps": {"fps": 2.0}}.get(change, {})
    assert make_index(tmp_path, replace(encoder, model=model, processor=processor, **other))[1] == 7


def test_the_same_weights_have_the_same_fingerprint(tiny, tmp_path):
    assert fingerprint(*make_tiny()) == fingerprint(*tiny)
    assert fingerprint(*make_tiny(seed=1)) != fingerprint(*tiny)


def test_a_run_that_was_stopped_goes_on(tmp_path, encoder, pictures, monkeypatch):
    monkeypatch.setattr(face_index, "FILES_PER_SHARD", 2)
    save = face_index.save_file

    def stop_at_the_third(tensors, path):
        if "00002" in path.name:
            raise KeyboardInterrupt
        save(tensors, path)

    monkeypatch.setattr(face_index, "save_file", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make_index(tmp_path, encoder)
    monkeypatch.setattr(face_index, "save_file", save)
    index, num_encoded = make_index(tmp_path, encoder)
    assert (num_encoded, len(index)) == (3, 7)
    assert not list(index.folder.glob(".*"))


def test_a_damaged_index_is_made_anew(tmp_path, encoder, pictures):
    index, _ = make_index(tmp_path, encoder)
    (index.folder / "index.json").write_text("{")
    assert make_index(tmp_path, encoder)[1] == 7
    (index.folder / "files-00000.json").write_text("{")
    assert make_index(tmp_path, encoder)[1] == 7
    next(index.folder.glob("*.safetensors")).unlink()
    assert make_index(tmp_path, encoder)[1] == 7


def test_a_broken_picture_is_an_error_of_its_own(tmp_path, encoder, pictures):
    pictures[1].write_bytes(b"")
    index, _ = make_index(tmp_path, encoder)
    assert len(index) == 6
    assert list(index.errors) == [str(pictures[1])]
    assert "0 bytes" in index.errors[str(pictures[1])]


# ------------------------------------------------------------------------------------------------------------- search
@pytest.mark.parametrize("files_per_shard", [2, 256])
@pytest.mark.parametrize("branch", ["emo", "au"])
def test_the_best_come_first_however_the_index_is_cut(
    tmp_path, tiny, encoder, pictures, monkeypatch, files_per_shard, branch
):
    monkeypatch.setattr(face_index, "FILES_PER_SHARD", files_per_shard)
    model, processor = tiny
    index, _ = make_index(tmp_path, replace(encoder, branch=branch))
    scores = {}
    for path in pictures:
        image, text = processor(images=path), processor(text=TEXT)
        with torch.no_grad():
            faces = model.get_image_features(image["pixel_values"], image["au_boxes"], branch=branch).pooler_output
            texts = model.get_text_features(**text, branch=branch).pooler_output
            scores[str(path)] = float(model.get_retrieval_scores(faces, texts))
    best = sorted(scores, key=scores.get, reverse=True)[:4]
    matches = search(index, text_scorer(model, processor, TEXT, branch), 4)
    assert [match.path for match in matches] == best
    assert [match.score for match in matches] == pytest.approx([scores[path] for path in best], abs=1e-3)


def test_a_branch_of_sentences_sees_each_clause(tiny):
    model, processor = make_tiny(au_text_mode="per_au")
    embeds = torch.nn.functional.normalize(torch.randn(5, 6, 16), dim=-1)
    both = text_scorer(model, processor, "brows lowered, lips pressed", "au")(embeds)
    each = [text_scorer(model, processor, text, "au")(embeds) for text in ("brows lowered", "lips pressed")]
    torch.testing.assert_close(both, sum(each) / 2)
    assert not torch.allclose(both, text_scorer(model, processor, "lips pressed, pulled", "au")(embeds))


def test_captions_with_openings_are_searched_behind_each():
    model, processor = make_tiny()
    openings = ["happy look:", "lips:"]
    ids = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in openings]
    model.config.caption_prompt_ids = dict(zip(("emotion", "key_au"), ids, strict=True))
    embeds = torch.nn.functional.normalize(torch.randn(5, 2, 16), dim=-1)
    found = text_scorer(model, processor, TEXT, "emo")(embeds)
    model.config.caption_prompt_ids = None
    each = [text_scorer(model, processor, f"{opening} {TEXT}", "emo")(embeds) for opening in openings]
    torch.testing.assert_close(found, sum(each) / 2)


def test_the_name_of_an_emotion_stands_for_captions_of_it(tiny):
    model, processor = tiny
    embeds = torch.nn.functional.normalize(torch.randn(5, 2, 16), dim=-1)
    captions = [template_captions(str(n), PROTOTYPES["Happiness"], "Happiness").emotion for n in range(8)]
    expected = sum(text_scorer(model, processor, caption, "emo")(embeds) for caption in captions) / 8
    torch.testing.assert_close(text_scorer(model, processor, "Happy", "emo")(embeds), expected)


def test_a_face_is_most_like_itself(tmp_path, encoder, pictures):
    index, _ = make_index(tmp_path, encoder)
    best = search(index, FaceScorer(encode_face(encoder, pictures[3])), 2)
    assert best[0].path == str(pictures[3])
    assert best[0].score == pytest.approx(1, abs=1e-3)
    assert best[1].score < 0.999


def test_texts_are_ranked_for_a_face_in_chunks(tiny, encoder, pictures, monkeypatch):
    texts = ["brows lowered", "lips pressed", "a happy look", "The inner brows are raised.", "lips"]
    embeds = encode_face(encoder, pictures[0])
    whole = describe(encoder, embeds, texts, 5)
    assert [score for _, score in whole] == sorted((score for _, score in whole), reverse=True)
    for text, score in whole:
        assert score == pytest.approx(float(text_scorer(*tiny, text, "emo")(embeds[None])), abs=1e-4)
    monkeypatch.setattr("mf2.analysis.search.ranking.TEXTS_PER_CHUNK", 2)
    assert describe(encoder, embeds, texts, 3) == whole[:3]


# ------------------------------------------------------------------------------------------------------------ command
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def options(tmp_path, checkpoint) -> list[str]:
    folders = ["--index", str(tmp_path / "index"), "--output", str(tmp_path / "out")]
    return ["--model", str(checkpoint), "--landmarks", "mean_face", "--device", "cpu", *folders]


def test_the_command_writes_results_and_a_contact_sheet(tmp_path, checkpoint, pictures, capsys):
    argv = ["search", TEXT, str(tmp_path / "faces"), "--top_k", "3", *options(tmp_path, checkpoint)]
    assert main(argv) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["text"] == TEXT
    assert len(results["matches"]) == 3
    printed = capsys.readouterr().out
    assert all(match["path"] in printed for match in results["matches"])
    assert Image.open(tmp_path / "out" / "contact_sheet.png").width > 3 * 160


def test_the_command_says_which_files_failed(tmp_path, checkpoint, pictures, capsys):
    pictures[0].write_bytes(b"no picture")
    assert main(["search", TEXT, str(tmp_path / "faces"), *options(tmp_path, checkpoint)]) == 1
    assert "face-0.png: the picture cannot be opened" in capsys.readouterr().err


def test_the_command_describes_a_face(tmp_path, checkpoint, pictures, capsys):
    (tmp_path / "texts.txt").write_text("brows lowered\n\nlips pressed\n")
    face = ["--describe", str(pictures[0]), "--texts", str(tmp_path / "texts.txt")]
    assert main(["search", *face, *options(tmp_path, checkpoint)]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {entry["text"] for entry in results["texts"]} == {"brows lowered", "lips pressed"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["brows"], "Give a text in quotes and the folder; got ['brows']"),
        (["brows", "lowered", "faces"], "Give a text in quotes"),
        (["brows", "nowhere"], "nowhere does not exist"),
        ([" ", "."], "The text is empty"),
        (["brows", ".", "--top_k", "0"], "must be above 0"),
        (["--describe", "face.png"], "needs --texts FILE"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, checkpoint, capsys, argv, message):
    assert main(["search", *argv, *options(tmp_path, checkpoint)]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("mf2 search: error: ")
