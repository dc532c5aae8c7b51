"""`FeatureVisualizer`: a picture that excites a part of a network as much as can be, from nothing but noise."""

import dataclasses
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from artmodels import features, hub, runtime
from artmodels.descent.algebra import Loss
from artmodels.descent.method import checked_size, run_to_the_end
from artmodels.descent.optimise import Deadline, DescentConfig, Step, minimise
from artmodels.errors import ConfigError
from artmodels.hub import catalogue
from artmodels.images.results import ImageResult
from artmodels.methods.interpret.taps import TappedNetwork, check_taps
from artmodels.methods.interpret.visualisation.objectives import as_objective, weighted_objectives
from artmodels.methods.interpret.visualisation.parametrisation import Fourier, Parametrisation, Phase
from artmodels.methods.interpret.visualisation.redirection import RedirectedReLU
from artmodels.methods.interpret.visualisation.transforms import (
    chosen,
    jittered,
    padded_grey,
    random_crops,
    rotated,
    scaled_by,
    with_noise,
)
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Positive, Settings, Share, Weight

__all__ = ["FeatureVisualizer", "VisualizerConfig"]

SIZE = (224, 224)  # of the paper
RATES = {"fourier": 0.05, "phase": 1.0}


@dataclass(frozen=True, kw_only=True)
class VisualizerConfig(Settings):
    """Settings of feature visualisation: Olah et al. 2017 and, for phases, Fel et al. 2023."""

    features: Annotated[str, "The network to look into: art-resnet, art-vgg, vgg19, a folder, ..."] = "art-resnet"
    parametrisation: Annotated[
        Literal["fourier", "phase"],
        "fourier: coefficients that may grow; phase: those of natural pictures, only their phases change, which stays "
        "readable in deep layers.",
    ] = "fourier"
    # Gonthier et al. 2020 take 2048; a picture changes little after some 256, an eighth of the time.
    steps: Annotated[Count, "Steps. Time grows in proportion."] = 256
    rate: Annotated[Positive | None, "Length of a step of Adam; None: 0.05 for fourier, 1 for phase."] = None
    redirect: Annotated[int, Ge(0), "First steps in which gradients pass rectifiers that nothing excites."] = 16
    robust: Annotated[bool, "Change the picture at random before each step: without, it is noise."] = True
    pad: Annotated[int, Ge(0), "fourier: pixels of grey around the picture."] = 12
    jitter: Annotated[int, Ge(0), "fourier: pixels by which it moves at most, before it is scaled and turned."] = 8
    scale: Annotated[float, Interval(ge=0, lt=1), "fourier: share by which it grows or shrinks at most."] = 0.1
    rotation: Annotated[int, Interval(ge=0, le=180), "fourier: degrees by which it is turned at most."] = 10
    jitter_after: Annotated[int, Ge(0), "fourier: pixels by which it moves at most after that."] = 4
    # The authors' code takes 32 crops of half to a twentieth of 512 px, at 224 px, on a GPU. Of a picture of 224 px, a
    # twentieth shows nothing; these see it at about its own scale, and a step costs as much as one of fourier.
    crops: Annotated[Count, "phase: crops of each step. Time grows in proportion."] = 4
    crop_side: Annotated[int, Ge(16), "phase: pixels of a side of what the network sees of a crop."] = 112
    crop_start: Annotated[Share, "phase: mean side of a crop at first, as a share of the picture's."] = 0.8
    crop_end: Annotated[Share, "phase: mean side of a crop in the end."] = 0.4
    noise: Annotated[Weight, "phase: deviation of the noise in each crop."] = 0.08


