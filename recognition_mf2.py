"""The recognisers of MF²: they map the states of the branches to action units, an emotion and, optionally, affect.

They read *pooled* states, `{branch: (B, K, J, D)}`: the mean over the queries of a branch in K views (1 face, or the A
regions of its AUs) after each of J layers. The recognisers below read the last layer; an adapter that wraps them (DFN)
also reads others, through the same interface.

With a linear readout (`readout_mf2.py`), the pooled states include `"readout"`, its `(B, 1, 1, A + E)` logits in the
checkpoint's label space, which the recognisers average with their own. It has no valence and arousal: it classifies,
and averaging log-odds has no meaning for continuous values. With `mirror_emotions` they include `"mirrored"`, the
`(B, 1, 1, E)` emotion logits of the mirror image, with `mirror_aus` its `(B, 1, 1, A + E)` logits, which the
recognisers average with those of the face.

With the local branch they include `"places"`, `(B, A, 1, 4)`: x and y of the two centres of each AU's regions, as
fractions of the image.

The paper's recognisers read a region and the face (`joint_width=0`). Because AUs co-occur, and each is visible outside
of its region as well, other configurations add a joint view of all regions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .alignment_mf2 import affect_loss, recognition_losses
from .configuration_mf2 import MF2Config
from .labels_mf2 import AFFECT, LabelSpace
from .regions_mf2 import au_centers_from_landmarks, mean_face, nearest_au_indexes

BASE = "base"
"""The name of the recognisers of the checkpoint, besides those of its adapters."""

READOUT = "readout"
"""The key of the linear readout's logits in the pooled states."""

FACE = "face"
"""The key of the linear readout's features in the pooled states, `(B, 1, 1, F)`."""

MIRRORED = "mirrored"
"""The name of what the base says of the mirror image, among the pooled states."""

PLACES = "places"
"""The key of the positions of the AU regions in the pooled states."""


@dataclass
class Recognition:
    """The output of recognisers.

    Args:
        au_logits: `(B, A)`; None for a label space without AUs.
        emotion_logits: `(B, E)`; None for one without emotions.
        affect_logits: `(B, 2)`, valence and arousal before tanh; None where it has neither.
        side_states: By branch, `(B, K, D)`: where an adapter's side network ended.
    """

    au_logits: torch.Tensor | None = None
    emotion_logits: torch.Tensor | None = None
    affect_logits: torch.Tensor | None = None
    side_states: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def affect(self) -> torch.Tensor | None:
        """`(B, 2)` valence and arousal, from -1 to 1; None where the label space has neither."""
        return None if self.affect_logits is None else self.affect_logits.tanh()


@dataclass
class PooledTexts:
    """The encoded texts that an adapter reads, for I images × G groups (1, or one per AU).

    Args:
        states: `(I, G, J, D)` of the text-only pass: position 0 after each layer.
        caption_ids: `(I, G)`; equal ids are the same text.
        valid: `(I, G)` bool: whether there is a text.
    """

    states: torch.Tensor
    caption_ids: torch.Tensor
    valid: torch.Tensor


