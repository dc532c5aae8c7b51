"""MAX, MAXA, MI-SVM, mi-SVM and MI-Net against references of their own."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from artmodels.data.bags import Bags
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.mimax import MIMax
from artmodels.methods.mimax.baselines import primal
from artmodels.methods.mimax.baselines.baselines import MAX, MAXA, MISVM, miSVM
from artmodels.methods.mimax.baselines.minet import MINet
from artmodels.methods.mimax.baselines.primal import Rows, Transform, solve
from artmodels.methods.mimax.labels import folds_of, read_labels

IDENTITY = {"standardize": False, "variance": None}


def toy(count=40, width=12, seed=0, shift=2.5):
    """Bags of 2 to 6 instances; every second bag has one that is shifted along the first feature."""
    draw = np.random.default_rng(seed)
    bags = [draw.normal(size=(draw.integers(2, 7), width)) for _ in range(count)]
    y = np.arange(count) % 2
    for bag, label in zip(bags, y, strict=True):
        bag[-1, 0] += shift * label
    return [bag.astype(np.float32) for bag in bags], y


def reference(x, y, cost):
    """LinearSVC's weights with the intercept at the end."""
    model = LinearSVC(C=cost, class_weight="balanced", dual=False, tol=1e-10, max_iter=100_000)
    model.fit(np.asarray(x, dtype=np.float64), y)
    return np.append(model.coef_[0], model.intercept_)


def rows_of(x):
    x = torch.as_tensor(np.asarray(x, dtype=np.float32))
    return Rows(x, Transform.of(x, **IDENTITY))


# --- the solver


@pytest.mark.parametrize("direct", [primal.DIRECT, 0])
def test_the_solver_finds_the_weights_of_scikit_learn_for_all_problems_at_once(direct) -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(90, 7)).astype(np.float32)
    labels = [np.where(x @ draw.normal(size=7) + draw.normal(size=90) > level, 1, -1) for level in (0, 1, 0)]
    costs = [0.01, 1.0, 10.0]
    found = solve(rows_of(x), torch.tensor(np.array(labels)), torch.tensor(costs), direct=direct)
    for weights, y, cost in zip(found.weights, labels, costs, strict=True):
        np.testing.assert_allclose(weights, reference(x, y, cost), atol=1e-4)


@pytest.mark.parametrize("direct", [primal.DIRECT, 0])
def test_what_a_problem_leaves_out_and_what_only_it_has(direct) -> None:
    draw = np.random.default_rng(2)
    x, extra = draw.normal(size=(50, 4)).astype(np.float32), draw.normal(size=(2, 8, 4)).astype(np.float32)
    y = np.where(draw.random(50) < 0.5, 1, -1)
    y[20:30] = 0
    own = torch.cat([torch.from_numpy(extra).double(), torch.ones(2, 8, 1)], 2)
    signs = torch.tensor(np.append(y, np.ones(8, dtype=int))).repeat(3, 1)
    whose = torch.tensor([1, 0, 1])
    found = solve(rows_of(x), signs, torch.tensor([0.5, 0.5, 2.0]), own=own, whose=whose, direct=direct)
    for weights, number, cost in zip(found.weights, whose, (0.5, 0.5, 2.0), strict=True):
        examples = np.concatenate([x[y != 0], extra[number]])
        wanted = reference(examples, np.append(y[y != 0], np.ones(8)), cost)
        np.testing.assert_allclose(weights, wanted, atol=1e-4)


