"""Models as hosts hold them: what they return, what they are made of, and where they are handed over."""

from __future__ import annotations

import copy
import math
import threading
import warnings
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import elixir_plugin
from elixir_plugin import Case, Classifier, Context, ImageSet, get_defense
from elixir_plugin.api.models import as_classifier
from elixir_plugin.core.classifier.classifier import to_batch
from elixir_plugin.errors import InputError

K = 3
TUPLE = namedtuple("TUPLE", ["features", "logits"])


def colours(n: int = 60, size: int = 8, channels: int = 3, classes: int = K) -> ImageSet:
    """Images whose class is told by the brightest channel, or by brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    images = rng.uniform(0, 0.3, (n, size, size, channels)).astype(np.float32)
    if channels == 1 or classes == 2:
        images += (labels * 0.5 / (classes - 1)).astype(np.float32)[:, None, None, None]
    else:
        images[np.arange(n), :, :, labels] += 0.5
    return ImageSet(images, labels, classes)


class Net(nn.Module):
    """Learns the colours at once: pooled features and one linear layer whose weights are given."""

    def __init__(self, classes: int = K, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.fc = nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, classes)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x))


def learned(module: nn.Module, data: ImageSet, steps: int = 60) -> nn.Module:
    """Train *module*, whose main output the test knows as ``Net.forward``, as its host would."""
    x, y = to_batch(data.read(slice(None)), torch.device("cpu")), torch.tensor(data.labels)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(steps):
        logits = Net.forward(module, x)  # type: ignore[arg-type]
        loss = (
            nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y.float())
            if logits.shape[1] == 1
            else nn.functional.cross_entropy(logits, y)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def accuracy(model: Classifier, data: ImageSet) -> float:
    return float((model.predict(data).argmax(1) == data.labels).mean())


def expected_logits(module: nn.Module, data: ImageSet) -> Tensor:
    with torch.no_grad():
        return Net.forward(module.eval(), to_batch(data.read(slice(None)), torch.device("cpu")))  # type: ignore[arg-type]


def repaired(module: nn.Module, data: ImageSet, **options: Any) -> Any:
    return elixir_plugin.repair(module, data, lam=10.0, epochs=20, augmentation={"crop": 0, "flip": False}, **options)


# --- several outputs


@dataclass
class Answer:
    loss: Any
    logits: Tensor
    hidden: Any = None


class SaysLogits:
    """Neither tuple nor dict nor dataclass."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Auxiliary(Net):
    """Returns a tuple with an auxiliary output in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(6, K)

    def forward(self, x: Tensor) -> Any:
        found = self.features(x)
        return (self.fc(found), self.aux(found)) if self.training else self.fc(found)


def with_output(wrap: Any, base: type[Net] = Net) -> Any:
    class Wrapped(base):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Any:
            found = self.features(x)
            return wrap(self.fc(found), found)

    return Wrapped


OUTPUTS = {
    "tuple": lambda z, f: (z, f),
    "tuple, features first": lambda z, f: (f, z),
    "list": lambda z, f: [z, f],
    "named tuple": lambda z, f: TUPLE(f, z),
    "dict with logits": lambda z, f: {"features": f, "logits": z},
    "dict with out": lambda z, f: {"out": z, "aux": z.detach() * 0},
    "dict of one fitting tensor": lambda z, f: {"colour": z, "embedding": f},
    "dataclass": lambda z, f: Answer(None, z, (f, f)),
    "object": lambda z, f: SaysLogits(z),
    "tuple with nested features": lambda z, f: (z, (f, f)),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_main_one_of_several_outputs_is_read_and_repaired(kind: str) -> None:
    data = colours()
    suspect = learned(with_output(OUTPUTS[kind])(), data)
    before, expected = state(suspect), expected_logits(suspect, data)
    model = as_classifier(suspect, images=data.images, num_classes=K)
    assert np.allclose(model.predict(data), expected.numpy(), atol=1e-5)
    assert model.head(to_batch(data.read(slice(0, 2)), model.device)) == "fc"
    assert any("several outputs" in note for note in model.notes)
    outcome = repaired(suspect, data)
    assert type(outcome.model.module) is type(suspect) and same(state(suspect), before)
    assert accuracy(outcome.model, data) == 1 and any("several outputs" in note for note in outcome.notes)
    assert not torch.equal(outcome.model.module.fc.weight, suspect.fc.weight)  # type: ignore[union-attr]


def test_auxiliary_heads_of_train_mode_get_no_gradient() -> None:
    data = colours()
    suspect = learned(Auxiliary(), data)
    outcome = repaired(suspect, data)
    assert accuracy(outcome.model, data) == 1
    assert torch.equal(outcome.model.module.aux.weight, suspect.aux.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize(("make", "size"), [(torchvision.models.googlenet, 32), (torchvision.models.inception_v3, 299)])
def test_torchvision_models_with_auxiliary_heads_are_trained(make: Any, size: int) -> None:
    module = make(weights=None, num_classes=K, aux_logits=True, init_weights=False)
    data = colours(3, size)
    model = as_classifier(module, images=data.images, num_classes=K)
    model.train()
    logits = model(to_batch(data.read(slice(None)), model.device))
    assert logits.shape == (3, K)
    logits.sum().backward()
    assert model.module.fc.weight.grad is not None  # type: ignore[union-attr]
    aux = [
        name for name, weight in model.module.named_parameters() if "aux" in name.lower() and weight.grad is not None
    ]
    assert not aux


def test_a_hugging_face_model_is_read() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=K,
    )  # fmt: skip
    module = transformers.ViTForImageClassification(config).eval()
    data = colours(8)
    model = as_classifier(module, images=data.images)
    with torch.no_grad():
        expected = module(to_batch(data.read(slice(None)), torch.device("cpu"))).logits
    assert model.num_classes == K and np.allclose(model.predict(data), expected.numpy(), atol=1e-5)
    larger = colours(8, 32)  # at another size than the model's
    model = as_classifier(module, images=larger.images, num_classes=K)
    assert model.input_size == 8 and any("resized to 8 × 8" in note for note in model.notes)
    assert type(repaired(module, data).model.module) is type(module)


@pytest.mark.parametrize(
    ("wrap", "message", "found"),
    [
        (lambda z, f: {"age": z, "style": z + 1}, "unclear which", "age: (2, 3), style: (2, 3)"),
        (lambda z, f: {"embedding": f}, "none of the outputs", "embedding: (2, 6)"),
        (lambda z, f: (f, None), "none of the outputs", "0: (2, 6)"),
        (lambda z, f: None, "returns no logits", "NoneType"),
        (lambda z, f: {"logits": f}, "one logit per class", "(2, 6)"),
        (lambda z, f: f[:, :, None, None].expand(-1, -1, 2, 2), "one logit per class", "(2, 6, 2, 2)"),
        (lambda z, f: z.argmax(1), "one logit per class", "int64"),
    ],
)
def test_outputs_that_are_not_clear_are_refused_by_name(wrap: Any, message: str, found: str) -> None:
    data = colours(6)
    with pytest.raises(InputError, match=message) as caught:
        as_classifier(with_output(wrap)(), images=data.images, num_classes=K)
    assert found in str(caught.value.found)


def test_features_are_not_taken_for_logits_where_nobody_says_how_many_classes_there_are() -> None:
    suspect = with_output(lambda z, f: (f, z))()
    with pytest.raises(InputError, match="unclear which") as caught:
        as_classifier(suspect, images=colours(6).images)
    assert "num_classes" in str(caught.value.hint)


def test_the_head_of_the_main_output_is_found_where_another_head_runs_later() -> None:
    class Distilled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = nn.Linear(6, K)

        def forward(self, x: Tensor) -> Any:
            found = self.features(x)
            return self.fc(found), self.teacher(found)

    data = colours()
    model = as_classifier(learned(Distilled(), data), images=data.images, num_classes=K)
    assert model.head(to_batch(data.read(slice(0, 2)), model.device)) == "fc"
    assert any("not 1, of the same shape" in note for note in model.notes)


# --- one logit, probabilities, other shapes


ONE = {
    "column": lambda z, f: z,
    "squeezed": lambda z, f: z.squeeze(1),
    "squeezed without care": lambda z, f: z.squeeze(),
    "map of one position": lambda z, f: z[:, :, None, None],
    "in a dict": lambda z, f: {"out": z},
}


@pytest.mark.parametrize("kind", ONE)
def test_one_logit_is_read_as_two_classes(kind: str) -> None:
    data = colours(classes=2)
    suspect = learned(with_output(ONE[kind])(1), data)
    z = expected_logits(suspect, data)[:, 0]
    for classes in (2, None):
        model = as_classifier(suspect, images=data.images, num_classes=classes)
        logits = torch.from_numpy(model.predict(data, batch_size=59))  # the last batch holds one image
        assert model.num_classes == 2 and logits.shape == (60, 2)
        assert torch.allclose(logits.softmax(1)[:, 1], z.sigmoid(), atol=1e-5)
        assert model.head(to_batch(data.read(slice(0, 2)), model.device)) == "fc"
        assert any("one logit" in note for note in model.notes)
    outcome = repaired(suspect, data)
    after = outcome.model.module
    assert type(after) is type(suspect) and after.fc.weight.shape == (1, 6)
    assert not torch.equal(after.fc.weight, suspect.fc.weight)
    assert accuracy(outcome.model, data) == 1
    assert (((expected_logits(after, data)[:, 0] > 0).numpy()) == data.labels).all()  # as its host reads it


@pytest.mark.parametrize(
    ("end", "classes", "outputs"),
    [
        (nn.Softmax(1), K, "probabilities"),
        (nn.LogSoftmax(1), K, "logits"),
        (nn.Sigmoid(), K, "sigmoids"),
        (nn.Sequential(nn.Sigmoid(), nn.Flatten(0)), 1, "sigmoids"),
        (nn.Sequential(nn.Softmax(1), nn.Unflatten(1, (-1, 1))), 2, "probabilities"),
    ],
)
def test_probabilities_are_turned_back_into_logits(end: nn.Module, classes: int, outputs: str) -> None:
    data = colours(classes=max(2, classes))
    plain = learned(Net(classes), data)
    suspect = learned(with_output(lambda z, f: end(z))(classes), data)
    expected = as_classifier(plain, images=data.images)
    model = as_classifier(suspect, images=data.images)
    assert model.outputs == outputs and model.num_classes == max(2, classes)
    found, wanted = (torch.from_numpy(each.predict(data)).softmax(1) for each in (model, expected))
    assert torch.allclose(found, wanted, atol=1e-4)
    outcomes = [repaired(each, data, seed=3) for each in (suspect, plain)]
    first, second = (each.model.module.fc.weight for each in outcomes)
    assert torch.allclose(first, second, atol=1e-2) and accuracy(outcomes[0].model, data) == 1
    assert type(outcomes[0].model.module) is type(suspect)
    assert any("turned back" in note for note in outcomes[0].notes) == (outputs != "logits")


def test_logits_that_lie_between_0_and_1_by_chance_stay_what_they_are() -> None:
    small = with_output(lambda z, f: z * 0.001 + 0.5)()
    data = colours(6)
    model = as_classifier(small, images=data.images, num_classes=K)
    assert model.outputs == "logits" and model.notes == ()


def test_a_classifier_made_by_hand_is_examined_when_a_defense_runs() -> None:
    data = colours()
    given = Classifier(learned(with_output(lambda z, f: z.softmax(1))(), data), K).eval()
    outcome = get_defense("d3")(epochs=20).run(Case(clean=data, model=given), Context())
    assert given.outputs == "logits" and given.notes == ()  # it stays as it is
    assert outcome.model is not None and outcome.model.outputs == "probabilities"
    assert accuracy(outcome.model, data) == 1 and any("softmax" in note for note in outcome.notes)


def test_what_is_known_of_the_outputs_is_saved(tmp_path: Path) -> None:
    suspect = with_output(lambda z, f: z.softmax(1))()
    data = colours(6)
    model = as_classifier(suspect, images=data.images)
    model.save(tmp_path)
    again = Classifier.load(tmp_path, type(suspect)())
    assert again.outputs == "probabilities" and np.array_equal(again.predict(data), model.eval().predict(data))
    assert again.fingerprint() == model.fingerprint() != Classifier(suspect, K).fingerprint()


class Convolutional(nn.Module):
    """Fully convolutional: its head is a 1×1 convolution over pooled features."""

    def __init__(self, squeeze: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool, self.head = nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, K, 1)
        self.squeeze = squeeze

    def forward(self, x: Tensor) -> Tensor:
        maps = self.head(self.pool(torch.relu(self.conv(x))))
        return maps.squeeze() if self.squeeze else maps


@pytest.mark.parametrize("squeeze", [False, True])
def test_maps_of_one_position_are_rows(squeeze: bool) -> None:
    module, data = Convolutional(squeeze), colours(5)
    model = as_classifier(module, images=data.images, num_classes=K)
    with torch.no_grad():
        expected = module(to_batch(data.read(slice(None)), torch.device("cpu"))).reshape(5, K)
    assert np.allclose(model.predict(data, batch_size=4), expected.numpy(), atol=1e-6)
    assert model.head(to_batch(data.read(slice(None)), model.device)) == "head"


def test_other_numbers_of_classes_are_named_before_any_work() -> None:
    data, wide = colours(), Net(1000)
    with pytest.raises(InputError, match="one logit per class") as caught:
        elixir_plugin.repair(wide, data, epochs=1)
    assert caught.value.found == (2, 1000) and "num_classes=1000" in str(caught.value.hint)
    with pytest.raises(InputError, match="one logit per class"):  # also of a classifier that declares too few
        get_defense("d3")(epochs=1).run(Case(clean=data, model=Classifier(wide, K)), Context())
    with pytest.raises(InputError, match="one logit per class"):
        Classifier(wide, K).predict(data)
    with pytest.raises(InputError, match="one logit per class"):
        as_classifier(Net(1), images=data.images, num_classes=K)


@pytest.mark.parametrize("broken", ["conv.weight", "fc.bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_models_whose_weights_are_not_finite_are_refused(broken: str, value: float) -> None:
    module, data = Net(), colours(6)
    with torch.no_grad():
        module.get_parameter(broken).view(-1)[:2] = value
    for model in (module, Classifier(module, K)):
        with pytest.raises(InputError, match="weights are not finite") as caught:
            elixir_plugin.repair(model, data, epochs=1)
        assert caught.value.found == f"{broken} (2 of {module.get_parameter(broken).numel():,})"


class Odd(Net):
    """Returns NaN, whatever its weights are."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * math.nan


