"""The multiple-instance estimators on Musk1, Elephant and Fox, and what one fit costs as bags grow.

Stratified 10-fold, three shuffles, features standardised on the training fold. No setting was tuned: C of the SVMs is 1
(LinearSVC's, and the published comparison's) or "scale" (SVM-light's rule, added after C = 1 was seen to do badly here,
and not adjusted); both are shown. MINet and MIMax have their defaults; MINet's eight bags a step were compared with one
on Elephant's first shuffle. MAX and MAXA are missing: these bags have no objectness.

    python benchmarks/mil.py            # everything
    python benchmarks/mil.py --quick    # one shuffle, no networks, small sizes

Data: `musk1.data` (UCI), `elephant.mat` and `fox.mat` (Andrews 2002), in one folder.
"""

import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.io
import torch
import typer
from common import ROOT, table_of
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from artmodels.data.bags import Bags
from artmodels.methods.mimax.baselines.baselines import MISVM, miSVM
from artmodels.methods.mimax.baselines.minet import MINet
from artmodels.methods.mimax.pipeline import MIMax

SETS = ["musk1", "elephant", "fox"]
FOLDS = 10
NOISE = 0.1  # standard deviations, of replicated instances
PEER = "misvm"
HOW = """The misvm package is not importable: its rows are missing. It is not on the package index. To compare:
  git clone https://github.com/garydoranjr/misvm && pip install cvxopt
  in misvm/svm.py, _compute_separator: `float(A) / n` -> `(A).item() / n` (else a null model with numpy >= 2.4)
  PYTHONPATH=misvm python benchmarks/mil.py"""
# Bag accuracy in %, from memory, to be verified: specifications of the project, section A.7.
LITERATURE = {
    "mi-SVM (Andrews 2002)": {"musk1": 87.4, "elephant": 82.2, "fox": 58.2},
    "MI-SVM (Andrews 2002)": {"musk1": 77.9, "elephant": 81.4, "fox": 57.8},
    "MI-Net (Wang 2018)": {"musk1": 88.7, "elephant": 86.2, "fox": 62.2},
    "gated attention (Ilse 2018)": {"musk1": 90.0, "elephant": 85.7, "fox": 60.3},
}


class Peer:
    """The misvm package behind fit and decision_function, with C as it is given."""

    def __init__(self, name: str, *, scale_C: bool) -> None:  # noqa: N803 - the package's own name
        """Take the name of its class, and whether C = 1 is divided by the number of examples, as is its default."""
        self.name, self.scaled = name, scale_C

    def fit(self, bags: Bags, y: np.ndarray) -> "Peer":
        """Train on bags and labels 0 and 1."""
        self.model = getattr(importlib.import_module(PEER), self.name)(
            kernel="linear", C=1.0, scale_C=self.scaled, verbose=False
        )
        self.model.fit([bag.double().numpy() for bag in bags], 2.0 * y - 1)
        return self

    def decision_function(self, bags: Bags) -> np.ndarray:
        """Score bags."""
        scores = np.asarray(self.model.predict([bag.double().numpy() for bag in bags])).ravel()
        if np.ptp(scores) == 0:
            raise SystemExit(f"{PEER}.{self.name} predicts one value for all bags: it is a null model.\n{HOW}")
        return scores


def linear_models() -> dict[str, Callable[[int], Any]]:
    """The support-vector machines, by name."""
    return {
        "MI-SVM, C=1": lambda seed: MISVM(C=1.0, seed=seed),
        "MI-SVM, C=scale": lambda seed: MISVM(C="scale", seed=seed),
        "mi-SVM, C=1": lambda seed: miSVM(C=1.0, seed=seed),
        "mi-SVM, C=scale": lambda seed: miSVM(C="scale", seed=seed),
    }


def peers() -> dict[str, Callable[[int], Any]]:
    """Those of the misvm package, by name."""
    return {
        "MI-SVM, misvm, C=1": lambda _: Peer("MISVM", scale_C=False),
        "MI-SVM, misvm, default": lambda _: Peer("MISVM", scale_C=True),
        "mi-SVM, misvm, C=1": lambda _: Peer("miSVM", scale_C=False),
        "mi-SVM, misvm, default": lambda _: Peer("miSVM", scale_C=True),
    }


