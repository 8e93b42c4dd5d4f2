"""Sets made by backdoor-toolbox (vtu81) and by Fight-Poison-With-Poison (Unispac), read without either toolkit.

Facts about the format were taken from the toolkits' behaviour; none of their code is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ...adapter import Adapter, Placement, Source, existing
from ...core.case import Case, Origin, TriggeredSet, Truth
from ...core.classifier.classifier import Classifier, build_module
from ...core.classifier.weights import load_by_name
from ...core.images import ImageBacking, Images, ImageSet, Index, checked_labels
from ...core.metrics import Evaluation
from ...core.outcome import Outcome
from ...core.pixels import to_bytes, to_floats
from ...core.settings import Settings
from ...errors import InputError
from ...io.files import read_torch, write_torch
from ...io.images import image_shape, read_image
from ..common.images import eager_or_lazy, file_reader
from ..common.results import write_suspects
from ..common.templates import filled, refuse_other_folder
from ..common.untrusted import numbers
from .export import ARCHITECTURE, CLEAN_LABEL, DATASETS, SEED, export_case
from .write import dataset_of, purified_name, write_sanitised, write_weights

EAGER_BYTES = 1 << 30


class BackdoorToolboxOptions(Settings):
    """How to read a set.

    :param clean: folder with the reserved clean set (``data/`` and ``clean_labels``); default:
        ``clean_set/<dataset>/clean_split`` in the nearest parent folder that has it.
    :param test: folder with clean test samples (``data/`` and ``labels``); default: ``test_split`` beside it.
    :param num_classes: default: known for the toolkits' own data sets, else the highest label plus one.
    :param seed: the toolkit's ``-seed``; part of the names of model files and result files.
    :param model: weights of the suspect model; default: ``full_base_aug_seed=<seed>.pt`` in the folder, if there.
    :param architecture: network the weights belong to.
    :param mean, std: normalisation per channel; default: the toolkits' for the data set.
    :param trigger: image of the trigger, from the toolkit's ``triggers`` folder, its mask ``mask_<name>`` beside it
        if there is one. The toolkits store no triggered test set; with the image of a ``badnet`` or ``blend`` trigger
        one is made.
    :param alpha: opacity of a ``blend`` trigger in test samples; default: that in the folder's name.
    """

    clean: Path | None = None
    test: Path | None = None
    num_classes: int | None = Field(None, ge=2)
    seed: int = Field(SEED, ge=0)
    model: Path | None = None
    architecture: str = ARCHITECTURE
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    trigger: Path | None = None
    alpha: float | None = Field(None, gt=0, le=1)


class BackdoorToolbox(Adapter):
    """``poisoned_train_set/<dataset>/<dir>/`` with ``labels`` and either ``imgs`` or ``data/<i>.png``.

    Images of an ``imgs`` file stay float32: faint triggers are smaller than a step of 8 bits. ``poison_indices``
    and ``cover_indices`` become the truth; original labels are not stored in this format.
    """

    name = "backdoor_toolbox"
    Options = BackdoorToolboxOptions
    options: BackdoorToolboxOptions

    def read(self, path: Path, seed: int = 0) -> Case:
        """Read a set folder; images are decoded here, so that a damaged one shows before any work starts."""
        folder = existing(path, "set folder", "give the folder below poisoned_train_set/<dataset>/").absolute()
        notes: list[str] = []
        dataset, directory = dataset_of(folder)
        known = DATASETS.get(dataset)
        labels = _read_labels(folder / "labels")
        classes = self.options.num_classes or (known.num_classes if known else None)
        if classes is None:
            classes = max(2, int(labels.max(initial=0)) + 1)
            notes.append(f"number of classes taken from the highest label: {classes} (option num_classes)")
        train = _read_set(folder, labels, classes, folder / "labels")
        sets = {name: self._clean_part(folder, name, classes, notes) for name in ("clean", "test")}
        truth = _read_truth(folder, directory, len(train), notes)
        mean = self.options.mean or (known.mean if known else (0.0,))
        std = self.options.std or (known.std if known else (1.0,))
        return Case(
            train=train,
            clean=sets["clean"],
            test=sets["test"],
            test_poisoned=self._triggered(directory, train, sets["test"], truth, notes),
            model=self._model(folder, classes, train.image_shape[2], mean, std),
            truth=truth,
            origin=Origin(self.name, str(folder), {"dataset": dataset, "directory": directory}),
            notes=tuple(notes),
            mirror=known.mirror if known else None,
        )

    def result_folder(self, case: Case, defense: str) -> Path | None:
        """The set folder itself: the toolkits look for results beside ``labels``."""
        return Path(case.origin.path)

    def write(self, case: Case, outcome: Outcome, evaluation: Evaluation, folder: Path, defense: str) -> list[Path]:
        """Write what the outcome holds.

        - ``cleansed_set_indices_other_<defense>_seed=<seed>``: remaining positions; ``cleanser.py`` and
          ``train_on_cleansed_set.py`` with ``-cleanser=<defense>`` pick it up.
        - ``purified_<DEFENSE>/``: a purified or relabelled set, all samples of it, laid out as the sets themselves.
        - ``defended_<defense>_full_base_aug_seed=<seed>.pt``: weights of the model, for ``test_model.py``.
        - ``suspects_<defense>/suspects.csv``: score and flag of every sample.
        """
        written = []
        remaining = outcome.kept
        if remaining is None and outcome.flagged is not None:
            remaining = np.flatnonzero(~outcome.flagged)
        if remaining is None and outcome.train is not None:
            remaining = np.arange(len(outcome.train))
        if remaining is not None:
            written.append(folder / f"cleansed_set_indices_other_{defense}_seed={self.options.seed}")
            write_torch(written[-1], [int(position) for position in remaining])
        if outcome.model is not None:
            file = folder / f"defended_{defense}_full_base_aug_seed={self.options.seed}.pt"
            written.append(write_weights(outcome.model, file))
        if outcome.train is not None:
            written.append(write_sanitised(case, outcome, folder / purified_name(defense)))
        return [*written, *write_suspects(case.train, outcome, folder / f"suspects_{defense}")]

    def export(self, case: Case, folder: Path) -> Source:
        """Write *case* as ``<root>/poisoned_train_set/<dataset>/<dir>/``, and ``<root>/clean_set/<dataset>/``.

        The format has no place for original labels and triggered test samples. A clean set that is there already must
        be that of the case.
        """
        return export_case(case, folder.absolute(), self.options.seed, self._existing_split)

    def placement(self, root: Path, defenses: Sequence[str]) -> Placement:
        """Return ``elixir.py``, which runs the toolkit's own scripts with *defenses* among their choices."""
        marks = ("cleanser.py", "test_model.py", "train_on_cleansed_set.py", "utils/supervisor.py")
        refuse_other_folder(root, "backdoor-toolbox", marks)
        return Placement(self.name, {"elixir.py": filled("backdoor_toolbox_launcher.py.tmpl")}, tuple(defenses))

    def _existing_split(self, split: Path, num_classes: int) -> ImageSet:
        file = _labels_of(split)
        return _read_set(split, _read_labels(file), num_classes, file)

    def _clean_part(self, folder: Path, name: str, num_classes: int, notes: list[str]) -> ImageSet | None:
        """Read the reserved clean set or the test set: where an option says, else found by walking up."""
        given: Path | None = getattr(self.options, name)
        split = given or _walk_up(folder, f"{name}_split")
        if split is None:
            dataset, _ = dataset_of(folder)
            notes.append(f"no clean_set/{dataset}/{name}_split in any parent folder (option {name})")
            return None
        return self._existing_split(existing(split, f"{name} set"), num_classes)

    def _model(
        self, folder: Path, num_classes: int, channels: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Classifier | None:
        file = self.options.model or folder / f"full_base_aug_seed={self.options.seed}.pt"
        if self.options.model is None and not file.exists():
            return None
        architecture = self.options.architecture
        module = build_module(architecture, num_classes, channels)
        load_by_name(module, read_torch(file), where=str(file))
        return Classifier(module, num_classes, mean=mean, std=std, channels=channels, architecture=architecture).eval()

    def _triggered(
        self, directory: str, train: ImageSet, test: ImageSet | None, truth: Truth | None, notes: list[str]
    ) -> TriggeredSet | None:
        """Put the trigger of option ``trigger`` on all test samples that are not of the target class."""
        if self.options.trigger is None:
            notes.append("no triggered test set in this format: ASR is not measured (option trigger)")
            return None
        targets = [] if truth is None else np.unique(train.labels[truth.poison]).tolist()
        kind = next((name for name in ("badnet", "blend") if directory.startswith(f"{name}_")), None)
        if kind is None or test is None or len(targets) != 1:
            raise InputError(
                "no triggered test set can be made",
                where="option trigger",
                found=f"set {directory}, target labels {targets}, {'no' if test is None else 'a'} test set",
                allowed="badnet and blend sets with one target label and a test set",
            )
        others = test.subset(test.labels != targets[0])
        trigger = to_floats(read_image(self.options.trigger))
        if trigger.shape != test.image_shape:
            raise InputError(
                "trigger of another size", where=self.options.trigger, found=trigger.shape, allowed=test.image_shape
            )
        pixels = to_floats(others.read(slice(None)))
        if kind == "blend":
            alpha = self.options.alpha or _alpha(directory)
            pixels += np.float32(alpha) * (trigger - pixels)
        else:
            mask = self.options.trigger.with_name(f"mask_{self.options.trigger.name}")  # as the toolkit looks for it
            shown = read_image(mask) if mask.is_file() else trigger
            pixels = np.where((shown > 0).any(2, keepdims=True), trigger, pixels)
        made = to_bytes(pixels) if train.images.dtype == np.uint8 else pixels
        samples = others.replace(images=made, labels=np.full(len(others), targets[0]))
        return TriggeredSet(samples, others.labels)


def _walk_up(folder: Path, split: str) -> Path | None:
    """Return ``clean_set/<dataset>/<split>`` of the nearest parent folder that has it."""
    dataset, _ = dataset_of(folder)
    candidates = (parent / "clean_set" / dataset / split for parent in folder.parents)
    return next((each for each in candidates if each.is_dir()), None)


def _labels_of(split: Path) -> Path:
    """Return the labels file of a clean folder; the toolkits call it by two names."""
    found = [split / name for name in ("clean_labels", "labels") if (split / name).is_file()]
    return found[0] if found else split / "labels"


def _read_labels(file: Path) -> Index:
    array = numbers(read_torch(file), file)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise InputError(
            "labels must be integers [N]", where=file, found=f"{array.dtype} {array.shape}", allowed="int64 [N]"
        )
    return array.astype(np.int64)


def _read_set(folder: Path, labels: Index, num_classes: int, file: Path) -> ImageSet:
    """Read one folder in either layout; which one is told by what is there, never by names of parent folders."""
    labels = checked_labels(labels, len(labels), num_classes, str(file))
    if (folder / "imgs").is_file():
        images: ImageBacking = _read_tensor(folder / "imgs")
        names = None
        _refuse_other_length(images.shape[0], len(labels), folder / "imgs", file)
    elif (folder / "data").is_dir():
        stems = {path.stem for path in (folder / "data").iterdir() if path.suffix == ".png" and path.stem.isdigit()}
        _refuse_other_length(len(stems), len(labels), folder / "data", file)
        names = [f"data/{position}.png" for position in range(len(labels))]
        paths = [folder / name for name in names]
        shape = (*image_shape(existing(paths[0], "image 0"))[:2], 3)
        images = eager_or_lazy(file_reader(paths, 3, shape=shape), len(paths), shape, EAGER_BYTES)
    else:
        raise InputError("no images", where=folder, allowed="a file imgs, or a folder data with <i>.png")
    return ImageSet(images, labels, num_classes, names)


def _read_tensor(file: Path) -> Images:
    tensor = read_torch(file)
    array = numbers(tensor, file)
    if not isinstance(tensor, torch.Tensor) or array.ndim != 4 or array.dtype != np.float32:
        found = f"{type(tensor).__name__} {array.dtype} {array.shape}"
        raise InputError("images must be a float32 tensor", where=file, found=found, allowed="float32 [N, 3, H, W]")
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # NaN fails both
        found = f"{array.min()}..{array.max()}"
        raise InputError("pixel value out of range", where=file, found=found, allowed="[0, 1]")
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def _refuse_other_length(images: int, labels: int, where: Path, file: Path) -> None:
    if images != labels or not labels:
        raise InputError(
            "one label per image",
            where=where,
            found=f"{images} images, {labels} labels in {file.name}",
            allowed="the same number, at least one",
            hint="the set is incomplete, or labels belong to another set",
        )


def _read_truth(folder: Path, directory: str, n: int, notes: list[str]) -> Truth | None:
    if not (folder / "poison_indices").is_file():
        notes.append("no poison_indices: TPR and FPR are not measured")
        return None
    poison = _mask(folder / "poison_indices", n)
    cover = _mask(folder / "cover_indices", n) if (folder / "cover_indices").is_file() else None
    kind = "clean-label" if directory.startswith(CLEAN_LABEL) else "dirty-label"
    return Truth(poison, cover, kind=kind if poison.any() else "none")


def _mask(file: Path, n: int) -> NDArray[np.bool_]:
    array = numbers(read_torch(file), file)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise InputError("not a list of positions", where=file, found=f"{array.dtype} {array.shape}")
    bad = array[(array < 0) | (array >= n)]
    if len(bad):
        found = f"{bad[0]} ({len(bad)} such)"
        raise InputError("position out of range", where=file, found=found, allowed=f"0..{n - 1}")
    mask = np.zeros(n, bool)
    mask[array.astype(np.int64)] = True
    return mask


def _alpha(directory: str) -> float:
    found = re.search(r"_alpha=(\d*\.\d+)", directory)
    if found is None:
        raise InputError("opacity of the trigger is not known", where=directory, hint="give option alpha")
    return float(found.group(1))
