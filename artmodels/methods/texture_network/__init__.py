"""Texture networks: any amount of one texture, in one pass (Ulyanov et al. 2016)."""

from artmodels.methods.texture_network.model import TextureNetworkConfig
from artmodels.methods.texture_network.pipeline import TextureNetwork

__all__ = ["TextureNetwork", "TextureNetworkConfig"]
