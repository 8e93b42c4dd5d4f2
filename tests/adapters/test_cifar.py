"""CIFAR in the files of torchvision: read as plain data, by either folder, and refused where it is something else."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elixir_plugin import get_adapter
from elixir_plugin.core.case import Case
from elixir_plugin.errors import InputError

TEN = ("cifar-10-batches-py", [f"data_batch_{k}" for k in range(1, 6)], "test_batch", b"labels", 10)
HUNDRED = ("cifar-100-python", ["train"], "test", b"fine_labels", 100)


def write(folder: Path, files: Any = TEN, n: int = 20) -> Path:
    name, train, test, key, classes = files
    root = folder / name
    root.mkdir(parents=True)
    for number, file in enumerate([*train, test]):
        data = np.full((n, 3072), number, np.uint8)
        data[:, :1024] += np.arange(n, dtype=np.uint8)[:, None]  # the red plane tells the position
        labels = [(number + k) % classes for k in range(n)]
        (root / file).write_bytes(pickle.dumps({b"data": data, key: labels}, protocol=2))
    return root


def read(path: Path, **options: Any) -> Case:
    return get_adapter("cifar")(options).read(path)


@pytest.mark.parametrize("files", [TEN, HUNDRED])
def test_both_parts_come_in_the_order_of_the_files(tmp_path: Path, files: Any) -> None:
    root = write(tmp_path, files)
    for path in (root, tmp_path):
        case = read(path)
        assert case.train and case.test
        assert (len(case.train), len(case.test)) == (20 * len(files[1]), 20)
        assert case.num_classes == files[4] and case.classes is None
        pixels = case.train.read(slice(None))
        assert pixels[:, 0, 0, 2].tolist() == np.repeat(np.arange(len(files[1])), 20).tolist()
        assert (pixels[:, 5, 7, 0] - pixels[:, 5, 7, 1]).tolist() == list(range(20)) * len(files[1])
        assert case.train.labels[:3].tolist() == [0, 1, 2]
    assert read(root).mirror is (True if files is TEN else None)


def test_classes_have_their_names_where_these_are_there(tmp_path: Path) -> None:
    root = write(tmp_path)
    names = [b"class %d" % k for k in range(10)]
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    assert read(root).classes == tuple(f"class {k}" for k in range(10))
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": names[:3]}, protocol=2))
    assert read(root).classes is None


def test_files_that_are_not_the_distributed_ones_are_noted(tmp_path: Path) -> None:
    assert "6 of 6 cifar10 files are not the canonical files" in read(write(tmp_path)).notes[0]


def test_two_sets_in_one_folder_need_a_word(tmp_path: Path) -> None:
    write(tmp_path, TEN)
    write(tmp_path, HUNDRED)
    with pytest.raises(InputError, match="two CIFAR sets"):
        read(tmp_path)
    assert read(tmp_path, dataset="cifar100").num_classes == 100


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("ran",))


@pytest.mark.parametrize("what", ["missing", "hostile", "labels", "shape", "empty", "folder", "nowhere"])
def test_what_is_no_cifar_is_refused(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path)
    file = root / "data_batch_3"
    good = pickle.loads(file.read_bytes())
    if what == "missing":
        file.unlink()
    elif what == "hostile":
        file.write_bytes(pickle.dumps({b"data": Evil()}, protocol=2))
    elif what == "labels":
        file.write_bytes(pickle.dumps({**good, b"labels": [10] * 20}, protocol=2))
    elif what == "shape":
        file.write_bytes(pickle.dumps({**good, b"data": good[b"data"][:, :100]}, protocol=2))
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "folder":
        file.unlink()
        file.mkdir()
    else:
        shutil.rmtree(root)
    with pytest.raises(InputError):
        read(root)
    assert "ran" not in capsys.readouterr().out