def test_models_that_return_nan_are_refused() -> None:
    with pytest.raises(InputError, match="returns NaN") as caught:
        elixir_plugin.repair(Odd(), colours(6), epochs=1)
    assert caught.value.found == "finite weights"


def test_buffers_may_be_infinite_where_they_are_no_statistics() -> None:
    module = Net()
    module.register_buffer("mask", torch.full((2, 2), -math.inf))
    as_classifier(module, images=colours(6).images)
    module.register_buffer("mask", torch.tensor([math.nan, 1.0]))
    with pytest.raises(InputError, match="not finite") as caught:
        as_classifier(module, images=colours(6).images)
    assert caught.value.found == "mask (1 of 2)"
    norm = nn.Sequential(nn.BatchNorm2d(3), Net())
    norm[0].running_var.fill_(math.inf)
    with pytest.raises(InputError, match="not finite") as caught:
        as_classifier(norm, images=colours(6).images)
    assert caught.value.found == "0.running_var (3 of 3)"


# --- what modules are made of


class Recorder:
    """A hook with a memory."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.seen.append(output)

    def method(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self(module, inputs, output)


def keeping_attribute() -> nn.Module:
    module = Net()
    module.conv.register_forward_hook(lambda layer, _, output: setattr(layer, "activation", output))
    return module


def keeping_hook(method: bool) -> nn.Module:
    module, recorder = Net(), Recorder()
    module.conv.register_forward_hook(recorder.method if method else recorder)
    return module


def keeping_dict() -> nn.Module:
    module = Net()
    module.kept = {}  # type: ignore[assignment]
    module.fc.register_forward_hook(lambda layer, _, output: module.kept.update(fc=[output, (output,)]))  # type: ignore[operator]
    return module


def with_lock() -> nn.Module:
    module = Net()
    module.lock = threading.Lock()  # type: ignore[assignment]
    module.inner = {"condition": threading.Condition()}  # type: ignore[assignment]
    return module


def with_modules_and_generators() -> nn.Module:
    module = Net()
    module.numpy = np  # type: ignore[assignment]
    module.stream = (each for each in range(3))  # type: ignore[assignment]
    return module


def weight_normed(new: bool) -> nn.Module:
    module = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.conv = (parametrizations.weight_norm if new else nn.utils.weight_norm)(module.conv)
    return module


def spectral(new: bool) -> nn.Module:
    module = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.conv = (parametrizations.spectral_norm if new else nn.utils.spectral_norm)(module.conv)
    return module


class OwnCopy(Net):
    """Has a way of its own to be copied."""

    def __deepcopy__(self, memo: Any) -> OwnCopy:
        new = type(self)()
        new.load_state_dict(self.state_dict())
        return new.train(self.training)


class Tied(Net):
    """Two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.back.weight = self.there.weight

    def features(self, x: Tensor) -> Tensor:
        return self.back(torch.relu(self.there(super().features(x)))) + super().features(x)