def network(variant: Any, seed: int) -> MINet:  # noqa: ANN401 - one of MINet's literals
    """A MINet."""
    return MINet(variant, seed=seed)


def estimators(quick: bool, peer: bool, slow: bool) -> dict[str, Callable[[int], Any]]:
    """All estimators, by name."""
    chosen = linear_models()
    if slow:
        chosen["MI-SVM, C=cv"] = lambda seed: MISVM(C="cv", seed=seed)
        chosen["mi-SVM, C=cv"] = lambda seed: miSVM(C="cv", seed=seed)
        chosen["MI-Net, 1 bag a step"] = lambda seed: MINet(batch_size=1, seed=seed)
    chosen["MI-max linear"] = lambda seed: MIMax("linear", seed=seed, device="cpu")
    chosen["MI-max polyhedral"] = lambda seed: MIMax("polyhedral", seed=seed, device="cpu")
    if not quick:
        for name, variant in (("MI-Net", "plain"), ("MI-Net DS", "ds"), ("MI-Net RC", "rc"), ("mi-Net", "instance")):
            chosen[name] = partial(network, variant)
    if peer:
        chosen |= peers()
    return chosen


def read(folder: Path, name: str) -> tuple[Bags, np.ndarray]:
    """Bags and labels 0 and 1."""
    if name == "musk1":
        rows = [line.rstrip(".\n").split(",") for line in (folder / "musk1.data").read_text().splitlines() if line]
        names = list(dict.fromkeys(row[0] for row in rows))
        members = {bag: [row for row in rows if row[0] == bag] for bag in names}
        bags = [np.array([row[2:-1] for row in members[bag]], dtype=np.float64) for bag in names]
        return Bags.of(bags), np.array([max(int(float(row[-1])) for row in members[bag]) for bag in names])
    table = scipy.io.loadmat(folder / f"{name}.mat")["data"]
    return Bags.of([row[0] for row in table]), np.array([int(row[1][0, 0]) for row in table])


def standardised(train: Bags, test: Bags) -> tuple[Bags, Bags]:
    """Both with the training instances at mean 0 and deviation 1; constant features at 0."""
    x = train.instances.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > 1e-7 * mean.abs().clamp_min(1e-9), 1 / deviation, 0)
    first, second = (
        Bags(((bags.instances.double() - mean) * scale).float(), bags.sizes, None) for bags in (train, test)
    )
    return first, second


