"""What is noticed: a pixel, a label, a file too few, too many or under another name, and what a forger would change."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import BRIEF, FORMATS, NETWORK, images, written

from elixir_plugin.errors import InputError, SettingsError
from elixir_plugin.io.reading import read_torch
from elixir_plugin.zoo.entries import find_entry
from elixir_plugin.zoo.known import HASHES, known_hashes, made_hashes
from elixir_plugin.zoo.make import make
from elixir_plugin.zoo.verify import rebuild, verify

Copied = Callable[[str], Path]
WHITE = find_entry("badnets_white_10pc")


def pngs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def repaint(path: Path) -> None:
    """Change one value of one pixel by one."""
    pixels = np.array(Image.open(path))
    pixels[3, 5, 1] ^= 1
    Image.fromarray(pixels).save(path)


def edit_arrays(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "set" / "case.npz"
    with np.load(file) as read:
        arrays = dict(read)
    change(arrays)
    np.savez(file, **arrays)


def edit_json(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def plain(value: Any) -> Any:
    """Return what was read under restrictions with arrays that can be written again."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return np.array(value.tolist()) if isinstance(value, np.ndarray) else value


def trust_the_files(folder: Path) -> None:
    """Give the manifest the hashes of the files as they are, as a careless forger would."""

    def change(manifest: Any) -> None:
        for name in list(manifest["files"]):
            content = (folder / name).read_bytes()
            manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    edit_json(folder / "zoo.json", change)


@pytest.mark.parametrize("to", FORMATS)
def test_a_set_is_as_it_was_made_wherever_it_lies(originals: dict[str, Path], copied: Copied, to: str) -> None:
    for folder in (originals[to], copied(to)):
        verdict = verify(folder, "tact_2pc")
        assert verdict.sound and verdict.faults == [] and verdict.known is None


@pytest.mark.parametrize("part", ["set/train", "set/clean", "set/test", "triggered"])
def test_one_pixel_of_an_image_folder(copied: Copied, part: str) -> None:
    folder = copied("image_folder")
    path = pngs(folder / part)[4]
    repaint(path)
    name = Path(part).name
    assert verify(folder).faults == [
        f"file changed: {path.relative_to(folder)}", f"{name}: other pixels than made: sample 4"
    ]  # fmt: skip
    trust_the_files(folder)
    assert verify(folder).faults == [f"{name}: other pixels than made: sample 4"]


@pytest.mark.parametrize(("array", "part"), [("x_train", "train"), ("x_test_poisoned", "triggered")])
def test_one_pixel_of_an_array(copied: Copied, array: str, part: str) -> None:
    folder = copied("arrays")

    def change(arrays: dict[str, Any]) -> None:
        arrays[array][5, 0, 0, 0] ^= 1

    edit_arrays(folder, change)
    assert verify(folder).faults == ["file changed: set/case.npz", f"{part}: other pixels than made: sample 5"]


@pytest.mark.parametrize("where", ["bd_train_dataset", "bd_test_dataset"])
def test_one_pixel_of_a_record(copied: Copied, where: str) -> None:
    folder = copied("backdoorbench")
    path = pngs(folder / "record/tact_2pc" / where)[0]
    repaint(path)
    changed, read = verify(folder).faults
    assert changed == f"file changed: {path.relative_to(folder)}"
    assert read.startswith("train: other pixels" if "train" in where else "triggered: other pixels")


def test_one_pixel_of_the_clean_data_of_a_record(copied: Copied) -> None:
    folder = copied("backdoorbench")
    path = pngs(folder / "data/zoo/test")[7]
    repaint(path)
    assert verify(folder).faults == [
        f"file changed: {path.relative_to(folder)}", "test: other pixels than made: sample 7"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("array", "said"), [("y_train", "label"), ("is_poison", "truth"), ("is_cover", "truth"), ("y_original", "truth")]
)
def test_one_label_or_mark_of_an_array(copied: Copied, array: str, said: str) -> None:
    folder = copied("arrays")

    def change(arrays: dict[str, Any]) -> None:
        arrays[array][9] = 1 - arrays[array][9] if array.startswith("is") else (arrays[array][9] + 1) % 4

    edit_arrays(folder, change)
    trust_the_files(folder)
    assert verify(folder).faults == [f"train: other {said} than made: sample 9"]


def test_one_label_of_a_record(copied: Copied) -> None:
    folder = copied("backdoorbench")
    file = folder / "record/tact_2pc/attack_result.pt"
    content = read_torch(file)
    held = content["bd_train"]["bd_data_container"]["data_dict"]
    covers = [key for key, each in held.items() if each["other_info"][0] == each["other_info"][1]]
    held[covers[0]]["other_info"][0] = (held[covers[0]]["other_info"][1] + 1) % 4
    torch.save(plain(content), file)
    faults = verify(folder).faults
    assert faults[0] == "file changed: record/tact_2pc/attack_result.pt"
    assert any(fault.startswith("train: other label than made: sample ") for fault in faults)


