"""The detector: four parts in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fusion_det.fusion.operator import FusionOperator, set_remembering
from fusion_det.structures import Detections, FusionSite, ImageBatch, RawDetections, Targets


class Detector(nn.Module):
    """backbone -> neck -> head, and late fusion of what the head predicts.

    ``mean`` and ``std`` are per RGB channel in the 0..255 range; pictures arrive as uint8 and are normalised here, on the device.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: nn.Module,
        late_fusion: Callable[[Sequence[RawDetections]], Detections],
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.late_fusion = backbone, neck, head, late_fusion
        self.operators = [module for module in self.modules() if isinstance(module, FusionOperator)]
        set_remembering(self, False)  # fusion_det.analysis.fusion_probe and evaluations switch it on
        self.memory_format = torch.contiguous_format
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def channels_last(self) -> Detector:
        """Keep weights and pictures in NHWC order, which tensor cores and most CPU kernels prefer."""
        self.memory_format = torch.channels_last
        return self.to(memory_format=torch.channels_last)

    def fusion_sites(self) -> list[FusionSite]:
        """Every place where maps are fused, in the order of execution; names start with ``backbone/``, ``neck/`` or (a head's) ``roi/``."""
        parts = {"backbone": self.backbone, "neck": self.neck, "roi": self.head}
        sites = [(part, site) for part, module in parts.items() for site in getattr(module, "fusion_sites", list)()]
        return [site._replace(name=f"{part}/{site.name}") for part, site in sites]

    def features(self, images: ImageBatch) -> list[Tensor]:
        """uint8 pictures -> neck maps [B, C, H_i, W_i], fine to coarse."""
        pixels = (images.pixels.float() - self.mean) / self.std
        return self.neck(self.backbone(pixels.contiguous(memory_format=self.memory_format)))

    def forward(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        """The training call (so that wrappers such as DDP see it): the same as :meth:`losses`."""
        return self.losses(images, targets)

    def losses(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        """Named scalar losses; their sum is what training minimises. Operators that sample learn from the head's losses."""
        losses: dict[str, Tensor] = self.head.losses(self.features(images), targets)  # type: ignore[operator]
        reward = -torch.stack([loss.detach() for loss in losses.values()]).sum()
        for operator in self.operators:
            operator.reinforce(reward)
            for name, value in operator.auxiliary_losses().items():
                losses[name] = losses[name] + value if name in losses else value
        return losses

    def predict_raw(self, images: ImageBatch) -> RawDetections:
        """Candidates before suppression, network frame."""
        return self.head.predict(self.features(images), images.sizes)  # type: ignore[operator]

    @torch.no_grad()
    def predict(self, images: ImageBatch) -> Detections:
        """Final detections in the original frame of each picture."""
        return self.late_fusion([self.predict_raw(images)]).to_original(images)