MADE_OF = {
    "activations in an attribute": keeping_attribute,
    "activations in a hook": lambda: keeping_hook(False),
    "activations behind a bound method": lambda: keeping_hook(True),
    "activations in a dict": keeping_dict,
    "locks": with_lock,
    "modules and generators": with_modules_and_generators,
    "weight norm": lambda: weight_normed(True),
    "former weight norm": lambda: weight_normed(False),
    "spectral norm": lambda: spectral(True),
    "former spectral norm": lambda: spectral(False),
    "its own deepcopy": OwnCopy,
    "tied weights": Tied,
    "data parallel": lambda: nn.DataParallel(Net()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(Net()),
}


@pytest.mark.parametrize("kind", MADE_OF)
def test_modules_are_copied_whatever_is_in_them(kind: str) -> None:
    data = colours()
    suspect = MADE_OF[kind]()
    inner = suspect if isinstance(suspect, Net) else suspect.module
    learned(inner, data)
    suspect.eval()
    x = to_batch(data.read(slice(None)), torch.device("cpu"))
    expected = suspect(x)  # with gradients: computed tensors stay behind in the module
    before = state(suspect)
    outcome = repaired(suspect, data)
    assert same(state(suspect), before)
    assert accuracy(outcome.model, data) == 1
    plain = type(inner) if kind == "data parallel" else type(suspect)
    assert type(outcome.model.module) is plain
    model = as_classifier(suspect, images=data.images)
    assert np.allclose(model.predict(data), expected.detach().numpy(), atol=1e-5)
    again = model.clone()
    assert np.allclose(again.predict(data), expected.detach().numpy(), atol=1e-5)


def test_open_files_do_not_keep_a_module_from_being_copied(tmp_path: Path) -> None:
    data = colours()
    module = learned(Net(), data)
    with (tmp_path / "log.txt").open("w") as file:
        module.log = file  # type: ignore[assignment]
        assert accuracy(repaired(module, data).model, data) == 1


class OneOfAKind(Net):
    def __deepcopy__(self, memo: Any) -> OneOfAKind:
        return self


class Uncopied(Net):
    def __deepcopy__(self, memo: Any) -> Uncopied:
        raise RuntimeError("there can be only one")


def test_a_module_that_cannot_be_copied_is_refused_and_stays_as_it_is() -> None:
    data = colours(6)
    with pytest.raises(InputError, match="shares weights") as caught:
        as_classifier(OneOfAKind(), images=data.images)
    assert "OneOfAKind.__deepcopy__" in str(caught.value.where)
    with pytest.raises(InputError, match="cannot be copied") as caught:
        as_classifier(Uncopied(), images=data.images)
    assert "only one" in str(caught.value.found) and "state_dict" in str(caught.value.hint)


def test_fresh_weights_are_drawn_or_refused_and_never_left() -> None:
    for kind in ("weight norm", "former weight norm"):
        with pytest.raises(InputError, match="cannot be drawn anew") as caught:
            Classifier(MADE_OF[kind](), K).fresh(0)
        assert "conv" in str(caught.value.found)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def reset_parameters(self) -> None:
            nn.init.zeros_(self.scale)

    with pytest.raises(InputError, match="cannot be drawn anew") as caught:
        Classifier(nn.Sequential(Own(), nn.Flatten()), K).fresh(0)
    assert "0.shift" in str(caught.value.found) and "scale" not in str(caught.value.found)


def test_computed_heads_are_refused_with_what_to_do() -> None:
    module, data = Net(), colours(6)
    parametrizations.weight_norm(module.fc)
    with pytest.raises(InputError, match="computed, not stored"):
        repaired(module, data)


def test_frozen_models_are_repaired() -> None:
    data = colours()
    suspect = learned(Net(), data).requires_grad_(False)
    outcome = repaired(suspect, data)
    assert accuracy(outcome.model, data) == 1 and not any(each.requires_grad for each in suspect.parameters())
    assert not torch.equal(outcome.model.module.fc.weight, suspect.fc.weight)  # type: ignore[union-attr]
    suspect.conv.requires_grad_(True)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="weight is frozen"):
        repaired(suspect, data)
    suspect.requires_grad_(False).fc.requires_grad_(True)  # type: ignore[union-attr]  # a frozen backbone
    outcome = repaired(suspect, data)
    assert torch.equal(outcome.model.module.conv.weight, suspect.conv.weight)  # type: ignore[union-attr]
    assert accuracy(outcome.model, data) == 1


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_worked_on_in_float32(kind: torch.dtype) -> None:
    data = colours()
    suspect = learned(Net(), data).to(kind)
    expected = expected_logits(copy.deepcopy(suspect).float(), data)
    model = as_classifier(suspect, images=data.images)
    assert np.allclose(model.predict(data), expected.numpy(), atol=1e-5)
    outcome = repaired(suspect, data)
    assert suspect.fc.weight.dtype == kind and outcome.model.module.fc.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert accuracy(outcome.model, data) == 1 and any("float32 copy" in note for note in outcome.notes)
    given = Classifier(suspect, K)  # as it is, it computes in its own type, and returns float32
    assert given(to_batch(data.read(slice(0, 2)), torch.device("cpu"))).dtype == torch.float32
    assert len(given.fingerprint()) == 12


