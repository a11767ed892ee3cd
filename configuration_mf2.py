"""Configuration of MF²: the vision tower, the two Q-Former branches, the label vocabulary and the losses."""

import copy
import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.utils import logging

from .labels_mf2 import AU_IDS, EMOTIONS, EYE_CENTERS, LabelSpace
from .versions_mf2 import TESTED_WITH, warn_of_untested_versions

logger = logging.get_logger(__name__)

CODE_VERSION = "0.1.0"
"""Version of the code that interprets a checkpoint; stored in every configuration."""

MAX_SHALLOW_LAYERS = 6
"""Up to so many layers a branch's text reads the queries as they leave a layer, unless it is configured otherwise."""

AUTO_MAP = {
    "AutoConfig": "configuration_mf2.MF2Config",
    "AutoModel": "modeling_mf2.MF2Model",
    "AutoModelForPreTraining": "modeling_mf2.MF2ForPreTraining",
    "AutoModelForImageTextToText": "modeling_mf2.MF2ForConditionalGeneration",
    "AutoModelForImageClassification": "modeling_mf2.MF2ForImageClassification",
}
"""Where the Auto classes find the family in a checkpoint's own code. One checkpoint serves them all, so that it names
them all, whichever was saved."""

CUSTOM_PIPELINES = {
    "facial-state-analysis": {
        "impl": "pipeline_mf2.FacialStatePipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "image",
    },
}
"""Where `transformers.pipeline` finds the pipeline, which is saved with the processor, and the class of its model."""

# What transformers itself hands to a configuration besides its declared fields.
_FRAMEWORK_KEYS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "quantization_config",
    "torch_dtype",
    "use_cache",
}


def _refuse_unknown_fields(config: PreTrainedConfig, kwargs: dict[str, Any]) -> None:
    """Raise a `ValueError` for unknown keyword arguments, which transformers would silently keep as attributes."""
    known = set(type(config).__dataclass_fields__)
    own = sorted(known - set(PreTrainedConfig.__dataclass_fields__))
    for key in kwargs:
        if key in _FRAMEWORK_KEYS or key in known or key.startswith("_"):
            continue
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f". Its fields are {', '.join(own)}."
        raise ValueError(f"{type(config).__name__} has no field {key!r} (value {kwargs[key]!r}){hint}")


def _check_range(config: PreTrainedConfig, name: str, low: float, high: float | None = None, open_low=False) -> None:
    """Raise unless `low <= config.name <= high` (`low <` when `open_low`)."""
    value = getattr(config, name)
    high_enough = value > low if open_low else value >= low  # False for NaN
    if not high_enough or (high is not None and value > high):
        bound = f"{'>' if open_low else '>='} {low}" + ("" if high is None else f" and <= {high}")
        raise ValueError(f"{type(config).__name__}.{name} is {value}; it must be {bound}.")


def _names_of(id2label: Mapping[Any, str]) -> list[str]:
    """The names of the outputs in order; a `ValueError` unless the keys are 0, 1, 2, …."""
    by_index = {int(index): name for index, name in id2label.items()}
    if sorted(by_index) != list(range(len(by_index))):
        raise ValueError(f"id2label is {dict(id2label)}; its keys must be 0 to {len(by_index) - 1}.")
    return [by_index[index] for index in range(len(by_index))]


def _name_emotions(kwargs: dict[str, Any], own: Sequence[str]) -> None:
    """Replace `id2label`, `label2id` and `num_labels` in the arguments of a loader by `emotions`, in place.

    Args:
        own: those of the checkpoint.
    Raises:
        ValueError: they contradict each other, or a number comes without names.
    """
    if (id2label := kwargs.pop("id2label", None)) is not None:
        names, ids = _names_of(id2label), kwargs.pop("label2id", None)
        if ids is not None and sorted(ids, key=lambda name: int(ids[name])) != names:
            raise ValueError(f"label2id is {ids}, which is not the inverse of id2label, {names}.")
        if list(kwargs.get("emotions", names)) != names:
            raise ValueError(f"id2label has {names}, but emotions is {list(kwargs['emotions'])}; give one of them.")
        kwargs["emotions"] = names
    num_labels, count = kwargs.pop("num_labels", None), len(kwargs.get("emotions", own))
    if num_labels not in (None, count):
        raise ValueError(
            f"num_labels is {num_labels}, but there are {count} emotions; give their names, emotions=[…]."
        )


