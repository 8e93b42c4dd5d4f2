"""Sets made by backdoor-toolbox (vtu81) and by Fight-Poison-With-Poison (Unispac), read without either toolkit.

Facts about the format were taken from the toolkits' behaviour; none of their code is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...adapter import Adapter, Placement, Source, existing
from ...core.case import Case, Origin, TriggeredSet, Truth
from ...core.classes import MOST, shown_classes
from ...core.classifier.classifier import Classifier, build_module
from ...core.classifier.weights import build_by_name
from ...core.images import ImageSet
from ...core.metrics import Evaluation
from ...core.outcome import Outcome
from ...core.settings import Settings
from ...errors import InputError
from ...io.files import write_torch
from ...io.opening import is_there
from ...io.reading import read_torch
from ...plugins import plugins
from ..common.models import assumed_normalisation, unlike_host
from ..common.results import write_suspects
from ..common.templates import filled, refuse_other_folder
from .export import ARCHITECTURE, DATASETS, SEED, export_case
from .read import labels_of, read_labels, read_set, read_truth
from .triggers import Place, triggered_set
from .write import dataset_of, purified_name, write_sanitised, write_weights


class BackdoorToolboxOptions(Settings):
    """How to read a set.

    :param clean: folder with the reserved clean set (``data/`` and ``clean_labels``); default:
        ``clean_set/<dataset>/clean_split`` in the nearest parent folder that has it.
    :param test: folder with clean test samples (``data/`` and ``labels``); default: ``test_split`` beside it.
    :param num_classes: default: known for the toolkits' own data sets, else the highest label plus one.
    :param seed: the toolkit's ``-seed``; part of the names of model files and result files.
    :param model: weights of the suspect model; default: ``full_base_aug_seed=<seed>.pt`` in the folder, if there;
        ``none``: no model.
    :param architecture: network the weights belong to; ``elixir.py`` takes the one that ``config.py`` names.
    :param mean, std: normalisation per channel; default: the toolkits' for the data set.
    :param trigger: picture of the trigger, its mask ``mask_<name>`` beside it if there is one, or the toolkit's folder
        of such pictures; default: ``triggers`` of the checkout that the set lies in. The toolkits store no triggered
        test set: one is made. ``none``: no ASR.
    :param alpha: opacity of a ``blend``, ``adaptive_blend`` or ``basic`` trigger in test samples; default: that in the
        folder's name.
    :param source_class: of TaCT: the class whose images carry the trigger; default: 1, as in the toolkits.
    """

    added: ClassVar[Mapping[str, Any]] = {"source_class": None}

    clean: Path | None = None
    test: Path | None = None
    num_classes: int | None = Field(None, ge=2, le=MOST)
    seed: int = Field(SEED, ge=0)
    model: Literal["none"] | Path | None = None
    architecture: str = ARCHITECTURE
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    trigger: Literal["none"] | Path | None = None
    alpha: float | None = Field(None, gt=0, le=1)
    source_class: int | None = Field(None, ge=0)

    @classmethod
    def under_first_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Say of ``trigger: none`` what was said when pictures were not looked for: null."""
        named = super().under_first_names(values)
        return named | {"trigger": None} if named.get("trigger") == "none" else named


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
        labels = read_labels(folder / "labels")
        classes = self.options.num_classes or (known.num_classes if known else None)
        if classes is None:
            classes = max(2, shown_classes([labels], str(folder / "labels")))
            notes.append(f"number of classes taken from the highest label: {classes} (option num_classes)")
        train = read_set(folder, labels, classes, folder / "labels")
        sets = {name: self._clean_part(folder, name, classes, notes) for name in ("clean", "test")}
        truth = read_truth(folder, directory, len(train), notes)
        model = self._model(folder, classes, train.image_shape[2], *self._normalisation(dataset))
        if model is not None and known is None:
            notes += assumed_normalisation(dataset, self.options.mean, self.options.std)
        return Case(
            train=train,
            clean=sets["clean"],
            test=sets["test"],
            test_poisoned=self._triggered(folder, train, sets["test"], truth, notes),
            model=model,
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
            outcome.notes += [note for note in self._differences(case, outcome.model) if note not in outcome.notes]
        if outcome.train is not None:
            written.append(write_sanitised(case, outcome, folder / purified_name(defense)))
        return [*written, *write_suspects(case.train, outcome, folder / f"suspects_{defense}")]

    def _differences(self, case: Case, model: Classifier) -> list[str]:
        """Return notes on what the toolkit's scripts would do otherwise with *model*."""
        mean, std = self._normalisation(case.origin.facts.get("dataset", ""))
        found = unlike_host(model, "backdoor-toolbox", mean, std)
        network = self.options.architecture if case.model is None else case.model.architecture
        if model.architecture != network:
            found.append(
                f"the written model is a {model.architecture or type(model.module).__name__}, and backdoor-toolbox "
                f"builds the network of its config.py: where that is another, its scripts fail on the file"
            )
        return found

    def _normalisation(self, dataset: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        known = DATASETS.get(dataset)
        mean = self.options.mean or (known.mean if known else (0.0,))
        return mean, self.options.std or (known.std if known else (1.0,))

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
        file = labels_of(split)
        return read_set(split, read_labels(file), num_classes, file)

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
        if file == "none" or (self.options.model is None and not is_there(Path(file))):
            return None
        architecture = self.options.architecture
        make = partial(build_module, architecture, num_classes, channels)
        try:
            module = build_by_name(make, read_torch(Path(file)), where=str(file))
        except InputError as error:
            known = ", ".join(sorted(plugins().offers()["architecture"]))
            raise InputError(
                error.what,
                where=error.where,
                found=error.found,
                allowed=error.allowed,
                hint=f"name its network, {{option:architecture=NAME}}: {known}, or a torchvision classification model; "
                "or go without, {option:model=none}",
            ) from error
        return Classifier(module, num_classes, mean=mean, std=std, channels=channels, architecture=architecture).eval()

    def _triggered(
        self, folder: Path, train: ImageSet, test: ImageSet | None, truth: Truth | None, notes: list[str]
    ) -> TriggeredSet | None:
        trigger = self.options.trigger
        if trigger == "none":
            notes.append("no triggered test set: ASR is not measured (option trigger)")
            return None
        place = Place(folder, *dataset_of(folder), trigger, self.options.alpha, self.options.source_class)
        return triggered_set(place, train, test, truth, notes)


def _walk_up(folder: Path, split: str) -> Path | None:
    """Return ``clean_set/<dataset>/<split>`` of the nearest parent folder that has it."""
    dataset, _ = dataset_of(folder)
    candidates = (parent / "clean_set" / dataset / split for parent in folder.parents)
    return next((each for each in candidates if each.is_dir()), None)