def test_a_warm_start_changes_nothing_but_the_time() -> None:
    draw = np.random.default_rng(3)
    x = draw.normal(size=(200, 10)).astype(np.float32)
    first = torch.tensor(np.where(draw.random((4, 200)) < 0.4, 1, -1))
    second = torch.where(torch.tensor(draw.random((4, 200)) < 0.1), -first, first)
    second[:, :5] = 0
    rows, cost = rows_of(x), torch.tensor([0.01, 0.1, 1.0, 10.0])
    begun = solve(rows, first, cost)
    kept = [tensor.clone() for tensor in begun]
    warm, cold = solve(rows, second, cost, start=begun), solve(rows, second, cost)
    torch.testing.assert_close(warm.weights, cold.weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(warm.grams, cold.grams, atol=1e-9, rtol=0)
    for tensor, before in zip(begun, kept, strict=True):
        assert torch.equal(tensor, before)  # the start is not written to


def test_large_data_are_read_in_blocks_and_give_the_same(monkeypatch) -> None:
    bags, y = toy()
    whole = MISVM(C=0.1, standardize=True, restarts=2).fit(bags, y)
    projected = MISVM(C=0.1, standardize=True, variance=0.8).fit(bags, y)
    for name, value in (("HELD", 0), ("BLOCK", 64), ("TOGETHER", 1)):
        monkeypatch.setattr(primal, name, value)
    small = MISVM(C=0.1, standardize=True, restarts=2).fit(bags, y)
    np.testing.assert_allclose(small.coef_, whole.coef_, atol=1e-3)
    np.testing.assert_allclose(
        MISVM(C=0.1, standardize=True, variance=0.8).fit(bags, y).coef_, projected.coef_, atol=1e-3
    )
    monkeypatch.setattr(primal, "DIRECT", 0)
    np.testing.assert_allclose(MISVM(C=0.1, standardize=True, restarts=2).fit(bags, y).coef_, whole.coef_, atol=1e-3)


def test_standardised_and_projected_as_scikit_learn_does_it() -> None:
    draw = np.random.default_rng(4)
    x = (draw.normal(size=(60, 6)) * [5, 3, 1, 1, 0.1, 0] + 7).astype(np.float32)
    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    transform = Transform.of(torch.from_numpy(x), standardize=True, variance=0.7)
    axes = PCA(0.7).fit(scaled)
    z = transform(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(np.abs(z), np.abs(axes.transform(scaled)), atol=1e-6)
    weights = torch.from_numpy(draw.normal(size=(2, z.shape[1] + 1)))
    coefficients, intercepts = transform.fold(weights)
    np.testing.assert_allclose(
        x @ coefficients.numpy().T + intercepts.numpy(),
        z @ weights[:, :-1].numpy().T + weights[:, -1].numpy(),
        atol=1e-5,
    )


# --- MAX and MAXA


def scored():
    bags, y = toy(30)
    draw = np.random.default_rng(5)
    objectness = [draw.random(len(bag)).astype(np.float32) for bag in bags]
    return bags, y, objectness


def test_max_trains_on_the_instance_of_highest_objectness_and_maxa_on_all_negatives() -> None:
    bags, y, objectness = scored()
    held = Bags.of(bags, objectness)
    top = np.array([bag[np.argmax(score)] for bag, score in zip(bags, objectness, strict=True)])
    model = MAX(C=0.3).fit(held, y)
    np.testing.assert_allclose(np.append(model.coef_[0], model.intercept_), reference(top, y, 0.3), atol=1e-4)
    negatives = np.concatenate([bag for bag, label in zip(bags, y, strict=True) if not label])
    x = np.concatenate([top[y == 1], negatives])
    labels = np.append(np.ones(y.sum()), np.zeros(len(negatives)))
    model = MAXA(C=0.3).fit(held, y)
    np.testing.assert_allclose(np.append(model.coef_[0], model.intercept_), reference(x, labels, 0.3), atol=1e-4)
    assert np.allclose(model.decision_function(held), [max(bag @ model.coef_[0]) + model.intercept_[0] for bag in bags])


@pytest.mark.parametrize("kind", [MAX, MAXA])
def test_without_objectness_max_says_where_it_goes(kind) -> None:
    bags, y = toy(10)
    with pytest.raises(ConfigError, match=r"objectness.*Bags\.of"):
        kind().fit(bags, y)


def test_c_is_searched_per_class_in_the_grid_on_held_out_bags() -> None:
    bags, y, objectness = scored()
    labels = np.stack([y, np.roll(y, 1) * (np.arange(30) > 5)], 1)
    both = MAX().fit(Bags.of(bags, objectness), labels)
    assert set(both.C_) <= set(np.logspace(-5, 3, 9))
    for number in range(2):
        alone = MAX().fit(Bags.of(bags, objectness), labels[:, number])
        assert alone.C_[0] == both.C_[number]
        np.testing.assert_allclose(alone.coef_[0], both.coef_[number], atol=1e-6)
    with pytest.raises(DatasetError, match="too few for 20 folds"):
        MAX(folds=20).fit(Bags.of(bags, objectness), y)


def test_folds_hold_out_each_bag_once_and_both_labels_evenly() -> None:
    labels = torch.tensor([[1] * 7 + [-1] * 14, [-1] * 12 + [1] * 9])
    fold = folds_of(labels, 3, seed=1)
    for row, which in zip(labels, fold, strict=True):
        for label in (1, -1):
            counts = torch.bincount(which[row == label], minlength=3)
            assert counts.max() - counts.min() <= 1


# --- MI-SVM and mi-SVM


def test_two_rounds_of_mi_svm_by_hand() -> None:
    bags = [
        np.array(bag, dtype=np.float32) for bag in ([[4.0, 0], [0, 1]], [[3.0, 1], [0, -1]], [[0.0, 0]], [[-1.0, 0]])
    ]
    y = [1, 1, 0, 0]
    negatives = [[0, 0], [-1, 0]]
    means = [[2, 0.5], [1.5, 0]]  # of the positive bags
    first = MISVM(C=1.0, max_iter=1).fit(bags, y)
    wanted = reference([*means, *negatives], [1, 1, 0, 0], 1.0)
    np.testing.assert_allclose(np.append(first.coef_[0], first.intercept_), wanted, atol=1e-4)
    # It points to the right: the first instance of each bag now stands for it, and stays.
    assert wanted[0] > abs(wanted[1])
    second = MISVM(C=1.0).fit(bags, y)
    wanted = reference([[4, 0], [3, 1], *negatives], [1, 1, 0, 0], 1.0)
    np.testing.assert_allclose(np.append(second.coef_[0], second.intercept_), wanted, atol=1e-4)
    assert second.n_iter_ == 2


def loop(bags, y, cost, most=50):
    """mi-SVM as in the paper, one SVM after the other."""
    owner = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
    x = np.concatenate(bags)
    labels = np.asarray(y)[owner]
    done = 0
    while done < most:
        done += 1
        weights = reference(x, labels, cost)
        scores = x @ weights[:-1] + weights[-1]
        following = np.where(scores > 0, 1, 0) * np.asarray(y)[owner]
        for number in np.flatnonzero(y):
            mine = np.flatnonzero(owner == number)
            following[mine[np.argmax(scores[mine])]] = 1
        if (following == labels).all():
            break
        labels = following
    return weights, done


@pytest.mark.parametrize("seed", range(3))
def test_mi_svm_with_labels_of_instances_equals_a_plain_loop(seed) -> None:
    bags, y = toy(30, 6, seed)
    model = miSVM(C=0.05).fit(bags, y)
    wanted, iterations = loop(bags, y, 0.05)
    np.testing.assert_allclose(np.append(model.coef_[0], model.intercept_), wanted, atol=1e-4)
    assert model.n_iter_ == iterations > 1


def test_a_positive_bag_keeps_a_positive_instance() -> None:
    bags = Bags.of([np.zeros((3, 1)), np.zeros((2, 1)), np.zeros((2, 1))])
    scores = torch.tensor([[-3.0, -1.0, -2.0, 1.0, -1.0, 5.0, 6.0]])
    signs = miSVM()._again(bags, torch.tensor([[1, 1, -1]], dtype=torch.int8), scores)
    assert signs.tolist() == [[-1, 1, -1, 1, -1, -1, -1]]
    left_out = miSVM()._again(bags, torch.tensor([[1, 0, -1]], dtype=torch.int8), scores)
    assert left_out.tolist() == [[-1, 1, -1, 0, 0, -1, -1]]


@pytest.mark.parametrize("kind", [MISVM, miSVM])
def test_restarts_are_never_worse_and_sometimes_better(kind) -> None:
    better = 0
    for seed in range(4):
        bags, y = toy(24, 8, seed, shift=1.5)
        one, many = (kind(C=1.0, restarts=restarts, seed=seed).fit(bags, y) for restarts in (0, 6))
        assert many.loss_[0] <= one.loss_[0]
        better += many.loss_[0] < one.loss_[0] - 1e-6
    assert better


@pytest.mark.parametrize("kind", [MISVM, miSVM])
def test_several_classes_at_once_equal_one_after_the_other(kind) -> None:
    bags, y = toy(36)
    draw = np.random.default_rng(6)
    labels = np.stack([y, draw.integers(0, 2, 36), draw.integers(0, 2, 36)], 1)
    settings = {"C": 0.1, "restarts": 2, "standardize": True}
    together = kind(**settings).fit(bags, labels)
    assert together.decision_function(bags).shape == (36, 3)
    assert together.instance_scores(bags).shape == (sum(map(len, bags)), 3)
    assert set(np.unique(together.predict(bags))) == {0, 1}
    for number in range(3):
        alone = kind(**settings).fit(bags, labels[:, number])
        np.testing.assert_allclose(together.coef_[number], alone.coef_[0], atol=1e-5)
        assert together.loss_[number] == pytest.approx(alone.loss_[0], rel=1e-6)


@pytest.mark.parametrize("kind", [MISVM, miSVM])
def test_the_order_of_bags_and_instances_and_their_form_do_not_matter(kind) -> None:
    bags, y = toy(20)
    model = kind().fit(bags, y)
    order = np.random.default_rng(7).permutation(20)
    shuffled = kind().fit([bags[number][::-1].copy() for number in order], y[order])
    np.testing.assert_allclose(shuffled.coef_, model.coef_, atol=1e-5)
    dense, mask = np.zeros((20, 6, 12), dtype=np.float32), np.zeros((20, 6), dtype=bool)
    for number, bag in enumerate(bags):
        dense[number, : len(bag)], mask[number, : len(bag)] = bag, True
    assert np.array_equal(kind().fit(Bags.of(dense, mask=mask), y).coef_, model.coef_)


@pytest.mark.parametrize("kind", [MISVM, miSVM])
def test_the_toy_is_learnt_in_cross_validation(kind) -> None:
    bags, y = toy(80, shift=5.0)
    assert cross_val_score(kind(standardize=True), Bags.of(bags), y, cv=4, scoring="roc_auc").mean() > 0.95
    words = np.where(y, "saint", "none")
    model = kind().fit(bags, words)
    assert model.classes_.tolist() == ["none", "saint"] and model.score(bags, words) > 0.8
    assert clone(model).get_params() == model.get_params()


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("kind", [MAX, MAXA, MISVM, miSVM])
def test_what_was_fitted_is_saved_as_mi_max(kind, columns: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bags = Bags.of(rng.normal(size=(20, 4, 5)), rng.random((20, 4)))
    y = np.array(["no", "yes"] * 10) if columns == 1 else np.stack([np.arange(20) % 2, np.arange(20) % 3 == 0], 1)
    model = kind(C=0.1).fit(bags, y)
    model.as_mimax().save_pretrained(tmp_path / "saved")
    again = MIMax.from_pretrained(tmp_path / "saved", device="cpu")
    np.testing.assert_allclose(again.decision_function(bags), model.decision_function(bags), atol=1e-5)
    assert np.array_equal(again.predict(bags), model.predict(bags))
    scores, _ = again.head()(bags.instances.view(20, 4, 5), bags.objectness.view(20, 4), torch.ones(20, 4, dtype=bool))
    np.testing.assert_allclose(scores.flatten(0, 1).squeeze(1), model.instance_scores(bags), atol=1e-5)
    with pytest.raises(NotFittedError):
        kind().as_mimax()


def test_the_scale_is_one_over_the_mean_squared_length() -> None:
    bags, y = toy(20)
    model = MISVM().fit(bags, y)
    assert model.C_[0] == pytest.approx(1 / np.square(np.concatenate(bags)).sum(1).mean(), rel=1e-5)
    assert miSVM(standardize=True).fit(bags, y).C_[0] == pytest.approx(1 / 12)


def test_a_fit_that_does_not_settle_is_logged(caplog) -> None:
    bags, y = toy(30, 6)
    with caplog.at_level(logging.WARNING):
        model = miSVM(C=0.05, max_iter=1).fit(bags, y)
        assert model.n_iter_ == 1
        assert "miSVM did not settle for 1 of 1 classes within max_iter=1" in caplog.text
        caplog.clear()
        miSVM(C=0.05).fit(bags, y)
        assert not caplog.text


# --- MI-Net


@pytest.mark.parametrize("variant", ["plain", "ds", "rc", "instance"])
def test_mi_net_learns_the_toy_and_repeats_its_bytes(variant) -> None:
    bags, y = toy(60, 8, shift=5.0)
    settings = {"learning_rate": 1e-2, "epochs": 8}
    model = MINet(variant, **settings).fit(bags[:40], y[:40])
    assert roc_auc_score(y[40:], model.decision_function(bags[40:])) > 0.9
    torch.manual_seed(99)  # whose state is not used
    again = MINet(variant, **settings).fit(bags[:40], y[:40])
    other = MINet(variant, **settings | {"epochs": 1}, seed=1).fit(bags[:40], y[:40])
    scores = model.decision_function(bags)
    assert np.array_equal(again.decision_function(bags), scores)
    assert not np.array_equal(other.decision_function(bags), scores)


def by_hand(model, bag, variant):
    state = {name: value.numpy() for name, value in model.network_.state_dict().items()}
    x, pooled = bag, []
    for number in range(3):
        x = np.maximum(x @ state[f"layers.{number}.weight"].T + state[f"layers.{number}.bias"], 0)
        pooled.append(x.max(0))

    def head(number, values):
        return values @ state[f"heads.{number}.weight"].T + state[f"heads.{number}.bias"]

    if variant == "instance":
        return head(0, x).max(0)
    if variant == "ds":
        mean = np.mean([1 / (1 + np.exp(-head(number, values))) for number, values in enumerate(pooled)], 0)
        return np.log(mean / (1 - mean))
    return head(0, sum(pooled) if variant == "rc" else pooled[-1])


@pytest.mark.parametrize("variant", ["plain", "ds", "rc", "instance"])
def test_mi_net_decides_without_dropout_as_written_down(variant) -> None:
    bags, y = toy(12, 5)
    labels = np.stack([y, 1 - y], 1)
    model = MINet(variant, epochs=2).fit(bags, labels)
    wanted = np.array([by_hand(model, bag, variant) for bag in bags])
    np.testing.assert_allclose(model.decision_function(bags), wanted, atol=1e-5)
    single = np.array([by_hand(model, instance[None], variant) for bag in bags for instance in bag])
    np.testing.assert_allclose(model.instance_scores(bags), single, atol=1e-5)


def test_certain_bags_keep_finite_scores_in_order() -> None:
    bags, y = toy(12, 5)
    model = MINet("ds", epochs=1).fit(bags, y)
    for head in model.network_.heads:
        head.weight.mul_(0)
        head.bias.fill_(100.0)  # a probability of 1 to the last digit
    np.testing.assert_allclose(model.decision_function(bags), 100.0, atol=1e-9)
    for head in model.network_.heads:
        head.bias.fill_(-800.0)  # and one that is 0
    np.testing.assert_allclose(model.decision_function(bags), -800.0, atol=1e-9)


def test_one_step_of_mi_net_is_the_gradient_of_the_sum_with_its_penalty() -> None:
    bags, y = toy(6, 5)
    settings = {"epochs": 1, "momentum": 0.0, "dropout": 0.0, "batch_size": 6, "learning_rate": 1e-2}
    first = MINet(**settings | {"learning_rate": 1e-12}).fit(bags, y).network_.requires_grad_(True)
    held = Bags.of(bags)
    logits = first(held)[0][:, 0]
    loss = torch.nn.functional.softplus(torch.where(torch.tensor(y) > 0, -logits, logits)).sum()
    penalty = sum(p.square().sum() for p in first.parameters() if p.dim() > 1)
    gradients = torch.autograd.grad(loss + 6 * 0.005 * penalty, list(first.parameters()))
    moved = MINet(**settings).fit(bags, y).network_
    for before, after, gradient in zip(first.parameters(), moved.parameters(), gradients, strict=True):
        torch.testing.assert_close(after, before - 1e-2 * gradient, atol=1e-6, rtol=0)


# --- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"C": 0}, "C=0.0 must be above 0"),
        ({"C": "best"}, "C must be .*float.*'cv', 'scale'.*, not 'best'"),
        ({"variance": 1.5}, "variance=1.5"),
        ({"folds": 1}, "folds=1"),
        ({"restarts": -1}, "restarts=-1 must be at least 0"),
        ({"max_iter": 0}, "max_iter=0 must be at least 1"),
    ],
)
def test_settings_of_the_machines_out_of_range(settings, message) -> None:
    bags, y = toy(6)
    with pytest.raises(ConfigError, match=message):
        MISVM(**settings).fit(bags, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "deep"}, "variant must be .*'plain', 'ds', 'rc', 'instance'.*, not 'deep'"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 1.5}, "batch_size must be int, not 1.5"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"learning_rate": 1e6}, "diverged: standardise the features"),
    ],
)
def test_settings_of_mi_net_out_of_range(settings, message) -> None:
    bags, y = toy(6)
    with pytest.raises(ConfigError, match=message):
        MINet(**settings).fit(bags, y)


