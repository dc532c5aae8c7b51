from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artmodels import features
from artmodels.errors import ConfigError
from artmodels.methods.artminer.collection import shortlist
from artmodels.methods.artminer.collection.collection import Collection
from artmodels.methods.artminer.pipeline import ArtMiner, ArtMinerConfig
from artmodels.search.index import ExactIndex


@pytest.fixture
def miner(monkeypatch) -> ArtMiner:
    """One that lists what it is to compare."""
    config = ArtMinerConfig(scales=(20,), reference=20, views=("",))
    made = ArtMiner(config, backbone=features.build("art-resnet", seed=0), device="cpu")
    made.compared = []

    def compare(first, others, among):
        made.compared += [frozenset((first, other)) for other in others]
        return []

    monkeypatch.setattr(made, "compare", compare)
    return made


@pytest.fixture
def collection(miner: ArtMiner, tmp_path: Path) -> Collection:
    (tmp_path / "pictures").mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        pixels = random.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    made = Collection.create(tmp_path / "store", miner)
    made.add(tmp_path / "pictures", miner)
    return made


def test_a_large_collection_is_compared_by_its_shortlist(miner: ArtMiner, collection: Collection) -> None:
    everything = {frozenset((f"{a}.png", f"{b}.png")) for a in range(6) for b in range(a)}
    list(miner.pairs(collection))
    assert set(miner.compared) == everything and len(miner.compared) == 15, "fewer than 2000"
    miner.compared.clear()
    list(miner.pairs(collection, exhaustive=6, keep=1))
    listed = shortlist.candidates(collection, shortlist.region_index(collection), keep=1, exhaustive=0)
    assert set(miner.compared) == {frozenset(pair[:2]) for pair in listed} and 3 <= len(miner.compared) <= 6
    miner.compared.clear()
    list(miner.pairs(collection, exhaustive=7))
    assert set(miner.compared) == everything
    # What is no collection has no regions.
    miner.compared.clear()
    list(miner.pairs(miner.describe({"a": Image.new("RGB", (64, 64)), "b": Image.new("RGB", (64, 64))}), exhaustive=0))
    assert miner.compared == [frozenset("ab")]


def test_an_index_of_the_caller_is_brought_up_to_date(miner: ArtMiner, collection: Collection) -> None:
    index = ExactIndex(collection.layout.dims)
    list(miner.pairs(collection, index=index, exhaustive=0, keep=2))
    assert len(index) == len(collection.windows()) and miner.compared
    with pytest.raises(ConfigError, match="takes vectors of 7 numbers and the collection has"):
        list(miner.pairs(collection, index=ExactIndex(7), exhaustive=0))
