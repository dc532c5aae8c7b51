"""Texture synthesis by matching statistics of an exemplar."""

from artmodels.methods.texture_synthesis.pipeline import TextureConfig, TextureSynthesizer

__all__ = ["TextureConfig", "TextureSynthesizer"]