@pytest.mark.parametrize("kind", [MISVM, miSVM, MINet])
def test_labels_and_bags_that_nothing_can_be_learnt_from(kind) -> None:
    bags, y = toy(6)
    with pytest.raises(DatasetError, match="5 labels for 6 bags"):
        kind().fit(bags, y[:5])
    with pytest.raises(DatasetError, match=r"1 class\(es\)"):
        kind().fit(bags, np.ones(6))
    with pytest.raises(DatasetError, match=r"3 class\(es\).*\[B, C\] of 0 and 1"):
        kind().fit(bags, [0, 1, 2, 0, 1, 2])
    with pytest.raises(DatasetError, match="class 1 has no positive bag"):
        kind().fit(bags, np.stack([y, 0 * y], 1))
    with pytest.raises(DatasetError, match="other than 0 and 1"):
        kind().fit(bags, np.stack([y, 2 * y], 1))
    model = kind().fit(bags, y)
    with pytest.raises(DatasetError, match="3 features.*12 features"):
        model.predict([bag[:, :3] for bag in bags])


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.SkipTestWarning", "ignore::sklearn.exceptions.EstimatorCheckFailedWarning"
)
@pytest.mark.parametrize("model", [MISVM(C=1.0), miSVM(), MINet(epochs=1)], ids=lambda model: type(model).__name__)
def test_scikit_learn_finds_nothing_wrong(model) -> None:
    rounding = {"check_methods_subset_invariance": "float32 sums depend on how many bags are scored together"}
    check_estimator(model, expected_failed_checks=rounding if isinstance(model, MINet) else {})


def test_labels_are_read_as_signs() -> None:
    signs, classes = read_labels(np.array(["b", "a", "b"]), 3)
    assert signs.tolist() == [[1, -1, 1]] and classes.tolist() == ["a", "b"]
    signs, classes = read_labels(torch.tensor([[True, False], [False, True]]), 2)
    assert signs.tolist() == [[1, -1], [-1, 1]] and classes is None
