"""Labelled collections, in small folders of each layout and in the icons."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from artmodels.data import labelled
from artmodels.data.labelled import Box, LabelledSet, annotated_folder, iconart, labelled_csv, peopleart, read, voc
from artmodels.data.voc import LIMIT
from artmodels.errors import DatasetError

ICONS = Path(__file__).parents[3] / "shared" / "data" / "icons"


def xml(*objects: tuple, size: tuple[int, int] | None = (100, 80), extra: str = "") -> str:
    """Each object: class, xmin, ymin, xmax, ymax, and 1 if difficult."""
    parts = [f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else "", extra]
    for name, left, top, right, bottom, *difficult in objects:
        parts.append(
            f"<object><name>{name}</name><difficult>{difficult[0] if difficult else 0}</difficult><bndbox>"
            f"<xmin>{left}</xmin><xmax>{right}</xmax><ymin>{top}</ymin><ymax>{bottom}</ymax></bndbox></object>"
        )
    return f"<annotation>{''.join(parts)}</annotation>"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def voc_folder(root: Path, lists: dict[str, list[str]], annotations: dict[str, str]) -> Path:
    write(root, {f"ImageSets/Main/{name}.txt": "\n".join(entries) + "\n" for name, entries in lists.items()})
    # The readers must not open images, so these are none.
    write(root, {f"JPEGImages/{entry}.jpg": "" for entries in lists.values() for entry in entries})
    return write(root, {f"Annotations/{entry}.xml": text for entry, text in annotations.items()})


def by_name(found: LabelledSet) -> dict[str, labelled.Item]:
    return {item.path.stem: item for item in found.items}


# --- Pascal VOC


def test_voc(tmp_path) -> None:
    lists = {"train": ["a", "b"], "test": ["c"], "trainval": ["a", "b", "d"], "dog_train": ["zzz"]}
    (tmp_path / "JPEGImages").mkdir()
    root = voc_folder(
        tmp_path,
        lists,
        {"a": xml(("dog", 1, 2, 100, 80), ("Cat ", 5.5, 6, 7, 8, 1)), "c": xml(("dog", 1, 1, 50, 50))},
    )
    found = voc(root, name="toy")
    assert (found.name, found.classes, len(found)) == ("toy", ("Cat", "dog"), 4)
    items = by_name(found)
    assert items["a"].boxes == (Box((0, 1, 99, 79), "dog"), Box((4.5, 5, 6, 7), "Cat", difficult=True))
    assert items["a"].labels == {"Cat", "dog"}
    assert items["a"].size == (100, 80)
    # No file: a negative, whose boxes are known to be none.
    assert items["b"].labels == frozenset()
    assert items["b"].boxed
    assert [items[name].split for name in "abcd"] == ["train", "train", "test", "trainval"]
    assert [item.path.stem for item in found.split("trainval").items] == ["a", "b", "d"]
    assert found.split("test").labels().tolist() == [[0, 1]]
    assert found.labels().dtype == "uint8"


def test_named_classes_keep_their_order_and_names(tmp_path) -> None:
    dog, person = xml(("DOG", 1, 2, 3, 4)), xml(("person", 1, 2, 3, 4))
    root = voc_folder(tmp_path, {"train": ["a", "b"]}, {"a": dog, "b": person})
    found = voc(root, classes=["zebra", "dog"], ignored=["Person"])
    assert found.name == tmp_path.name
    assert found.classes == ("zebra", "dog")
    assert found.labels().tolist() == [[0, 1], [0, 0]]
    with pytest.raises(DatasetError, match=r"a\.xml, object 1: the class 'DOG' is unknown\..*doggy, person"):
        voc(root, classes=["doggy", "person"])
    with pytest.raises(DatasetError, match=r"'person' is unknown\. Did you mean 'persons'"):
        voc(root, classes=["dog", "persons"])


def test_the_box_that_stands_for_somewhere_is_a_label_without_a_box(tmp_path) -> None:
    root = voc_folder(tmp_path, {"extra": ["a", "b"]}, {"a": xml(("dog", 1, 1, 1, 1)), "b": xml(("dog", 2, 2, 2, 2))})
    somewhere, small = voc(root).items
    assert (somewhere.labels, somewhere.boxes, somewhere.boxed) == ({"dog"}, (), False)
    assert small.boxes == (Box((1, 1, 1, 1), "dog"),)
    assert [item.path.stem for item in voc(root).boxed().items] == ["b"]


def test_missing_lists_images_and_parts(tmp_path) -> None:
    root = voc_folder(tmp_path, {"mine": ["a", "b", "c", "d", "e"]}, {})
    with pytest.raises(DatasetError, match=r"no list train.txt, val.txt, .*; it has mine"):
        voc(root)
    with pytest.raises(DatasetError, match=r"no list yours.txt; it has mine"):
        voc(root, splits=["mine", "yours"])
    with pytest.raises(DatasetError, match=r"no part 'mien', only mine \(5 images\)\. Did you mean 'mine'"):
        voc(root, splits=["mine"]).split("mien")
    for name in "abcd":
        (root / "JPEGImages" / f"{name}.jpg").unlink()
    with pytest.raises(DatasetError, match=r"4 of 5 images are not in .*JPEGImages: a, b, c, d\. Copy"):
        voc(root, splits=["mine"])
    with pytest.raises(DatasetError, match=r"no folder .*JPEGImages"):
        voc(write(tmp_path / "other", {"ImageSets/Main/train.txt": "a"}))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "sub/../a"])
def test_a_list_cannot_lead_out_of_the_folder(tmp_path, name) -> None:
    root = voc_folder(tmp_path / "set", {"train": ["a"]}, {})
    write(tmp_path, {"set/secret.jpg": "", "set/ImageSets/Main/train.txt": name})
    with pytest.raises(DatasetError, match="1 of 1 images are not in"):
        voc(root)


def test_duplicates(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"a occur more than once in train\.txt"):
        voc(voc_folder(tmp_path / "1", {"train": ["a", "b", "a"]}, {}))
    with pytest.raises(DatasetError, match=r"b are in test\.txt and in another list"):
        voc(voc_folder(tmp_path / "2", {"train": ["a", "b"], "test": ["b"]}, {}))
    root = voc_folder(tmp_path / "3", {"train": ["a"]}, {})
    (root / "JPEGImages" / "a.png").touch()
    with pytest.raises(DatasetError, match="a: there are several files of that name"):
        voc(root)
    write(root, {"ImageSets/Main/train.txt": "a.png"})
    assert len(voc(root)) == 1
    write(root, {"JPEGImages/b.jpg": "", "ImageSets/Main/train.txt": "b.jpg\nb"})
    with pytest.raises(DatasetError, match="b.jpg occur more than once in the list, once with and once without"):
        voc(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object></annotation>", "not well-formed XML: mismatched tag"),
        ("", "not well-formed XML"),
        ("<html></html>", "is a <html> file"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "document type or entities"),
        ("<!doctype a><annotation/>", "document type or entities"),
        (xml(("dog", "x", 1, 2, 2)), r"object 1 \(dog\): xmin 'x', ymin '1', xmax '2', ymax '2' are not the four"),
        (xml(("dog", "inf", 1, 2, 2)), "are not the four sides"),
        (xml(("dog", 1, 1, "", 2)), "xmax ''"),
        (xml(("", 1, 1, 2, 2)), "object 1: there is no <name>"),
        (xml(("dog", 30, 1, 20, 2)), r"the box 30, 1, 20, 2 is inside out or lies outside the image \(100 x 80\)"),
        (xml(("dog", 200, 1, 220, 2)), "lies outside the image"),
        (xml(("cat", 1, 2, 3, 4), ("dog", 1, 1, 20, 90)), r"object 2 \(dog\): the box 1, 1, 20, 90 leaves the image"),
    ],
)
def test_malformed_annotations(tmp_path, text, message) -> None:
    root = voc_folder(tmp_path, {"train": ["a"]}, {"a": text})
    with pytest.raises(DatasetError, match=rf"a\.xml.*{message}"):
        voc(root)


def test_files_that_are_too_large_or_not_text(tmp_path) -> None:
    root = voc_folder(tmp_path, {"train": ["a"]}, {"a": "<annotation>" + " " * LIMIT + "</annotation>"})
    with pytest.raises(DatasetError, match="a.xml has more than 4 MB"):
        voc(root)
    # UTF-16 would hide a document type from a search for its letters.
    (root / "Annotations" / "a.xml").write_bytes("<annotation/>".encode("utf-16"))
    with pytest.raises(DatasetError, match="a.xml is not text in UTF-8"):
        voc(root)


def test_boxes_on_the_edge_are_taken_and_others_cut_back_on_demand(tmp_path) -> None:
    # Written by programs that count from 0 or that write where the box ends.
    root = voc_folder(tmp_path, {"train": ["a"]}, {"a": xml(("dog", 0, 0, 101, 81))})
    assert voc(root).items[0].boxes == (Box((0, 0, 100, 80), "dog"),)
    write(root, {"Annotations/a.xml": xml(("dog", -9, 5, 200, 300))})
    assert voc(root, clip=True).items[0].boxes == (Box((0, 4, 100, 80), "dog"),)
    # Without a size nothing can be said about the far sides.
    for size in (None, (0, 0)):
        write(root, {"Annotations/a.xml": xml(("dog", 9, 5, 200, 300), size=size)})
        assert voc(root).items[0].boxes == (Box((8, 4, 199, 299), "dog"),)
        assert voc(root).items[0].size is None


# --- what a set can do


def test_restricted_sets_keep_their_images_as_negatives(tmp_path) -> None:
    both, cat = xml(("dog", 1, 2, 3, 4), ("cat", 1, 2, 3, 4)), xml(("cat", 1, 2, 3, 4))
    root = voc_folder(tmp_path, {"train": ["a", "b"]}, {"a": both, "b": cat})
    found = voc(root)
    assert found.common_classes(replace(found, classes=("dog", "person", "cat"))) == ("cat", "dog")
    dogs = found.restrict(["dog"])
    assert dogs.labels().tolist() == [[1], [0]]
    assert [[box.label for box in item.boxes] for item in dogs.items] == [["dog"], []]
    with pytest.raises(DatasetError, match=r"class of .* 'dgo'\. Did you mean 'dog'"):
        found.restrict(["dgo"])
    assert replace(found, items=()).labels().shape == (0, 2)


# --- tables


def test_csv_with_minus_one_or_zero(tmp_path) -> None:
    write(tmp_path / "images", {"a.jpg": "", "b.png": "", "sub/c.jpg": ""})
    table = tmp_path / "labels.csv"
    table.write_text("\ufefffile, Mary,ruins,set\na.jpg,1,-1,train\nb,0,+1,test\nsub/c,1,-1,\n", encoding="utf-8")
    found = labelled_csv(table, tmp_path / "images")
    assert (found.name, found.classes) == ("labels", ("Mary", "ruins"))
    assert found.labels().tolist() == [[1, 0], [0, 1], [1, 0]]
    assert [item.split for item in found.items] == ["train", "test", None]
    assert not any(item.boxed for item in found.items)
    assert [item.path.name for item in found.items] == ["a.jpg", "b.png", "c.jpg"]
    assert labelled_csv(table, tmp_path / "images", classes=["ruins"]).labels().tolist() == [[0], [1], [0]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("file,Mary\n", {}, "is empty"),
        ("picture,Mary\na,1\n", {}, "no column of file names: it has picture, Mary. Call the one"),
        ("file,set\na,train\n", {}, "no column of labels"),
        ("file,Mary\na,perhaps\n", {}, r"column 'Mary': 'perhaps' in row 1 is no label"),
        ("file,Mary,title\na,1,Ruins at dusk\n", {}, r"column 'title': 'Ruins at dusk' in row 1"),
        ("file,Mary\na,0\nb,-1\n", {}, "column 'Mary' mixes 0 and -1"),
        ("file,Mary\na,1\nb\n", {}, "line 3: 1 values for 2 columns"),
        ("file,Mary,Mary\na,1,1\n", {}, "Mary occur more than once in the header"),
        ("file,Mary\na,1\na,0\n", {}, "a occur more than once"),
        ("file,Mary\na,1\nq,0\n", {}, "1 of 2 images are not in .*: q"),
        ('file,Mary\na,"1\n', {}, "line 2: not a table of values between"),
        ("file,Mary\na,1\n", {"classes": ["mary"]}, r"column of .* 'mary'\. Did you mean 'Mary'"),
        ("file,Mary\na,1\n", {"name_column": "fiel"}, r"'fiel'\. Did you mean 'file'"),
        ("file,Mary\na,1\n", {"other_columns": ["titles"]}, "'titles'"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path, text, options, message) -> None:
    write(tmp_path, {"labels.csv": text, "images/a.jpg": "", "images/b.jpg": ""})
    with pytest.raises(DatasetError, match=message):
        labelled_csv(tmp_path / "labels.csv", tmp_path / "images", **options)


@pytest.mark.parametrize("data", [
    b"file;ship\nb.jpg;1\na.jpg;0\n",
    "sep=;\r\nfile;ship\r\nb.jpg;1,0\r\na.jpg;0,0\r\n;\r\n".encode("cp1252"),
    "File\tship\nb.jpg\tTRUE\na.jpg\tFALSE\n".encode("utf-16"),
    "\ufefffile,ship,\r\nb.jpg,1,\r\na.jpg,0,\r\n,,\r\n".encode(),
    "Datei;file;ship\nschön;b.jpg;WAHR\nhübsch;a.jpg;falsch\n".encode("cp1252"),
], ids=["semicolons", "sep", "utf-16", "blank", "cp1252"])  # fmt: skip
def test_csv_as_spreadsheets_write_it(tmp_path, data) -> None:
    write(tmp_path, {"images/a.jpg": "", "images/b.jpg": ""})
    (tmp_path / "labels.csv").write_bytes(data)
    found = labelled_csv(tmp_path / "labels.csv", tmp_path / "images", classes=["ship"])
    assert [item.path.name for item in found.items] == ["b.jpg", "a.jpg"]
    assert found.labels().tolist() == [[1], [0]]


def test_csv_that_is_not_there(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"none\.csv cannot be read: No such file"):
        labelled_csv(tmp_path / "none.csv", tmp_path)


# --- the collections of the papers


def icon_art(root: Path, version: int) -> Path:
    classes = labelled.ICONART if version == 1 else labelled.ICONART_V2
    rows = {
        "Q1": ({"angel", "Mary"}, "train", 0),
        "Q2": ({"Mary"}, "test", 1),
        "Q3": (set(), "test", 1),
        "Q4": ({"nudity"}, "test", 0),
    }
    lines = [",".join(["item", *classes, "set", "Anno"])]
    for name, (shown, part, anno) in rows.items():
        lines.append(",".join([name, *(str(int(label in shown)) for label in classes), part, str(anno)]))
    write(root, {f"ImageSets/Main/IconArt_v{version}.csv": "\n".join(lines)})
    write(root, {f"JPEGImages/{name}.jpg": "" for name in rows})
    boxes = xml(("Mary", 1, 1, 9, 9), ("turban", 1, 1, 5, 5))
    return write(root, {"Annotations/Q2.xml": boxes, "Annotations/Q3.xml": xml()})


@pytest.mark.parametrize("version", [1, 2])
def test_iconart(tmp_path, version) -> None:
    found = iconart(icon_art(tmp_path, version), version=version)
    assert found.name == f"IconArt v{version}"
    assert len(found.classes) == {1: 7, 2: 10}[version]
    assert [sorted(item.labels) for item in found.items] == [["Mary", "angel"], ["Mary"], [], ["nudity"]]
    # Detection is measured where boxes were drawn, also where there are none; classification on the whole test part.
    assert [item.path.stem for item in found.split("test").boxed().items] == ["Q2", "Q3"]
    assert len(found.split("test")) == 3
    assert [box.label for box in found.items[1].boxes] == ["Mary", "turban"][:version]


def test_iconart_that_is_not_complete(tmp_path) -> None:
    root = icon_art(tmp_path, 1)
    with pytest.raises(DatasetError, match="no version 3"):
        iconart(root, version=3)
    with pytest.raises(DatasetError, match=r"IconArt_v2\.csv cannot be read"):
        iconart(root, version=2)
    (root / "Annotations" / "Q3.xml").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 annotations are missing: .*Q3\.xml"):
        iconart(root)
    table = root / "ImageSets" / "Main" / "IconArt_v1.csv"
    table.write_text(table.read_text().replace("nudity", "nudities"))
    with pytest.raises(DatasetError, match=r"'nudity'\. Did you mean 'nudities'"):
        iconart(root)


def people_art(root: Path) -> Path:
    lists = {"train": ["Cubism/a.jpg 1", "Cubism/b.jpg -1"], "val": ["photo/a.jpg -1"], "test": ["Pop Art/c d.jpg 1"]}
    write(root, {f"Annotations/person_{name}.txt": "\n".join(lines) for name, lines in lists.items()})
    write(root, {f"JPEGImages/{line.rsplit(' ', 1)[0]}": "" for lines in lists.values() for line in lines})
    boxes = xml(("person", 1, 1, 9, 9), extra="<difficult>0</difficult>")
    return write(root, {"Annotations/Cubism/a.jpg.xml": boxes, "Annotations/Pop Art/c d.jpg.xml": boxes})


def test_peopleart(tmp_path) -> None:
    found = peopleart(people_art(tmp_path))
    assert found.classes == ("person",)
    parts = [(item.split, len(item.boxes)) for item in found.items]
    assert parts == [("train", 1), ("train", 0), ("val", 0), ("test", 1)]
    assert found.labels().ravel().tolist() == [1, 0, 0, 1]
    # Negatives have no file, and are images with nothing to find.
    assert all(item.boxed for item in found.items)


def test_peopleart_that_is_not_complete(tmp_path) -> None:
    root = people_art(tmp_path)
    (root / "Annotations" / "Cubism" / "a.jpg.xml").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 annotations are missing: .*a\.jpg\.xml"):
        peopleart(root)
    write(root, {"Annotations/person_val.txt": "Cubism/b.jpg -1"})
    with pytest.raises(DatasetError, match=r"Cubism/b.jpg occur more than once in .*person_val\.txt"):
        peopleart(root)
    write(root, {"Annotations/person_val.txt": "photo/a.jpg maybe"})
    with pytest.raises(DatasetError, match="photo/a.jpg maybe should be a file name and 1 or -1"):
        peopleart(root)


@pytest.mark.parametrize(
    ("name", "count", "label"),
    [("watercolor2k", 6, "bicycle"), ("comic2k", 6, "person"), ("clipart1k", 20, "tvmonitor"), ("caspa", 8, "sheep")],
)
def test_collections_in_the_layout_of_voc(tmp_path, name, count, label) -> None:
    root = voc_folder(tmp_path, {"train": ["1"], "test": ["2"]}, {"1": xml((label, 1, 2, 3, 4))})
    found = read(name, root)
    assert found.name.lower() == name
    assert len(found.classes) == count
    assert found.split("train").labels().sum() == 1
    assert found.split("test").labels().sum() == 0
    write(root, {"Annotations/1.xml": xml(("unicorn", 1, 2, 3, 4))})
    with pytest.raises(DatasetError, match="the class 'unicorn' is unknown"):
        read(name, root)


def test_a_reader_that_does_not_exist(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"no reader 'people-art'\. Did you mean 'peopleart'"):
        read("people-art", tmp_path)


# --- folders with annotations beside them


def test_annotated_folder(tmp_path) -> None:
    write(tmp_path, {"in/a.jpg": "", "in/deep/b.png": "", "xml/deep/b.xml": xml(("saint", 1, 1, 9, 9))})
    found = annotated_folder(tmp_path / "in", tmp_path / "xml")
    assert [(item.path.name, sorted(item.labels)) for item in found.items] == [("a.jpg", []), ("b.png", ["saint"])]
    write(tmp_path, {"xml/c.xml": xml()})
    with pytest.raises(DatasetError, match="1 of 2 images are not in .*: c"):
        annotated_folder(tmp_path / "in", tmp_path / "xml")
    with pytest.raises(DatasetError, match="holds no .xml file"):
        annotated_folder(tmp_path / "in", tmp_path / "in")
    with pytest.raises(DatasetError, match="no folder .*none"):
        annotated_folder(tmp_path / "in", tmp_path / "none")


@pytest.mark.skipif(not ICONS.is_dir(), reason=f"the icons are not there: {ICONS}")
def test_the_icons() -> None:
    found = annotated_folder(ICONS / "valid", ICONS / "annotations" / "valid")
    assert len(found) == 26
    boxes = Counter(box.label for item in found.items for box in item.boxes)
    assert boxes.total() == 369
    assert dict(boxes.most_common(4)) == {"aura": 88, "saint": 57, "person": 42, "wing": 41}
    for item in found.items:
        assert item.size == (640, 640)
        corners = [box.xyxy for box in item.boxes]
        assert all(0 <= a <= c <= 640 and 0 <= b <= d <= 640 for a, b, c, d in corners)
