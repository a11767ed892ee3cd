"""The generated data set: its label model, its independence of workers and sizes, and how hard it is."""

import argparse
import hashlib
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mf2.dataset_tools.captions import validate_caption
from mf2.dataset_tools.contact_sheet import draw_contact_sheet
from mf2.dataset_tools.schema import load_mfa
from mf2.dataset_tools.synthetic import au_prior, synth
from mf2.dataset_tools.synthetic.domains import get_domain, sample_expression, sample_identity
from mf2.dataset_tools.synthetic.face_model import face_points
from mf2.dataset_tools.synthetic.synth import (
    ACTIVE_INTENSITY,
    SynthConfig,
    image_aus,
    label_table,
    make_row,
    synthesize,
)
from mf2.labels_mf2 import AU_IDS, EMOTIONS, PROTOTYPES

SMALL = SynthConfig(num_train=20, num_eval=8, frames_per_identity=4, seed=3, image_size=48)


# ------------------------------------------------------------------------------------------------------- label model
def brute_force_likelihood(aus: tuple[int, ...], emotion: int) -> float:
    """P(AUs | emotion) by the formula of the docstring, one AU after the other."""
    probability = 1.0
    for j, active in enumerate(aus):
        rate = au_prior.RATES[emotion, j]
        logit = np.log(rate / (1 - rate))
        logit += sum(au_prior.LINKS[i, j] * (aus[i] - au_prior.RATES[emotion, i]) for i in range(j))
        p = 1 / (1 + np.exp(-logit))
        probability *= p if active else 1 - p
    return probability


def test_likelihood_is_the_formula_and_sums_to_one():
    combinations, likelihood = au_prior.joint_table()
    np.testing.assert_allclose(likelihood.sum(axis=0), 1, atol=1e-9)
    for row in range(0, 4096, 173):
        aus = tuple(int(a) for a in combinations[row])
        expected = [brute_force_likelihood(aus, emotion) for emotion in range(len(EMOTIONS))]
        np.testing.assert_allclose(likelihood[row], expected, rtol=1e-9)


def test_the_ceiling_equals_brute_force():
    ceiling = sum(
        max(brute_force_likelihood(aus, emotion) for emotion in range(len(EMOTIONS)))
        for aus in itertools.product((0, 1), repeat=len(AU_IDS))
        if sum(aus) <= 3  # the sum over all 4,096 splits into this part and the rest
    )
    combinations, likelihood = au_prior.joint_table()
    few = combinations.sum(axis=1) <= 3
    assert ceiling == pytest.approx(likelihood[few].max(axis=1).sum(), rel=1e-9)
    assert au_prior.expected_ceiling() == pytest.approx(likelihood.max(axis=1).sum() / 8)


def test_the_ceiling_leaves_room_for_doubt_and_is_what_samples_show():
    config = SynthConfig(num_train=8000)
    emotions, aus = label_table(config, "train")
    seen = (au_prior.bayes_emotion(aus) == emotions).mean()
    assert 0.75 < au_prior.expected_ceiling() < 0.90
    assert seen == pytest.approx(au_prior.expected_ceiling(), abs=0.02)
    np.testing.assert_allclose(aus.mean(axis=0), au_prior.prevalence(), atol=0.02)


def test_every_au_is_neither_rare_nor_the_rule():
    assert (au_prior.prevalence() >= 0.12).all()
    assert (au_prior.prevalence() <= 0.55).all()


@pytest.mark.parametrize(("au", "given", "target"), [(12, 6, 0.88), (25, 26, 0.93), (25, 12, 0.76), (25, 6, 0.85)])
def test_aus_occur_together_as_in_emotionet(au, given, target):
    assert au_prior.conditional(au, given) == pytest.approx(target, abs=0.07)


def test_aus_attract_and_repel_each_other():
    rate = dict(zip(AU_IDS, au_prior.prevalence(), strict=True))
    for au, given in ((2, 1), (1, 2), (4, 1)):
        assert au_prior.conditional(au, given) > rate[au]
    for au, given in ((6, 4), (12, 4), (6, 1), (12, 1), (25, 24)):
        assert au_prior.conditional(au, given) < 0.6 * rate[au]