def _check_choice(config: PreTrainedConfig, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"{type(config).__name__}.{name} is {value!r}; choose one of {', '.join(choices)}.")


@strict
class MF2QFormerConfig(PreTrainedConfig):
    r"""One branch's Q-Former. The field names are those of transformers' `Blip2QFormerConfig`.

    Args:
        vocab_size: Size of the WordPiece vocabulary, `[DEC]` included.
        hidden_size: Width of queries and text.
        encoder_hidden_size: Width of the vision tokens that the queries attend to; `None` takes the tower's.
        cross_attention_frequency: Every how many layers the queries cross-attend, from layer 0 on.
        num_query_tokens: Learned queries, per image (`emo`) or per AU region (`au`).
        text_reads_queries: Where a layer's written text (ITG, generation) reads the queries: `"entering"` it, as in
            BLIP-2, or `"leaving"` it, so that the last cross-attention reaches the text, too; that costs one more
            projection of the queries a layer. `None` is `"leaving"` up to 6 layers, of which the last would be a large
            part, and `"entering"` in deeper branches, as published weights were trained.
    """

    model_type = "mf2_qformer"

    vocab_size: int = 30523
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    cross_attention_frequency: int = 2
    encoder_hidden_size: int | None = None
    num_query_tokens: int = 32
    text_reads_queries: str | None = None

    def __post_init__(self, **kwargs):
        _refuse_unknown_fields(self, kwargs)
        super().__post_init__(**kwargs)
        if self.text_reads_queries is None:
            self.text_reads_queries = "leaving" if self.num_hidden_layers <= MAX_SHALLOW_LAYERS else "entering"
        _check_choice(self, "text_reads_queries", ("entering", "leaving"))
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "cross_attention_frequency",
            "num_query_tokens",
        ):
            _check_range(self, name, 1)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _check_range(self, name, 0, 1)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"MF2QFormerConfig.hidden_size is {self.hidden_size}; it must be a multiple of "
                f"num_attention_heads = {self.num_attention_heads}."
            )


