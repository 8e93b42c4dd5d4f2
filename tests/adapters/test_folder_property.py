"""For random folder trees, what is read is what a plain reading gives, or it is refused; never anything else."""

from __future__ import annotations

import io
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import event, given
from hypothesis import strategies as st
from PIL import Image

from elixir_plugin import Case, ImageSet, get_adapter
from elixir_plugin.errors import InputError

SIZE = (6, 5)  # H, W
READ = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif")
JUNK = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN")
TRAIN = ("train", "Train", "training")
CLASSES = (
    ("a", "b"), ("cat", "Dog", "ängel"), ("1", "2", "10"), ("0", "00", "b"), ("007", "8", "12", "100"), ("x y", "x-y"),
    ("train", "tram"), ("東", "京"), ("=a", "b\n", "-1"), ("1", "01", "3"), ("only",), ("-3", "-20", "4"), ("x", "x-y"),
)  # fmt: skip
KINDS = ("RGB.png", "L.png", "P.png", "RGBA.png", "LA.png", "1.png", "I;16.png", "RGB.jpg", "L.JPG", "RGB.bmp", "P.bmp",
         "RGB.webp", "RGB.tif", "RGB.gif", "cut.png", "empty.jpeg", "text.png", "notes.txt")  # fmt: skip
BROKEN = ("cut.png", "empty.jpeg", "text.png", "I;16.png")
Content = dict[str, bytes | None]  # relative path -> content; None: an empty folder


def picture(kind: str, seed: int) -> bytes:
    mode, _, suffix = kind.rpartition(".")
    if mode in ("empty", "text", "notes"):
        return b"" if mode == "empty" else b"no image"
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    height, width = SIZE
    if mode == "I;16":
        Image.fromarray(rng.integers(0, 65536, SIZE, np.uint16)).save(buffer, "PNG")
        return buffer.getvalue()
    base = Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8))
    how: dict[str, Any] = {}
    if mode == "P":
        image = base.convert("RGB").quantize(16)
        if suffix == "png" and seed % 2:
            how["transparency"] = bytes(range(16))
    else:
        image = base.convert("RGB" if mode == "cut" else mode)
    kinds = {"jpg": "JPEG", "tif": "TIFF"}
    image.save(buffer, kinds.get(suffix.lower(), suffix.upper()), **how)
    return buffer.getvalue()[:-20] if mode == "cut" else buffer.getvalue()