def validated(make: Callable[[int], Any], bags: Bags, y: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Accuracy, AUC over the pooled folds, and CPU seconds of one fit."""
    scores, seconds = np.zeros(len(y)), 0.0
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(np.zeros(len(y)), y):
        seen, unseen = standardised(bags[train], bags[test])
        began = time.process_time()
        model = make(seed).fit(seen, y[train])
        seconds += time.process_time() - began
        scores[test] = model.decision_function(unseen)
    return float(np.mean((scores > 0) == y)), float(roc_auc_score(y, scores)), seconds / FOLDS


def quality(console: Console, folder: Path, names: list[str], seeds: int, quick: bool, peer: bool, slow: bool) -> None:
    """Print one table a data set."""
    for name in names:
        bags, y = read(folder, name)
        table = table_of(
            f"{name}: {len(bags)} bags, {len(bags.instances)} x {bags.features}, {seeds} x {FOLDS}-fold",
            ("estimator", "accuracy %", "AUC", "CPU s a fit"),
            left=("estimator",),
        )
        for title, make in estimators(quick, peer, slow).items():
            runs = [validated(make, bags, y, seed) for seed in range(seeds)]
            accuracy, auc, seconds = np.array(runs).T
            table.add_row(
                title,
                f"{100 * accuracy.mean():.1f} ± {100 * accuracy.std():.1f}"
                if len(runs) > 1
                else f"{100 * accuracy[0]:.1f}",
                f"{auc.mean():.3f} ± {auc.std():.3f}" if len(runs) > 1 else f"{auc[0]:.3f}",
                f"{seconds.mean():.2f}",
            )
        table.add_section()
        for title, values in LITERATURE.items():
            table.add_row(f"{title} \\[mem]", f"{values[name]:.1f}", "", "")
        console.print(table)


def replicated(bags: Bags, times: int) -> Bags:
    """Bags with `times` as many instances: copies with noise."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.arange(len(bags.instances)).repeat_interleave(times)
    x = bags.instances[rows]
    if times > 1:
        x = x + NOISE * torch.randn(x.shape, generator=draw)
    return Bags(x, bags.sizes * times)


def timed(make: Callable[[int], Any], bags: Bags, y: np.ndarray, answer: Any) -> None:  # noqa: ANN401 - a queue
    """Fit in a process of its own and put CPU seconds into a queue."""
    torch.set_num_threads(1)
    began = time.process_time()
    model = make(0).fit(bags, y)
    seconds = time.process_time() - began
    model.decision_function(bags)  # refuses a null model
    answer.put(seconds)


def within(limit: float, make: Callable[[int], Any], bags: Bags, y: np.ndarray) -> str:
    """CPU seconds of a fit, or that it took longer than `limit` seconds of the clock."""
    context = multiprocessing.get_context("fork")  # the functions that make estimators cannot be pickled
    answer = context.Queue()
    process = context.Process(target=timed, args=(make, bags, y, answer))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.terminate()
        process.join()
        return f"> {limit:.0f} (stopped)"
    return f"{answer.get(timeout=5):.2f}" if process.exitcode == 0 else "failed"


def speed(console: Console, folder: Path, sizes: tuple[int, ...], limit: float, peer: bool) -> None:
    """Print CPU seconds of one fit at Elephant's size and above."""
    bags, y = read(folder, "elephant")
    bags, _ = standardised(bags, bags)
    table = Table(title=f"CPU seconds of one fit, one thread; at most {limit:.0f} s of the clock each")
    table.add_column("estimator")
    for times in sizes:
        table.add_column(f"{times} x Elephant ({times * len(bags.instances)})", justify="right")
    for title, make in (linear_models() | (peers() if peer else {})).items():
        cells = list[str]()
        for times in sizes:
            # The package's time grows with every instance: beyond a size that took too long it is not tried.
            stopped = bool(cells) and cells[-1].startswith((">", "failed", "not"))
            cells.append("not tried" if stopped else within(limit, make, replicated(bags, times), y))
        table.add_row(title, *cells)
    console.print(table)


def main(
    data: Annotated[Path, typer.Option(help="Folder of musk1.data, elephant.mat and fox.mat.")] = ROOT.parent
    / "shared"
    / "data"
    / "mil",
    sets: Annotated[list[str], typer.Option(help="Which of musk1, elephant and fox; repeat for several.")] = SETS,
    quick: Annotated[bool, typer.Option(help="One shuffle, no networks, no 20 x.")] = False,
    slow: Annotated[
        bool, typer.Option(help="Also C by cross-validation inside the fold, and MI-Net bag by bag.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Shuffles.")] = 3,
    limit: Annotated[float, typer.Option(help="Seconds of the clock that one timed fit may take.")] = 120.0,
    only_speed: Annotated[bool, typer.Option(help="Only the second table.")] = False,
    only_quality: Annotated[bool, typer.Option(help="Only the first tables.")] = False,
) -> None:
    """Print quality and speed."""
    console = Console(width=120)
    missing = [name for name in ("musk1.data", "elephant.mat", "fox.mat") if not (data / name).is_file()]
    if missing:
        console.print(f"Skipped: {data} lacks {', '.join(missing)} (--data).")
        return
    torch.set_num_threads(1)
    peer = importlib.util.find_spec(PEER) is not None
    if not peer:
        console.print(HOW, markup=False)
    if not only_quality:
        speed(console, data, (1, 5) if quick else (1, 5, 20), limit, peer)
    if not only_speed:
        quality(console, data, sets, 1 if quick else seeds, quick, peer and not quick, slow)


if __name__ == "__main__":
    typer.run(main)