def test_emotions_lean_on_their_prototypes():
    combinations, likelihood = au_prior.joint_table()
    rates = (likelihood.T @ combinations) - au_prior.prevalence()
    for emotion, aus in PROTOTYPES.items():
        above = [rates[EMOTIONS.index(emotion), AU_IDS.index(au)] for au in aus]
        assert np.mean(above) > 0.2
    assert combinations.sum(axis=1) @ likelihood[:, EMOTIONS.index("Neutral")] < 1


# ------------------------------------------------------------------------------------------------------------- images
@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synth") / "data"
    return synthesize(folder, SMALL, num_workers=1, show_progress=False)


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_number_of_workers_changes_no_byte(data_set, tmp_path):
    assert digest(synthesize(tmp_path / "two", SMALL, num_workers=2, show_progress=False)) == digest(data_set)


def test_rows_follow_the_schema_and_the_captions_are_valid(data_set):
    train, evaluation = load_mfa(data_set, "train"), load_mfa(data_set, "validation")
    assert (len(train), len(evaluation)) == (20, 8)
    for row in evaluation:
        active = [au_id for au_id in AU_IDS if row[f"AU{au_id}"] == 1]
        emotion = EMOTIONS[row["emotion"]]
        assert row["image"].size == (48, 48)
        assert row["caption_source"] == "template" and row["caption_model"] is None
        for kind in ("au", "emotion", "key_au"):
            assert validate_caption(kind, row[f"caption_{kind}"], active, emotion) == []


def test_people_stay_in_one_split(data_set):
    train, evaluation = load_mfa(data_set, "train"), load_mfa(data_set, "validation")
    assert not set(train["group_id"]) & set(evaluation["group_id"])
    assert len(set(train["video_id"])) == 5
    assert train["frame"][:5] == [1, 2, 3, 4, 1]


def test_frames_of_a_person_share_the_person_but_not_the_moment():
    people = [synth._person(SMALL, "train", index // SMALL.frames_per_identity)[0] for index in (0, 1, 4)]
    assert people[0] is people[1]
    assert people[0].texture_seed != people[2].texture_seed
    first, second = (make_row(SMALL, "train", index)["landmarks"] for index in (0, 1))
    assert not np.allclose(first, second)


def test_emotions_are_balanced_and_labels_follow_intensities():
    config = SynthConfig(num_train=64)
    emotions, _ = label_table(config, "train")
    assert (np.bincount(emotions, minlength=8) == 8).all()
    for index in range(40):
        labels, intensities = image_aus(config, "train", index)
        assert ((intensities >= ACTIVE_INTENSITY) == (labels == 1)).all()
        assert intensities.max() <= 1


def test_a_larger_training_split_leaves_the_evaluation_split_as_it_is():
    larger = SynthConfig(**(vars(SMALL) | {"num_train": 400}))
    assert make_row(larger, "validation", 5)["image"] == make_row(SMALL, "validation", 5)["image"]


def test_seed_and_domain_change_the_pictures():
    image = make_row(SMALL, "train", 0)["image"]
    for change in ({"seed": 4}, {"domain": "shifted"}):
        assert make_row(SynthConfig(**(vars(SMALL) | change)), "train", 0)["image"] != image


def test_the_manifest_tells_what_was_made(data_set):
    manifest = json.loads((data_set / "manifest.json").read_text())
    emotions, aus = label_table(SMALL, "validation")
    assert manifest["config"] == vars(SMALL)
    assert manifest["generator_version"] == synth.GENERATOR_VERSION
    assert manifest["num_identities"] == {"train": 5, "validation": 2}
    assert manifest["au_prevalence"]["validation"]["AU12"] == aus[:, AU_IDS.index(12)].mean()
    assert manifest["emotion_ceiling"]["validation"] == (au_prior.bayes_emotion(aus) == emotions).mean()


def test_the_contact_sheet_shows_faces_and_landmarks(data_set):
    sheet = Image.open(data_set / "contact_sheet.png")
    assert sheet.width > 8 * 160 and sheet.height > 160
    rows = [make_row(SMALL, "train", index) for index in range(3)]
    plain, marked = (draw_contact_sheet(rows, columns=2, with_landmarks=marks) for marks in (False, True))
    assert plain.size == marked.size
    assert np.abs(np.asarray(plain, int) - np.asarray(marked, int)).mean() > 0.5


# ------------------------------------------------------------------------------------------------------------- command
def parse(*argv):
    parser = argparse.ArgumentParser()
    synth.add_arguments(parser)
    return parser.parse_args([str(value) for value in argv])


def test_the_command_writes_and_reports_the_ceiling(tmp_path, capsys):
    options = ("--num_train", 8, "--num_eval", 8, "--image_size", 32, "--num_workers", 1)
    assert synth.run(parse(tmp_path / "out", *options)) == 0
    assert "From the true AUs" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="already exists"):
        synth.run(parse(tmp_path / "out", *options))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_train", 0, "num_train is 0; it must be at least 1"),
        ("image_size", 8, "image_size is 8; it must be at least 32"),
        ("seed", -1, "seed is -1; it must be at least 0"),
        ("domain", "moon", "no domain 'moon'"),
    ],
)
def test_impossible_configurations_are_refused(option, value, message):
    with pytest.raises(ValueError, match=message):
        SynthConfig(**{option: value})


