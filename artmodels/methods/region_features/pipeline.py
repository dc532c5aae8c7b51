"""Images in, regions out."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, overload

import torch
from torch import Tensor
from tqdm.auto import tqdm

from artmodels import features, hub, images, runtime
from artmodels.detections.boxes import SIDES
from artmodels.errors import MissingWeights
from artmodels.hub.checkpoints import fingerprint
from artmodels.images.decoding import LoadedImage
from artmodels.images.resampling import list_or_none
from artmodels.images.results import Tabular
from artmodels.methods.region_features.faster_rcnn import C4, PUBLISHED, FPNDetector
from artmodels.methods.region_features.model import ArtRegions, RegionFeaturesConfig, RegionNetwork

__all__ = ["RegionFeatures", "Regions"]

BATCH = 32


@dataclass(frozen=True, eq=False)
class Regions(Tabular):
    """Where one image may show an object.

    Attributes:
        boxes: [K, 4] float32: left, top, right, bottom in pixels of the original image.
        objectness: [K] float32 in [0, 1], descending; how likely a box is to hold an object, of whatever kind.
        features: [K, M] float32, a descriptor of each.
        width, height: Of the image, upright, in pixels.
        notes: What was done to the image when it was loaded, in plain sentences.
    """

    boxes: Tensor
    objectness: Tensor
    features: Tensor
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """K, at least 1 where an image was looked at."""
        return len(self.boxes)

    def _table(self) -> tuple[str, Sequence[str], Iterable[Sequence[object]]]:
        boxes = self.boxes.round().int().tolist()
        rows = ([value, *box] for value, box in zip(self.objectness.tolist(), boxes, strict=True))
        return f"{len(self)} regions of {self.width} x {self.height} pixels", ("objectness", *SIDES), rows


class RegionFeatures(hub.Pretrained[RegionFeaturesConfig]):
    """Propose up to K regions of an image, and describe each: the bags of multiple-instance learning.

    Gonthier et al. 2018, "Weakly Supervised Object Detection in Artworks" (arXiv:1810.02569), section 3.1. The regions
    are the proposals of a Faster R-CNN, or of a small network of ours that needs no download.

        >>> regions = RegionFeatures.from_pretrained()("photo.jpg")
        >>> len(regions) == len(regions.boxes) == len(regions.objectness) == len(regions.features)
        True

    Attributes:
        batch: Of so many images those that are brought to the same size go through the network together. By default 1
            on a CPU, where more was no faster, and 32 elsewhere; regions differ by rounding only.
    """

    method = "region_features"
    config_class = RegionFeaturesConfig

    def __init__(
        self,
        config: RegionFeaturesConfig | None = None,
        *,
        network: RegionNetwork,
        device: torch.device | str | None = None,
    ) -> None:
        """Put it together; `from_pretrained` is the usual way.

        The network has its weights already. Without a config it keeps its own; without a device it goes to CUDA, then
        MPS, then CPU.
        """
        self.config = config or network.config
        self.device = runtime.pick_device(device)
        self.network = network.requires_grad_(False).eval().to(self.device)
        self.batch = 1 if self.device.type == "cpu" else BATCH

    @classmethod
    def _build(cls, config: RegionFeaturesConfig, resolved: hub.Resolved, placement: hub.Placement) -> Self:
        placement.require_float32(cls.__name__)
        if resolved.origin == "built-in":
            raise MissingWeights(how_to_get(resolved.name, config.network))
        backbone = None
        if config.network == "art-regions":
            backbone = features.load(config.backbone, local_files_only=placement.local_files_only)
        network = resolved.fill(lambda: make_network(config, backbone), lambda network: network.stored)
        return cls(config, network=network, device=placement.device)

    def _tensors(self) -> dict[str, Tensor]:
        half = self.config.network == "art-regions"  # as it is published; the others keep what was converted
        state = self.network.stored.state_dict()
        return {key: value.half() if half else value for key, value in state.items()}

    @property
    def features(self) -> int:
        """M, the length of a descriptor."""
        return self.network.features

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the settings and of all weights: regions with the same one can stand in one store."""
        # Settings that are the default are left out: a later version may have more of them.
        usual = dataclasses.asdict(RegionFeaturesConfig())
        chosen = {name: value for name, value in dataclasses.asdict(self.config).items() if value != usual[name]}
        return fingerprint(chosen, self.network.state_dict())

    @overload
    def __call__(self, image: list[images.Source], *, progress: bool = ...) -> list[Regions]: ...
    @overload
    def __call__(self, image: images.Source, *, progress: bool = ...) -> Regions: ...
    def __call__(
        self, image: images.Source | list[images.Source], *, progress: bool = False
    ) -> Regions | list[Regions]:
        """Find the regions of one image, or of each of a list.

        Args:
            image: What `artmodels.images.load` reads, or a list of such.
            progress: Show a bar, for lists.

        Returns:
            At most `config.regions` of them. An image in which nothing is proposed is one region itself, with
            objectness 0, so that no bag is empty.

        Raises:
            ImageError: The image cannot be read, or has more pixels than `images.LIMIT`.
        """
        many = list_or_none(image)
        if many is None:
            return self._batch([images.load(image)])[0]  # type: ignore[arg-type]
        found = list[Regions]()
        with tqdm(total=len(many), disable=not progress, unit="image") as bar:
            for start in range(0, len(many), self.batch):
                found += self._batch([images.load(source) for source in many[start : start + self.batch]])
                bar.update(len(found) - bar.n)
        return found

    @torch.inference_mode()
    def _batch(self, loaded: list[LoadedImage]) -> list[Regions]:
        groups = defaultdict[tuple[int, int], list[int]](list)
        for number, image in enumerate(loaded):
            groups[self.network.size(image.height, image.width)].append(number)
        regions = dict[int, Regions]()
        for numbers in groups.values():
            found = self.network([loaded[number].tensor().to(self.device) for number in numbers])
            # Clones: tensors of the inference mode cannot be used where gradients are computed.
            with torch.inference_mode(False):
                for number, one in zip(numbers, found, strict=True):
                    image = loaded[number]
                    boxes, objectness, described = (part.float().cpu().clone() for part in one)
                    regions[number] = Regions(
                        boxes, objectness, described, width=image.width, height=image.height, notes=image.notes
                    )
        return [regions[number] for number in range(len(loaded))]


def make_network(config: RegionFeaturesConfig, backbone: features.FeatureExtractor | None = None) -> RegionNetwork:
    """The network of a configuration, with random weights but for the backbone of "art-regions".

    None loads the backbone that the configuration names; a ConfigError or WeightsError says what is wrong with it.
    """
    if config.network == "art-regions":
        return ArtRegions(config, backbone or features.load(config.backbone))
    return C4(config) if config.network == "fasterrcnn_resnet152_c4" else FPNDetector(config)


def how_to_get(name: str, network: str) -> str:
    """What to do where the published weights are a file that is never opened here."""
    if network in PUBLISHED:
        file = PUBLISHED[network].rpartition("/")[2]
        source = f"torchvision publishes its weights as {PUBLISHED[network]}"
    else:
        file, source = "res152.safetensors", "its authors publish it as a checkpoint of TensorFlow's"
    return (
        f"{name} is not fetched by itself: {source}, a format that can run code when opened or that needs TensorFlow, "
        f"and artmodels opens neither. Download it, and in a checkout of artmodels run `python -m "
        f"weights convert region_features {file} my-{name}`, which says how to make safetensors of it and converts "
        f"that; then load the folder 'my-{name}'. For regions without any download use 'art-regions'."
    )
