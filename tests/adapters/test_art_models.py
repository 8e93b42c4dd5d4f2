"""ART classifiers of other kinds: one output, other layouts, modules hard to copy; and the words of errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from elixir_plugin.errors import InputError, MissingNeedError

pytestmark = pytest.mark.art
N = 40


@pytest.fixture(scope="module", autouse=True)
def art(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """ART itself; importing it writes to the home folder, so it gets one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield pytest.importorskip("art", reason="ART is not installed: pip install .[art]")


def data(classes: int = 2) -> tuple[Any, Any]:
    """Images whose brightness tells the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % classes
    x = rng.uniform(0, 0.2, (N, 3, 8, 8)) + labels[:, None, None, None] * 0.7 / (classes - 1)
    return x.astype(np.float32), labels


class Net(nn.Module):
    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, outputs)

    def forward(self, x: Any) -> Any:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Last(Net):
    """For images with the channels last."""

    def forward(self, x: Any) -> Any:
        return super().forward(x.permute(0, 3, 1, 2))


def estimator(module: nn.Module, classes: int = 2, **options: Any) -> Any:
    from art.estimators.classification import PyTorchClassifier

    given = {
        "model": module, "loss": nn.BCEWithLogitsLoss() if module.fc.out_features == 1 else nn.CrossEntropyLoss(),
        "input_shape": (3, 8, 8), "nb_classes": classes, "optimizer": torch.optim.Adam(module.parameters(), 0.05),
        "clip_values": (0.0, 1.0), "device_type": "cpu",
    }  # fmt: skip
    return PyTorchClassifier(**{**given, **options})


def trained(module: nn.Module, **options: Any) -> Any:
    x, y = data()
    made = estimator(module, **options)
    logits = module.train()
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    first = made.channels_first
    pixels = torch.from_numpy(x if first else np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    for _ in range(60):
        found = logits(pixels)
        loss = nn.functional.binary_cross_entropy_with_logits(found[:, 0], torch.tensor(y).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    return made


LABELS = {
    "integers": lambda y: y,
    "column": lambda y: y[:, None],
    "floats": lambda y: y.astype(np.float32),
    "column of floats": lambda y: y[:, None].astype(np.float32),
    "one-hot": lambda y: np.eye(2, dtype=np.float32)[y],
}


@pytest.mark.parametrize("form", LABELS)
def test_a_classifier_with_one_output_is_repaired(form: str) -> None:
    from elixir_plugin.adapters.art import D3Transformer

    x, y = data()
    classifier = trained(Net())
    repaired = D3Transformer(classifier, lam=10.0, epochs=15, augmentation={"crop": 0, "flip": False})(
        x, y=LABELS[form](y)
    )
    assert type(repaired.model) is Net and repaired.model.fc.out_features == 1
    assert not torch.equal(repaired.model.fc.weight, classifier.model.fc.weight)
    found = repaired.predict(x)
    assert found.shape == (N, 1) and np.array_equal(found[:, 0] > 0, y == 1)
    assert isinstance(repaired.loss, nn.BCEWithLogitsLoss)


SHORT = {
    "architecture": "small_resnet", "reference": "labels", "ratios": (0.5,), "suspect_size": None,
    "reserved_size": None, "pretrain_epochs": (1,), "confusion_steps": (2,), "confusion_batch": 16,
    "confusion_lr": (0.01,), "lam": (10,), "shifted_from": 2,
}  # fmt: skip


def test_the_suspects_of_a_binary_set_are_told_and_evaluated_in_any_form_of_labels() -> None:
    from elixir_plugin.adapters.art import ConfusionTrainingDetector

    x, y = data()
    said = []
    for form in LABELS.values():
        detector = ConfusionTrainingDetector(trained(Net()), x, form(y), x_clean=x[:20], y_clean=form(y)[:20], **SHORT)
        _, is_clean = detector.detect_poison()
        said.append((is_clean, detector.evaluate_defence(np.ones(N, int))))
    assert all(each == said[0] for each in said) and "class_1" in said[0][1]


def test_another_network_takes_the_form_of_one_output() -> None:
    from elixir_plugin.adapters.art.models import estimator_like

    from elixir_plugin import Classifier

    x, _ = data()
    for first, module in ((True, Net()), (False, Last())):
        given = x if first else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        classifier = estimator(module, channels_first=first, input_shape=given.shape[1:])
        model = Classifier.build("small_resnet", 2).eval()
        found = estimator_like(classifier, model).predict(given)
        expected = model(torch.from_numpy(x)).softmax(1)[:, 1]
        assert found.shape == (N, 1)
        assert torch.allclose(torch.from_numpy(found[:, 0]).sigmoid(), expected, atol=1e-5)


def test_modules_that_keep_activations_are_repaired() -> None:
    from elixir_plugin.adapters.art import D3Transformer

    x, y = data()
    module = Net()
    module.conv.register_forward_hook(lambda layer, _, output: setattr(layer, "activation", output))
    classifier = trained(module)
    module(torch.from_numpy(x))  # leaves a computed tensor behind
    repaired = D3Transformer(classifier, epochs=1)(x, y=y)
    assert type(repaired.model) is Net


def test_a_repair_works_under_no_grad_and_inference_mode() -> None:
    from elixir_plugin.adapters.art import D3Transformer

    x, y = data()
    expected = D3Transformer(trained(Net()), epochs=2)(x, y=y).model.fc.weight
    for mode in (torch.no_grad, torch.inference_mode):
        classifier = trained(Net())
        with mode():
            repaired = D3Transformer(classifier, epochs=2)(x, y=y)
        assert torch.equal(repaired.model.fc.weight, expected)


# --- layouts and words


@pytest.mark.parametrize("first", [True, False])
def test_another_layout_is_reported_as_it_was_given(first: bool) -> None:
    from elixir_plugin.adapters.art import D3Transformer

    x, y = data()
    swapped = x.transpose(0, 2, 3, 1) if first else x
    shape = (3, 8, 8) if first else (8, 8, 3)
    classifier = estimator(Net() if first else Last(), channels_first=first, input_shape=shape)
    with pytest.raises(InputError, match="another layout than channels_first says") as caught:
        D3Transformer(classifier, epochs=1)(swapped, y=y)
    assert caught.value.found == swapped.shape and "C = 3" in str(caught.value.allowed)
    assert f"channels_first={not first}" in str(caught.value.hint) and "transpose" in str(caught.value.hint)


def test_other_channels_are_not_called_another_layout() -> None:
    from elixir_plugin.adapters.art import D3Transformer

    x, y = data()
    with pytest.raises(InputError, match="other channels than the classifier takes") as caught:
        D3Transformer(estimator(Net()), epochs=1)(x[:, :1], y=y)
    assert caught.value.found == (N, 1, 8, 8) and caught.value.hint is None


def test_a_preprocessor_says_the_same() -> None:
    from elixir_plugin.adapters.art import EclipsePreprocessor

    x, y = data()
    with pytest.raises(InputError, match="another layout than channels_first says") as caught:
        EclipsePreprocessor(x, y, channels_first=False, purify=False)(x, y)
    assert caught.value.found == x.shape
    square = np.zeros((4, 3, 3, 3), np.float32)
    with pytest.raises(InputError, match="both layouts fit") as caught:
        EclipsePreprocessor(square, y[:4], purify=False)(square, y[:4])
    assert "channels_first=False" in str(caught.value.hint) and "option" not in str(caught.value)


def test_what_is_missing_is_named_as_art_names_it() -> None:
    from elixir_plugin.adapters.art import ConfusionTrainingDetector, ConfusionTrainingTrainer, EclipsePreprocessor

    x, y = data()
    classifier = estimator(Net(2))
    calls: list[Any] = [
        lambda: ConfusionTrainingDetector(classifier, x, y, **SHORT).detect_poison(),
        lambda: ConfusionTrainingTrainer(classifier, **SHORT).fit(x, y),
        lambda: EclipsePreprocessor()(x, y),
    ]
    for call in calls:
        with pytest.raises(MissingNeedError, match="needs 'clean'") as caught:
            call()
        text = str(caught.value)
        assert "x_clean and y_clean" in text and "option" not in text and "--" not in text


@pytest.mark.parametrize(
    ("classes", "outputs", "hint"), [(10, 1000, "nb_classes=1000"), (3, 2, "nb_classes=2"), (2, 5, "nb_classes=5")]
)
def test_another_number_of_outputs_is_named_before_any_work(classes: int, outputs: int, hint: str) -> None:
    from elixir_plugin.adapters.art import D3Transformer

    x, y = data()
    with pytest.raises(InputError, match="one logit per class") as caught:
        D3Transformer(estimator(Net(outputs), classes), epochs=1)(x, y=y)
    assert caught.value.found == (2, outputs) and hint in str(caught.value)


def test_a_head_that_is_not_found_is_named_in_python() -> None:
    from elixir_plugin.adapters.art import D3Transformer

    class Headless(Net):
        def forward(self, x: Any) -> Any:
            return self.conv(x).mean((2, 3))[:, :3]

    x, y = data(3)
    with pytest.raises(InputError, match="no classification layer") as caught:
        D3Transformer(estimator(Headless(2), 3), epochs=1)(x, y=y)
    assert "select=" in str(caught.value.hint) and "--set" not in str(caught.value)
