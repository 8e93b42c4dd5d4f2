"""Cases and runs written in a toolkit's own format, by command and by the toolkits' own code."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from elixir_plugin.adapters.backdoorbench.write import workspace as root_of_record
from fake_records import POISON, TARGET, Workspace, snapshot
from real_checkouts import real_checkout

from elixir_plugin import Case, get_adapter
from elixir_plugin.cli.app import program
from elixir_plugin.core.metrics import Evaluation
from elixir_plugin.core.outcome import Outcome
from elixir_plugin.errors import InputError, RunError
from elixir_plugin.runs.export import export, load, sanitised
from elixir_plugin.runs.run import run_defense
from elixir_plugin.runs.spec import RunSpec
from elixir_plugin.testing.defenses import tiny_case

OPTIONS = {"architecture": "small_resnet"}


def record_of(space: Workspace) -> Case:
    return get_adapter("backdoorbench")(OPTIONS).read(space.record)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(program, ["export", *map(str, arguments)])


class TestCommand:
    def test_from_format_to_same_format(self, workspace: Workspace) -> None:
        source, target = f"backdoorbench:{workspace.record}", workspace.root / "record" / "copy"
        done = invoke(source, "--to", "backdoorbench", target, "-o", "architecture=small_resnet")
        assert done.exit_code == 0, done.output
        assert f"--from backdoorbench:{target} -o architecture=small_resnet" in done.output
        content = torch.load(target / "attack_result.pt", weights_only=False)
        held = content["bd_train"]["bd_data_container"]
        assert held["data_dict"][1]["path"] == "./record/copy/bd_train_dataset/1/1.png"
        assert (workspace.root / held["data_dict"][1]["path"]).is_file()
        assert sorted(held["data_dict"]) == sorted(POISON)
        for key in ("model_name", "num_classes", "data_path", "img_size", "clean_data"):
            assert content[key] == workspace.content[key]

    def test_images_stay_inside_where_no_checkout_is(self, workspace: Workspace, tmp_path: Path) -> None:
        export(f"backdoorbench:{workspace.record}", "backdoorbench", tmp_path / "out", options=OPTIONS)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "attack_result.pt",
            "train_poison_index_list.pickle",
        ]

    @pytest.mark.parametrize("kind", ["backdoorbench", "arrays", "image_folder"])
    def test_a_folder_that_holds_something_is_left_alone(self, workspace: Workspace, kind: str) -> None:
        before = snapshot(workspace.root)
        with pytest.raises(RunError, match="not empty"):
            export(f"backdoorbench:{workspace.record}", kind, workspace.record, options=OPTIONS)
        assert snapshot(workspace.root) == before

    def test_a_folder_that_is_no_run(self, tmp_path: Path) -> None:
        done = invoke(tmp_path, "--to", "arrays", tmp_path / "out")
        assert done.exit_code == 1 and "not a finished run" in done.output

    def test_an_unknown_format(self, workspace: Workspace, tmp_path: Path) -> None:
        done = invoke(f"backdoorbench:{workspace.record}", "--to", "backdorbench", tmp_path / "out")
        assert done.exit_code == 2 and "did you mean 'backdoorbench'" in done.output


class TestRefusals:
    def test_a_record_needs_clean_data(self, tmp_path: Path, refused: Any) -> None:
        adapter = get_adapter("backdoorbench")()
        refused(lambda: adapter.export(tiny_case(), tmp_path / "out"), "clean data it started from", "dataset=cifar10")

    def test_a_record_needs_a_model_that_can_be_built(self, workspace: Workspace, tmp_path: Path, refused: Any) -> None:
        adapter, case = get_adapter("backdoorbench")(), record_of(workspace)
        refused(lambda: adapter.export(replace(case, model=None), tmp_path / "out"), "needs a model")
        assert case.model is not None
        other = case.model.clone()
        other.architecture = "fast_resnet"
        refused(lambda: adapter.export(replace(case, model=other), tmp_path / "out"), "cannot build this network")

    def test_a_case_of_other_data(self, workspace: Workspace, tmp_path: Path, refused: Any) -> None:
        adapter, case = get_adapter("backdoorbench")(), record_of(workspace)
        assert case.truth is not None and case.truth.original_labels is not None and case.train is not None
        shifted = replace(case.truth, original_labels=(case.truth.original_labels + 1) % 10)
        wrong = replace(case, truth=shifted)
        refused(lambda: adapter.export(wrong, tmp_path / "out"), "do not belong together", "40 of 40 differ")
        far = type(case.train)(case.train.read(slice(None)), case.train.labels, 10, ids=case.train.ids + 1)
        refused(lambda: adapter.export(replace(case, train=far), tmp_path / "out"), "positions 0..39")

    def test_a_set_of_the_toolbox_needs_its_truth_and_its_place(self, tmp_path: Path, refused: Any) -> None:
        adapter, folder = get_adapter("backdoor_toolbox")(), tmp_path / "poisoned_train_set" / "own" / "badnet_0.050"
        refused(lambda: adapter.export(replace(tiny_case(), truth=None), folder), "which of its samples are poison")
        refused(lambda: adapter.export(tiny_case(), tmp_path / "out"), "would not find a set here")

    def test_other_clean_data_stay(self, tmp_path: Path, refused: Any) -> None:
        adapter, folder = get_adapter("backdoor_toolbox")(), tmp_path / "poisoned_train_set" / "own"
        adapter.export(tiny_case(), folder / "badnet_0.050")
        adapter.export(tiny_case(), folder / "badnet_0.100")
        refused(lambda: adapter.export(tiny_case(seed=1), folder / "badnet_0.200"), "other clean data")

    def test_cover_samples_of_the_toolbox_stay_apart_from_poison(self, tmp_path: Path) -> None:
        case, cover = tiny_case(), np.zeros(96, bool)
        assert case.truth is not None
        cover[np.flatnonzero(~case.truth.poison)[[1, 4]]] = True
        covered = replace(case, truth=replace(case.truth, cover=cover), model=None)
        folder = tmp_path / "poisoned_train_set" / "own" / "WaNet_0.050"
        source = get_adapter("backdoor_toolbox")().export(covered, folder)
        truth = get_adapter("backdoor_toolbox")(source.options).read(folder).truth
        assert truth is not None and np.array_equal(truth.cover, cover)
        assert np.array_equal(truth.poison, case.truth.poison)


def test_rounding_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = tiny_case()
    assert case.train is not None
    faint = case.train.read(slice(None)).astype(np.float32) / 256
    lone = replace(case, train=case.train.replace(images=faint), clean=None, test=None, test_poisoned=None)
    get_adapter("image_folder")().export(lone, tmp_path / "out")
    assert "finer steps than the 8 bits" in caplog.text


def test_the_root_as_the_toolkit_finds_it(tmp_path: Path) -> None:
    assert root_of_record(tmp_path / "record" / "a") == tmp_path
    assert root_of_record(tmp_path / "a") is None
    assert root_of_record(tmp_path / "recordings" / "record" / "a") is None
    assert root_of_record(tmp_path / "my_record" / "a") is None


def repaired(case: Case) -> Outcome:
    """An outcome that paints two samples black, relabels one, and drops one."""
    assert case.train is not None
    pixels, labels = case.train.read(slice(None)), case.train.labels.copy()
    pixels[[0, 1]] = 0
    labels[1] = 9
    kept = np.delete(np.arange(len(labels)), 12)
    return Outcome(train=case.train.replace(images=pixels, labels=labels), kept=kept, model=case.model)


class TestSanitised:
    def test_what_a_run_leaves(self, workspace: Workspace) -> None:
        case = record_of(workspace)
        left = sanitised(case, repaired(case))
        assert left.train is not None and left.truth is not None and case.truth is not None
        assert len(left.train) == 39 and 12 not in left.train.ids
        assert left.truth.poison.sum() == len(POISON) - 1

    def test_beside_the_result_of_a_record(self, workspace: Workspace) -> None:
        case, adapter = record_of(workspace), get_adapter("backdoorbench")(OPTIONS)
        folder = adapter.result_folder(case, "x")
        written = adapter.write(case, repaired(case), Evaluation(), folder, "x")
        assert folder / "sanitised" / "attack_result.pt" in written
        again = adapter.read(folder / "sanitised")
        assert again.train is not None and case.train is not None and again.test_poisoned is not None
        assert again.train.ids.tolist() == [i for i in range(40) if i != 12]
        assert (again.train.read(slice(0, 2)) == 0).all() and again.train.labels[1] == 9
        assert np.array_equal(again.train.read(slice(2, 12)), case.train.read(slice(2, 12)))
        assert again.test_poisoned.samples.fingerprint() == case.test_poisoned.samples.fingerprint()  # type: ignore[union-attr]

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_beside_a_set_of_the_toolbox(self, tmp_path: Path, dtype: Any) -> None:
        adapter, folder = get_adapter("backdoor_toolbox")(), tmp_path / "poisoned_train_set" / "own" / "badnet_0.050"
        case = tiny_case()
        assert case.train is not None
        pixels = case.train.read(slice(None))
        pixels = pixels if dtype == np.uint8 else pixels.astype(np.float32) / 256
        lone = replace(case, train=case.train.replace(images=pixels), model=None)
        source = adapter.export(lone, folder)
        case = get_adapter("backdoor_toolbox")(source.options).read(folder)
        assert case.train is not None
        outcome = Outcome(train=case.train.replace(labels=(case.train.labels + 1) % 4))
        written = adapter.write(case, outcome, Evaluation(), folder, "dataelixir")
        assert folder / "purified_DATAELIXIR" in written
        assert torch.load(folder / "cleansed_set_indices_other_dataelixir_seed=2333") == list(range(96))
        again = get_adapter("backdoor_toolbox")(source.options).read(folder / "purified_DATAELIXIR")
        assert outcome.train is not None and again.train is not None and again.clean is not None
        assert again.train.fingerprint() == outcome.train.fingerprint() and again.train.images.dtype == dtype

    @pytest.mark.usefixtures("no_figures")
    def test_the_folder_of_a_run(self, workspace: Workspace, tmp_path: Path) -> None:
        spec = RunSpec.build(
            {
                "defense": "d3",
                "source": {"adapter": "backdoorbench", "path": str(workspace.record), "options": OPTIONS},
                "settings": {"epochs": 1, "missing_classes": "allow"},
                "out": str(tmp_path / "run"),
                "write_back": False,
            }
        )
        run_defense(spec)
        written = export(str(tmp_path / "run"), "backdoorbench", workspace.root / "record" / "repaired")
        again = get_adapter("backdoorbench")(written.options).read(Path(written.path))
        before = record_of(workspace)
        model = Outcome.load(tmp_path / "run" / "outcome").model
        assert again.model is not None and model is not None and again.train is not None and before.train is not None
        assert again.train.fingerprint() == before.train.fingerprint()
        weights = "linear.weight"
        assert torch.equal(again.model.module.get_parameter(weights), model.module.get_parameter(weights))
        with pytest.raises(InputError, match="options already"):
            load(str(tmp_path / "run"), {"data": "x"})
        workspace.container.pop(np.int64(1))
        workspace.content["bd_train"]["poison_indicator"][1] = 0
        workspace.save()
        with pytest.raises(RunError, match="has changed"):
            load(str(tmp_path / "run"))


def test_detections_are_counted_as_the_toolkit_counts_them(workspace: Workspace) -> None:
    part = workspace.part("bd_train", workspace.train, {1: TARGET, 12: TARGET, 15: 5})
    workspace.save(bd_train=part)
    case, adapter = record_of(workspace), get_adapter("backdoorbench")(OPTIONS)
    flagged = np.isin(np.arange(40), [1, 0])
    for _ in range(2):
        adapter.write(case, Outcome(flagged=flagged), Evaluation(), adapter.result_folder(case, "x"), "x")
    adapter.write(case, Outcome(flagged=~flagged & flagged), Evaluation(), workspace.root / "out", "x")
    table = (workspace.record / "detection" / "x_pretrain" / "detection_info.csv").read_text().splitlines()
    assert table == ["record,TN,FP,FN,TP,TPR,FPR,target", f"fake,36,1,2,1,{1 / 3},{1 / 37},0"]  # the same is added once
    nothing = (workspace.root / "out" / "detection_info.csv").read_text().splitlines()
    assert nothing[1] == "fake,37,0,3,0,0.0,0.0,None"


LOAD = """
import functools, sys, numpy, torch
sys.path.append('.')
torch.load = functools.partial(torch.load, weights_only=False)  # the default before torch 2.6
from torchvision.datasets import CIFAR10
CIFAR10._check_integrity = lambda self: True  # made-up batches have other sums
for name in ('train_list', 'test_list'):
    setattr(CIFAR10, name, [[file, None] for file, _ in getattr(CIFAR10, name)])