def test_an_image_in_the_folder_of_another_class(copied: Copied) -> None:
    folder = copied("image_folder")
    path = pngs(folder / "set/train/1")[0]
    path.rename(folder / "set/train/2" / path.name)
    renamed, *read = verify(folder).faults
    assert renamed == f"file renamed: set/train/1/{path.name} is set/train/2/{path.name}"
    assert any(fault.startswith("train: other label") for fault in read)


def test_a_file_under_another_name_of_its_class(copied: Copied) -> None:
    folder = copied("image_folder")
    path = pngs(folder / "set/test/1")[-1]
    path.rename(path.with_name("zzz.png"))  # read at the same place: only the name is another one
    assert verify(folder).faults == [f"file renamed: set/test/1/{path.name} is set/test/1/zzz.png"]


def test_two_files_that_changed_places(copied: Copied) -> None:
    folder = copied("image_folder")
    one, two = pngs(folder / "set/train/1")[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    changed = verify(folder).faults
    assert changed[:2] == [f"file changed: {path.relative_to(folder)}" for path in (one, two)]
    assert changed[2].startswith("train: other pixels than made: 2 samples")


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("what", ["image", "model", "table", "manifest"])
def test_a_missing_file(copied: Copied, to: str, what: str) -> None:
    folder = copied(to)
    of_format = {
        "image_folder": ("set/test/1", "set/model/model.safetensors"),
        "arrays": ("set/case.npz", "set/model/model.json"),
        "backdoorbench": ("record/tact_2pc/bd_train_dataset", "record/tact_2pc/attack_result.pt"),
    }[to]
    place = {"image": of_format[0], "model": of_format[1], "table": "samples.csv", "manifest": "zoo.json"}[what]
    path = pngs(folder / place)[0] if (folder / place).is_dir() else folder / place
    path.unlink()
    if what == "manifest":
        with pytest.raises(InputError, match="file not found"):
            verify(folder)
        return
    faults = verify(folder).faults
    assert faults[0] == f"file missing: {path.relative_to(folder)}"
    assert len(faults) == (1 if what == "model" and to != "backdoorbench" else 2)


@pytest.mark.parametrize("name", ["note.txt", "set/train/1/more.png", ".hidden", "samples.csv.bak", "a\nb"])
def test_an_added_file(copied: Copied, name: str) -> None:
    folder = copied("image_folder")
    shutil.copy(pngs(folder / "set/train/2")[0], folder / name)
    faults = verify(folder).faults
    shown = name.replace("\n", "\\n")
    assert f"file added: {shown}" in faults
    assert (len(faults) == 2) == name.endswith(".png")  # it is read, too


def test_a_link_in_place_of_a_file_is_no_file_of_the_set(copied: Copied, tmp_path: Path) -> None:
    folder = copied("arrays")
    shutil.move(folder / "set/case.npz", tmp_path / "elsewhere.npz")
    (folder / "set/case.npz").symlink_to(tmp_path / "elsewhere.npz")
    faults = verify(folder).faults
    assert faults[0] == "file changed: set/case.npz"
    assert "leaves its folder" in faults[1]


@pytest.mark.parametrize("name", ["samples.csv", "set/model/model.json", "set/case.npz", "more"])
def test_a_file_of_another_size_is_not_read(copied: Copied, name: str) -> None:
    folder = copied("arrays")
    with (folder / name).open("wb") as file:
        file.truncate(2**42)  # without a byte of content
    faults = verify(folder).faults
    assert faults[0] == f"file {'added' if name == 'more' else 'changed'}: {name}"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("name", ["samples.csv", "zoo.json", "set/model/model.json", "more"])
def test_a_fifo_is_not_waited_for(copied: Copied, name: str) -> None:
    folder = copied("arrays")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name == "zoo.json":
        with pytest.raises(InputError, match="not a regular file"):
            verify(folder)
    else:
        assert verify(folder).faults[0] == f"file {'added' if name == 'more' else 'changed'}: {name}"


def test_a_changed_weight(copied: Copied) -> None:
    folder = copied("arrays")
    file = folder / "set/model/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert verify(folder).faults == ["file changed: set/model/model.safetensors"]


def test_another_entry_and_other_settings(copied: Copied, tmp_path: Path) -> None:
    folder = copied("arrays")
    assert verify(folder, "tact_0p3pc").faults == ["another set: the manifest says tact_2pc, not tact_0p3pc"]
    edit_json(folder / "zoo.json", lambda manifest: manifest["attack"]["settings"].update(size=4))
    assert verify(folder).faults[0].startswith("other settings than tact_2pc has")
    edit_json(folder / "zoo.json", lambda manifest: manifest.update(entry="own\n"))
    assert verify(folder).faults[0] == "no entry of this zoo: own\\n"


def test_the_table_and_the_hash_belong_together(copied: Copied) -> None:
    folder = copied("arrays")
    with (folder / "samples.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    rows[-1][2] = str((int(rows[-1][2]) + 1) % 4)
    (folder / "samples.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    trust_the_files(folder)
    assert verify(folder).faults[0] == "the table of samples is not the one of the manifest"


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(schema=2),
        lambda manifest: manifest["read"].update(path="../elsewhere"),
        lambda manifest: manifest["read"].update(path="/etc/passwd"),
        lambda manifest: manifest["read"].update(model="set/../../model"),
        lambda manifest: manifest["read"].update(architecture="evil.py:factory"),
        lambda manifest: manifest["read"].update(adapter="testbed"),
        lambda manifest: manifest["files"].update({"../x": {"sha256": "0" * 64, "bytes": 1}}),
        lambda manifest: manifest["files"].update({"x": {"sha256": "0", "bytes": 1}}),
        lambda manifest: manifest.pop("content"),
        lambda manifest: manifest.update(more=1),
    ],
)
def test_a_manifest_that_is_none_is_refused(copied: Copied, change: Callable[[Any], None]) -> None:
    folder = copied("arrays")
    edit_json(folder / "zoo.json", change)
    with pytest.raises(InputError, match="not a manifest of the zoo"):
        verify(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"schema": 1}'])
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "zoo.json").write_text(text)
    with pytest.raises(InputError):
        verify(tmp_path)