def test_a_module_that_converts_its_inputs_itself_stays_in_half_precision() -> None:
    class Casts(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.bfloat16())

    data = colours()
    suspect = learned(Net(), data)
    casts = Casts()
    casts.load_state_dict(suspect.state_dict())
    model = as_classifier(casts.bfloat16().eval(), images=data.images)
    assert model.module.fc.weight.dtype == torch.bfloat16 and any("takes no other" in note for note in model.notes)  # type: ignore[union-attr]
    assert accuracy(model, data) == 1


def test_double_precision_is_kept() -> None:
    data = colours()
    suspect = learned(Net(), data).double()
    outcome = repaired(suspect, data)
    assert outcome.model.module.fc.weight.dtype == torch.float64 and accuracy(outcome.model, data) == 1


def test_torchscript_predicts_and_its_head_is_refused() -> None:
    data = colours()
    module = learned(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, K)), colours(3), 0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = to_batch(data.read(slice(None)), torch.device("cpu"))
        scripted, traced = torch.jit.script(module), torch.jit.trace(module, x[:2])
    for each in (scripted, traced):
        model = as_classifier(each, images=data.images)
        assert np.allclose(model.predict(data), module(x).detach().numpy(), atol=1e-5)
        with pytest.raises(InputError, match="no classification layer") as caught:
            repaired(each, data, any_model=True)  # it is not trained
        assert "TorchScript" in str(caught.value.found) and "scripted or traced" in str(caught.value.hint)


