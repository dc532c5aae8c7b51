"""What checkpoints exist: name, method, source, licence and, where there are weights, the exact bytes.

The catalogue is data. It imports nothing heavy, so listing is instant, and it pins a commit and a sha256 for
each file, so that a catalogue name always means the same bytes whoever serves them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from artmodels.errors import ConfigError, MissingWeights, suggest

__all__ = ["ENTRIES", "Entry", "Weights", "default", "download", "get", "list_models"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One pinned file in a Hub repository.

    Attributes:
        repo: `owner/name` on the Hub.
        revision: Commit, 40 hexadecimal digits; "main" for what is embedded, whose hash is the promise.
        sha256: Of the file, 64 hexadecimal digits. Nothing else ever loads under the entry's name.
        size_mb: Approximate size in megabytes (10^6 bytes), for people deciding whether to download.
        filename: The file, at the top of the repository.
    """

    repo: str
    revision: str
    sha256: str
    size_mb: float
    filename: str = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name that `from_pretrained` accepts.

    Attributes:
        name: Unique, lower case, no slash.
        method: The method's id, e.g. `"neural_style"`; `"features"` for feature extractors.
        summary: One sentence for people choosing.
        source: Paper or page that describes it.
        licence: SPDX identifier of the weights, or of our code where there are none.
        config: Fields of the method's config dataclass that differ from their defaults.
        weights: The pinned file, or None where the checkpoint is only a configuration.
        embedded: Whether the folder travels inside the package.
        converted: Whether the weights are published as files that are never opened here, and the user converts them.
        default: Whether `from_pretrained()` without a name picks it; one entry a method.
    """

    name: str
    method: str
    summary: str
    source: str
    licence: str
    config: Mapping[str, object] = field(default_factory=dict)
    weights: Weights | None = None
    embedded: bool = False
    converted: bool = False
    default: bool = False


# Method id, as in the catalogue and in config.json -> its class, which its package of the same name exports.
METHODS = {
    "arbitrary_style": "ArbitraryStyle",
    "artminer": "ArtMiner",
    "fast_style": "FastStyle",
    "mimax": "Detector",
    "neural_style": "NeuralStyle",
    "ransac_flow": "RansacFlow",
    "super_resolution": "SuperResolution",
    "texture_network": "TextureNetwork",
    "texture_synthesis": "TextureSynthesizer",
}

# The same for what methods are made of, which has no page of its own.
PARTS = {"region_features": "RegionFeatures"}

_VGG = "Simonyan & Zisserman 2015, arXiv:1409.1556"
_RESNET = "He et al. 2016, arXiv:1512.03385"
_RANDOM = "Ustyuzhaninov et al. 2016, arXiv:1606.00021"

# Name, sha256 of the weights, painting, what it does to a picture. The first is the default.
_FAST_STYLES = (
    (
        "starry-night",
        "6503651e845ff87e2660fc8f14823fe5916a027560c429bf57f55799ca64da34",
        "The Starry Night, Vincent van Gogh, 1889",
        "swirling strokes in blue and yellow",
    ),
    (
        "salamander",
        "01b62aeb2ee08aa2607b2898eaf63fb95b24ce54c7add9014573bd17a5a73a58",
        "Hanagami Danjo no jo Arakage fighting a giant salamander, Utagawa Kuniyoshi, 1834-1835",
        "woodblock contours, orange on indigo",
    ),
    (
        "adele",
        "95748625b4fa16cc954da1dc82f53d54d20db8104cb42bf616e5f47defa249f7",
        "Adele Bloch-Bauer I, Gustav Klimt, 1907",
        "gold leaf and mosaic",
    ),
    (
        "city-rises",
        "28cbdd2f47449fea4a7e025d22d593db8528189eed26c112fa9df334c13e0206",
        "The City Rises, Umberto Boccioni, 1910",
        "long broken strokes, earth and violet",
    ),
    (
        "scream",
        "5b26545e72065222e43d2f682660bf2042f52da0c84e1f816a84e69c31e4ed03",
        "The Scream, Edvard Munch, 1893",
        "flowing bands, rust on grey-blue",
    ),
    (
        "haymaking",
        "78a9b85e8a835b28413e7ed93240f9f0e80ec6a9a767ca9dec042635e0bfc06e",
        "June, haymaking, the Limbourg brothers, about 1412-1416",
        "miniature: ultramarine, pale green, fine outlines",
    ),
    (
        "ink",
        "48ff1c9cfc5466737534b87419a2fdbaf44de72e65d0485c7160d5af6d010564",
        "Samurai Yazama Kihei Mitsunobu, Utagawa Kuniyoshi, about 1850",
        "ink lines on warm paper",
    ),
)

# Name, sha256 of the weights, exemplar and where it is from, what the results look like. The first is the default.
_TEXTURES = (
    (
        "wood",
        "229f7ea40380f94377698f73f1b05495f3d8d68567b00a394cf6e817fa86a245",
        "wood (MaterialX)",
        "brown, its grain lying across",
    ),
    (
        "gravel",
        "c56861dadd04263f90df5f660ec1ccd36e4030be98167d258c416d8aad79b0e3",
        "gravel (scikit-image)",
        "grey and sharp-edged",
    ),
    (
        "sand",
        "ac64cbce485bb5451e6ccd516fdb40f86cd6f69460386ea5d59f1a6df24c32f1",
        "coast sand (Poly Haven)",
        "coarse, with pebbles here and there",
    ),
)


def _embedded(name: str, sha256: str, size_mb: float) -> Weights:
    """What travels inside the package, and is mirrored under its own name on the Hub."""
    return Weights(repo=f"artmodels/{name}", revision="main", sha256=sha256, size_mb=size_mb)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="art-vgg",
        method="features",
        summary="A small VGG of our own, trained on art to follow VGG-19's features and Gram matrices.",
        source="artmodels; after Wang et al. 2020, arXiv:2003.08436",
        licence="Apache-2.0",
        config={"architecture": "art-vgg"},
        weights=_embedded("art-vgg", "2d6b3c0bfe830782237c453a9f25dd569e003ec13e95b0fec9839bc2813fd75e", 1.36),
        embedded=True,
    ),
    Entry(
        name="vgg19",
        method="features",
        summary="VGG-19 trained on ImageNet: the features of most texture and style papers.",
        source=_VGG,
        licence="BSD-3-Clause",
        weights=Weights(
            repo="timm/vgg19.tv_in1k",
            revision="128d4708565b3a414bcbb9bbad440b2fe37b9f18",
            sha256="11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
            size_mb=575,
        ),
    ),
    Entry(
        name="vgg16",
        method="features",
        summary="VGG-16 trained on ImageNet: the loss network of fast style transfer.",
        source=_VGG,
        licence="BSD-3-Clause",
        weights=Weights(
            repo="timm/vgg16.tv_in1k",
            revision="3394518cba29aee1ea82a49d971be90d2dd1dab7",
            sha256="57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
            size_mb=553,
        ),
    ),
    Entry(
        name="resnet50",
        method="features",
        summary="ResNet-50 trained on ImageNet.",
        source=_RESNET,
        licence="BSD-3-Clause",
        weights=Weights(
            repo="timm/resnet50.tv_in1k",
            revision="aa6c2d36d56bc0209040c02b5a7b7d7bf11d57b8",
            sha256="5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
            size_mb=102,
        ),
    ),
    Entry(
        name="resnet18",
        method="features",
        summary="ResNet-18 trained on ImageNet: small and quick.",
        source=_RESNET,
        licence="BSD-3-Clause",
        weights=Weights(
            repo="timm/resnet18.tv_in1k",
            revision="a987fd6b60f845221bfff84b6f0191273ba56ead",
            sha256="694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
            size_mb=46.8,
        ),
    ),
    Entry(
        name="art-resnet",
        method="features",
        summary="A small ResNet of our own: finds details again across styles; strides 4, 8 and 16.",
        source=f"artmodels; after {_RESNET}",
        licence="Apache-2.0",
        config={"architecture": "art-resnet"},
        weights=_embedded("art-resnet", "c86a8dfeac92063013e7fbbbef15d3c87520047530e5a3d4be2c22579efddb4e", 5.77),
        embedded=True,
    ),
    Entry(
        name="random-filters",
        method="features",
        summary="One layer of seeded random filters at several scales: no weights to fetch.",
        source=_RANDOM,
        licence="Apache-2.0",
    ),
    Entry(
        name="patches",
        method="features",
        summary="Raw pixel patches: no network at all.",
        source="artmodels",
        licence="Apache-2.0",
    ),
    Entry(
        name="texture-patches",
        method="texture_synthesis",
        summary="Patches, matched one by one and as a whole: keeps structure such as bricks; works offline.",
        source="Granot et al. 2022, arXiv:2103.15545; Elnekave & Weiss 2022",
        licence="Apache-2.0",
        config={"features": "patches", "finish": "patch_sliced_wasserstein"},
        default=True,
    ),
    Entry(
        name="texture-art-vgg",
        method="texture_synthesis",
        summary="art-vgg: keeps large structure, copies nothing, grainy on fine stuff such as grass; works offline.",
        source="Gatys et al. 2015, arXiv:1505.07376",
        licence="Apache-2.0",
        config={
            "features": "art-vgg",
            "loss": "gram",
            "layers": ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
            "optimiser": "lbfgs",
            "rate": 0.02,
            "steps": 100,
            "per_octave": 1,
        },
    ),
    Entry(
        name="texture-random-filters",
        method="texture_synthesis",
        summary="Random filters: finer on stuff without structure, such as grass; works offline.",
        source=_RANDOM,
        licence="Apache-2.0",
        config={
            "features": "random-filters",
            "loss": "gram",
            "optimiser": "lbfgs",
            "rate": 0.02,
            "steps": 100,
            "halvings": 0,  # filters up to 77 px wide see large patterns by themselves
        },
    ),
    Entry(
        name="texture-vgg19",
        method="texture_synthesis",
        summary="VGG-19: the method of the papers; fetches 575 MB once.",
        source="Gatys et al. 2015, arXiv:1505.07376",
        licence="Apache-2.0",
        config={
            "features": "vgg19",
            "loss": "gram",
            "optimiser": "lbfgs",
            "rate": 0.02,
            "steps": 200,
            "per_octave": 1,
        },
    ),
    *(
        Entry(
            name=f"fast-style-{name}",
            method="fast_style",
            summary=f"{title}: {text}.",
            source="Johnson et al. 2016, arXiv:1603.08155",
            licence="Apache-2.0",
            config={"style": title, "widths": (12, 24, 48), "kernel": 7, "early": True},
            weights=_embedded(f"fast-style-{name}", sha256, 0.48),
            embedded=True,
            default=name == _FAST_STYLES[0][0],
        )
        for name, sha256, title, text in _FAST_STYLES
    ),
    *(
        Entry(
            name=f"texture-network-{name}",
            method="texture_network",
            summary=f"Any amount of {texture}: {text}; tiles without a seam.",
            source="Ulyanov et al. 2016, arXiv:1603.03417; Heitz et al. 2021, arXiv:2006.07229",
            licence="Apache-2.0",
            config={"texture": texture},
            weights=_embedded(f"texture-network-{name}", sha256, 0.49),
            embedded=True,
            default=name == _TEXTURES[0][0],
        )
        for name, sha256, texture, text in _TEXTURES
    ),
    Entry(
        name="arbitrary-style",
        method="arbitrary_style",
        summary="Any picture in the manner of any other: its colours exactly, its strokes as far as they are small.",
        source="Ghiasi et al. 2017, arXiv:1705.06830",
        licence="Apache-2.0",
        config={
            "predictor": "statistics",
            "widths": (16, 32, 64),
            "kernel": 7,
            "early": True,
            "palette": True,
        },
        weights=_embedded("arbitrary-style", "491a75a3db839d0e614c9fe0987de8184fb910001492298248785880cc781ab9", 2.8),
        embedded=True,
        default=True,
    ),
    Entry(
        name="super-resolution-x2",
        method="super_resolution",
        summary="Twice as wide and high, for clean scans and photographs: sharper than bicubic, nothing invented.",
        source="Wang et al. 2021, arXiv:2107.10833",
        licence="Apache-2.0",
        config={"scale": 2, "channels": 32, "convs": 6, "base": "bicubic"},
        weights=_embedded(
            "super-resolution-x2", "54ec02695c68aa13fa15c766ab5b5f78128e2fd35458a83e8347dc3df32932c7", 0.12
        ),
        embedded=True,
        default=True,
    ),
    Entry(
        name="super-resolution-x4",
        method="super_resolution",
        summary="Four times as wide and high, and mild JPEG damage and noise taken off.",
        source="Wang et al. 2021, arXiv:2107.10833",
        licence="Apache-2.0",
        config={"channels": 32, "convs": 8, "base": "bicubic"},
        weights=_embedded(
            "super-resolution-x4", "55e10090077eba0ba1a56e8fcae20374a7fdf98537d89a3b1551f297125d385d", 0.18
        ),
        embedded=True,
    ),
    Entry(
        name="style-patches",
        method="neural_style",
        summary="Patches, each like one of the style's: carries over strokes and palette; works offline.",
        source="Li & Wand 2016, arXiv:1601.04589; Granot et al. 2022, arXiv:2103.15545",
        licence="Apache-2.0",
        config={"features": "patches"},
        default=True,
    ),
    Entry(
        name="style-random-filters",
        method="neural_style",
        summary="Random filters: carries over colour and grain, no strokes; works offline.",
        source=_RANDOM,
        licence="Apache-2.0",
        config={
            "features": "random-filters",
            "loss": "gram",
            "optimiser": "adam",
            "rate": 0.02,
            "momentum": 0.9,
            "average": 0.9,
            "steps": 50,
            "tv_weight": 0.5,
        },
    ),
    Entry(
        name="style-vgg19",
        method="neural_style",
        summary="VGG-19: the method of the papers; fetches 575 MB once.",
        source="Gatys et al. 2016, CVPR, doi:10.1109/CVPR.2016.265",
        licence="Apache-2.0",
        # Means and covariances instead of Gram matrices, shallow layers first: steadier strokes for any style.
        config={
            "features": "vgg19",
            "loss": (
                "gaussian_wasserstein(layers=('relu1_1', 'relu2_1', 'relu3_1', 'relu4_1', 'relu5_1'), "
                "weights=(0.75, 0.19, 0.047, 0.012, 0.003))"
            ),
            "content_loss": "content",
            "content_weight": 0.05,
            "tv_weight": 1.0,
            "palette": False,
            "optimiser": "adam",
            "rate": 0.02,
            "rate_end": 0.3,
            "momentum": 0.9,
            "average": 0.95,
            "steps": 100,
            "first_level": 2.0,
            "coarsest": 128,
        },
    ),
    Entry(
        name="mimax-seascapes",
        method="mimax",
        summary="Ships, towers and birds in small painted seascapes: an example, learnt from labels of whole pictures.",
        source="Gonthier et al. 2018, arXiv:1810.02569",
        licence="Apache-2.0",
        config={
            "standardize": True,
            "classes": (0, 1, 2),
            "multilabel": True,
            "n_features": 384,
            "uses_objectness": True,
            "names": ("ship", "tower", "bird"),
            "regions": "art-regions",
            "regions_sha256": "6fcde82f8ff59c549b499e76f4892badffa3fde2cf8ed8b6b1e683b95e603c0b",
        },
        weights=_embedded("mimax-seascapes", "bf019472f4e14c5fdfce55b29239b7637c0c6a3f25310e2f462fb22aae50886c", 0.01),
        embedded=True,
        default=True,
    ),
    Entry(
        name="artminer-paintings",
        method="artminer",
        summary="Finds a detail again in other hands; art-resnet tuned to that on paintings, 64 numbers a cell.",
        source="Shen et al. 2019, arXiv:1903.02678",
        licence="Apache-2.0",
        config={"dims": 64, "tuned": True, "threshold": 0.2, "pair_threshold": 0.024},
        weights=_embedded(
            "artminer-paintings", "a7812d32e1b8380880c0be1b8a3eb69a7371a3530171c2b1401007ff0e50010b", 5.77
        ),
        embedded=True,
        default=True,
    ),
    Entry(
        name="artminer-art-resnet",
        method="artminer",
        summary="Finds details again with art-resnet's features as they are, 256 numbers a cell.",
        source="Shen et al. 2019, arXiv:1903.02678",
        licence="Apache-2.0",
        config={"backbone": "art-resnet"},
    ),
    Entry(
        name="artminer-resnet18",
        method="artminer",
        summary="As published before tuning: ResNet-18 trained on ImageNet, fetched from the Hub.",
        source="Shen et al. 2019, arXiv:1903.02678; He et al. 2016, arXiv:1512.03385",
        licence="Apache-2.0",
        config={"backbone": "resnet18", "padding": "zeros", "views": ("",)},
    ),
    Entry(
        name="ransac-flow",
        method="ransac_flow",
        summary="Brings a picture onto another of the same thing, pixel by pixel, across copies and styles.",
        source="Shen et al. 2020, arXiv:2004.01526",
        licence="Apache-2.0",
        weights=_embedded("ransac-flow", "22d1fdea1a7c6f58a34b2d23428e6b6103e6d52eb5b497157713bff1fcee6fbf", 3.4),
        embedded=True,
        default=True,
    ),
    Entry(
        name="art-regions",
        method="region_features",
        summary="Up to 300 boxes that may hold an object, and 384 numbers for each; on art-resnet; works offline.",
        source="Ren et al. 2015, arXiv:1506.01497; Kim et al. 2022, arXiv:2108.06753",
        licence="Apache-2.0",
        config={"overlap": 0.5},
        weights=_embedded("art-regions", "e8d825826255efdeb46114c33d1904bc727cec6c114e398685e6bec8446166ad", 0.91),
        embedded=True,
        default=True,
    ),
    # Published as files that are never opened: loading says how to convert a download of one's own.
    Entry(
        name="fasterrcnn-resnet50-fpn",
        method="region_features",
        summary="Faster R-CNN trained on COCO: 1024 numbers a region; convert torchvision's download of 160 MB once.",
        source="Ren et al. 2015, arXiv:1506.01497; https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        licence="BSD-3-Clause",
        config={"network": "fasterrcnn_resnet50_fpn"},
        converted=True,
    ),
    Entry(
        name="fasterrcnn-resnet50-fpn-v2",
        method="region_features",
        summary="The same with torchvision's newer training: better boxes; convert its download of 167 MB once.",
        source="Li et al. 2021, arXiv:2111.11429; https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
        licence="BSD-3-Clause",
        config={"network": "fasterrcnn_resnet50_fpn_v2"},
        converted=True,
    ),
    Entry(
        name="fasterrcnn-resnet152-c4",
        method="region_features",
        summary="The network of the MI-max papers, 2048 numbers a region; convert TensorFlow's checkpoint once.",
        source="Gonthier et al. 2018, arXiv:1810.02569; endernewton/tf-faster-rcnn, res152_faster_rcnn_iter_1190000",
        licence="MIT",
        config={"network": "fasterrcnn_resnet152_c4"},
        converted=True,
    ),
    Entry(
        name="ransac-flow-megadepth",
        method="ransac_flow",
        summary="The fine stage as published, trained on photographs of buildings; convert its authors' download once.",
        source="Shen et al. 2020, arXiv:2004.01526; XiSHEN0220/RANSAC-Flow, MegaDepth_Theta1_Eta001_Grad0_0.807.pth",
        licence="MIT",
        config={"encoder": "published", "heads": (512, 256, 128), "corners": True},
        converted=True,
    ),
)


def download(entry: Entry) -> Weights | None:
    """Return what must be fetched before an entry can run, its own weights or its features'; None if nothing."""
    features = entry.config.get("features", entry.config.get("backbone"))
    parts = [entry, get(features)] if isinstance(features, str) else [entry]
    return next((part.weights for part in parts if part.weights and not part.embedded), None)