@strict
class MF2Config(PreTrainedConfig):
    r"""Configuration of [`MF2Model`] and of the thin classes on it.

    Args:
        vision_config: The tower: any transformers vision model or a timm one (`timm_wrapper`, `timm_backbone`).
        emo_config, au_config: The Q-Formers of the global (Emo-VL) and the local (AU-VL) branch.
        au_ids: FACS numbers of the AU outputs, in order.
        emotions: Names of the emotion outputs, in order.
        au_thresholds: Decision thresholds, one per AU; `None` is 0.5 everywhere.
        use_emo_vl, use_au_vl: Switch a branch off (the ablations of Table IV).
        freeze_vision: Keep the tower fixed: no autograd through it, evaluation mode.
        au_text_mode: What the local branch is aligned with: `"caption"` (one AU caption an image) or `"per_au"`
            (one sentence an AU).
        emo_text: Which caption the global branch is aligned with: `"emotion"`, `"key_au"`, or `"random"` (either).
        au_pairs_per_image: `per_au` only: how many AUs a step aligns, drawn anew each step; `None` is all.
        global_feature_level: Feature level of the tower whose tokens the global branch reads, numbered as
            `local_feature_levels`; -1 is its output, as in the paper. A classifier's last maps know objects,
            not faces.
        local_feature_levels: Feature levels of the tower that feed the AU regions; -1 is its output, others index its
            hidden states (ViT) or stages (CNN).
        au_region_size: Side of a region around each of an AU's two centres, as a fraction of the image.
        au_region_grid: Samples along each side of a region.
        eye_centers: Where the processor puts the eye centres, as fractions of the image.
        projection_dim: Width of the contrastive space.
        itc_temperature: Start of the learned ITC temperature.
        itm_hardness: How far ITM's negatives are the similar ones: 1 draws them by the ITC softmax, as BLIP-2 does, 0
            draws them evenly. Where captions say the same in other words, hard negatives are false and ITM collapses.
        label_smoothing: Of ITC and ITG.
        affect: Valence and arousal are recognised, too; they are not in the paper.
        itc_weight, itm_weight, itg_weight, emotion_weight, au_weight, affect_weight: Factors of the losses; 0 skips
            one.
        affect_mse_weight: Of the mean squared error beside 1 - CCC in the loss of valence and arousal.
        au_pos_weight: Weight of active against not active per AU in the AU loss, from the training split.
        emotion_logit_shift: Added to the emotion logits in their loss, one an emotion: log-frequencies of the training
            split, scaled, so that rare emotions are not drowned (logit adjustment, Menon et al., arXiv 2007.07314).
        joint_width: Width of a view in the joint view of the face and all AU regions that the recognisers read beside
            their own; 0 is the paper's, where an AU reads its region and the face only. A multiple of 4.
        joint_places: One more view in it is where the AU regions lie, compared with the mean face: what a face does
            moves its landmarks, and the regions with them.
        direct_states: The first of a branch's pooled states is the mean of what its first cross-attention could read,
            in place of the query embeddings, which are the same for every image; the recognisers read it beside the
            last. With a frozen tower they then start from what a linear probe sees.
        recognition_dropout: Of what the recognisers read.
        readout_grids: Cells along a side to which the map of each of `local_feature_levels` is averaged for a linear
            readout of a frozen tower, which also reads the AU regions and where they lie: a regression that is fitted
            before training and fixed, and whose logits are averaged with the recognisers'. Empty is none, as in the
            paper.
        readout_share: Of the readout's logits in that average; the rest are the recognisers'.
        mirror_emotions: In evaluation, average the emotion's logits of a face and of its mirror image, for
            a second pass of tower and branches.
        mirror_aus: With it, average the AUs' logits, too. Only for labels that a mirror image does not change:
            one-sided AUs, and machine labels that are not symmetric, are better read from the face as it is.
        emotion_text_length, key_au_text_length, au_text_length, au_sentence_length: Token limits of the texts.
        caption_prompt_ids: Token ids that open a caption of a kind, after `[DEC]`; they tell `"emotion"` from
            `"key_au"` where one branch learned both.
        code_version: Version of the code that wrote the checkpoint.
        tested_with: Releases with which that code was tested, a range by distribution; loading says what lies outside.
        training_data: Provenance: one entry a data set (name, licence, fingerprint, videos).
    """

    model_type = "mf2"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "losses",
        "loss_floors",
        "au_embeds",
        "emotion_embeds",
        "au_states",
        "emotion_states",
    ]
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(AutoConfig, model_type="vit"),
        "emo_config": SubConfigSpec(MF2QFormerConfig),
        "au_config": SubConfigSpec(MF2QFormerConfig),
    }

    vision_config: dict | PreTrainedConfig | None = None
    emo_config: dict | PreTrainedConfig | None = None
    au_config: dict | PreTrainedConfig | None = None
    au_ids: list[int] | tuple = AU_IDS
    emotions: list[str] | tuple = EMOTIONS
    au_thresholds: list[float | int] | tuple | None = None
    affect: bool = False
    use_emo_vl: bool = True
    use_au_vl: bool = True
    freeze_vision: bool = True
    au_text_mode: str = "caption"
    emo_text: str = "emotion"
    au_pairs_per_image: int | None = None
    global_feature_level: int = -1
    local_feature_levels: list[int] | tuple = (-1,)
    au_region_size: float | int = 0.14
    au_region_grid: int = 3
    eye_centers: list | tuple = EYE_CENTERS
    projection_dim: int = 256
    itc_temperature: float | int = 0.07
    itm_hardness: float | int = 1.0
    label_smoothing: float | int = 0.1
    itc_weight: float | int = 1.0
    itm_weight: float | int = 1.0
    itg_weight: float | int = 1.0
    emotion_weight: float | int = 1.0
    au_weight: float | int = 1.0
    affect_weight: float | int = 1.0
    affect_mse_weight: float | int = 0.1
    au_pos_weight: list[float | int] | tuple | None = None
    emotion_logit_shift: list[float | int] | tuple | None = None
    joint_width: int = 0
    joint_places: bool = False
    direct_states: bool = False
    recognition_dropout: float | int = 0.0
    readout_grids: list[int] | tuple = ()
    readout_share: float | int = 0.6
    mirror_emotions: bool = False
    mirror_aus: bool = False
    emotion_text_length: int = 61
    key_au_text_length: int = 128
    au_text_length: int = 169
    au_sentence_length: int = 32
    caption_prompt_ids: dict[str, list[int]] | None = None
    pad_token_id: int = 0
    bos_token_id: int = 30522
    eos_token_id: int = 102
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool = True
    code_version: str = CODE_VERSION
    tested_with: dict[str, str] | None = None
    training_data: list | None = None

    def __post_init__(self, **kwargs):
        self._warn_of_other_code()
        self._warn_of_untested_versions()
        _refuse_unknown_fields(self, kwargs)
        if self.id2label is not None and (names := _names_of(self.id2label)) != list(self.emotions):
            if self.emotions is not EMOTIONS:
                raise ValueError(f"id2label has {names}, but emotions is {list(self.emotions)}; give one of them.")
            self.emotions = names
        if kwargs.get("num_labels") not in (None, len(self.emotions)):
            raise ValueError(
                f"num_labels is {kwargs['num_labels']}, but there are {len(self.emotions)} emotions; "
                f"give their names, emotions=[…], instead."
            )
        self.name_labels()
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As usual; transformers sets `kwargs` on the finished configuration, so that it is checked once more.

        `id2label` (and `label2id`) among them names the emotions, as `emotions` does. A branch that does not say how
        its text reads the queries was trained before there was a choice: as in BLIP-2.
        """
        _name_emotions(kwargs, config_dict.get("emotions", EMOTIONS))
        branches = {name: config_dict[name] for name in ("emo_config", "au_config") if name in config_dict}
        was_trained = {
            name: {"text_reads_queries": "entering", **branch}
            for name, branch in branches.items()
            if isinstance(branch, dict)
        }
        loaded = super().from_dict({**config_dict, **was_trained}, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config.check()
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """As usual; with this version's code go its tested ranges, a full `auto_map` and the pipeline."""
        self.code_version, self.tested_with = CODE_VERSION, dict(TESTED_WITH)
        if self.is_remote_code():
            self.auto_map = dict(AUTO_MAP)
            self.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
        super().save_pretrained(save_directory, **kwargs)

    def _warn_of_other_code(self) -> None:
        if self.code_version != CODE_VERSION:
            logger.warning(
                f"This checkpoint was written by MF² code {self.code_version}; the code that is loaded is "
                f"{CODE_VERSION}. With the `mf2` package installed its code wins over the checkpoint's: install "
                f"mf2-face=={self.code_version} where results must match."
            )

    def _warn_of_untested_versions(self) -> None:
        """The record holds for the code that it was written by; any other code brings its own."""
        if self.tested_with is None or self.code_version != CODE_VERSION:
            self.tested_with = dict(TESTED_WITH)
        warn_of_untested_versions(self.tested_with)

    def name_labels(self, emotions: Sequence[str] | None = None) -> None:
        """Set `id2label` and `label2id`, which transformers reads, to an adapter's emotions or the checkpoint's."""
        names = self.emotions if emotions is None else emotions
        self.id2label = dict(enumerate(names))
        self.label2id = {name: index for index, name in enumerate(names)}

    def to_dict(self) -> dict[str, Any]:
        """As usual; the names of the outputs are the checkpoint's own, whichever adapter answers."""
        content = super().to_dict()
        content["id2label"] = dict(enumerate(self.emotions))
        content["label2id"] = {name: index for index, name in enumerate(self.emotions)}
        return content

    def check(self) -> None:
        """Check all fields; to be called after changing fields of a configuration."""
        self.name_labels()
        self._check_values()
        self._check_widths()
        self._check_vocabulary()

    def _check_values(self) -> None:
        self.label_space  # noqa: B018 - building it checks ids, names and thresholds
        _check_choice(self, "au_text_mode", ("caption", "per_au"))
        _check_choice(self, "emo_text", ("emotion", "key_au", "random"))
        if not (self.use_emo_vl or self.use_au_vl):
            raise ValueError("use_emo_vl and use_au_vl are both False; at least one branch must be on.")
        if self.use_au_vl and not self.au_ids:
            raise ValueError("use_au_vl is True but au_ids is empty; name at least one AU or switch the branch off.")
        for name in ("au_region_grid", "projection_dim"):
            _check_range(self, name, 1)
        _check_range(self, "initializer_range", 0)
        _check_range(self, "itm_hardness", 0)
        _check_range(self, "itc_temperature", 0, open_low=True)
        _check_range(self, "label_smoothing", 0, 1)
        _check_range(self, "au_region_size", 0, 1, open_low=True)
        for name in ("itc_weight", "itm_weight", "itg_weight", "emotion_weight", "au_weight"):
            _check_range(self, name, 0)
        for name in ("affect_weight", "affect_mse_weight"):
            _check_range(self, name, 0)
        if self.au_pairs_per_image is not None:
            _check_range(self, "au_pairs_per_image", 1, len(self.au_ids))
        if self.au_pos_weight is not None and len(self.au_pos_weight) != len(self.au_ids):
            raise ValueError(f"au_pos_weight has {len(self.au_pos_weight)} values for {len(self.au_ids)} AUs.")
        if not all(weight > 0 for weight in self.au_pos_weight or ()):
            raise ValueError(f"au_pos_weight is {list(self.au_pos_weight)}; every weight must be > 0.")
        shift = self.emotion_logit_shift
        if shift is not None and len(shift) != len(self.emotions):
            raise ValueError(f"emotion_logit_shift has {len(shift)} values for {len(self.emotions)} emotions.")
        _check_range(self, "joint_width", 0)
        if self.joint_width % 4:
            raise ValueError(f"joint_width is {self.joint_width}; it must be a multiple of 4, the attention heads.")
        _check_range(self, "recognition_dropout", 0, 1)
        _check_range(self, "readout_share", 0, 1)
        if self.mirror_aus and not self.mirror_emotions:
            raise ValueError("mirror_aus is True but mirror_emotions is False; one second pass is for both: set both.")
        self._check_readout()
        if not self.local_feature_levels:
            raise ValueError("local_feature_levels is empty; [-1] is the tower's output.")

    def _check_readout(self) -> None:
        grids, levels = list(self.readout_grids), list(self.local_feature_levels)
        if grids and (len(grids) != len(levels) or min(grids) < 1):
            raise ValueError(
                f"readout_grids is {grids}; it needs a number of cells of at least 1 for each of "
                f"local_feature_levels = {levels}, or none at all."
            )
        if grids and not self.freeze_vision:
            raise ValueError(
                f"readout_grids is {grids}, but freeze_vision is False: a readout is fitted once, to a tower that "
                "stays as it is. Freeze the tower or leave readout_grids empty."
            )

    def _check_widths(self) -> None:
        """Q-Former widths against the tower's, where the tower's configuration tells its own."""
        width = self.vision_width
        for name in ("emo_config", "au_config"):
            branch = getattr(self, name)
            if branch.encoder_hidden_size is None:
                branch.encoder_hidden_size = width
            elif width is not None and branch.encoder_hidden_size != width:
                raise ValueError(
                    f"{name}.encoder_hidden_size is {branch.encoder_hidden_size}, but the vision tower "
                    f"({self.vision_config.model_type}) has width {width}; set it to {width} or leave it out."
                )
        if self.use_emo_vl and self.use_au_vl and self.emo_config.hidden_size != self.au_config.hidden_size:
            raise ValueError(
                f"emo_config.hidden_size is {self.emo_config.hidden_size} and au_config.hidden_size is "
                f"{self.au_config.hidden_size}; the recognisers join both and need equal widths."
            )

    def _check_vocabulary(self) -> None:
        """Special tokens against each branch's vocabulary, text lengths against its positions."""
        for name in ("emo_config", "au_config"):
            vocab_size = getattr(self, name).vocab_size
            for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
                if not 0 <= getattr(self, token) < vocab_size:
                    raise ValueError(
                        f"{token} is {getattr(self, token)}, but {name}.vocab_size is {vocab_size}; the vocabulary "
                        f"must hold it (bos_token_id is [DEC])."
                    )
        emotion_texts = ("emotion", "key_au") if self.emo_text == "random" else (self.emo_text,)
        for name in (f"{kind}_text_length" for kind in emotion_texts):
            _check_range(self, name, 1, self.emo_config.max_position_embeddings if self.use_emo_vl else None)
        name = "au_text_length" if self.au_text_mode == "caption" else "au_sentence_length"
        _check_range(self, name, 1, self.au_config.max_position_embeddings if self.use_au_vl else None)

    @property
    def vision_width(self) -> int | None:
        """Width of the tokens of the global branch; `None` if only the built tower has it (timm, inner levels)."""
        if self.global_feature_level != -1:
            return None
        hidden_sizes = getattr(self.vision_config, "hidden_sizes", None)
        return getattr(self.vision_config, "hidden_size", None) or (hidden_sizes[-1] if hidden_sizes else None)

    @property
    def num_region_tokens(self) -> int:
        """Vision tokens of an AU: two centres, a grid around each, in every feature level."""
        return 2 * self.au_region_grid**2 * len(self.local_feature_levels)

    @property
    def label_space(self) -> LabelSpace:
        """The label space of the outputs: AUs with thresholds, emotions, and whether there are valence and arousal."""
        thresholds = tuple(self.au_thresholds or ())
        return LabelSpace(tuple(self.au_ids), tuple(self.emotions), thresholds, affect=self.affect)

    @classmethod
    def from_size(cls, size: str, **kwargs) -> "MF2Config":
        """A configuration of a named size; keyword arguments override its fields.

        A mapping given for `emo_config` or `au_config` overrides the size's field by field; a `vision_config` is
        another tower and replaces it.

        `paper` is BLIP-2 stage 1 on EVA ViT-g/14: 186,705,470 trainable parameters a branch, which the paper's 186.7 M
        (Table IV) are; with the embeddings of AUs and of places in a region, which are ours, the local branch has
        186,740,030. `base` is ViT-B/16, for one GPU. `small` is a frozen EfficientNet-Lite0 and branches of
        MiniLM's width, for a few thousand photographs on a CPU. `tiny` is a small convolutional tower that is trained
        too: for tests and for runs that have nothing to download.
        """
        if size not in _SIZES:
            raise ValueError(f"There is no size {size!r}; choose one of {', '.join(_SIZES)}.")
        fields = _SIZES[size]()
        for name in ("emo_config", "au_config"):
            if isinstance(kwargs.get(name), dict):
                kwargs[name] = {**fields.get(name, {}), **kwargs[name]}
        return cls(**{**fields, **kwargs})


