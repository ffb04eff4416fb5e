"""VoxelMorph, on the images as they are or behind AVSM's affine network, whose map is composed in.

Dalca et al., "Unsupervised learning for fast probabilistic diffeomorphic registration", MICCAI
2018; the package's diffeomorphic model.
"""

from baselines.tools.voxelmorph import prepare, register

__all__ = ["prepare", "register"]