def test_a_compiled_module_is_unwrapped() -> None:
    data = colours()
    plain = learned(Net(), data)
    outcome = repaired(torch.compile(plain, backend="eager"), data)  # type: ignore[arg-type]
    assert type(outcome.model.module) is Net and accuracy(outcome.model, data) == 1


def test_quantised_models_predict_and_are_refused_clearly_for_a_repair() -> None:
    data = colours()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suspect = torch.ao.quantization.quantize_dynamic(learned(Net(), data), {nn.Linear})
        model = as_classifier(suspect, images=data.images)
        assert accuracy(model, data) == 1 and len(model.fingerprint()) == 12
        with pytest.raises(InputError, match=r"no classification layer|quantised"):
            repaired(suspect, data)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(K)), "1.weight is uninitialised"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten()), "0.weight is uninitialised"),
        (lambda: Net().to("meta"), "conv.weight is on the meta device"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_models_without_weights_are_refused(make: Any, found: str) -> None:
    data = colours(6)
    with pytest.raises(InputError, match="no weights yet") as caught:
        elixir_plugin.repair(make(), data, epochs=1)
    assert caught.value.found == found


# --- normalisation, size and channels


MEANS: list[Any] = [
    0.5,
    np.float32(0.5),
    (0.5, 0.5, 0.5),
    [torch.tensor(0.5)] * 3,
    torch.tensor([0.5, 0.5, 0.5]),
    torch.full((3, 1, 1), 0.5),
    torch.full((1, 3, 1, 1), 0.5, requires_grad=True),
    np.array([0.5, 0.5, 0.5]),
    np.full((3, 8, 8), 0.5),
    torch.tensor(0.5),
]


@pytest.mark.parametrize("mean", MEANS, ids=lambda each: f"{type(each).__name__}{list(np.shape(each))}")
def test_mean_and_std_in_any_form_mean_the_same(mean: Any) -> None:
    data = colours(6)
    module = Net().eval()
    expected = Classifier(module, K, mean=(0.5,) * 3, std=(0.5,) * 3).predict(data)
    assert np.array_equal(as_classifier(module, images=data.images, mean=mean, std=mean).predict(data), expected)
    assert np.array_equal(Classifier(module, K, mean=mean, std=mean).predict(data), expected)


def test_normalised_tensors_are_undone_in_any_form_of_mean() -> None:
    data = colours()
    suspect = learned(Net(), data)
    pixels = torch.from_numpy(data.read(slice(None)).transpose(0, 3, 1, 2).copy())
    mean, std = torch.tensor([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])[:, None, None]
    normalised = (pixels - mean[:, None, None]) / torch.from_numpy(std).float()
    given = ((normalised, data.labels), (0.0, 1.0))
    outcome = repaired(suspect, given[0], mean=mean, std=std, normalised=True)  # type: ignore[arg-type]
    assert outcome.model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("mean", [(0.1, 0.2), np.eye(3), "text", (), np.arange(192.0).reshape(3, 8, 8), [[1], [1, 2]]])
def test_means_that_are_not_per_channel_are_refused(mean: Any) -> None:
    with pytest.raises(InputError, match=r"not numbers|not one number per channel"):
        as_classifier(Net(), images=colours(6).images, mean=mean, std=1.0)


def test_three_means_are_refused_for_gray_images() -> None:
    with pytest.raises(InputError, match="one number per channel"):  # broadcasting would make three channels of one
        as_classifier(Net(), images=colours(6, channels=1).images, mean=(0.1, 0.2, 0.3), std=1.0)


def test_a_vit_is_fed_at_its_own_size() -> None:
    module = torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=K
    ).eval()
    nn.init.normal_(module.heads.head.weight)
    data = colours(12, 24)
    model = as_classifier(module, images=data.images)
    resized = nn.functional.interpolate(
        to_batch(data.read(slice(None)), torch.device("cpu")), (16, 16), mode="bilinear", antialias=True
    )
    assert model.input_size == 16 and np.allclose(model.predict(data), module(resized).detach().numpy(), atol=1e-5)
    outcome = elixir_plugin.repair(module, data, epochs=1)
    assert any("resized to 16 × 16" in note for note in outcome.notes) and outcome.model.input_size == 16