def _paper_size() -> dict[str, Any]:
    return {"vision_config": {"model_type": "blip_2_vision_model", "image_size": 224}}


def _base_size() -> dict[str, Any]:
    return {"vision_config": {"model_type": "vit", "image_size": 224, "patch_size": 16}, "joint_width": 64}


def _small_size() -> dict[str, Any]:
    branch = {
        "hidden_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "num_query_tokens": 8,
        "cross_attention_frequency": 1,
    }
    return {
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "tf_efficientnet_lite0",
            "num_classes": 0,
            "do_pooling": False,
        },
        "emo_config": branch,
        "au_config": {**branch, "num_query_tokens": 2},
        "au_text_mode": "per_au",
        "au_pairs_per_image": 1,
        "au_region_grid": 2,
        "global_feature_level": 3,
        "local_feature_levels": [2, 3],  # maps of 1/8 and 1/16 of the side: later ones know objects, not creases
        "joint_width": 64,
        "joint_places": True,
        "direct_states": True,
        "recognition_dropout": 0.3,
        "readout_grids": [14, 7],  # every cell of those maps at 112 px
        "readout_share": 0.7,
        "mirror_emotions": True,
        "projection_dim": 128,
    }


def _tiny_size() -> dict[str, Any]:
    branch = {
        "vocab_size": 2000,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 256,
        "num_query_tokens": 8,
        "cross_attention_frequency": 1,
    }
    tower = {
        "model_type": "resnet",
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 128],
        "depths": [1, 1, 1],
        "layer_type": "basic",
    }
    return {
        "vision_config": tower,
        "emo_config": branch,
        "au_config": {**branch, "num_query_tokens": 2},
        "freeze_vision": False,
        "au_text_mode": "per_au",
        "au_pairs_per_image": 2,
        "local_feature_levels": [-2, -1],
        "joint_width": 32,
        "projection_dim": 64,
        "initializer_range": 0.1,  # BERT's 0.02 suits a width of 768; narrow layers start to learn late with it
        "bos_token_id": 1999,
        "eos_token_id": 3,
    }


_SIZES = {"paper": _paper_size, "base": _base_size, "small": _small_size, "tiny": _tiny_size}
