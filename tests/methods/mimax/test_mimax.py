"""MI-max: bags, the loss and its gradient, training, storage and the exported head."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from artmodels.data.bags import BagsError
from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.methods.mimax import Bags, MIMax
from artmodels.methods.mimax.model import (
    GRID,
    Descent,
    MIMaxObjective,
    Scaling,
    Search,
    balanced,
    descend,
    initial,
)
from artmodels.methods.mimax.pipeline import MIMaxConfig

WIDTH = 6


def ragged(count: int = 9, width: int = WIDTH, *, seed: int = 0, scored: bool = True) -> Bags:
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 6, count)
    objectness = [random.random(size) for size in sizes] if scored else None
    return Bags.of([random.normal(size=(size, width)) for size in sizes], objectness)


def signs_of(count: int, problems: int) -> torch.Tensor:
    labels = torch.where(torch.arange(count)[:, None] % (torch.arange(problems) + 2) == 0, 1, -1)
    assert ((labels > 0).any(0) & (labels < 0).any(0)).all()
    return labels


def objective(bags: Bags, problems: int, *, standardize: bool = False, **options) -> MIMaxObjective:
    options = {"epsilon": 0.01 if bags.objectness is not None else None} | options
    return MIMaxObjective(
        bags,
        balanced(signs_of(len(bags), problems)),
        torch.linspace(0.5, 1.5, problems),
        scaling=Scaling.of(bags, standardize=standardize),
        **options,
    )


def toy(count: int = 60, instances: int = 20, width: int = 64, *, strength: float = 8.0, seed: int = 0):
    """Bags of noise; in positive ones the first instance is shifted along one direction: A.2, item 4, smaller."""
    direction = np.random.default_rng(99).normal(size=width)
    random = np.random.default_rng(seed)
    bags = random.normal(size=(count, instances, width)).astype(np.float32)
    labels = np.arange(count) % 2
    bags[labels == 1, 0] += (strength * direction / np.linalg.norm(direction)).astype(np.float32)
    return bags, labels


# --- Bags


def test_bags_of_lists_arrays_and_masks_are_the_same() -> None:
    random = np.random.default_rng(0)
    dense, scores = random.normal(size=(3, 4, 2)), random.random((3, 4))
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], bool)
    dense[~mask], scores[~mask] = np.nan, np.inf
    listed = Bags.of(
        [bag[keep] for bag, keep in zip(dense, mask, strict=True)], [s[k] for s, k in zip(scores, mask, strict=True)]
    )
    masked = Bags.of(dense, scores, mask)
    assert masked.sizes.tolist() == [2, 4, 1] and masked.offsets.tolist() == [0, 2, 6, 7]
    assert masked.bag_of.tolist() == [0, 0, 1, 1, 1, 1, 2] and masked.features == 2 and masked.shape == (3,)
    assert torch.equal(masked.instances, listed.instances) and torch.equal(masked.objectness, listed.objectness)
    assert Bags.of(masked) is masked
    assert Bags.of(random.normal(size=(5, 2))).sizes.tolist() == [1] * 5


def test_bags_index_like_an_array() -> None:
    bags = ragged(5)
    each = list(bags)
    assert torch.equal(bags[-1], each[4]) and len(bags[1:4]) == 3
    assert bags[1:4].instances.data_ptr() == each[1].data_ptr(), "a slice is a view"
    for index in ([3, 0, 3], np.array([True, False, False, True, True]), slice(None, None, -2), torch.tensor([4])):
        chosen = bags[index]
        numbers = np.atleast_1d(np.arange(5)[index])
        assert len(chosen) == len(numbers)
        for number, bag in zip(numbers, chosen, strict=True):
            assert torch.equal(bag, each[number])
        starts = [bags.objectness[bags.offsets[n] : bags.offsets[n + 1]] for n in numbers]
        assert torch.equal(chosen.objectness, torch.cat(starts))
    assert len(bags[np.array([1, 2]), ...]) == 2
    with pytest.raises(IndexError):
        bags[5]
    with pytest.raises(IndexError, match="too many"):
        bags[0, 1]


def test_a_memory_mapped_store_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 3, 2), np.float16))
    store = np.load(tmp_path / "x.npy", mmap_mode="r")
    bags = Bags.of(store)
    assert bags.instances.dtype == torch.float16 and bags.instances.data_ptr() == store.ctypes.data


@pytest.mark.parametrize("even", [False, True])
def test_reductions_equal_loops(even: bool) -> None:
    bags = Bags.of(np.zeros((4, 3, 2))) if even else ragged(7)
    scores = torch.randn(len(bags.instances), 2, 3).round(decimals=0)  # with ties
    parts = scores.split(bags.sizes.tolist())
    assert torch.equal(bags.max(scores), torch.stack([part.amax(0) for part in parts]))
    torch.testing.assert_close(bags.sum(scores), torch.stack([part.sum(0) for part in parts]))
    expected = np.stack(
        [start + part.numpy().argmax(0) for start, part in zip(bags.offsets[:-1].tolist(), parts, strict=True)]
    )
    assert (bags.argmax(scores).numpy() == expected).all(), "the first of equal ones"
    assert [start for start, _ in bags.chunks(1)] == list(range(len(bags)))
    assert torch.equal(torch.cat([part.instances for _, part in bags.chunks(5)]), bags.instances)
    some = torch.tensor([3, 1, 2])
    walked = list(bags.chunks(5, some))
    assert torch.equal(torch.cat([part.instances for _, part in walked]), bags.take(some).instances)
    assert len(walked) > 1 and sum(len(part) for _, part in walked) == 3
    assert [start for start, _ in bags.chunks(1, some)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bags.of([]), "no bags"),
        (lambda: Bags.of([np.ones((2, 3)), np.ones((0, 3))]), "bag 1 has no instance"),
        (lambda: Bags.of([np.ones((2, 3)), np.ones((2, 4))]), "bag 1 has 4 features and bag 0 has 3"),
        (lambda: Bags.of([np.ones((2, 3)), np.array([[0, np.nan, 0]])]), "bag 1, instance 0 has values .* not finite"),
        (lambda: Bags.of([np.ones((2, 3)), np.array([[0, 1e300, 0]])]), "bag 1, instance 0 .* too large"),
        (lambda: Bags.of([np.ones((2, 3)), np.ones((2, 3, 1))]), r"bag 1 has shape \(2, 3, 1\)"),
        (lambda: Bags.of(np.ones((2, 3, 4)), mask=np.array([[1, 1, 0], [0, 0, 0]], bool)), "bag 1 has no instance"),
        (lambda: Bags.of(np.ones((2, 3, 4)), mask=np.ones((2, 3))), "the mask is float64"),
        (lambda: Bags.of(np.ones((1, 2, 4)), [[0.5, 1.5]]), "objectness of bag 0, instance 1 is 1.5"),
        (lambda: Bags.of(np.ones((1, 2, 4)), [[0.5, np.nan]]), "objectness of bag 0, instance 1 is nan"),
        (lambda: Bags.of([np.ones((2, 3))], [[0.5]]), "bag 0 has 2 instances, and objectness of shape"),
        (lambda: Bags.of([["a", "b"]]), "bag 0 cannot be read"),
        (lambda: Bags.of(np.ones((2, 2, 2)) * 1j), "Complex data not supported"),
        (lambda: Bags.of("bags"), "bags cannot be a str"),
        (lambda: Bags(torch.ones(3, 2), torch.tensor([2, 2])), "add up to the 3 instances"),
        (lambda: Bags.of(Bags.of(np.ones((2, 2))), [1, 1]), "have their objectness"),
    ],
)
def test_bags_that_cannot_be_used_are_named(make, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        make()
    assert isinstance(caught.value, ValueError)


# --- The loss


@pytest.mark.parametrize("loss", ["tanh", "hinge"])
@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("scored", [False, True])
def test_loss_equals_a_loop_over_the_equation(loss: str, planes: int, scored: bool) -> None:
    bags, problems = ragged(8, scored=scored), 3
    labels = signs_of(8, problems)
    vectors, bias = initial(problems, planes, WIDTH, deviation=0.5, seed=1)
    reached = objective(bags, problems, loss=loss)(vectors, bias)
    w, b = vectors.double().numpy(), bias.double().numpy()
    for p in range(problems):
        data = 0.0
        for i, bag in enumerate(bags):
            f = (bag.double().numpy() @ w[p].T + b[p]).max(1)
            if scored:
                f = f * (bags.objectness[bags.offsets[i] : bags.offsets[i + 1]].double().numpy() + 0.01)
            sign = int(labels[i, p])
            n = int((labels[:, p] == sign).sum())
            data += -sign / n * np.tanh(f.max()) if loss == "tanh" else max(0, 1 - sign * f.max()) / n
            assert float(reached.values[i, p]) == pytest.approx(f.max(), abs=1e-5)
            assert int(reached.rows[i, p]) == int(bags.offsets[i]) + f.argmax()
        assert float(reached.data[p]) == pytest.approx(data, abs=1e-5)
        penalty = (0.5 + 0.5 * p) * np.square(w[p]).sum(1).mean()
        assert float(reached.total[p]) == pytest.approx(data + penalty, abs=1e-5)


@pytest.mark.parametrize("loss", ["tanh", "hinge"])
@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("standardize", [False, True])
def test_gradient_equals_finite_differences(loss: str, planes: int, standardize: bool) -> None:
    problem = objective(ragged(8), 3, loss=loss, standardize=standardize)
    vectors, bias = (part.double() for part in initial(3, planes, WIDTH, deviation=0.5, seed=2))
    reached = problem(vectors, bias)
    step = 1e-6  # small against the gaps between the largest scores of these bags
    for values, gradient in ((vectors, reached.vectors), (bias, reached.bias)):
        numeric = torch.zeros_like(values)
        for index in np.ndindex(*values.shape):
            ends = []
            for sign in (1, -1):
                values[index] += sign * step
                ends.append(problem(vectors, bias).total[index[0]])
                values[index] -= sign * step
            numeric[index] = (ends[0] - ends[1]) / (2 * step)
        assert numeric.abs().max() > 0.1
        torch.testing.assert_close(gradient, numeric, atol=1e-7, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), planes=st.sampled_from([1, 4]), scored=st.booleans())
def test_order_copies_and_padding_of_instances_change_nothing(seed: int, planes: int, scored: bool) -> None:
    bags = ragged(6, seed=seed, scored=scored)
    random = np.random.default_rng(seed)
    vectors, bias = initial(4, planes, WIDTH, deviation=1.0, seed=seed)
    scores = [None] * 6 if not scored else list(bags.objectness.split(bags.sizes.tolist()))

    def losses(change) -> torch.Tensor:
        orders = [change(len(bag)) for bag in bags]
        moved = Bags.of(
            [bag[order] for bag, order in zip(bags, orders, strict=True)],
            [each[order] for each, order in zip(scores, orders, strict=True)] if scored else None,
        )
        return objective(moved, 4)(vectors, bias).data

    expected = objective(bags, 4)(vectors, bias).data
    assert (expected.abs() <= 2).all()
    torch.testing.assert_close(losses(random.permutation), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(losses(lambda k: [*range(k), *random.integers(0, k, 3)]), expected, atol=1e-5, rtol=0)
    padded, mask, padded_scores = np.full((6, 8, WIDTH), 1e6), np.zeros((6, 8), bool), np.ones((6, 8))
    for number, bag in enumerate(bags):
        padded[number, : len(bag)], mask[number, : len(bag)] = bag, True
        if scored:
            padded_scores[number, : len(bag)] = scores[number]
    held = Bags.of(padded, padded_scores if scored else None, mask)
    torch.testing.assert_close(objective(held, 4)(vectors, bias).data, expected, atol=1e-5, rtol=0)


def test_data_term_reaches_its_bounds() -> None:
    bags, labels = toy(strength=50.0)
    direction = bags[labels == 1, 0].mean(0)
    far = torch.from_numpy(100 * direction / np.linalg.norm(direction)).view(1, 1, -1)
    held, signs = Bags.of(bags), torch.from_numpy(np.where(labels, 1, -1))[:, None]
    problem = MIMaxObjective(held, balanced(signs), torch.ones(1), scaling=Scaling.of(held, standardize=False))
    bias = torch.full((1, 1), -2500.0)
    assert float(problem(far, bias).data) == pytest.approx(-2, abs=1e-6)
    wrong = MIMaxObjective(held, balanced(-signs), torch.ones(1), scaling=problem.scaling)
    assert float(wrong(far, bias).data) == pytest.approx(2, abs=1e-6)


def test_chunks_and_half_precision_give_the_same() -> None:
    bags = ragged(9)
    vectors, bias = initial(3, 2, WIDTH, deviation=1.0, seed=0)
    whole, pieces = objective(bags, 3)(vectors, bias), objective(bags, 3, memory=1)(vectors, bias)
    for name in ("values", "data", "total", "vectors", "bias"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name), atol=1e-6, rtol=1e-5)
    assert torch.equal(pieces.rows, whole.rows)
    half = Bags(bags.instances.half(), bags.sizes, bags.objectness)
    rounded = Bags(half.instances.float(), bags.sizes, bags.objectness)
    assert torch.equal(objective(half, 3)(vectors, bias).data, objective(rounded, 3)(vectors, bias).data)


@pytest.mark.parametrize("memory", [None, 1])
def test_a_mini_batch_is_its_bags_and_weighs_as_all(memory: int | None) -> None:
    bags = ragged(9)
    vectors, bias = initial(3, 2, WIDTH, deviation=1.0, seed=0)
    chosen = torch.tensor([7, 0, 3])
    whole = objective(bags, 3, memory=memory)
    part, taken = whole.batch(chosen)(vectors, bias), whole.on(bags.take(chosen))
    taken.coefficients = 3 * whole.coefficients[chosen]  # 9 bags, of which these are 3
    for got, wanted in zip(vars(part).values(), vars(taken(vectors, bias)).values(), strict=True):
        torch.testing.assert_close(got, wanted)
    assert torch.equal(part.values, whole(vectors, bias).values[chosen])


def test_standardising_equals_standardised_features() -> None:
    bags, labels = toy(20, 5, 8)
    bags = bags * np.linspace(0.1, 30, 8, dtype=np.float32) + 5
    bags[..., 3] = 7.0  # constant
    flat = bags.reshape(-1, 8).astype(np.float64)
    deviation = flat.std(0)
    deviation[3] = 1
    done = MIMax(standardize=True, iterations=40).fit(bags, labels)
    by_hand = MIMax(iterations=40).fit(((flat - flat.mean(0)) / deviation).reshape(bags.shape), labels)
    np.testing.assert_allclose(done.coef_ * deviation, by_hand.coef_, atol=1e-4)
    assert abs(done.coef_[0, 0, 3]) < 1e-3


# --- The descent


@pytest.mark.parametrize("optimiser", ["gd", "momentum", "adam"])
def test_restarts_at_once_equal_restarts_one_by_one(optimiser: str) -> None:
    bags = Bags.of(toy(20, 10, 16)[0])
    plan = Descent(optimiser=optimiser, rate=0.01 if optimiser == "gd" else 0.1, iterations=25, scan_every=1)
    signs = torch.where(torch.arange(20) % 2 == 1, 1, -1)[:, None]
    scaling = Scaling.of(bags, standardize=False)
    vectors, bias = initial(12, 1, 16, deviation=0.1, seed=4)

    def run(first: slice) -> tuple[torch.Tensor, torch.Tensor]:
        parts = vectors[first].clone(), bias[first].clone()
        count = len(parts[0])
        problem = MIMaxObjective(bags, balanced(signs.expand(-1, count)), torch.ones(count), scaling=scaling)
        assert sum(1 for _ in descend(problem, *parts, plan)) == 25
        return parts

    together = run(slice(None))
    assert not torch.equal(together[0], vectors)
    for number in range(12):
        for all_, one in zip(together, run(slice(number, number + 1)), strict=True):
            torch.testing.assert_close(all_[number], one[0], atol=2e-5, rtol=1e-4)


def test_plain_descent_is_the_papers() -> None:
    bags, labels = toy(12, 4, 5)
    held = Bags.of(bags)
    vectors, bias = initial(2, 1, 5, deviation=1.0, seed=0)
    w, b = vectors[:, 0].double().requires_grad_(), bias[:, 0].double().requires_grad_()
    x, sign = torch.from_numpy(bags).double(), torch.from_numpy(np.where(labels, 1.0, -1.0))
    for _ in range(30):
        best = (torch.einsum("bkm,pm->bkp", x, w) + b).amax(1).tanh()
        loss = (-(sign / 6)[:, None] * best).sum() + 0.7 * w.square().sum()
        slopes = torch.autograd.grad(loss, (w, b))
        with torch.no_grad():
            w -= 0.05 * slopes[0]
            b -= 0.05 * slopes[1]
    signs = torch.from_numpy(np.where(labels, 1, -1))[:, None].expand(-1, 2)
    problem = MIMaxObjective(held, balanced(signs), torch.full((2,), 0.7), scaling=Scaling.of(held, standardize=False))
    for _ in descend(problem, vectors, bias, Descent(optimiser="gd", rate=0.05, iterations=30)):
        pass
    torch.testing.assert_close(vectors[:, 0].double(), w.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(bias[:, 0].double(), b.detach(), atol=1e-5, rtol=1e-4)


def test_every_bag_is_in_one_mini_batch_of_a_pass_and_the_order_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    bags = Bags.of(np.random.default_rng(0).normal(size=(10, 3, 4)))
    seen = []
    batch = MIMaxObjective.batch

    def spy(self: MIMaxObjective, chosen: torch.Tensor) -> MIMaxObjective:
        seen.append(chosen.tolist())
        return batch(self, chosen)

    monkeypatch.setattr(MIMaxObjective, "batch", spy)
    plan = Descent(optimiser="gd", rate=0.01, iterations=3, batch_size=4)
    losses = list(descend(objective(bags, 2), *initial(2, 1, 4, deviation=1.0, seed=0), plan))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 3 and len(losses) == 9
    passes = [seen[start : start + 3] for start in (0, 3, 6)]
    assert all(sorted(sum(each, [])) == list(range(10)) for each in passes)
    assert len({str(each) for each in passes}) == 3


def test_looking_at_the_recent_best_comes_to_nearly_the_same_end() -> None:
    bags, labels = toy()
    exact, quick = (MIMax(scan_every=every, iterations=100).fit(bags, labels) for every in (1, 10))
    ends = [model.data_term_[0] + np.square(model.coef_).sum() for model in (exact, quick)]
    assert ends[0] < -1.5 and abs(ends[1] - ends[0]) < 0.02 and quick.restarts_.shape == (1,)
    # A working set that does not fit is not used: every pass then is exact.
    tight = MIMax(scan_every=10, memory=1, iterations=10).fit(bags, labels)
    np.testing.assert_allclose(tight.coef_, MIMax(scan_every=1, iterations=10).fit(bags, labels).coef_, atol=1e-4)


def test_cheap_passes_are_exact_unless_asked_otherwise() -> None:
    bags, labels = toy()
    default, exact = (MIMax(iterations=20, **given).fit(bags, labels) for given in ({}, {"scan_every": 1}))
    assert default.coef_.tobytes() == exact.coef_.tobytes()
    assert [MIMaxConfig().descent(work).scan_every for work in (10**9, 10**9 + 1)] == [1, 10]
    assert MIMaxConfig(scan_every=3).descent(1).scan_every == 3


# --- The estimator


@pytest.mark.parametrize(
    "options", [{}, {"kind": "polyhedral"}, {"loss": "hinge"}, {"optimiser": "adam"}, {"batch_size": 30}]
)
def test_learns_the_toy(options: dict[str, object]) -> None:
    bags, labels = toy()
    unseen, truth = toy(seed=1)
    model = MIMax(iterations=100, **options).fit(bags, labels)
    assert model.score(unseen, truth) >= 0.95
    best = model.instance_scores(unseen).reshape(60, 20)[truth == 1].argmax(1)
    assert (best == 0).mean() >= 0.95, "it points at the instance that is the reason"
    assert model.data_term_[0] < (0.7 if options.get("loss") == "hinge" else -1.3)


def test_published_start_leaves_a_polyhedral_model_untrained() -> None:
    """A.2, quirk 4: from N(0, 1) tanh is saturated, and 300 plain steps learn nothing."""
    bags, labels = toy()
    published = MIMax("polyhedral", init="reference", optimiser="gd", scan_every=1, select="reference")
    assert abs(published.fit(bags, labels).data_term_[0]) < 0.2
    assert np.linalg.norm(published.coef_, axis=2).mean() > 3


def test_objectness_is_used_where_it_is() -> None:
    bags, labels = toy()
    bags[:, 1] = np.roll(bags[:, 0], 1, axis=0)  # what the next bag is about, which objectness says is nothing
    scores = np.ones(bags.shape[:2])
    scores[:, 1] = 0
    held = Bags.of(bags, scores)
    model = MIMax(iterations=100).fit(held, labels)
    assert roc_auc_score(labels, model.decision_function(held)) == 1
    shown = model.instance_scores(held).reshape(scores.shape)[:, 1]
    blind = MIMax(iterations=100, objectness=False).fit(held, labels)
    assert blind.data_term_[0] > model.data_term_[0] + 0.1
    assert np.abs(shown).max() < 0.1  # epsilon times a score
    with pytest.raises(BagsError, match="fitted with objectness"):
        model.predict(bags)
    with pytest.raises(BagsError, match="have no objectness"):
        MIMax(objectness=True).fit(bags, labels)


def test_columns_are_classes() -> None:
    bags, first = toy()
    labels = np.stack([first, (np.arange(60) % 3 == 0).astype(int)], 1)
    model = MIMax(restarts=3, iterations=30, scan_every=1).fit(bags, labels)
    assert model.predict(bags).shape == model.decision_function(bags).shape == (60, 2)
    assert model.instance_scores(bags).shape == (1200, 2) and model.classes_.tolist() == [0, 1]
    assert (model.decision_function(bags) == model.instance_scores(bags).reshape(60, 20, 2).max(1)).all()
    assert (model.predict(bags) == labels).mean(0)[0] > 0.95 and model.data_term_[0] < -1.5


def test_selection_takes_the_lowest_of_what_was_asked_for() -> None:
    bags, labels = toy(count=520, instances=3, width=4, strength=3.0)
    full, reference = (MIMax(iterations=1, init="reference", select=s).fit(bags, labels) for s in ("full", "reference"))
    every = [MIMax(iterations=1, init="reference", restarts=0)]
    assert every[0].fit(bags, labels).restarts_.tolist() == [0]
    assert full.data_term_[0] <= reference.data_term_[0] and full.restarts_[0] != reference.restarts_[0]


def test_same_seed_same_bytes() -> None:
    bags, labels = toy(20, 5, 8)
    one, two, other = (MIMax(iterations=20, seed=seed).fit(bags, labels) for seed in (3, 3, 4))
    assert one.coef_.tobytes() == two.coef_.tobytes() != other.coef_.tobytes()


def test_search_holds_each_bag_out_once_and_prefers_what_generalises() -> None:
    signs = signs_of(12, 2).to(torch.int8)
    search = Search(signs, 2, folds=3, seed=0)
    shape = (12, 3, len(GRID), 2, 2)
    held_out, trained = search.held_out.view(shape), search.labels.view(shape)
    expected = signs[:, None, None, :, None].expand(12, 3, len(GRID), 2, 2)
    assert torch.equal(held_out + trained, expected) and (held_out * trained == 0).all()
    assert ((held_out != 0).sum(1) == 1).all()
    assert search.strength.view(shape[1:])[0, :, 0, 0].tolist() == pytest.approx(GRID)
    bags, labels = toy(24, 5, 16)
    model = MIMax(C="cv", restarts=2, iterations=20).fit(bags, labels)
    assert any(model.C_[0] == pytest.approx(value) for value in GRID)
    *steps, _ = MIMax(C="cv", restarts=2, iterations=5).stream_fit(bags, labels)
    assert [step.searching for step in steps] == [True] * 5 + [False] * 5 and steps[-1].done == steps[-1].total == 10
    with pytest.raises(BagsError, match="too few for 3 folds"):
        MIMax(C="cv").fit(bags[:5], [0, 0, 0, 1, 1])


def test_steps_can_be_followed_and_left() -> None:
    bags, labels = toy(20, 5, 8)
    model = MIMax(iterations=10)
    steps = model.stream_fit(bags, labels)
    assert next(steps).done == 1
    steps.close()
    assert not hasattr(model, "coef_")
    *steps, fitted = model.stream_fit(bags, labels)
    losses = [step.loss for step in steps]
    assert fitted is model
    assert len(losses) == 10 and model.losses_ == tuple(losses) and losses[-1] < losses[0]


def test_works_in_scikit_learns_searches() -> None:
    bags, labels = toy()
    for held in (list(bags), Bags.of(bags), bags):
        assert cross_val_score(MIMax(restarts=3, iterations=60), held, labels, cv=3).mean() > 0.9
    found = GridSearchCV(MIMax(iterations=30), {"C": np.array([0.5, 2.0])}, cv=2).fit(Bags.of(bags), labels)
    assert found.best_params_["C"] in (0.5, 2.0)
    assert clone(MIMax(C=2.0)).get_params()["C"] == 2.0


@pytest.mark.filterwarnings("ignore:Skipping check")
def test_scikit_learns_checks() -> None:
    """All of its checks, none expected to fail; they give 2-D arrays, bags of one instance."""
    check_estimator(MIMax(restarts=2, iterations=60), expected_failed_checks={})


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({}, [1] * 6, "two are needed"),
        ({}, [0, 1, 2, 0, 1, 2], "Only binary"),
        ({}, [0, 1], "2 labels for 6 bags"),
        ({}, [[0, 1], [1, 0], [0, 0], [1, 0], [1, 0], [0, 0]], None),
        ({}, [[0, 0], [1, 0], [0, 0], [1, 0], [1, 0], [0, 0]], "class 1 has no positive bag"),
        ({}, [[0, 1], [1, 1], [0, 1], [1, 1], [1, 1], [0, 1]], "class 1 has no negative bag"),
        ({}, [0, 1, np.nan, 0, 1, 0], "NaN"),
        ({"kind": "cubic"}, [0, 1] * 3, "kind"),
        ({"C": -1.0}, [0, 1] * 3, "C=-1.0"),
        ({"C": "best"}, [0, 1] * 3, "C must be .*float.*'cv'.*, not 'best'"),
        ({"iterations": 0}, [0, 1] * 3, "iterations=0"),
        ({"restarts": -1}, [0, 1] * 3, "restarts=-1"),
        ({"epsilon": -0.1}, [0, 1] * 3, "epsilon=-0.1"),
        ({"learning_rate": 0.0}, [0, 1] * 3, "learning_rate=0.0"),
        ({"batch_size": 4, "scan_every": 2}, [0, 1] * 3, "scan_every is for full batches"),
        ({"seed": -1}, [0, 1] * 3, "seed=-1"),
        ({"memory": 0}, [0, 1] * 3, "memory=0"),
        ({"learning_rate": 1e30}, [0, 1] * 3, "diverged"),
    ],
)
def test_bad_labels_and_settings_are_named(options: dict[str, object], labels: list[object], message: str) -> None:
    bags = toy(6, 3, 4)[0]
    if message is None:
        assert MIMax(iterations=2, **options).fit(bags, labels).predict(bags).shape == (6, 2)
        return
    with pytest.raises(ArtModelsError, match=message) as caught:
        MIMax(**{"iterations": 50, **options}).fit(bags, labels)
    assert isinstance(caught.value, ValueError)


def test_one_bag_and_copies_of_bags() -> None:
    bags, labels = toy(6, 3, 4)
    with pytest.raises(DatasetError, match="two are needed"):
        MIMax().fit(bags[:1], labels[:1])
    twice = MIMax(iterations=30).fit(np.concatenate([bags, bags]), np.concatenate([labels, labels]))
    once = MIMax(iterations=30).fit(bags, labels)
    np.testing.assert_allclose(twice.coef_, once.coef_, atol=1e-4)  # weights are 1/n: copies of all change nothing
    same = MIMax(iterations=30).fit(np.stack([bags[0]] * 4), [0, 1, 0, 1])  # nothing tells them apart
    assert same.data_term_[0] == pytest.approx(0, abs=1e-4)
    with pytest.raises(BagsError, match="X has 3 features, but MIMax is expecting 4"):
        once.predict(bags[..., :3])


# --- Storage and the exported head


@pytest.mark.parametrize("labels", [["no", "yes"] * 5, [False, True] * 5, [1.0, 2.0] * 5, np.eye(10, 3, dtype=int)])
@pytest.mark.parametrize("kind", ["linear", "polyhedral"])
def test_saved_and_loaded_is_the_same(tmp_path: Path, labels: list[object], kind: str) -> None:
    bags = Bags.of(toy(10, 3, 4)[0], np.random.default_rng(0).random((10, 3)))
    model = MIMax(kind, restarts=2, iterations=5, C=0.7).fit(bags, labels)
    model.save_pretrained(tmp_path / "saved")
    loaded = MIMax.from_pretrained(tmp_path / "saved", device="cpu")
    assert (loaded.decision_function(bags) == model.decision_function(bags)).all()
    assert (loaded.predict(bags) == model.predict(bags)).all() and loaded.classes_.dtype == model.classes_.dtype
    assert loaded.get_params() | {"device": None} == model.get_params()
    assert loaded.config == model.config
    with pytest.raises(BagsError, match="fitted with objectness"):
        loaded.predict(bags.instances.numpy())
    with pytest.raises(ConfigError, match="float32"):
        MIMax.from_pretrained(tmp_path / "saved", dtype=torch.float16)


def test_settings_are_the_same_everywhere() -> None:
    parameters = inspect.signature(MIMax).parameters
    config = {name: parameter.default for name, parameter in parameters.items() if name not in ("device", "memory")}
    assert {name: getattr(MIMax.config_class(), name) for name in config} == config


def test_exported_head_scores_like_the_estimator(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    bags, first = toy(12, 5, 8)
    scores = np.random.default_rng(0).random((12, 5)).astype(np.float32)
    mask = np.random.default_rng(1).random((12, 5)) < 0.7
    mask[:, 0] = True
    held = Bags.of(bags, scores, mask)
    labels = np.stack([first, 1 - first], 1)
    model = MIMax("polyhedral", restarts=2, iterations=10).fit(held, labels)
    example = tuple(torch.from_numpy(part) for part in (bags[:2], scores[:2], mask[:2]))
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        model.head(),
        example,
        dynamo=True,
        verbose=False,
        input_names=["features", "objectness", "mask"],
        output_names=["scores", "image_scores"],
        dynamic_shapes=(axes, axes, axes),
    )
    program.save(tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx", providers=["CPUExecutionProvider"])
    regions, images = session.run(None, {"features": bags, "objectness": scores, "mask": mask})
    np.testing.assert_allclose(images, model.decision_function(held), atol=1e-5)
    np.testing.assert_allclose(regions[mask], model.instance_scores(held), atol=1e-5)
    assert (regions[~mask] == -1).all()
    wide = {"features": np.tile(bags, (1, 2, 1)), "objectness": np.tile(scores, 2), "mask": np.tile(mask, 2)}
    np.testing.assert_allclose(session.run(None, wide)[1], images, atol=1e-6)
    plain = MIMax(loss="hinge", objectness=False, restarts=2, iterations=10).fit(held, labels)
    regions, images = (part.numpy() for part in plain.head()(*(torch.from_numpy(x) for x in (bags, scores, mask))))
    np.testing.assert_allclose(images, plain.decision_function(held), atol=1e-5)
    assert (regions[~mask] == -np.inf).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_comes_to_the_same() -> None:
    bags, labels = toy()
    here, there = (MIMax(device=device, scan_every=1).fit(bags, labels) for device in ("cpu", "cuda"))
    assert there.data_term_[0] == pytest.approx(here.data_term_[0], abs=0.02)
    np.testing.assert_allclose(there.decision_function(bags), here.decision_function(bags), atol=0.1)