# ---------------------------------------------------------------------------------------------------------- difficulty
PROBE = SynthConfig(num_train=448, num_eval=192, frames_per_identity=4, seed=7, image_size=64)


def mean_f1(labels, predictions):
    return np.mean([f1_score(labels[:, a], predictions[:, a], zero_division=0) for a in range(len(AU_IDS))])


def aligned(points):
    """Landmarks with the eye centres at (±1/2, 0): (N, 136)."""
    left, right = points[:, 36:42].mean(axis=1), points[:, 42:48].mean(axis=1)
    axis = (right - left)[:, None]
    centered = points - ((left + right) / 2)[:, None]
    across = (centered * axis).sum(-1)
    down = centered[..., 1] * axis[..., 0] - centered[..., 0] * axis[..., 1]
    return (np.stack([across, down], axis=-1) / (axis**2).sum(-1, keepdims=True)).reshape(len(points), -1)


def test_landmarks_alone_do_not_solve_it():
    """Logistic regression on the exact points of unposed faces, 2,048 to learn from: its score must stay in its band.

    A generator that became easier, with AUs that move points further or people that differ less, leaves it.
    """
    config, domain = SynthConfig(num_train=2048, num_eval=512), get_domain("default")

    def read(split):
        points, labels = [], []
        for index in range(config.num_images(split)):
            if index % config.frames_per_identity == 0:
                identity = sample_identity(np.random.default_rng((split == "train", index)), domain)
            label, intensities = image_aus(config, split, index)
            points.append(face_points(identity, sample_expression(np.random.default_rng(index), intensities)))
            labels.append(label)
        return aligned(np.array(points)), np.array(labels)

    (train_x, train_y), (eval_x, eval_y) = read("train"), read("validation")
    probes = [make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(train_x, y) for y in train_y.T]
    score = mean_f1(eval_y, np.array([probe.predict(eval_x) for probe in probes]).T)
    assert 0.58 < score < 0.66


def gradient_histograms(image):
    """(8 x 8 cells x 6 directions) of gradient strength, each cell's normalised."""
    grey = np.asarray(Image.open(io.BytesIO(image)).convert("L"), np.float32)
    down, right = np.gradient(grey)
    strength, direction = np.hypot(right, down), (np.arctan2(down, right) % np.pi / np.pi * 6).astype(int) % 6
    cells = np.stack(
        [np.where(direction == d, strength, 0).reshape(8, 8, 8, 8).sum(axis=(1, 3)) for d in range(6)], -1
    )
    return (cells / (np.linalg.norm(cells, axis=-1, keepdims=True) + 20)).ravel()


def test_a_linear_probe_on_gradients_keeps_its_score():
    def read(split):
        rows = [make_row(PROBE, split, index) for index in range(PROBE.num_images(split))]
        labels = np.array([[row[f"AU{au_id}"] for au_id in AU_IDS] for row in rows])
        return np.array([gradient_histograms(row["image"]) for row in rows]), labels

    (train_x, train_y), (eval_x, eval_y) = read("train"), read("validation")
    probes = [
        make_pipeline(StandardScaler(), RidgeClassifier(300.0, class_weight="balanced")).fit(train_x, y)
        for y in train_y.T
    ]
    score = mean_f1(eval_y, np.array([probe.predict(eval_x) for probe in probes]).T)
    assert 0.45 < score < 0.53
