"""Layers shared by several systems."""

import torch
from torch import nn

from ..alignment_mf2 import gather_rows, world_size


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of `(B, channels, …)` with statistics over all processes, on any device.

    torch's `SyncBatchNorm` only runs on GPUs.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.flatten(2) if inputs.ndim > 2 else inputs[..., None]
        if not self.training or world_size() == 1:
            return super().forward(rows).view_as(inputs)
        count = rows.shape[0] * rows.shape[2] * world_size()
        mean = gather_rows(rows.sum((0, 2))[None]).sum(0) / count
        centred = rows - mean[:, None]
        variance = gather_rows(centred.square().sum((0, 2))[None]).sum(0) / count
        assert (
            self.num_batches_tracked is not None and self.running_mean is not None
        )  # set by the constructor's defaults
        assert self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
        scaled = centred * (variance + self.eps).rsqrt()[:, None]
        return (scaled * self.weight[:, None] + self.bias[:, None]).view_as(inputs)
