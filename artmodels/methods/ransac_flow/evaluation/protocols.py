"""What published benchmarks of alignment lie in: HPatches, KITTI flow, sparse correspondences, poses of cameras.

Shen, Darmon, Efros and Aubry 2020 (arXiv:2004.01526), section 4. A reader checks a whole folder or file; pictures
are opened when a pair's `example` is asked for, one pair at a time. What is missing, or laid out otherwise, is a
DatasetError that says which file; without OpenCV KITTI's flow is a ConfigError. No pickle is opened.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from artmodels import images
from artmodels.correspondence import geometry
from artmodels.errors import DatasetError, some
from artmodels.files import read_json, text_of
from artmodels.images.decoding import LoadedImage, decoding
from artmodels.methods.ransac_flow.evaluation.evaluate import Example, PosePair, Truth
from artmodels.methods.ransac_flow.results.alignment import opencv

__all__ = [
    "DIFFICULTIES",
    "SPARSE_LIMITS",
    "HPatchesPair",
    "KittiPair",
    "SparsePair",
    "read_flow",
    "read_hpatches",
    "read_kitti",
    "read_poses",
    "read_sparse",
    "scaled",
]

Floats = npt.NDArray[np.float64]
DIFFICULTIES = ("I", "II", "III", "IV", "V")
SPARSE_LIMITS = (1, 2, 3, 5, 8, 13, 22, 36)
SPARSE_COLUMNS = ("scene", "source_image", "target_image", "XA", "YA", "XB", "YB")
STRIDE = 16  # px, of the coarse stage's cells


def _picture(file: Path) -> LoadedImage:
    """A picture of HPatches; PPM is no format that the library takes from anybody."""
    with decoding(file.name), Image.open(file, formats=["PPM"]) as opened:
        return images.load(opened)


def _check_exist(files: list[Path], folder: Path, what: str) -> None:
    missing = [str(file.relative_to(folder)) for file in files if not file.is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} of {len(files)} files are not in {folder}: {some(missing)}. {what}")


# --- HPatches


@dataclass(frozen=True, eq=False)
class HPatchesPair:
    """Picture 1 of a sequence, which is moved onto another one."""

    sequence: str  # name of the folder
    number: int  # of the target, from 2 to 6
    source: Path  # picture 1
    target: Path
    matrix: Tensor  # [3, 3] float64, takes pixels of picture 1 to pixels of the other

    def example(self, side: int = 240) -> Example:
        """Read it; errors count in pixels of side x side where the truth is inside, under the number as difficulty."""
        source, target = map(_picture, (self.source, self.target))
        sizes = [(picture.width, picture.height) for picture in (target, source)]
        back = geometry.from_pixels(torch.linalg.inv(self.matrix), *sizes)
        places = geometry.identity(side, side).flatten(0, 1)
        truth = geometry.apply(back, places.double())
        groups = {DIFFICULTIES[self.number - 2]: geometry.inside(truth)}
        return Example(source, target, Truth(places, truth, (side, side), groups))


def read_hpatches(folder: Path, *, kind: str = "v") -> tuple[HPatchesPair, ...]:
    """Read the folder of the full sequences: KIND_NAME/1.ppm to 6.ppm, and the homographies H_1_2 to H_1_6.

    Balntas, Lenc, Vedaldi and Mikolajczyk 2017. Of the kinds "v" (another viewpoint) and "i" (another illumination) the
    paper has 59 sequences of the first.
    """
    sequences = sorted(path for path in folder.glob(f"{kind}_*") if path.is_dir())
    if not sequences:
        raise DatasetError(f"there is no folder {kind}_NAME in {folder}: unpack the full sequences of HPatches there")
    names = [*(f"{number}.ppm" for number in range(1, 7)), *(f"H_1_{number}" for number in range(2, 7))]
    _check_exist([sequence / name for sequence in sequences for name in names], folder, "Unpack the sequences again.")
    pairs = list[HPatchesPair]()
    for sequence in sequences:
        for number in range(2, 7):
            file = sequence / f"H_1_{number}"
            matrix = torch.from_numpy(_matrix(text_of(file).split(), str(file)))
            pairs.append(HPatchesPair(sequence.name, number, sequence / "1.ppm", sequence / f"{number}.ppm", matrix))
    return tuple(pairs)


def _numbers(values: Any, shape: tuple[int, ...], where: str) -> Floats:  # noqa: ANN401 - whatever a file holds
    """An array of finite numbers, of numbers or words in any nesting."""
    try:
        found = np.array(values, np.float64).reshape(shape)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where} is not {' x '.join(map(str, shape))} numbers; check the file") from error
    if not np.isfinite(found).all():
        raise DatasetError(f"{where} is not finite; check the file")
    return found


def _matrix(values: Any, where: str) -> Floats:  # noqa: ANN401
    """A matrix [3, 3] that has an inverse."""
    found = _numbers(values, (3, 3), where)
    if not np.linalg.det(found):
        raise DatasetError(f"{where} is a matrix without an inverse; check the file")
    return found


# --- KITTI


@dataclass(frozen=True)
class KittiPair:
    """Files of two frames; the second is moved onto the first."""

    source: Path  # the second frame
    target: Path
    occ: Path  # the flow of all pixels
    noc: Path  # the flow of those that the second frame shows

    def example(self) -> Example:
        """Read it; errors count in pixels of the frames, under "occ" for all and "noc"."""
        source, target = images.load(self.source), images.load(self.target)
        (flow, known), (_, shown) = read_flow(self.occ), read_flow(self.noc)
        size = (target.height, target.width)
        if known.shape != size or shown.shape != size:
            raise DatasetError(f"{self.occ} and {self.noc} must be of {size[1]} x {size[0]} px, as {self.target} is")
        row, column = np.nonzero(known)
        there = (np.stack([column, row], 1) + flow[row, column] + 0.5) * 2
        truth = torch.from_numpy(there) / torch.tensor([source.width, source.height]) - 1
        groups = {"noc": torch.from_numpy(shown[row, column]), "occ": torch.ones(len(truth), dtype=torch.bool)}
        places = geometry.identity(*size)[row, column]
        return Example(source, target, Truth(places, truth, (source.width, source.height), groups))


def read_kitti(folder: Path) -> tuple[KittiPair, ...]:
    """Read the training part of KITTI 2015: image_2, flow_occ and flow_noc with 000000_10.png and so on.

    Menze and Geiger 2015. The paper measures on all 200 pairs.
    """
    flows = sorted((folder / "flow_occ").glob("*_10.png"))
    if not flows:
        raise DatasetError(f"there is no flow_occ/NUMBER_10.png in {folder}: name the folder `training` of KITTI 2015")
    frames = folder / "image_2"
    pairs = tuple(
        KittiPair(frames / file.name.replace("_10.", "_11."), frames / file.name, file, folder / "flow_noc" / file.name)
        for file in flows
    )
    files = [file for pair in pairs for file in (pair.source, pair.target, pair.noc)]
    _check_exist(files, folder, "Unpack KITTI 2015 again.")
    return pairs


def read_flow(file: Path) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Read KITTI's 16-bit PNG of a flow: red and green are 64 times the flow plus 2^15, blue whether it is known.

    The flow is [H, W, 2] in pixels, x first; where it is known, [H, W].
    """
    # Pillow reads colours of 16 bits at half the depth.
    found = opencv("KITTI's flow needs").imread(str(file), -1)
    if found is None or found.dtype != np.uint16 or found.ndim != 3 or found.shape[2] != 3:
        raise DatasetError(f"{file} is not a PNG of three channels of 16 bits: give KITTI's flow")
    flow: Floats = (found[..., :0:-1].astype(np.float64) - 2**15) / 64  # OpenCV has blue, green, red
    return flow, found[..., 0] > 0


