"""ME-GraphAU: a graph of the action units of a face, whose edges are features.

Its parts are named as in the paper: section 3.1 learns the nodes (AFG, FGG, SC), section 3.2 the edges (FAM, ARM and
the gated graph network), section 3.3 trains in two stages. Shapes and
initialisation were checked against the published code.

Symbols in shapes: B images, N action units, D positions of the tower's map, W its width, C the width of the graph.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization

from ...alignment_mf2 import mean_over_batch
from ...labels_mf2 import AU_UNLABELLED
from ...tower_mf2 import VisionFeatures
from ..configuration import BaselineConfig
from ..interface import About, BaselineSystem, SystemOutput, Targets
from ..layers import SharedBatchNorm

EPSILON = 1e-6
NUM_EDGE_CLASSES = 4
"""Neither of two AUs is active, only the first, only the second, or both."""


class FeatureGenerator(nn.Module):
    """AFG: a linear layer, normalisation and ReLU per AU, `(B, D, C)` -> `(B, N, D, C)`."""

    def __init__(self, num_aus: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_aus, width, width))
        self.bias = nn.Parameter(torch.zeros(num_aus, width))
        self.norm = SharedBatchNorm(num_aus * width)

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        mapped = torch.einsum("bdc,noc->bnod", face, self.weight) + self.bias[:, :, None]
        return self.norm(mapped.flatten(1, 2)).relu().unflatten(1, self.bias.shape).transpose(2, 3)


class NearestGraph(nn.Module):
    """FGG: message passing from the K most similar AUs of the same face, `(B, N, C)` -> `(B, N, C)`."""

    def __init__(self, num_aus: int, width: int, neighbors: int):
        super().__init__()
        self.neighbors = min(neighbors, num_aus)
        self.own = nn.Linear(width, width)
        self.others = nn.Linear(width, width)
        self.norm = SharedBatchNorm(num_aus)

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            similarity = nodes @ nodes.transpose(1, 2)
            least = similarity.topk(self.neighbors, dim=-1).values[..., -1:]
            adjacency = (similarity >= least).to(nodes.dtype)
            degree = adjacency.sum(-1).rsqrt()
            adjacency = degree[..., None] * adjacency * degree[:, None]
        return (nodes + self.norm(adjacency @ self.others(nodes) + self.own(nodes))).relu()


class CrossAttention(nn.Module):
    """The cross-attention of FAM and ARM, with keys and queries of half the width: two `(…, D, C)` -> `(…, D, C)`."""

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Linear(width, width // 2)
        self.key = nn.Linear(width, width // 2)
        self.value = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        query, key = self.query(queries), self.key(context)
        attention = (query @ key.transpose(-2, -1) * key.shape[-1] ** -0.5).softmax(-1)
        return attention @ self.value(context)


class EdgeGenerator(nn.Module):
    """FAM and ARM: face features relevant to each AU, and what pairs of AUs have in common.

    `(B, N, D, C)` maps of the AUs and `(B, D, C)` of the face -> `(B, N, N, C)`; an edge points to the first AU from
    the second.
    """

    def __init__(self, num_aus: int, width: int):
        super().__init__()
        self.of_face = CrossAttention(width)
        self.of_pair = CrossAttention(width)
        self.projection = nn.Linear(width, width)
        self.norm = SharedBatchNorm(num_aus * num_aus)

    def forward(self, au_maps: torch.Tensor, face: torch.Tensor) -> torch.Tensor:
        relevant = self.of_face(au_maps, face[:, None])
        pairs = self.projection(self.of_pair(relevant[:, None], relevant[:, :, None]))  # (B, N, N, D, C)
        return self.norm(pairs.flatten(1, 2)).view_as(pairs).mean(3)


class GatedGraphLayer(nn.Module):
    """The gated graph network (Bresson and Laurent, arXiv 1711.07553), with a softmax over the source AUs.

    Edges are updated from their end nodes, and gate the messages between AUs.
    """

    def __init__(self, num_aus: int, width: int):
        super().__init__()
        self.node_own, self.node_others, self.edge_to, self.edge_from, self.edge_own = (
            nn.Linear(width, width, bias=False) for _ in range(5)
        )
        self.node_norm = SharedBatchNorm(num_aus)
        self.edge_norm = SharedBatchNorm(num_aus * num_aus)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ends = self.edge_to(nodes)[:, :, None] + self.edge_from(nodes)[:, None] + self.edge_own(edges)
        edges = edges + self.edge_norm(ends.flatten(1, 2)).view_as(edges).relu()
        gates = edges.sigmoid().softmax(2)
        messages = (gates * self.node_others(nodes)[:, None]).sum(2) / nodes.shape[1]
        return (nodes + self.node_norm(self.node_own(nodes) + messages)).relu(), edges


class System(BaselineSystem):
    """With C = W / reduction, N AUs and E emotions it has (`ANFL`, then what `edge_head` adds):

        (W + 1) C + 2 C  +  N (C² + 3 C)  +  2 (C² + C) + 2 N  +  N C  +  (C + 1) E
        5 (C² + C) + 2 N²  +  2 (5 C² + 2 N + 2 N²)  +  4 (C + 1)

    parameters. Training has two stages, as published: the nodes with the nearest graph, then the nodes with the edges.
    """

    about = About(
        title="ME-GraphAU",
        citation="C. Luo, S. Song, W. Xie, L. Shen, H. Gunes, Learning Multi-dimensional Edge Feature-based AU "
        "Relation Graph for Facial Action Unit Recognition, IJCAI 2022, arXiv 2205.01782.",
        deviations=(
            "Both stages are parts of one run (`stage_one_share` of the steps is the first): the optimiser goes on "
            "where published training starts anew at a lower learning rate.",
            "`edge_head` switches the second stage off; the authors of py-feat found it without effect.",
            "The width of the graph is half of the tower's, as published for Swin; for ResNet it is a quarter.",
            "Emotions are read by a linear probe on the mean of the nodes, which trains nothing but itself.",
            "Unlabelled AUs are left out of the losses, and edges with one of them.",
        ),
        tables=("II",),
    )
    defaults = {
        "reduction": 2,
        "neighbors": 3,
        "edge_head": True,
        "stage_one_share": 0.5,
        "edge_weight": 0.001,
        "au_rates": None,
    }
    loss_names = ("emotion", "au", "edge")
    skips_parameters = True

    def __init__(self, config: BaselineConfig, widths: Sequence[int]):
        super().__init__(config, widths)
        options, num_aus = config.options, len(config.au_ids)
        width = widths[0] // options["reduction"]
        if not 0 <= options["stage_one_share"] < 1:
            raise ValueError(f"stage_one_share is {options['stage_one_share']}; it must be >= 0 and below 1.")
        self.has_edges = options["edge_head"]
        self.face = nn.Linear(widths[0], width)
        self.face_norm = SharedBatchNorm(width)
        self.generate = FeatureGenerator(num_aus, width)
        self.nearest = NearestGraph(num_aus, width, options["neighbors"])
        self.prototypes = nn.Parameter(torch.empty(num_aus, width))
        self.emotion_head = nn.Linear(width, len(config.emotions))
        if self.has_edges:
            self.edges = EdgeGenerator(num_aus, width)
            self.gated = nn.ModuleList(GatedGraphLayer(num_aus, width) for _ in range(2))
            self.edge_head = nn.Linear(width, NUM_EDGE_CLASSES)

    @torch.no_grad()
    def initialize(self) -> None:
        """The published initialisation: N(0, 2 / C) in the graph, Xavier for the prototypes."""
        width = self.prototypes.shape[1]
        for name, parameter in self.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1 and "head" not in name:
                initialization.normal_(parameter, std=(2 / parameter.shape[-2]) ** 0.5)
        initialization.zeros_(self.generate.bias)
        initialization.normal_(self.prototypes, std=(2 / (len(self.prototypes) + width)) ** 0.5)

    @classmethod
    def measure(cls, au_labels: np.ndarray, emotion_labels: np.ndarray, num_emotions: int) -> dict[str, Any]:
        """`au_rates`: share of active labels of each AU; at least one label is counted as active."""
        labelled = np.maximum((au_labels != AU_UNLABELLED).sum(0), 1)
        return {"au_rates": (np.maximum((au_labels == 1).sum(0), 1) / labelled).tolist()}

    @property
    def is_first_stage(self) -> bool:
        """Whether the nearest-neighbour graph is used: in the first stage, and always without edges."""
        return not self.has_edges or self.progress < self.config.options["stage_one_share"]

    def forward(self, vision: VisionFeatures) -> SystemOutput:
        face = self.face(vision.maps[0].flatten(2).transpose(1, 2))
        face = self.face_norm(face.transpose(1, 2)).relu().transpose(1, 2)  # (B, D, C)
        au_maps = self.generate(face)
        nodes, extras = au_maps.mean(2), {}
        if self.is_first_stage:
            nodes = self.nearest(nodes)
        else:
            edges = self.edges(au_maps, face)
            for layer in self.gated:
                nodes, edges = layer(nodes, edges)
            extras["edge_logits"] = self.edge_head(edges)
        # SC: the cosine of two non-negative vectors is in [0, 1] and is used as a probability.
        probs = (F.normalize(nodes, dim=-1) * F.normalize(self.prototypes.relu(), dim=-1)).sum(-1)
        return SystemOutput(
            au_logits=(EPSILON + (1 - 2 * EPSILON) * probs.float().clamp(max=1.0)).logit(),
            emotion_logits=self.emotion_head(nodes.detach().mean(1)),
            extras=extras,
        )

    def losses(self, outputs: SystemOutput, targets: Targets) -> dict[str, torch.Tensor]:
        """The weighted asymmetric loss of AUs, and the cross-entropy of the edges' classes."""
        losses = super().losses(outputs, targets)
        if targets.au_labels is None or outputs.au_logits is None:
            return losses
        labelled = targets.au_labels != AU_UNLABELLED
        terms = asymmetric_terms(outputs.au_logits, targets.au_labels) * self._au_weights(outputs.au_logits)
        losses["au"] = mean_over_batch((terms * labelled).sum(), labelled.sum())
        if "edge_logits" in outputs.extras:
            both = labelled[:, :, None] & labelled[:, None]
            classes = 2 * targets.au_labels[:, :, None] + targets.au_labels[:, None]
            logits = outputs.extras["edge_logits"].float()[both]
            total = F.cross_entropy(logits, classes[both], reduction="sum")
            losses["edge"] = mean_over_batch(total, both.sum())
        return losses

    def _au_weights(self, like: torch.Tensor) -> torch.Tensor:
        """`N (1 / r_i) / Σ_j (1 / r_j)`, with r the rates of active labels."""
        rates = self.config.options["au_rates"]
        if rates is None:
            return like.new_ones(like.shape[-1])
        inverse = 1 / like.new_tensor(rates)
        return len(inverse) * inverse / inverse.sum()


def asymmetric_terms(au_logits: torch.Tensor, au_labels: torch.Tensor) -> torch.Tensor:
    """`-[y log p + (1 - y) p log(1 - p)]` of each AU, `(B, N)`; the factor p before the logarithm is detached."""
    active = au_labels.clamp(min=0).float()
    focus = au_logits.detach().sigmoid()
    return -(active * F.logsigmoid(au_logits) + (1 - active) * focus * F.logsigmoid(-au_logits))
