import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from artmodels.errors import ConfigError, DatasetError
from artmodels.search.index import ExactIndex, FaissConfig, FaissIndex, WhitenedIndex, Whitening, load_index

faiss = pytest.importorskip("faiss")

KINDS = {
    "exact": lambda dims: ExactIndex(dims),
    "ivf": lambda dims: FaissIndex(dims, FaissConfig(probes=1000)),
    "hnsw": lambda dims: FaissIndex(dims, FaissConfig(kind="hnsw", breadth=300)),
    "whitened": lambda dims: WhitenedIndex(ExactIndex(dims), Whitening(torch.zeros(dims), torch.eye(dims))),
}


def vectors(count: int, dims: int = 16) -> torch.Tensor:
    return F.normalize(torch.randn(count, dims), dim=1)


def brute(base: np.ndarray, ids: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """One query after the other, with a sort."""
    scores, found = [], []
    for query in queries:
        cosine = np.array([float(np.dot(query, each)) for each in base])
        order = sorted(range(len(base)), key=lambda row: (-cosine[row], ids[row]))[:k]
        scores.append(cosine[order])
        found.append(ids[order])
    return np.array(scores), np.array(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_as_brute_force(kind: str) -> None:
    base, queries, ids = vectors(300).half().float(), vectors(7), np.arange(300) * 3 + 5
    index = KINDS[kind](16)
    index.add(ids, base)
    scores, found = index.search(queries, 9)
    wanted = brute(base.numpy(), ids, queries.numpy(), 9)
    assert np.array_equal(found.numpy(), wanted[1])
    assert np.allclose(scores.numpy(), wanted[0], atol=2e-3 if kind == "whitened" else 1e-5)
    assert (index.dims, len(index)) == (16, 300) and np.array_equal(index.ids, ids)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_vectors_are_not_found_and_may_come_back(kind: str, tmp_path: Path) -> None:
    base, index = vectors(200), KINDS[kind](16)
    index.add(np.arange(200), base)
    index.remove(np.array([*range(100), 9999]))
    assert len(index) == 100 and index.ids.tolist() == list(range(100, 200))
    found = index.search(base[:50], 100)[1]
    assert set(found.flatten().tolist()) <= set(range(100, 200))
    index.save(tmp_path / "index")
    again = load_index(tmp_path / "index")
    assert len(again) == 100 and torch.equal(again.search(base[:50], 5)[1], found[:, :5])
    again.add(np.array([7]), base[7:8])
    assert again.search(base[7:8], 1)[1].tolist() == [[7]] and len(again) == 101
    with pytest.raises(ConfigError, match="number 7 would be there twice"):
        again.add(np.array([7]), base[7:8])


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_than_asked_for(kind: str) -> None:
    index = KINDS[kind](4)
    scores, ids = index.search(vectors(2, 4), 3)
    assert ids.tolist() == [[-1] * 3] * 2 and bool((scores == -torch.inf).all())
    index.add(np.array([8]), vectors(1, 4))
    scores, ids = index.search(vectors(2, 4), 3)
    assert ids.tolist() == [[8, -1, -1]] * 2 and bool(scores[:, 0].isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused(kind: str) -> None:
    index = KINDS[kind](4)
    with pytest.raises(ConfigError, match=r"vectors of shape \(2, 5\) came with 2 numbers.*takes \[N, 4\]"):
        index.add(np.arange(2), vectors(2, 5)) if kind != "whitened" else index.inner.add(np.arange(2), vectors(2, 5))
    with pytest.raises(ConfigError, match="not finite"):
        index.add(np.arange(2), torch.full((2, 4), torch.nan))
    with pytest.raises(ConfigError, match="numbers are 0 or more"):
        index.add(np.array([-1]), vectors(1, 4))
    with pytest.raises(ConfigError, match="one of those given would be there twice"):
        index.add(np.array([3, 3]), vectors(2, 4))
    with pytest.raises(ConfigError, match="k=0: ask for at least one"):
        index.search(vectors(1, 4), 0)
    with pytest.raises(ConfigError, match="cannot be searched for"):
        index.search(torch.full((1, 4), torch.inf), 1)


def test_exact_search_is_the_same_in_blocks_however_it_was_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    base, queries = vectors(500), vectors(23)
    whole = ExactIndex(16)
    whole.add(np.arange(500), base)
    expected = whole.search(queries, 20)
    monkeypatch.setattr("artmodels.search.index.BLOCK", 64)
    monkeypatch.setattr("artmodels.search.index.QUERIES", 10)
    at_once, parts = ExactIndex(16), ExactIndex(16)
    at_once.add(np.arange(500), base)
    for start in range(0, 500, 37):
        parts.add(np.arange(500)[start : start + 37], base[start : start + 37])
    for index in (at_once, parts):
        assert torch.equal(index.search(queries, 20)[1], expected[1])
    assert torch.equal(at_once.search(queries, 20)[0], parts.search(queries, 20)[0])


def test_equal_scores_come_in_the_order_of_their_numbers() -> None:
    index = ExactIndex(3)
    index.add(np.array([9, 2, 5]), torch.tensor([[1.0, 0, 0]]).expand(3, 3))
    assert index.search(torch.eye(3)[:1], 3)[1].tolist() == [[2, 5, 9]]


def test_memory_mapped_vectors_stay_in_their_file(tmp_path: Path) -> None:
    base = vectors(100).half()
    np.save(tmp_path / "base.npy", base.numpy())
    mapped = np.load(tmp_path / "base.npy", mmap_mode="r")
    index = ExactIndex(16)
    index.add(np.arange(100), mapped)
    assert index._parts[0] is mapped
    assert index.search(base[4:5], 1)[1].tolist() == [[4]]
    index.save(tmp_path / "index")
    found = load_index(tmp_path / "index")
    assert isinstance(found._parts[0], np.memmap) and found._parts[0].dtype == np.float16
    found.remove(np.arange(50))
    found.save(tmp_path / "index")  # onto the file that it reads
    assert load_index(tmp_path / "index").search(base[70:71], 1)[1].tolist() == [[70]]


@pytest.mark.parametrize("config", [FaissConfig(), FaissConfig(kind="hnsw"), FaissConfig(codes=16)])
def test_faiss_finds_what_is_near(config: FaissConfig) -> None:
    base = vectors(4000, 32)
    queries = F.normalize(base[:200] + 0.08 * torch.randn(200, 32), dim=1)
    index, again = FaissIndex(32, config), FaissIndex(32, config)
    for each in (index, again):
        each.add(np.arange(4000), base)
    found = index.search(queries, 5)
    assert float((found[1][:, 0] == torch.arange(200)).float().mean()) >= 0.97
    assert all(torch.equal(a, b) for a, b in zip(found, again.search(queries, 5), strict=True))


def test_faiss_that_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = FaissIndex(4, FaissConfig(kind="hnsw"))
    index.add(np.arange(9), vectors(9, 4))
    index.save(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="needs FAISS, which is not installed"):
        load_index(tmp_path)
    with pytest.raises(ConfigError, match=r"pip install 'artmodels\[search\]', or use ExactIndex"):
        FaissIndex(4)


def test_settings_of_faiss_are_checked() -> None:
    with pytest.raises(ConfigError, match="kind='flat' must be one of 'ivf', 'hnsw'"):
        FaissConfig(kind="flat")
    with pytest.raises(ConfigError, match="probes=0"):
        FaissConfig(probes=0)
    with pytest.raises(ConfigError, match='codes belong to kind="ivf"'):
        FaissConfig(kind="hnsw", codes=4)
    with pytest.raises(ConfigError, match="codes=5 does not divide vectors of 16"):
        FaissIndex(16, FaissConfig(codes=5))
    with pytest.raises(ConfigError, match="from 256 vectors or more, not 20"):
        FaissIndex(16, FaissConfig(codes=4)).add(np.arange(20), vectors(20))
    index = FaissIndex(16)
    with pytest.raises(ConfigError, match="the index is empty"):
        index.save("nowhere")
    index.prepare(vectors(50), 50)
    with pytest.raises(ConfigError, match="has its cells already"):
        index.prepare(vectors(50), 50)


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no index"):
        load_index(tmp_path)
    for kind, make in KINDS.items():
        index = make(16)
        index.add(np.arange(60), vectors(60))
        index.save(tmp_path / kind)
    np.save(tmp_path / "exact" / "ids.npy", np.arange(3))
    np.save(tmp_path / "ivf" / "ids.npy", np.arange(3))
    (tmp_path / "hnsw" / "index.faiss").write_bytes(b"torn")
    (tmp_path / "whitened" / "index.json").write_text(json.dumps({"kind": "other"}))
    for kind in KINDS:
        with pytest.raises(DatasetError, match="is damaged .*: remove that folder and build it again"):
            load_index(tmp_path / kind)


def test_whitening_centres_and_evens_out() -> None:
    spread = torch.tensor([5.0, 2.0, 1.0, 0.01])
    values = torch.randn(5000, 4) * spread + torch.tensor([3.0, -1.0, 0.0, 2.0])
    whitening = Whitening.fit(values, 3)
    assert torch.allclose(whitening.mean, values.mean(0), atol=1e-4)
    projected = (values - whitening.mean) @ whitening.projection
    assert torch.allclose(torch.cov(projected.T), torch.eye(3), atol=1e-3)
    assert torch.allclose(whitening(values).norm(dim=1), torch.ones(5000), atol=1e-5)
    plain = Whitening.fit(values, 2, power=0.0)
    assert torch.allclose(plain.projection.T @ plain.projection, torch.eye(2), atol=1e-5)
    with pytest.raises(ConfigError, match="dims=5 directions cannot be estimated"):
        Whitening.fit(values, 5)
    with pytest.raises(ConfigError, match="span fewer directions"):
        Whitening.fit(torch.ones(10, 3), 2)
    with pytest.raises(ConfigError, match="gives vectors of 3 numbers and the index takes 4"):
        WhitenedIndex(ExactIndex(4), whitening)