@pytest.mark.parametrize(
    ("declare", "size"),
    [
        (lambda m: setattr(m, "default_cfg", {"input_size": (3, 8, 8)}), 8),
        (lambda m: setattr(m, "img_size", (8, 8)), 8),
        (lambda m: setattr(m, "img_size", (8, 16)), None),
        (lambda m: None, None),
    ],
)
def test_a_fixed_size_is_taken_where_the_module_names_it(declare: Any, size: int | None) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, K))
    declare(module)
    data = colours(6, 12)
    if size is None:
        with pytest.raises(InputError, match="cannot take these images") as caught:
            as_classifier(module, images=data.images)
        assert "input_size" in str(caught.value.hint)
    else:
        assert as_classifier(module, images=data.images).input_size == size


@pytest.mark.parametrize(("own", "given", "named"), [(1, 3, "gray"), (3, 1, "colour")])
def test_other_channels_are_refused_by_name(own: int, given: int, named: str) -> None:
    with pytest.raises(InputError, match="cannot take these images") as caught:
        elixir_plugin.repair(Net(channels=own), colours(6, channels=given), epochs=1)
    assert f"is for {named} images" in str(caught.value.hint) and f"channels={own}" in str(caught.value.hint)


def test_gray_models_are_repaired() -> None:
    data = colours(channels=1)
    suspect = learned(Net(channels=1), data)
    assert accuracy(repaired(suspect, data).model, data) >= 0.9


