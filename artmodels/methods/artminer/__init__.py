"""Repeated details across a collection: one-shot or unprompted."""

from artmodels.correspondence.cells import Pyramid
from artmodels.methods.artminer.collection.collection import Collection
from artmodels.methods.artminer.discovery import DiscoveryConfig, Match, discover
from artmodels.methods.artminer.groups.clusters import Cluster, communities, image_clusters, region_clusters
from artmodels.methods.artminer.groups.pairtable import Pair
from artmodels.methods.artminer.oneshot import Hit, Searched
from artmodels.methods.artminer.pipeline import ArtMiner, ArtMinerConfig

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
