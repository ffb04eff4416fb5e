"""Training of VoxelMorph behind AVSM's affine network, which stays as it is."""

from baselines.networks.voxelmorph.train import train

__all__ = ["train"]
