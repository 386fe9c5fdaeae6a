"""Where in an image a classifier looks: class-activation maps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.core.errors import BadModel
from besiege.models.classifier import Classifier


def activation_map(classifier: Classifier, x: Tensor, classes: int = 5) -> Tensor:
    """Where `classifier` looks for its `classes` likeliest answers: x (B, C, H, W) -> (B, H, W).

    The last feature map of more than one pixel that a module returns, its channels weighted by the
    mean gradient of sum_i logit_i / 2^i over the likeliest classes i = 1, 2...; stretched to [0, 1]
    by its own extremes (a flat one is 0) and enlarged bilinearly. In front of global pooling and a
    linear layer the gradient is that layer's weight, and this the class-activation map of Zhou et
    al. 2016 (arXiv:1512.04150); elsewhere it is that of Selvaraju et al. 2017 (arXiv:1610.02391)
    without its clipping.

    Constant to autograd. Cost: one forward, and one backward pass of the layers after the map.
    Raises BadModel where no module returns a feature map (a function, an ONNX file).
    """
    maps: list[Tensor] = []

    def keep(module: nn.Module, given: Any, out: Any) -> Any:
        """Start the graph anew at each map, so that it begins with the last."""
        if not (isinstance(out, Tensor) and out.ndim == 4 and out.shape[-2] * out.shape[-1] > 1):
            return out
        maps.append(out.detach().requires_grad_())
        return maps[-1].clone()  # fit for a layer that works in place

    hooks = [module.register_forward_hook(keep) for module in classifier.network.modules()]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = classifier(x.detach().clone())
            if not maps or not logits.requires_grad:
                raise BadModel(
                    f"{classifier.name} has no class-activation map: none of its modules returns a "
                    "feature map (B, C, h, w) from which a gradient leads to its logits. Take a "
                    "torch network, or a transform without such a map (deflection:map=false)."
                )
            top = logits.topk(min(classes, logits.shape[1]), dim=1).values
            halves = 0.5 ** torch.arange(1, top.shape[1] + 1, dtype=top.dtype, device=top.device)
            (slope,) = torch.autograd.grad((top * halves).sum(), maps[-1])
    finally:
        for hook in hooks:
            hook.remove()
    looked = (slope.mean((2, 3), keepdim=True) * maps[-1].detach()).sum(1, keepdim=True)
    low, high = looked.amin((2, 3), keepdim=True), looked.amax((2, 3), keepdim=True)
    looked = (looked - low) / torch.where(high > low, high - low, 1)
    return F.interpolate(looked.to(x), x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
