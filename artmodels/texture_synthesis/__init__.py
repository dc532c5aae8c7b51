"""Texture synthesis by matching statistics of an exemplar."""

from artmodels.texture_synthesis.pipeline import TextureConfig, TextureSynthesizer

__all__ = ["TextureConfig", "TextureSynthesizer"]
