"""CKA against its definition in examples x examples, its invariances, and distances of weights by hand."""

import logging

import pytest
import torch

from artmodels.errors import ConfigError
from artmodels.features import build
from artmodels.methods.interpret.similarity import CKA, cka, weight_distances


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(x: torch.Tensor, y: torch.Tensor, *, debiased: bool) -> float:
    def hsic(k: torch.Tensor, l: torch.Tensor) -> torch.Tensor:  # noqa: E741
        n = len(k)
        if not debiased:
            h = torch.eye(n, dtype=torch.float64) - 1 / n
            return (k @ h @ l @ h).trace()
        k, l = k - k.diag().diag(), l - l.diag().diag()  # noqa: E741
        one = torch.ones(n, dtype=torch.float64)
        both = (k @ l).trace() + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return (both - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))

    k, l = x @ x.T, y @ y.T  # noqa: E741
    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_one_pass_with_a_ragged_batch_is_the_definition(debiased: bool, offset: float) -> None:
    x = gaussian(77, 20)
    y = torch.tanh(x[:, :12] @ gaussian(12, 12, seed=1)) + gaussian(77, 12, seed=2)
    expected = by_definition(x - x.mean(0), y - y.mean(0), debiased=debiased)
    found = cka(x + offset, y - offset, estimator="debiased" if debiased else "biased", batch=32)
    assert found == pytest.approx(expected, abs=1e-10)
    assert 0.1 < found < 0.9


def test_minibatch_is_the_mean_of_the_batches() -> None:
    x, y = gaussian(90, 6), gaussian(90, 5, seed=1)
    y[:, :3] += x[:, :3]
    whole = cka(x[:40], y[:40], estimator="minibatch")
    assert whole == pytest.approx(by_definition(x[:40], y[:40], debiased=True), abs=1e-10)
    parts = [cka(x, y, estimator="minibatch", batch=size) for size in (30, 45)]
    assert parts == pytest.approx([cka(x, y)] * 2, abs=0.1)
    assert parts[0] != parts[1]
    similarity = CKA(["x"], ["x"])
    similarity.update({"x": x[:3]}, {"x": y[:3]})
    assert similarity.left_out == 3
    with pytest.raises(ConfigError, match="at least 4 examples in a batch"):
        similarity.matrix("minibatch")


