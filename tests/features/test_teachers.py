"""Teachers: read strictly from a user's folder, run as their description says."""

from pathlib import Path

import pytest
import torch
from random_teachers import LAYERS, REAL, random_teacher
from skimage import data
from torch.nn import functional as F

from artmodels.errors import ConfigError, MissingWeights, WeightsMismatch
from artmodels.features import teachers


@pytest.mark.parametrize("name", LAYERS)
def test_every_tap_is_what_the_description_of_the_file_says(tmp_path: Path, name: str) -> None:
    tensors = random_teacher(tmp_path, name)
    extractor = teachers.load(name, tmp_path)
    image = torch.rand(2, 3, 45, 38, generator=torch.Generator().manual_seed(1))
    found = extractor(image, extractor.taps)

    expected = {}
    y = F.conv2d(image, tensors["conv0.weight"], tensors["conv0.bias"])
    for key, _, pooled in LAYERS[name]:
        if pooled:
            y = F.max_pool2d(y, 2)
        y = F.conv2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), tensors[f"{key}.weight"], tensors[f"{key}.bias"]).relu()
        expected[key.replace("conv", "relu")] = y
        if f"{key}_aux.weight" in tensors:
            aux = F.conv2d(y, tensors[f"{key}_aux.weight"], tensors[f"{key}_aux.bias"]).relu()
            expected[key.replace("conv", "aux")] = aux
    assert tuple(found) == tuple(expected)
    for tap, value in expected.items():
        torch.testing.assert_close(found[tap], value, rtol=1e-4, atol=1e-5)


def test_another_name_and_a_missing_file_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no teacher 'vgg19': choose one of vgg19_compressed, vgg19_normalised_to_"):
        teachers.load("vgg19", tmp_path)
    with pytest.raises(MissingWeights, match=r"vgg19_compressed\.safetensors is missing: name the folder that holds"):
        teachers.load(teachers.COMPRESSED, tmp_path)


def test_the_file_of_another_network_is_refused(tmp_path: Path) -> None:
    random_teacher(tmp_path, teachers.NORMALISED)
    (tmp_path / "vgg19_normalised_to_conv3_1.safetensors").rename(tmp_path / "vgg19_compressed.safetensors")
    with pytest.raises(WeightsMismatch, match=r"missing: conv1_1_aux\.bias.*conv1_1\.bias is \[64\], not \[16\]"):
        teachers.load(teachers.COMPRESSED, tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the teachers are not at hand in {REAL}")
def test_the_compressed_network_answers_like_vgg19_itself() -> None:
    """With wrong padding, pooling or colours of either, they would not agree."""
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None, :, :192, 100:292].float() / 255
    true = teachers.load(teachers.NORMALISED, REAL)(photo, ["relu1_1", "relu2_1", "relu3_1"])
    small = teachers.load(teachers.COMPRESSED, REAL)(photo, ["aux1_1", "aux2_1", "aux3_1"])
    for (tap, theirs), ours, least in zip(true.items(), small.values(), (0.95, 0.85, 0.75), strict=True):
        assert F.cosine_similarity(theirs.flatten(), ours.flatten(), 0) > least, tap