def get(name: str) -> Entry:
    """Return the entry called `name`.

    Raises:
        MissingWeights: There is none; the message names near misses and how to list what there is.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    hint = suggest(name, (entry.name for entry in ENTRIES))
    raise MissingWeights(
        f"{name!r} is not in the catalogue.{hint} List what there is with artmodels.list_models() or "
        "`artmodels list`; a repository of the Hub is named 'owner/name', a folder by its path."
    )


def default(method: str) -> Entry:
    """Return the entry that a method loads when no name is given.

    Raises:
        ConfigError: The method is unknown or has no default.
    """
    for entry in list_models(method):
        if entry.default:
            return entry
    names = ", ".join(entry.name for entry in list_models(method))
    raise ConfigError(f"Method {method!r} has no default checkpoint: pass one of {names}.")


def list_models(method: str | None = None) -> list[Entry]:
    """Return the catalogue's entries, in its order.

    Args:
        method: Only those of this method, e.g. `"texture_synthesis"`.

    Raises:
        ConfigError: No entry has this method; the message names near misses.
    """
    if method is None:
        return list(ENTRIES)
    found = [entry for entry in ENTRIES if entry.method == method]
    if not found:
        methods = sorted({entry.method for entry in ENTRIES})
        raise ConfigError(f"No method is called {method!r}.{suggest(method, methods)} There are: {', '.join(methods)}.")
    return found