# made again


@pytest.mark.parametrize("to", FORMATS)
def test_made_again_it_is_the_same_with_the_model_there_or_a_new_one(
    originals: dict[str, Path], base: str, to: str
) -> None:
    for retrain in (False, True):
        verdict = verify(originals[to])
        before = len(verdict.notes)
        rebuild(verdict, base=base, retrain=retrain)
        assert verdict.faults == [] and len(verdict.notes) == before


def test_made_again_from_another_base(originals: dict[str, Path], tmp_path: Path) -> None:
    verdict = verify(originals["arrays"])
    with pytest.raises(SettingsError, match="the base of this set is needed"):
        rebuild(verdict)
    rebuild(verdict, base=written(tmp_path / "other", train=images(160, 0), test=images(24, 2)))
    assert "the base is another one" in verdict.faults[0]
    assert verdict.faults[1:] == ["made again: test is not the same", "made again: triggered is not the same"]


def test_made_again_under_other_versions_only_samples_count(copied: Copied, base: str) -> None:
    folder = copied("image_folder")
    path = pngs(folder / "set/train/1")[0]
    Image.open(path).save(path, compress_level=1)  # as another encoder would write the same pixels
    trust_the_files(folder)
    verdict = verify(folder)
    assert verdict.faults == []
    rebuild(verdict, base=base)
    assert verdict.faults == [f"made again: 1 of {len(verdict.manifest.files)} files have other bytes, first "
                              f"{path.relative_to(folder)}"]  # fmt: skip
    edit_json(folder / "zoo.json", lambda manifest: manifest["environment"].update(Pillow="9.0"))
    verdict = verify(folder)
    rebuild(verdict, base=base)
    assert verdict.faults == [] and "Pillow 9.0, here " in verdict.notes[-1]


def test_what_a_manifest_says_of_the_base_runs_no_code(copied: Copied, base: str, tmp_path: Path) -> None:
    folder = copied("arrays")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    inner = {"model": str(tmp_path / "evil.py"), "architecture": f"{tmp_path / 'evil.py'}:factory"}
    edit_json(folder / "zoo.json", lambda manifest: manifest["base"]["options"].update(base_options=inner))
    verdict = verify(folder)
    rebuild(verdict, base=base)
    assert verdict.faults == [] and not (tmp_path / "ran").exists()


# the digits


def test_the_hashes_of_the_digits_are_those_that_are_made_here() -> None:
    made = dict(made_hashes())
    assert made == known_hashes()
    assert HASHES.read_text() == json.dumps(made, indent=2) + "\n"  # what 'elixir-plugin zoo hashes' prints


def test_a_set_of_the_digits_is_known_and_a_forged_one_is_found_out(tmp_path: Path) -> None:
    make(WHITE, tmp_path / "set", to="arrays", model=False)
    assert verify(tmp_path / "set").known is True
    shutil.rmtree(tmp_path / "set")
    make(find_entry("badnets_colour_10pc"), tmp_path / "set", to="arrays", model=False)
    attack = WHITE.attack().settings.dump()
    edit_json(
        tmp_path / "set/zoo.json",
        lambda manifest: (manifest.update(entry=WHITE.name), manifest["attack"].update(settings=attack)),
    )
    verdict = verify(tmp_path / "set", WHITE.name)
    assert verdict.known is False
    assert verdict.faults == [f"not the set of the zoo: its hash must be {known_hashes()[WHITE.name]}"]


@pytest.mark.parametrize("other", [{"size": 8}, {"clean": 140}, {"test": 500}, "seed"])
def test_digits_of_another_size_split_or_seed_have_no_known_hash(tmp_path: Path, other: Any) -> None:
    options, seed = ({}, 1) if other == "seed" else (other, 0)
    make(WHITE, tmp_path / "set", to="arrays", options=options, seed=seed, model=False)
    assert verify(tmp_path / "set").known is None


def test_how_the_model_is_trained_does_not_matter_to_the_hash(tmp_path: Path) -> None:
    options = {**BRIEF, "architecture": NETWORK["arrays"]}
    make(WHITE, tmp_path / "set", to="arrays", options=options)
    assert verify(tmp_path / "set").known is True
