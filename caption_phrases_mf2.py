"""The phrases of the offline captions: what each action unit looks like and how each emotion is put into words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AuPhrases:
    """How one action unit is written about.

    `movements` are main clauses and `cues` subordinate ones that may follow any of them, both without a full stop;
    `cue_noun` follows "the"; `terse` and `inactive` are whole sentences.
    """

    movements: tuple[str, ...]
    cues: tuple[str, ...]
    cue_noun: str
    terse: str
    inactive: str


@dataclass(frozen=True)
class EmotionPhrases:
    """How one emotion is written about: `adjective` follows "appears to be", `noun` follows "shows"; the closings are
    whole sentences about the face."""

    adjective: str
    noun: str
    closings: tuple[str, ...]


REST_SENTENCES = ("The features hardly move.", "The facial muscles are at rest.", "The face is nearly still.")
"""An emotion caption has one of these if no action unit is active."""
NO_KEY_AU_SENTENCE = "No action unit is active, so none is decisive."
"""A key-AU caption has it if no action unit is active."""

AU_PHRASES: dict[int, AuPhrases] = {
    1: AuPhrases(
        (
            "The inner ends of the eyebrows are raised",
            "The inner brows are lifted",
            "The inner parts of the brows move up",
            "The inner corners of the eyebrows are pulled up",
            "The eyebrows rise at their inner ends",
            "The inner brows are drawn upward",
        ),
        ("which can suggest surprise or worry", "a sign of concern or surprise", "which wrinkles the middle forehead"),
        "raised inner brows",
        "Inner brows raised.",
        "The inner brows are not raised.",
    ),
    2: AuPhrases(
        (
            "The outer ends of the eyebrows are raised",
            "The outer brows are lifted",
            "The outer parts of the brows move up",
            "The outer corners of the eyebrows are pulled up",
            "The eyebrows rise at their outer ends",
            "The outer brows are drawn upward",
        ),
        ("which can suggest surprise", "a sign of attention or surprise", "which gives the brows a high arch"),
        "lifted outer brows",
        "Outer brows raised.",
        "The outer brows are not raised.",
    ),
    4: AuPhrases(
        (
            "The eyebrows are lowered and drawn together",
            "The brows are pulled down",
            "The brows move down and toward each other",
            "The eyebrows are knitted together",
            "The brows are furrowed",
            "The eyebrows are pressed down over the eyes",
        ),
        ("which can suggest anger or effort", "a sign of strain or displeasure", "which leaves a crease between them"),
        "lowered brows",
        "Brows lowered.",
        "The brows are not lowered.",
    ),
    5: AuPhrases(
        (
            "The upper eyelids are raised",
            "The upper lids are lifted",
            "The eyes are opened wide",
            "The upper lids are pulled up",
            "The upper eyelids move up",
            "The eyes are wide open",
        ),
        ("which can suggest fear or surprise", "a sign of alarm", "which shows more of the eyes"),
        "wide open eyes",
        "Upper lids raised.",
        "The upper eyelids are not raised.",
    ),
    6: AuPhrases(
        (
            "The cheeks are raised",
            "The cheeks are lifted toward the eyes",
            "The cheeks are pushed up",
            "The cheeks rise and narrow the eyes",
            "The cheeks are pulled upward",
            "The cheeks move up under the eyes",
        ),
        ("which is often seen in a genuine smile", "a sign of joy", "which wrinkles the corners of the eyes"),
        "raised cheeks",
        "Cheeks raised.",
        "The cheeks are not raised.",
    ),
    7: AuPhrases(
        (
            "The eyelids are tightened",
            "The lids are tense",
            "The lower eyelids are drawn up and tight",
            "The eyes are narrowed by tight lids",
            "The eyelids are squeezed a little",
            "The lids are pulled tight",
        ),
        ("which can suggest effort or anger", "a sign of focus", "which makes the gaze look sharp"),
        "tightened eyelids",
        "Lids tightened.",
        "The eyelids are not tightened.",
    ),
    9: AuPhrases(
        (
            "The nose is wrinkled",
            "The skin of the nose is pulled up",
            "The sides of the nose are drawn up",
            "The nose wrinkles upward",
            "The skin along the nose is creased",
            "The nose is scrunched",
        ),
        ("which can suggest disgust", "a sign of dislike", "which lifts the middle of the lip"),
        "wrinkled nose",
        "Nose wrinkled.",
        "The nose is not wrinkled.",
    ),
    10: AuPhrases(
        (
            "The upper lip is raised",
            "The upper lip is lifted",
            "The upper lip is pulled up",
            "The upper lip moves up",
            "The upper lip is drawn toward the nose",
            "The middle of the upper lip is raised",
        ),
        ("which can suggest disgust", "a sign of dislike or of a broad smile", "which deepens the folds by the nose"),
        "raised upper lip",
        "Upper lip raised.",
        "The upper lip is not raised.",
    ),
    12: AuPhrases(
        (
            "The corners of the lips are pulled up",
            "The lip corners are drawn up and back",
            "The mouth corners are turned up",
            "The corners of the mouth are lifted",
            "The lip corners are raised into a smile",
            "The lips are pulled into a smile",
        ),
        ("which can suggest happiness", "a sign of joy or friendliness", "which lifts the lower face"),
        "upturned lip corners",
        "Lip corners up.",
        "The lip corners are not pulled up.",
    ),
    14: AuPhrases(
        (
            "The corners of the mouth are tightened inward",
            "The lip corners are pressed into the cheeks",
            "The mouth corners are pulled in",
            "The lip corners form dimples",
            "The corners of the lips are drawn inward",
            "The mouth corners are tight and dimpled",
        ),
        ("which can suggest doubt", "a sign of restraint", "which leaves small dimples"),
        "dimpled mouth corners",
        "Mouth corners dimpled.",
        "The mouth corners are not dimpled.",
    ),
    15: AuPhrases(
        (
            "The corners of the lips are pulled down",
            "The lip corners are drawn down",
            "The mouth corners are turned down",
            "The corners of the mouth are lowered",
            "The lip corners drop",
            "The lips bend down at the corners",
        ),
        ("which can suggest sadness", "a sign of sadness or displeasure", "which gives the mouth a low curve"),
        "downturned lip corners",
        "Lip corners down.",
        "The lip corners are not pulled down.",
    ),
    17: AuPhrases(
        (
            "The chin is raised",
            "The chin is pushed up",
            "The chin moves up under the lower lip",
            "The chin is lifted and wrinkled",
            "The skin of the chin is pulled up",
            "The chin presses the lower lip up",
        ),
        ("which can suggest doubt or sadness", "a sign of tension", "which pushes out the lower lip"),
        "raised chin",
        "Chin raised.",
        "The chin is not raised.",
    ),
    20: AuPhrases(
        (
            "The lips are stretched sideways",
            "The lip corners are pulled to the sides",
            "The mouth is stretched wide",
            "The lips are drawn back toward the ears",
            "The corners of the mouth are pulled sideways",
            "The lips are stretched flat",
        ),
        ("which can suggest fear", "a sign of tension", "which makes the mouth look long"),
        "stretched lips",
        "Lips stretched.",
        "The lips are not stretched.",
    ),
    23: AuPhrases(
        (
            "The lips are tightened",
            "The lips are tense and narrow",
            "The lips are pulled tight",
            "The lips are drawn in and thin",
            "The edges of the lips are tight",
            "The lips look thin and firm",
        ),
        ("which can suggest anger", "a sign of tension or restraint", "which makes the mouth look small"),
        "tightened lips",
        "Lips tightened.",
        "The lips are not tightened.",
    ),
    24: AuPhrases(
        (
            "The lips are pressed together",
            "The lips are pushed against each other",
            "The lips are firmly closed",
            "The lips are squeezed together",
            "The mouth is pressed shut",
            "The upper and lower lips press together",
        ),
        ("which can suggest anger or control", "a sign of restraint", "which makes the mouth a thin line"),
        "pressed lips",
        "Lips pressed.",
        "The lips are not pressed together.",
    ),
    25: AuPhrases(
        (
            "The lips are parted",
            "The lips are apart",
            "The lips are slightly open",
            "The mouth is slightly open",
            "The lips are separated",
            "The upper and lower lips are apart",
        ),
        ("which often comes with speech or a smile", "a sign of surprise or ease", "which shows the teeth or the gap"),
        "parted lips",
        "Lips parted.",
        "The lips are not parted.",
    ),
    26: AuPhrases(
        (
            "The jaw is dropped",
            "The jaw hangs down",
            "The lower jaw is lowered",
            "The jaw is relaxed and open",
            "The jaw moves down and opens the mouth",
            "The chin drops with the open jaw",
        ),
        ("which can suggest surprise", "a sign of surprise or speech", "which makes the face look longer"),
        "dropped jaw",
        "Jaw dropped.",
        "The jaw is not dropped.",
    ),
}

EMOTION_PHRASES: dict[str, EmotionPhrases] = {
    "Neutral": EmotionPhrases(
        "neutral",
        "a neutral mood",
        (
            "The whole face looks calm and at rest.",
            "Overall, the expression is even and quiet.",
            "Together, the features look relaxed.",
        ),
    ),
    "Anger": EmotionPhrases(
        "angry",
        "anger",
        (
            "The whole face looks hard and tense.",
            "Overall, the expression is stern and hostile.",
            "Together, the features look ready for conflict.",
        ),
    ),
    "Disgust": EmotionPhrases(
        "disgusted",
        "disgust",
        (
            "The whole face seems to turn away.",
            "Overall, the expression rejects something unpleasant.",
            "Together, the features show strong dislike.",
        ),
    ),
    "Fear": EmotionPhrases(
        "fearful",
        "fear",
        (
            "The whole face looks alarmed and tense.",
            "Overall, the expression reacts to a threat.",
            "Together, the features look uneasy.",
        ),
    ),
    "Happiness": EmotionPhrases(
        "happy",
        "happiness",
        (
            "The whole face looks bright and warm.",
            "Overall, the expression is pleasant and positive.",
            "Together, the features look cheerful.",
        ),
    ),
    "Sadness": EmotionPhrases(
        "sad",
        "sadness",
        (
            "The whole face looks heavy and low.",
            "Overall, the expression is down and withdrawn.",
            "Together, the features look full of grief.",
        ),
    ),
    "Surprise": EmotionPhrases(
        "surprised",
        "surprise",
        (
            "The whole face looks open and startled.",
            "Overall, the expression reacts to something unexpected.",
            "Together, the features look caught off guard.",
        ),
    ),
    "Other": EmotionPhrases(
        "hard to read",
        "a mixed feeling",
        (
            "The whole face fits none of the basic patterns.",
            "Overall, the expression stays mixed and complex.",
            "Together, the features point in several directions.",
        ),
    ),
}
