"""The affine network of the ``small`` preset: keypoints in place of fully connected layers.

The same steps, shared weights and composition as the paper's network (Eq. 1), but a step finds a
set of keypoints in each of the two images and fits the affine parameters to them in closed form.
Where the paper's network must learn from pairs how features turn into twelve numbers, this one only
learns what to recognise: a few minutes of a processor suffice.
"""

from __future__ import annotations

import torch
from torch import nn

from avsm.affine import Affine
from avsm.affine_net import AffineNetConfig, MultiStepAffineNet
from avsm.convolution import Conv3d
from avsm.precision import full_precision

# Pulls the fit towards a mere translation where the keypoints lie close together, as at the start.
RIDGE = 1e-2


class KeypointNet(MultiStepAffineNet):
    """Predict the affine map of a pair in several steps from keypoints.

    Deviation: not the paper's network (two images' features joined, fully connected layers), after
    KeyMorph (Wang et al., 2023, arXiv:2304.09941). It starts near the identity, not at it.

    Parameters
    ----------
    config
        Sizes; ``config.keypoints`` of them.
    """

    def __init__(self, config: AffineNetConfig) -> None:
        super().__init__(config, channels=config.features)
        self.last = Conv3d(config.trunk[-1].channels, config.keypoints, 3, padding=1)
        self.log_weights = nn.Parameter(torch.zeros(config.keypoints))

    def _see(self, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Find the keypoints, ``(B, K, 3)`` (z, y, x) in the image's normalised coordinates."""
        heat = self.last(self.trunk(self._features(image)))
        return self._centres(heat, image.shape[2:]) / scale

    @full_precision
    def _centres(self, heat: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Average the voxels' coordinates, each weighted by its share of the heat."""
        share = heat.flatten(2).softmax(dim=-1).unflatten(2, heat.shape[2:])
        start, step = self._lattice()
        centres = []
        for axis in range(3):
            voxels = torch.arange(heat.shape[2 + axis], dtype=share.dtype, device=share.device)
            coordinates = 2 * (start + step * voxels) / (shape[axis] - 1) - 1
            others = [2 + other for other in range(3) if other != axis]
            centres.append(share.sum(dim=others) @ coordinates)
        return torch.stack(centres, dim=-1)

    def _lattice(self) -> tuple[float, int]:
        """Give the first voxel that the heat maps sample, and the voxels from one to the next."""
        start, step = 0.0, 1
        for stage in self.config.trunk:
            if stage.pool:  # a block of two is centred between them
                start, step = start + step / 2, 2 * step
            step *= stage.stride  # a padded convolution is centred on its first voxel
        return start, step

    @full_precision
    def _residual(self, warped: torch.Tensor, fixed: torch.Tensor, affine: Affine) -> torch.Tensor:
        """Fit the update to the keypoints by least squares.

        The update follows the parameters composed so far (Eq. 1): it acts on what they make of x.
        What the warped image shows at q lies at A q + b in the moving image, so that the update is
        to take A p + b, for the keypoint p of the fixed image, to A q + b.
        """
        source, target = (points @ affine.matrix.mT for points in (fixed, warped))
        weights = self.log_weights.softmax(dim=0)[:, None]
        centre, goal = ((weights * p).sum(dim=1, keepdim=True) for p in (source, target))
        spread, shift = source - centre, (target - goal) - (source - centre)
        moments = (weights * spread).mT @ spread
        moments = moments + RIDGE * torch.eye(3, dtype=moments.dtype, device=moments.device)
        residual = torch.linalg.solve(moments, (weights * spread).mT @ shift).mT  # A - I
        origin = centre + affine.offset[:, None]
        offset = goal - centre - origin @ residual.mT
        return torch.cat([residual.flatten(1), offset[:, 0]], dim=1)