@dataclass(frozen=True)
class Tree:
    files: Content
    options: dict[str, str]
    plain: bool  # nothing in it can be read in two ways, and nothing is broken

    def write(self, root: Path) -> None:
        for name, content in self.files.items():
            path = root / name
            (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
            if content is not None:
                path.write_bytes(content)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    dice = random.Random(draw(st.integers(0, 1 << 30)))
    classes = dice.choice(CLASSES)
    order = dice.choice([None, None, "text", "number"])
    options = {"unreadable": dice.choice(["refuse", "skip"])} | ({"class_order": order} if order else {})
    files: Content = {}
    plain = len(classes) > 1 and (order == "text" or len({_number(name) for name in classes}) == len(classes))
    roots = dice.choice(
        [("",), ("",), (dice.choice(TRAIN),), (dice.choice(TRAIN), "Test"), (dice.choice(TRAIN), "clean", "val")]
    )
    for root in roots:
        for name in classes:
            count = dice.choice([0, 1, 2, 3, 3]) if dice.random() < 0.3 else dice.randint(1, 3)
            for _ in range(count):
                common = dice.random() < 0.85
                kind = dice.choice(
                    [each for each in KINDS if each not in (*BROKEN, "RGB.gif", "notes.txt")] if common else KINDS
                )
                deep = dice.choice(["", "", "", "deep/", "A/b/"])
                stem = dice.choice(["0", "1", "10", "Z", "ß", "x y", "i.j"])
                files[f"{root}/{name}/{deep}{stem}.{kind.rpartition('.')[2]}".lstrip("/")] = picture(
                    kind, dice.randrange(99)
                )
                plain &= kind not in BROKEN
            held = [file for file in files if file.startswith(f"{root}/{name}/".lstrip("/"))]
            if not any(file.lower().endswith(READ) for file in held):
                files.setdefault(f"{root}/{name}".lstrip("/"), None)
                plain = False
    for name in dice.sample(JUNK, dice.choice([0, 0, 1, 2])):
        files[dice.choice(["", f"{roots[0]}/".lstrip("/")]) + f"{name}/0.png"] = picture("RGB.png", 0)
    if dice.random() < 0.3:
        files[".hidden/0.png"] = files[f"{roots[0]}/{classes[0]}/.0.png".lstrip("/")] = picture("RGB.png", 1)
        files["Thumbs.db"] = b"junk"
    if dice.random() < 0.3:
        files[f"{roots[0]}/loose.png".lstrip("/")] = picture("RGB.png", 2)
    if roots != ("",) and dice.random() < 0.3:
        files["other/0.png"] = picture("RGB.png", 3)
        plain = False
    return Tree(files, options, plain and not (roots == ("",) and "train" in classes))


def _number(name: str) -> object:
    return int(name) if name.lstrip("-").isdecimal() and name.isascii() else name


def expected(root: Path, by_number: bool) -> Iterator[tuple[str, str, Any]]:
    """Yield name, class and pixels of the images in the class folders of *root*, as a plain loop finds them."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in JUNK]
    names = sorted(folder.name for folder in folders)
    if by_number and all(isinstance(_number(name), int) for name in names):
        names.sort(key=int)
    for name in names:
        found = [path for path in (root / name).rglob("*") if path.is_file() and path.suffix.lower() in READ]
        found = [path for path in found if path.name[0] != "."]
        for path in sorted(found, key=lambda path: (path.parent.relative_to(root).as_posix(), path.name)):
            try:
                with Image.open(path) as image:
                    deep = image.mode.startswith("I")
                    pixels = np.asarray(image.convert("RGBA").convert("RGB"))
            except OSError:
                continue
            if not deep:
                yield path.relative_to(root).as_posix(), name, pixels


def holds_classes(folder: Path) -> bool:
    """Tell whether an image lies in a class folder below *folder*: one of empty folders and loose images is a class."""
    inner = (path.relative_to(folder).parts for path in folder.rglob("*") if path.suffix.lower() in READ)
    return any(len(parts) > 1 and parts[0] not in JUNK and parts[0][0] != "." != parts[-1][0] for parts in inner)


def same(images: ImageSet | None, root: Path, by_number: bool) -> bool:
    assert images is not None and images.classes is not None and images.names is not None
    wanted = list(expected(root, by_number))
    labels = [images.classes[label] for label in images.labels]
    assert list(images.names) == [name for name, _, _ in wanted] and labels == [label for _, label, _ in wanted]
    return np.array_equal(images.read(slice(None)), np.stack([pixels for _, _, pixels in wanted]))


def check(tree: Tree, root: Path) -> None:
    tree.write(root)
    try:
        case: Case = get_adapter("image_folder")(tree.options).read(root)
    except InputError as error:
        assert not tree.plain, error
        event(error.what.lstrip("0123456789 "))
        return
    event("read")
    by_number = tree.options.get("class_order") != "text"
    split = [path for path in root.iterdir() if path.name in TRAIN and holds_classes(path)]
    train = split[0] if split else root
    assert same(case.train, train, by_number)
    for part, name in ((case.test, "Test"), (case.clean, "clean")):
        assert (part is not None) == (bool(split) and (root / name).is_dir())
        if part is not None:
            assert same(part, root / name, by_number) and part.classes == case.train.classes  # type: ignore[union-attr]
    told = " ".join(case.notes)
    assert ("loose.png" in told) == (train / "loose.png").exists()
    assert ("val (options" in told) == (root / "val").is_dir()
    ignored = [path for path in (train, root / "clean", root / "Test") for path in path.glob("*/**/*.txt")]
    assert ("are not images" in told) == any("val" not in path.parts for path in ignored)
    assert "left out" in told or not any((train / name).is_dir() for name in JUNK)
    classes = case.train.classes or ()  # type: ignore[union-attr]
    assert ("in the order of their numbers" in told) == (
        "class_order" not in tree.options and list(classes) != sorted(classes)
    )


@given(trees())
def test_what_is_read_is_what_a_plain_reading_gives(tree: Tree) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        check(tree, root)
    finally:
        shutil.rmtree(root)
