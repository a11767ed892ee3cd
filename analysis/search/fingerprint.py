"""Fingerprint of a checkpoint."""

import hashlib
import json

import torch

from ...modeling_mf2 import MF2Model
from ...processing_mf2 import MF2Processor


def fingerprint(model: MF2Model, processor: MF2Processor) -> str:
    """Hash of everything that determines embeddings: weights, configuration and preprocessing."""
    digest = hashlib.sha256()
    settings = {"config": model.config.to_dict(), "images": processor.image_processor.to_dict()}
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
