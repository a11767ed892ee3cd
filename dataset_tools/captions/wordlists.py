"""Words that the caption rules search for, except those of emotions. Whole words are matched, in any case."""

import re

PERSONAL = re.compile(
    r"""\b(?:
    he | she | him | his | her | hers | himself | herself
    | man | men | woman | women | boys? | girls? | males? | females? | lady | ladies | gentlem[ae]n | guys?
    | mother | father | husband | wife | son | daughter | brother | sister | masculine | feminine
    | boyish | girlish | manly | womanly | gender
    | young | younger | youthful | old | older | elderly | aged | middle-aged | teen | teens | teenagers? | teenage
    | child | children | childlike | kids? | infants? | bab(?:y|ies) | toddlers? | adults? | senior | seniors
    | \d+[ -]years?[ -]old
    | caucasians? | asians? | africans? | europeans? | hispanics? | latin[oa]s? | arabs? | jewish | indian
    | chinese | japanese | korean | american | middle[ -]eastern
    | race | racial | ethnic | ethnicity | nationality
    | (?:black|white|brown)[ -](?:people|person|individual|skin|skinned)
    | (?:dark|light|fair|pale)[ -]skinned | skin[ -](?:tone|colou?r)
    | celebrity | celebrities | famous | actors? | actress(?:es)? | politicians? | president
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)
"""Words on identity, age, race and gender, including gendered pronouns."""

DISCLAIMER = re.compile(
    r"""\b(?:
    i[ ]can(?:not|'t|[ ]not) | i(?:[ ]am|'m)[ ](?:unable|not[ ]able|sorry) | i[ ]apologi[sz]e
    | as[ ]an[ ]ai | language[ ]model
    | (?:can(?:not|'t)|unable[ ]to|not[ ]possible[ ]to|impossible[ ]to)[ ](?:be[ ])?
      (?:identif(?:y|ied)|determined?|assess(?:ed)?|tell|know|infer(?:red)?)
    | (?:please|important[ ]to|should[ ]be|worth)[ ](?:note|noted|noting|keep[ ]in[ ]mind|remember)
    | without[ ](?:more|additional|further)[ ](?:context|information) | disclaimer
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)

AT_REST = re.compile(
    r"""\b(?:
    no[ ](?:facial[ ])?action[ ]units?[ ](?:is|are)[ ]active
    | (?:face|facial[ ]muscles|features)[ ](?:is|are)[ ](?:at[ ]rest|(?:nearly[ ])?still|motionless)
    | (?:face|facial[ ]muscles|features)[ ](?:hardly|do[ ]not|does[ ]not)[ ]moves?
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)
"""Statements that no action unit is active."""

ENGLISH = frozenset(
    ["the", "a", "an", "is", "are", "and", "of", "to", "in", "with", "this", "that", "or", "by", "be", "it", "at",
     "which", "as", "on", "from"]
)  # fmt: skip
FOREIGN = frozenset(
    ["la", "el", "los", "las", "una", "del", "que", "en", "por", "para", "der", "das", "und", "ist", "ein", "eine",
     "mit", "auf", "dem", "den", "les", "des", "est", "une", "et", "dans", "avec", "du", "il", "lo", "gli", "di",
     "che", "nel", "della", "os", "um", "uma", "não", "com", "da", "na", "se", "su", "sont", "wird", "sich", "het",
     "een", "van", "de"]
)  # fmt: skip
"""Function words of other languages; whether a text is English is decided by counting both kinds."""

SPLIT_WORDS = {
    "raiser": 2, "lowerer": 2, "tightener": 2, "puller": 2, "depressor": 3, "pressor": 2, "wrinkler": 3, "dimpler": 3,
    "upturned": 3, "downturned": 3,
}  # fmt: skip
"""Caption words that BERT's tokenizer splits -> number of pieces."""