class JointView(nn.Module):
    """Joint self-attention over all views of a face, each projected and with an embedding of its index.

    The output is the concatenation of all views, so that a head has separate weights for each; pooling the views, or
    reading only one of them, gained less.

    Args:
        widths: Width of each branch that is on, the global one first.
        num_views: Views of each branch.
        width: Width of a view in the joint view.
        dropout: Dropout of the input views, of the attention output and of the output.
        mean_places: `(A, 4)` region positions in the mean face, for an additional view with the region positions; None
            for no such view.
    """

    HEADS = 4
    PLACES_SCALE = 20.0
    """Scale of position differences, which are a few hundredths of the image."""

    place_projection: nn.Sequential

    def __init__(
        self,
        widths: Mapping[str, int],
        num_views: Mapping[str, int],
        width: int,
        dropout: float,
        mean_places: Sequence[Sequence[float]] | None = None,
    ):
        super().__init__()
        self.num_views = {name: num_views[name] for name in widths}
        self.mean_places = mean_places
        if mean_places is not None:
            self.num_views[PLACES] = 1
            self.place_projection = nn.Sequential(
                nn.Linear(4 * len(mean_places), 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            )
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(nn.LayerNorm(of), nn.Dropout(dropout), nn.Linear(of, width))
                for name, of in widths.items()
            }
        )
        self.view_embeddings = nn.Embedding(sum(self.num_views.values()), width)
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Mapping[str, torch.Tensor], places: torch.Tensor | None = None) -> torch.Tensor:
        """`{branch: (B, K, D)}` and `(B, A, 4)` -> `(B, V · width)`, V all views, that of the places the last."""
        projected = [project(features[name]) for name, project in self.projections.items()]
        if self.mean_places is not None:
            if places is None:
                raise ValueError("region_places are missing beside vision_tokens: this model reads where regions lie.")
            shifts = (places.float() - places.new_tensor(self.mean_places).float()) * self.PLACES_SCALE
            projected.append(self.place_projection(shifts.flatten(1).to(projected[0].dtype))[:, None])
        views = torch.cat(projected, dim=1)
        views = views + self.view_embeddings(torch.arange(views.shape[-2], device=views.device))
        query, key, value = (
            x.unflatten(-1, (self.HEADS, -1)).transpose(1, 2)
            for x in self.query_key_value(self.attention_norm(views)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        views = views + self.dropout(self.attention_output(attended))
        return self.dropout(self.norm(views)).flatten(1)


class RecognitionHeads(nn.Module):
    """Linear heads: emotion from [global ; mean of local], AU i from [local i ; global]; a branch may be off.

    With a [`JointView`] both read it beside these. Valence and arousal, which the paper does not have, read what the
    emotion reads.

    Args:
        widths: Width of each branch that is on, the global one first.
        config: of a model or an adapter: its `label_space`, `au_pos_weight`, `emotion_logit_shift`, `joint_width` and
            `recognition_dropout`.
        num_regions: Number of the label space's first regions that the emotion head and the joint view read; all by
            default. The other regions are only read by the heads of their AUs.
    """

    def __init__(self, widths: Mapping[str, int], config: Any, num_regions: int | None = None):
        super().__init__()
        self.config = config
        self.widths = dict(widths)
        label_space = config.label_space
        regions = label_space.region_au_ids
        self.num_regions = num_regions or len(regions)
        self.own_regions = [regions.index(au_id) for au_id in label_space.au_ids]
        self._reads_own_regions = "au" in widths and self.own_regions != list(range(len(regions)))
        head_width = sum(widths.values())
        self.dropout = nn.Dropout(config.recognition_dropout or 0.0)
        if config.joint_width:
            num_views = {"emo": 1, "au": self.num_regions}
            places = self._mean_places() if "au" in widths and getattr(config, "joint_places", False) else None
            dropout = config.recognition_dropout or 0.0
            self.joint_view = JointView(widths, num_views, config.joint_width, dropout, places)
            head_width += config.joint_width * sum(self.joint_view.num_views.values())
        if label_space.emotions:
            self.emotion_head = nn.Linear(head_width, len(label_space.emotions))
        if label_space.au_ids:
            # Row a of the matrix reads the feature of AU a only.
            self.au_head = nn.Linear(head_width, len(label_space.au_ids))
        if label_space.affect:
            self.va_head = nn.Linear(head_width, len(AFFECT))

    def _mean_places(self) -> list[list[float]]:
        """`(A, 4)` positions of the regions in the mean face, as fractions of the image."""
        side, region_au_ids = 1000, self.config.label_space.region_au_ids[: self.num_regions]
        centers = au_centers_from_landmarks(mean_face((side, side), self.config.eye_centers), region_au_ids)
        return (centers.reshape(-1, 4) / side).tolist()

    def read(self, features: Mapping[str, torch.Tensor], places: torch.Tensor | None = None) -> Recognition:
        """`{branch: (B, K, D)}`, the global branch before the local one, and `(B, A, 4)` places -> logits."""
        views = {name: self.dropout(view) for name, view in features.items()}
        face = {name: view[:, : self.num_regions] for name, view in features.items()}
        joint = [self.joint_view(face, places)] if hasattr(self, "joint_view") else []
        output = Recognition()
        means = [view[:, : self.num_regions].mean(1) for view in views.values()]
        if hasattr(self, "emotion_head"):
            output.emotion_logits = self.emotion_head(torch.cat(means + joint, dim=-1))
        if hasattr(self, "va_head"):
            output.affect_logits = self.va_head(torch.cat(means + joint, dim=-1))
        if hasattr(self, "au_head"):
            if self._reads_own_regions:
                views["au"] = views["au"][:, self.own_regions]
            num_views = max(view.shape[1] for view in views.values())
            beside = [*reversed(views.values()), *(view[:, None] for view in joint)]
            joined = torch.cat([view.expand(-1, num_views, -1) for view in beside], dim=-1)
            logits = self.au_head(joined)  # (B, A, A); the layer is called because adapters may wrap it
            output.au_logits = logits.squeeze(1) if num_views == 1 else logits.diagonal(dim1=1, dim2=2)
        return output

    def losses(
        self,
        output: Recognition,
        emotion_labels: torch.Tensor | None,
        au_labels: torch.Tensor | None,
        texts: Mapping[str, PooledTexts],
        branches: Mapping[str, Any],
        affect_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """`emotion`, `au` and `affect`, whichever has labels; texts and branches are an adapter's to read."""
        config = self.config
        losses = recognition_losses(
            output.au_logits,
            au_labels,
            output.emotion_logits,
            emotion_labels,
            config.au_pos_weight,
            config.emotion_logit_shift,
        )
        if output.affect is not None and affect_labels is not None:
            losses["affect"] = affect_loss(output.affect, affect_labels, config.affect_mse_weight)
        return losses


class MF2Recognizers(RecognitionHeads):
    """The recognisers of the checkpoint, which read the last states of the branches."""

    trains_branches = True
    reads_texts = False

    @torch.no_grad()
    def resized(self, old: LabelSpace, config: MF2Config) -> "MF2Recognizers":
        """Recognisers for the label space of `config`, with the weights of the AUs and emotions in both label spaces.

        In the joint view, the region of a new AU gets the embedding of the known AU with the nearest regions; the
        heads have zero weights for it and for its position.
        """
        new = MF2Recognizers(self.widths, config).to(next(self.parameters()))
        space = config.label_space
        views, known = [], []  # for each new view the old one, and whether it is of the same
        if "emo" in self.widths:
            views, known = [0], [True]
        if "au" in self.widths:
            nearest = nearest_au_indexes(space.region_au_ids, old.region_au_ids)
            views += [len(views) + index for index in nearest]
            known += [au_id in old.region_au_ids for au_id in space.region_au_ids]
        if config.joint_width:
            if self.joint_view.mean_places is not None:
                views, known = [*views, -1], [*known, True]
            self._copy_joint_view(new.joint_view, space.region_au_ids, old.region_au_ids, views)
        for head, before, after in (
            ("emotion_head", old.emotions, space.emotions),
            ("au_head", old.au_ids, space.au_ids),
            ("va_head", old.affect_names, space.affect_names),
        ):
            rows = [(row, before.index(name)) for row, name in enumerate(after) if name in before]
            for row, old_row in rows:
                target, source = getattr(new, head), getattr(self, head)
                target.weight[row] = self._columns(source.weight[old_row], views, known)
                target.bias[row] = source.bias[old_row]
        return new

    def _copy_joint_view(
        self, new: JointView, au_ids: Sequence[int], old_au_ids: Sequence[int], views: Sequence[int]
    ) -> None:
        """Copy the weights to a joint view of other regions; `views` maps each new view to an old one."""
        of_regions = ("view_embeddings.weight", "place_projection.0.weight")
        state = self.joint_view.state_dict()
        new.load_state_dict({name: tensor for name, tensor in state.items() if name not in of_regions}, strict=False)
        new.view_embeddings.weight.copy_(self.joint_view.view_embeddings.weight[views])
        if new.mean_places is not None:
            target = new.place_projection[0].weight.zero_().unflatten(1, (-1, 4))
            source = self.joint_view.place_projection[0].weight.unflatten(1, (-1, 4))
            for index, au_id in enumerate(au_ids):
                if au_id in old_au_ids:
                    target[:, index] = source[:, old_au_ids.index(au_id)]

    def _columns(self, weights: torch.Tensor, views: Sequence[int], known: Sequence[bool]) -> torch.Tensor:
        """A row of a head for other views: the weights of known views are copied, those of new ones are zero."""
        own, joint = weights.split([sum(self.widths.values()), len(weights) - sum(self.widths.values())])
        if not len(joint):
            return own
        parts = joint.unflatten(0, (-1, self.config.joint_width))[views] * joint.new_tensor(known)[:, None]
        return torch.cat([own, parts.flatten()])

    @property
    def label_space(self) -> LabelSpace:
        """The label space of the outputs."""
        return self.config.label_space

    @property
    def label_spaces(self) -> dict[str, LabelSpace]:
        """What the outputs mean, by who gives them."""
        return {BASE: self.config.label_space}

    def forward(self, pooled: Mapping[str, torch.Tensor]) -> Recognition:
        """`{branch: (B, K, J, D)}` -> logits."""
        of_branches = {name: pooled[name] for name in self.widths}
        features = {name: states[:, :, -1] for name, states in of_branches.items()}
        if self.config.direct_states:
            direct = {name: F.layer_norm(states[:, :, 0], states.shape[-1:]) for name, states in of_branches.items()}
            features = {name: torch.cat([direct[name], last], dim=-1) for name, last in features.items()}
        places = pooled[PLACES][:, :, 0] if PLACES in pooled else None
        output = self.read(features, places)
        if READOUT in pooled:
            self._average(output, pooled[READOUT].flatten(1))
        if MIRRORED in pooled:
            self._average_mirrored(output, pooled[MIRRORED].flatten(1))
        return output

    def _average_mirrored(self, output: Recognition, mirrored: torch.Tensor) -> None:
        """Average the logits with those of the mirror image, `(B, E)` or `(B, A + E)`, in place."""
        num_emotions = len(self.config.emotions)
        aus, emotions = mirrored[:, :-num_emotions], mirrored[:, -num_emotions:]
        if output.emotion_logits is not None:
            output.emotion_logits = output.emotion_logits.lerp(emotions.to(output.emotion_logits), 0.5)
        if output.au_logits is not None and aus.shape[1]:
            output.au_logits = output.au_logits.lerp(aus.to(output.au_logits), 0.5)

    def _average(self, output: Recognition, readout: torch.Tensor) -> None:
        """Average the logits of the heads with those of the readout, in place."""
        num_aus, share = len(self.config.au_ids), self.config.readout_share
        if output.au_logits is not None:
            output.au_logits = output.au_logits.lerp(readout[:, :num_aus].to(output.au_logits.dtype), share)
        if output.emotion_logits is not None:
            output.emotion_logits = output.emotion_logits.lerp(
                readout[:, num_aus:].to(output.emotion_logits.dtype), share
            )

    def answer(self, name: str, pooled: Mapping[str, torch.Tensor]) -> Recognition:
        """As `forward`, of the recognisers of that name; these are the only ones here."""
        return self(pooled)

    def weigh(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """The sum of any of the model's losses, weighted as the configuration says; None of none."""
        weighted = [getattr(self.config, f"{name.split('_')[-1]}_weight") * loss for name, loss in losses.items()]
        return sum(weighted) if weighted else None