class FeatureVisualizer(hub.Pretrained[VisualizerConfig]):
    """Find a picture that excites a channel, or anything else, of a network.

    Source: Olah et al. 2017, "Feature Visualization"; Fel et al. 2023, "Unlocking Feature Visualization for Deeper
    Networks with MAgnitude Constrained Optimization"; settings of Gonthier et al. 2020.

        >>> visualizer = FeatureVisualizer.from_pretrained(steps=2)  # a draft
        >>> found = visualizer(objective="layer2:5", size=(64, 64), seed=0)
        >>> found.image.size
        (64, 64)
        >>> found.save("channel.png")
    """

    method: ClassVar[str] = "interpret"
    config_class: ClassVar[type] = VisualizerConfig

    def __init__(
        self,
        config: VisualizerConfig | None = None,
        *,
        network: TappedNetwork | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Look into a network of one's own, a module of which is moved to the device, or into one that `config` names.

        Features that have weights to load are a ConfigError: only `from_pretrained` loads them. The device None picks
        CUDA, then MPS, then CPU.
        """
        self.config = config or VisualizerConfig()
        self.device = runtime.pick_device(device)
        if network is None:
            if catalogue.get(self.config.features).weights is not None:
                raise ConfigError(
                    f"features={self.config.features!r} have weights: use {type(self).__name__}.from_pretrained, which "
                    "loads them, or pass network="
                )
            network = features.build(self.config.features, device=self.device)
        self.network = network.to(self.device) if isinstance(network, torch.nn.Module) else network

    @classmethod
    def _build(cls, config: VisualizerConfig, resolved: hub.Resolved, placement: hub.Placement) -> Self:
        device = runtime.pick_device(placement.device)
        network = features.load(
            config.features,
            local_files_only=placement.local_files_only,
            dtype=runtime.pick_dtype(device, placement.dtype),
            device=device,
        )
        return cls(config, network=network, device=device)

    def stream(
        self,
        *,
        objective: str | Loss,
        size: tuple[int, int] = SIZE,
        count: int = 1,
        seed: int = 0,
        deadline: float | None = None,
        **overrides: object,
    ) -> Iterator[Step | ImageResult]:
        """Find a picture.

        Closing the iterator stops the work. Calling the object itself takes the same and `progress`, True for a bar on
        stderr, and returns the result alone.

        Args:
            objective: What to excite: a channel as "layer3:5", a sum of objectives, or such a sum as text; see
                `as_objective`.
            size: (height, width) of a picture.
            count: Pictures to find at once, which are then side by side; for objectives with `Diversity`.
            seed: Same seed, network and device: same bytes, on a CPU.
            deadline: Seconds after which the picture so far is returned, marked incomplete.
            **overrides: Fields of `VisualizerConfig` for this call only, `features` excepted.

        Yields:
            A `Step` after each step; last an `ImageResult`.

        Raises:
            ConfigError: A setting, the size, a tap or a channel is wrong.
            ImageError: The pictures are too small for the network.
            DeadlineExceeded: The time passed before the first step.
        """
        if overrides.get("features", self.config.features) != self.config.features:
            raise ConfigError("features is fixed when a FeatureVisualizer is made: use from_pretrained(features=...)")
        config = hub.config_from(VisualizerConfig, {**dataclasses.asdict(self.config), **overrides})
        limit, size = Deadline(deadline), checked_size(size)
        left = (1 - config.scale) * (min(size) + 2 * config.pad - config.jitter) - config.jitter_after
        if config.robust and config.parametrisation == "fourier" and left < 1:
            raise ConfigError(
                f"jitter={config.jitter} leaves nothing of {size[1]} x {size[0]} px: ask for a larger size"
            )
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 16:
            raise ConfigError(f"count={count!r} must be a number of pictures from 1 to 16")
        sought = as_objective(objective)
        kind: type[Fourier] | type[Phase] = Fourier if config.parametrisation == "fourier" else Phase
        pictures = kind(count, size, self.device)
        goal = _Goal(self.network, sought, pictures, config, seed)
        descent = DescentConfig(
            optimiser="adam", rate=config.rate or RATES[config.parametrisation], rate_end=1.0, momentum=0.9
        )
        limit.require("the first step")
        losses, image = list[float](), torch.empty(0)
        start = pictures.start(generator(seed))
        for loss, parameter in minimise(goal, start, settings=descent, steps=config.steps):
            losses.append(loss)
            with torch.no_grad():
                image = torch.cat(list(pictures.image(parameter)), -1)[None]
            yield Step(
                done=len(losses),
                total=config.steps,
                what=f"excited by {-loss:.3g}",
                level=0,
                levels=1,
                loss=loss,
                image=image,
                seconds=limit.elapsed,
            )
            if limit.over:
                break
        complete = len(losses) == config.steps
        late = f"Stopped by the deadline of {limit.seconds} s after {len(losses)} of {config.steps} steps."
        settings = {"objective": str(sought), "size": list(size), "count": count, "seed": seed}
        yield ImageResult(
            tensor=image.cpu(),
            settings=self._record(settings | dataclasses.asdict(config)),
            losses=tuple(losses),
            seconds=limit.elapsed,
            complete=complete,
            notes=() if complete else (late,),
        )

    __call__ = run_to_the_end(stream)


class _Goal:
    """What `minimise` descends: minus the objective of pictures that were changed at random, by their parameters."""

    natural_step = 1.0  # not used: the settings are Adam's

    def __init__(
        self,
        network: TappedNetwork,
        objective: Loss,
        pictures: Parametrisation,
        config: VisualizerConfig,
        seed: int,
    ) -> None:
        self.terms = weighted_objectives(objective)
        self.taps = check_taps(network, list(dict.fromkeys(term.tap for _, term in self.terms)))
        self.network, self.pictures, self.config = network, pictures, config
        # Of its own, so that pictures do not begin with the numbers of the first change.
        self.seed = int(torch.randint(2**62, (), generator=generator(seed)))
        self.round = 0

    def refresh(self, round_: int) -> None:
        """Draw the changes of this step."""
        self.round = round_

    def value_and_grad(self, x: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient."""
        leaf = x.detach().requires_grad_(True)
        redirect = RedirectedReLU() if self.round < self.config.redirect else nullcontext()
        with torch.enable_grad():
            seen = self._changed(self.pictures.image(leaf))
            with redirect:
                found = self.network(seen, self.taps)
            # Each crop of a picture is seen alone, and counts as a part of it.
            share = len(x) / len(seen)
            total = torch.stack([weight * share * term.value(found[term.tap]) for weight, term in self.terms]).sum()
            (gradient,) = torch.autograd.grad(-total, leaf)
        return -float(total.detach()), gradient

    def _changed(self, image: Tensor) -> Tensor:
        """The pictures as the network sees them in this step."""
        config = self.config
        if not config.robust:
            return image
        rng = generator((self.seed + self.round) % 2**63)
        if config.parametrisation == "phase":
            done = min(1.0, self.round / max(1, config.steps - 1))
            share = config.crop_start + (config.crop_end - config.crop_start) * done
            crops = random_crops(image, config.crops, share, config.crop_side, rng)
            return with_noise(crops, config.noise, rng)
        image = jittered(padded_grey(image, config.pad), config.jitter, rng)
        image = scaled_by(image, chosen([1 + config.scale * (i - 5) / 5 for i in range(11)], rng))
        image = rotated(image, chosen([*range(-config.rotation, config.rotation + 1), *[0] * 5], rng))
        return jittered(image, config.jitter_after, rng)
