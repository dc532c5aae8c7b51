"""Repeated details across a collection: one-shot or unprompted."""

from artmodels.artminer.cells import Pyramid
from artmodels.artminer.clusters import Cluster, communities, image_clusters, region_clusters
from artmodels.artminer.collection import Collection
from artmodels.artminer.discovery import DiscoveryConfig, Match, discover
from artmodels.artminer.oneshot import Hit, Searched
from artmodels.artminer.pairtable import Pair
from artmodels.artminer.pipeline import ArtMiner, ArtMinerConfig

__all__ = [
    "ArtMiner",
    "ArtMinerConfig",
    "Cluster",
    "Collection",
    "DiscoveryConfig",
    "Hit",
    "Match",
    "Pair",
    "Pyramid",
    "Searched",
    "communities",
    "discover",
    "image_clusters",
    "region_clusters",
]