# --- MegaDepth and RobotCar: sparse correspondences


def scaled(width: int, height: int, side: int = 480) -> tuple[int, int]:
    """Width and height with the shorter one at `side`, both floored to whole cells, as the released evaluation does."""
    ratio = min(width, height) / side
    return round(width / ratio) // STRIDE * STRIDE, round(height / ratio) // STRIDE * STRIDE


@dataclass(frozen=True, eq=False)
class SparsePair:
    """Files of two pictures, and points that show the same."""

    source: Path  # picture A, which is moved
    target: Path  # picture B
    source_points: Floats  # [n, 2], x and y in its pixels; centres of pixels are integers
    target_points: Floats  # [n, 2] of the same

    def example(self, side: int = 480) -> Example:
        """Read it; errors count in pixels of the source at `scaled` size, and points outside a picture are left out."""
        source, target = images.load(self.source), images.load(self.target)
        kept, relative = np.ones(len(self.source_points), bool), list[Tensor]()
        for points, picture in ((self.target_points, target), (self.source_points, source)):
            size = np.array([picture.width, picture.height])
            kept &= ((points > 0) & (points < size)).all(1)
            relative.append(torch.from_numpy((2 * points + 1) / size - 1))
        places, truth = (points[torch.from_numpy(kept)] for points in relative)
        groups = {"all": torch.ones(len(truth), dtype=torch.bool)}
        return Example(source, target, Truth(places, truth, scaled(source.width, source.height, side), groups))


