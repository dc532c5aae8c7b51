"""Region features: where an image may show an object, how likely it is one, and numbers that describe it."""

from artmodels.data.reading import Extraction
from artmodels.methods.region_features.model import RegionFeaturesConfig
from artmodels.methods.region_features.pipeline import RegionFeatures, Regions
from artmodels.methods.region_features.store import FeatureStore

__all__ = ["Extraction", "FeatureStore", "RegionFeatures", "RegionFeaturesConfig", "Regions"]