# --- where the call stands


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
def test_a_repair_trains_wherever_it_is_called(mode: Any) -> None:
    data = colours()
    suspect = learned(Net(), data)
    expected = repaired(suspect, data, seed=1)
    with mode():
        found = repaired(suspect, data, seed=1)
        pair = repaired(suspect, (torch.from_numpy(data.read(slice(None))), torch.tensor(data.labels)), seed=1)
    for outcome in (found, pair):
        assert same(state(outcome.model.module), state(expected.model.module))
        assert not any(each.is_inference() for each in outcome.model.module.parameters())


def test_a_model_made_in_inference_mode_is_trained() -> None:
    data = colours()
    trained = learned(Net(), data)
    with torch.inference_mode():
        suspect = copy.deepcopy(trained)
    assert suspect.fc.weight.is_inference()  # type: ignore[union-attr, operator]
    assert same(state(repaired(suspect, data).model.module), state(repaired(trained, data).model.module))


def test_a_detector_trains_under_no_grad() -> None:
    from elixir_plugin.testing.defenses import tiny_case

    case = tiny_case()
    short = {
        "architecture": "small_resnet", "reference": "labels", "ratios": (0.5,), "suspect_size": None,
        "reserved_size": None, "pretrain_epochs": (1,), "confusion_steps": (2,), "confusion_batch": 16,
        "confusion_lr": (0.01,), "lam": (10,), "shifted_from": 2,
    }  # fmt: skip
    expected = elixir_plugin.detect(case.train, clean=case.clean, settings=short)
    with torch.inference_mode():
        found = elixir_plugin.detect(case.train, clean=case.clean, settings=short)
    assert np.array_equal(found.scores, expected.scores)