def read_sparse(table: Path, folder: Path) -> Iterator[SparsePair]:
    """Read the table of MegaDepth's 1600 pairs or RobotCar's 6511, in CSV, row by row.

    Its columns are scene, source_image, target_image, and XA, YA, XB, YB with numbers that semicolons part. The folder
    has the pictures: scene/image, or only the image where the scene is "/".
    """
    try:
        lines = table.open(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{table} cannot be read: {error.strerror}. Name the table of correspondences.") from error
    with lines:
        # Lists have up to a megabyte, beyond what the csv module takes, and no comma.
        names = [name.strip() for name in lines.readline().split(",")]
        if missing := [name for name in SPARSE_COLUMNS if name not in names]:
            raise DatasetError(f"{table} has no column {', '.join(missing)}; it needs {', '.join(SPARSE_COLUMNS)}")
        for number, line in enumerate(lines, start=2):
            if line.strip():
                yield _sparse(dict(zip(names, line.strip("\r\n").split(","), strict=False)), folder, table, number)


def _sparse(row: Mapping[str, str], folder: Path, table: Path, number: int) -> SparsePair:
    where = f"{table}, line {number}"
    try:
        scene, *named = (row[name].strip() for name in SPARSE_COLUMNS[:3])
        columns = [np.array([float(word) for word in row[name].split(";")]) for name in SPARSE_COLUMNS[3:]]
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{where} lacks a column, or holds something else than numbers; check the file") from error
    if len({len(column) for column in columns}) > 1 or not all(np.isfinite(column).all() for column in columns):
        raise DatasetError(f"{where}: XA, YA, XB and YB must be as many numbers each, and finite; check the file")
    files = [folder / ("" if scene == "/" else scene) / name for name in named]
    _check_exist(files, folder, f"{where} names them: copy them there.")
    return SparsePair(files[0], files[1], np.stack(columns[:2], 1), np.stack(columns[2:], 1))


# --- YFCC and Aachen: poses of cameras


def read_poses(file: Path, folder: Path) -> tuple[PosePair, ...]:
    """Read pairs of pictures with the poses of their cameras from JSON of this layout.

        {"images": {"a.jpg": {"camera": [[f, 0, cx], [0, f, cy], [0, 0, 1]],
                              "rotation": [[...], [...], [...]], "translation": [x, y, z]}, ...},
         "pairs": [["a.jpg", "b.jpg"], ...]}

    `camera` takes axes of a camera to pixels, whose centres are integers; `rotation` and `translation` take places of
    the world to axes of the camera, R X + t. The first of a pair is the source. The published lists of YFCC's pairs are
    pickles, which can run anything: write them anew, and K, R and T of the calibration with them, whose principal point
    counts from the picture's middle. The folder has the pictures.
    """
    layout = read_json(file)
    cameras, pairs = layout.get("images"), layout.get("pairs")
    if not isinstance(cameras, dict) or not isinstance(pairs, list) or not pairs:
        raise DatasetError(f'{file} needs "images": {{name: camera}} and "pairs": [[source, target], ...]')
    known = {name: _camera(entry, f"{file}, image {name!r}") for name, entry in cameras.items()}
    found = list[PosePair]()
    for number, pair in enumerate(pairs):
        match pair:
            case [str(one), str(other)] if one in known and other in known:
                (camera, turned, shift), (camera_there, turned_there, shift_there) = known[one], known[other]
            case _:
                raise DatasetError(f"{file}, pair {number}: {pair!r} is not two names of its images")
        rotation = turned @ turned_there.T
        translation = shift - rotation @ shift_there
        found.append(PosePair(folder / one, folder / other, camera, camera_there, rotation, translation))
    _check_exist([folder / name for pair in pairs for name in pair], folder, f"{file} names them: copy them there.")
    return tuple(found)


def _camera(entry: Any, where: str) -> tuple[Floats, Floats, Floats]:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(entry, dict) or not {"camera", "rotation", "translation"} <= entry.keys():
        raise DatasetError(f"{where} needs a camera, a rotation and a translation")
    camera, rotation = (_matrix(entry[name], f"{where}: {name}") for name in ("camera", "rotation"))
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) or np.linalg.det(rotation) < 0:
        raise DatasetError(f"{where}: rotation {entry['rotation']!r} is not one; check the file")
    return camera, rotation, _numbers(entry["translation"], (3,), f"{where}: translation")