CIFAR10._load_meta = lambda self: None
from utils.save_load_attack import load_attack_result
result = load_attack_result(sys.argv[1] + '/attack_result.pt')
assert result['model_name'] == 'preactresnet18', result['model_name']
for part in ('bd_train', 'bd_test'):
    data = result[part].wrapped_dataset
    rows = [(numpy.asarray(image), label, index, poison, true) for image, label, index, poison, true in data]
    images, *rest = zip(*rows)
    numpy.savez(sys.argv[2] + f'/{part}.npz', images=images, rest=rest)
"""


@pytest.mark.toolkit
@pytest.mark.parametrize("place", ["record/copy", "record/out/defense/x/sanitised"])
def test_backdoorbench_itself_loads_what_is_written(workspace: Workspace, tmp_path: Path, place: str) -> None:
    bench = real_checkout("BackdoorBench")
    from elixir_plugin import Classifier

    workspace.save(model=Classifier.build("preactresnet18", 10).module.state_dict())
    case = get_adapter("backdoorbench")().read(workspace.record)
    get_adapter("backdoorbench")().export(case, workspace.root / place)
    environment = {**os.environ, "PYTHONPATH": f"{bench}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", LOAD, str(workspace.root / place), str(tmp_path)]
    done = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert case.train is not None and case.truth is not None and case.test_poisoned is not None
    with np.load(tmp_path / "bd_train.npz") as loaded:
        assert np.array_equal(loaded["images"], case.train.read(slice(None)))
        wanted = (case.train.labels, case.train.ids, case.truth.poison, case.truth.original_labels)
        assert np.array_equal(loaded["rest"], np.array(wanted))
    with np.load(tmp_path / "bd_test.npz") as loaded:
        assert np.array_equal(loaded["images"], case.test_poisoned.samples.read(slice(None)))