@pytest.mark.parametrize("estimator", ["biased", "debiased", "minibatch"])
def test_rotation_scale_and_shift_change_nothing(estimator: str) -> None:
    x = gaussian(50, 8)
    rotation = torch.linalg.qr(gaussian(8, 8, seed=1))[0]
    y = gaussian(50, 8, seed=2) + x
    assert cka(x, 0.3 * x @ rotation + 5, estimator=estimator) == pytest.approx(1, abs=1e-12)
    assert cka(4 * x @ rotation, y, estimator=estimator) == pytest.approx(cka(x, y, estimator=estimator), abs=1e-12)
    stretched = x * torch.tensor([9.0, 1, 1, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert cka(stretched, y, estimator=estimator) != pytest.approx(cka(x, y, estimator=estimator), abs=1e-3)


def test_of_independent_features_only_the_biased_estimate_is_large() -> None:
    """Of n examples with d channels each, biased CKA is about d / (n + d): 0.2 for 32 and 8."""
    pairs = [(gaussian(32, 8, seed=2 * i), gaussian(32, 8, seed=2 * i + 1)) for i in range(60)]
    biased, debiased = ([cka(x, y, estimator=kind) for x, y in pairs] for kind in ("biased", "debiased"))
    assert sum(biased) / 60 == pytest.approx(0.2, abs=0.03)
    assert sum(debiased) / 60 == pytest.approx(0, abs=0.03)
    assert min(debiased) < 0


def test_bias_lies_above_and_batches_agree_at_the_size_of_the_specification() -> None:
    """400 examples, 64 and 30 channels, batches of 40: .585, .556 and .563 there.

    It does not say how these features were drawn; here they share a signal.
    """
    shared = gaussian(400, 30, seed=3)
    x = torch.cat([shared + 0.55 * gaussian(400, 30, seed=4), 0.6 * gaussian(400, 34, seed=5)], 1)
    y = shared + 0.55 * gaussian(400, 30, seed=6)
    biased, debiased = cka(x, y, estimator="biased"), cka(x, y, estimator="debiased")
    minibatch = cka(x, y, estimator="minibatch", batch=40)
    assert 0 < biased - debiased < 0.06
    assert minibatch == pytest.approx(debiased, abs=0.03)


def test_a_matrix_of_layers_is_that_of_pairs() -> None:
    first = {"a": gaussian(30, 4), "b": gaussian(30, 7, 3, 2, seed=1)}
    second = {"c": gaussian(30, 5, seed=2) + first["a"][:, :1], "d": gaussian(30, 3, seed=3), "e": gaussian(30, 2)}
    similarity = CKA(list(first), list(second))
    for i in (slice(0, 16), slice(16, 30)):
        similarity.update({k: v[i] for k, v in first.items()}, {k: v[i] for k, v in second.items()})
    assert similarity.count == 30
    for estimator in ("biased", "debiased"):
        matrix = similarity.matrix(estimator)
        assert matrix.shape == (2, 3) and matrix.dtype == torch.float64
        pooled = [v if v.ndim == 2 else v.mean((2, 3)) for v in first.values()]
        pairs = [[cka(x, y, estimator=estimator) for y in second.values()] for x in pooled]
        assert matrix.tolist() == [pytest.approx(row, abs=1e-12) for row in pairs]


def test_what_does_not_vary_is_nan_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        value = cka(torch.ones(10, 3), gaussian(10, 3), estimator="biased")
    assert value != value
    assert "CKA is nan for x" in caplog.text


def test_wrong_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs at least 4 examples"):
        cka(gaussian(3, 2), gaussian(3, 2))
    with pytest.raises(ConfigError, match=r"not \[3, 2\] with \[4, 2\]"):
        cka(gaussian(3, 2), gaussian(4, 2))
    similarity = CKA(["a"], ["a"])
    with pytest.raises(ConfigError, match="no features of 'a'"):
        similarity.update({"b": gaussian(4, 2)}, {"a": gaussian(4, 2)})
    with pytest.raises(ConfigError, match="must be finite"):
        similarity.update({"a": gaussian(4, 2) / 0}, {"a": gaussian(4, 2)})
    similarity.update({"a": gaussian(4, 2)}, {"a": gaussian(4, 2)})
    with pytest.raises(ConfigError, match="channels, and had"):
        similarity.update({"a": gaussian(4, 3)}, {"a": gaussian(4, 2)})


def test_weights_are_compared_filter_by_filter() -> None:
    before, after = torch.nn.Conv2d(1, 3, 2, bias=False), torch.nn.Conv2d(1, 3, 2, bias=False)
    rows = torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 1], [5, 5, 5, 5]])
    before.weight.data = rows.view(3, 1, 2, 2)
    after.weight.data = torch.tensor([[2.0, 4, 6, 8], [0, 0, 0, -1], [5, 5, 5, 5]]).view(3, 1, 2, 2)
    (found,) = weight_distances(before, after)
    assert found.layer == "weight"
    assert found.frobenius == pytest.approx((1 + 4 + 9 + 16 + 4) ** 0.5)
    assert found.relative == pytest.approx((34 / 131) ** 0.5)
    assert found.correlation[:2].tolist() == pytest.approx([1, -1])
    assert found.correlation[2].isnan()


def test_weights_of_networks() -> None:
    same = weight_distances(build("art-resnet"), build("art-resnet"))
    assert {found.frobenius for found in same} == {0.0}
    assert len(same) == 13 + 2 + 3
    other = weight_distances(build("art-resnet"), build("art-resnet", seed=1))
    assert all(found.relative > 1 and float(found.correlation.abs().mean()) < 0.2 for found in other if found.relative)
    with pytest.raises(ConfigError, match="no kernel of the same name"):
        weight_distances(torch.nn.Linear(2, 3), torch.nn.Linear(2, 4))
