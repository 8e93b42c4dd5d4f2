import json

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from elixir_plugin.core.classifier.classifier import Classifier, build_module, to_batch
from elixir_plugin.core.classifier.weights import load_by_name, unwrap
from elixir_plugin.core.images import ImageSet, LazyImages
from elixir_plugin.errors import InputError, SettingsError

CLASSES = 7


def network(name):
    """A network with random weights, in eval mode."""
    if name == "vit":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = torchvision.models.VisionTransformer(
                image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES
            )
            nn.init.normal_(module.heads.head.weight)  # torchvision starts with zeros
        return Classifier(module, CLASSES, input_size=32).eval()
    return Classifier.build(name, CLASSES).eval()


def small(**options):
    return Classifier.build("small_resnet", CLASSES, **options)


def batch(size=32, n=3, channels=3):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


HEADS = {
    "resnet18": "fc",
    "vgg11_bn": "classifier.6",
    "vit": "heads.head",
    "convnext_tiny": "classifier.2",
    "mobilenet_v3_small": "classifier.3",
    "squeezenet1_1": "classifier.1",
    "densenet121": "classifier",
    "preactresnet18": "linear",
    "small_resnet": "linear",
}


@pytest.mark.parametrize(("name", "head"), HEADS.items())
def test_head_is_found_and_features_are_what_enters_it(name, head):
    model, images = network(name), batch(64)
    assert model.head(images) == head
    with torch.inference_mode():
        logits, features = model.features(images)
        assert torch.equal(logits, model.logits(images))
        assert logits.shape == (3, CLASSES)
        layer = model.module.get_submodule(head)
        if isinstance(layer, nn.Linear):
            again = layer(features)
        else:
            grid = features.reshape(3, layer.in_channels, 3, 3)
            again = layer(grid).relu().mean((2, 3))
    assert features.ndim == 2
    assert torch.allclose(again, logits, atol=1e-5)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.module.modules())


class Crooked(nn.Module):
    """Runs the layers against their order of registration; a decoy of the same width is registered last."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, CLASSES)
        self.trunk = nn.Linear(3, 4)
        self.decoy = nn.Linear(3, CLASSES)
        self.unused = nn.Linear(4, CLASSES)

    def forward(self, x):
        pooled = x.mean((2, 3))
        return self.head(self.trunk(pooled) + self.decoy(pooled).mean())


def test_head_is_the_layer_that_runs_last():
    assert Classifier(Crooked(), CLASSES).head(batch()) == "head"


def test_head_search_leaves_the_mode_as_it_was():
    model = small().train()
    before = weights(model)
    model.head(batch(n=1))
    assert model.training
    assert same(weights(model), before)  # batch norm saw nothing


def test_no_head_is_an_error():
    module = nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="no classification layer"):
        Classifier(module, CLASSES).features(batch())


class EndsWithAttention(nn.Module):
    """Ends with attention as wide as the logits, after a linear layer of the same width."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, CLASSES)
        self.attention = nn.MultiheadAttention(CLASSES, 1, batch_first=True)

    def forward(self, x):
        tokens = self.embed(x.flatten(2).mT)
        return self.attention(tokens, tokens, tokens)[0].mean(1)


def test_a_linear_layer_before_attention_that_comes_last_is_not_taken_for_the_head():
    with pytest.raises(InputError, match="no classification layer") as caught:
        Classifier(EndsWithAttention(), CLASSES).head(batch(8))
    assert "attention" in caught.value.found and "select=[attention]" in caught.value.hint


def test_a_layer_after_attention_of_the_same_width_is_the_head():
    linear = nn.Sequential(EndsWithAttention(), nn.Linear(CLASSES, CLASSES))
    assert Classifier(linear, CLASSES).head(batch(8)) == "1"

    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(CLASSES, 1, kdim=3, vdim=3, batch_first=True)
            self.query = nn.Parameter(torch.rand(1, 1, CLASSES))
            self.conv = nn.Conv2d(CLASSES, CLASSES, 1)

        def forward(self, x):
            tokens = x.flatten(2).mT
            pooled = self.attention(self.query.expand(len(x), -1, -1), tokens, tokens)[0]
            return self.conv(pooled.mT[..., None]).flatten(1)

    assert Classifier(Pixels(), CLASSES).head(batch(8)) == "conv"


def test_features_let_gradients_through():
    model = small()
    _, features = model.features(batch())
    features.sum().backward()
    assert model.module.conv1.weight.grad.abs().sum() > 0


def test_normalisation_is_inside():
    model = Classifier(nn.Flatten(), 12, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 0.25))
    images = batch(2)
    expected = torch.stack([(images[:, 0] - 0.1) / 0.5, images[:, 1] - 0.2, (images[:, 2] - 0.3) / 0.25], 1).flatten(1)
    assert torch.allclose(model(images), expected)
    assert torch.allclose(Classifier(nn.Flatten(), 12, mean=(0.5,), std=(0.5,))(images), images.flatten(1) * 2 - 1)


def test_normalisation_is_no_part_of_the_weights():
    assert set(small(mean=(0.5,)).module.state_dict()) == set(build_module("small_resnet", CLASSES).state_dict())
    assert not {"mean", "std"} & set(small().state_dict())


@pytest.mark.parametrize("std", [(0.0,), (1.0, -1.0, 1.0), (float("nan"),)])
def test_standard_deviation_must_be_positive(std):
    with pytest.raises(InputError, match="standard deviation"):
        Classifier(nn.Flatten(), 12, std=std)


def test_images_are_resized_for_networks_with_a_fixed_input():
    model = Classifier(nn.Flatten(), 48, input_size=4)
    assert model(batch(9)).shape == (3, 48)
    assert torch.equal(model(batch(4)), batch(4).flatten(1))


def images_of(n=5, size=16, dtype=np.uint8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, size, size, 3), np.uint8)
    return ImageSet(images if dtype == np.uint8 else (images / 255).astype(dtype), np.arange(n) % CLASSES, CLASSES)


@pytest.mark.parametrize("training", [True, False])
def test_predict_equals_forward_and_restores_the_mode(training):
    model, sample = small().train(training), images_of()
    before = weights(model)
    logits = model.predict(sample, batch_size=2)
    assert model.training is training
    assert all(each.training is training for each in model.modules())
    assert same(weights(model), before)
    with torch.inference_mode():
        expected = model.eval()(to_batch(sample.read(slice(None)), model.device)).numpy()
    assert (logits.dtype, logits.shape) == (np.float32, (5, CLASSES))
    assert np.allclose(logits, expected, atol=1e-5)


def test_predict_restores_the_mode_after_an_error():
    def read(i):
        raise InputError("broken file")

    model = small().train()
    broken = ImageSet(LazyImages(read, 2, (16, 16, 3)), [0, 1], CLASSES)
    with pytest.raises(InputError, match="broken file"):
        model.predict(broken)
    assert model.training


def test_predict_takes_an_empty_set():
    assert small().predict(images_of(0)).shape == (0, CLASSES)


def test_float_and_uint8_sets_are_predicted_alike():
    model = small()
    assert np.allclose(model.predict(images_of()), model.predict(images_of(dtype=np.float32)), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_to_batch_scales_and_leaves_its_input_alone(dtype):
    images = images_of(2, dtype=dtype).read(slice(None))
    before = images.copy()
    out = to_batch(images, torch.device("cpu"))
    assert (out.dtype, out.shape) == (torch.float32, (2, 3, 16, 16))
    assert 0 <= out.min() < 0.1 < 0.9 < out.max() <= 1
    assert np.allclose(out.permute(0, 2, 3, 1).numpy(), images / (255 if dtype == np.uint8 else 1))
    assert np.array_equal(images, before)


# --- fresh weights


def test_build_is_deterministic_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert same(weights(small(seed=1)), weights(small(seed=1)))
    assert not same(weights(small(seed=1)), weights(small(seed=2)))
    small().fresh(4)
    assert torch.equal(torch.get_rng_state(), state)


def unnamed():
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7)
    return Classifier(nn.Sequential(*layers), CLASSES, mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize("make", [small, unnamed])
def test_fresh_weights_depend_on_the_seed_alone(make):
    model = make()
    model(batch())  # moves the batch-norm statistics
    before = weights(model)
    model.requires_grad_(False)
    first, again, other = model.fresh(1), model.fresh(1), model.fresh(2)
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))
    assert same(weights(model), before)
    assert all(parameter.requires_grad for parameter in first.parameters())
    norms = [layer for layer in first.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    assert all((layer.running_mean == 0).all() and (layer.running_var == 1).all() for layer in norms)
    assert torch.equal(first.mean, model.mean)


def test_fresh_equals_build():
    assert same(weights(small(seed=9).fresh(5)), weights(small(seed=5)))


def test_fresh_refuses_weights_that_nothing_can_draw_anew():
    with pytest.raises(InputError, match="cannot be drawn anew") as caught:
        network("vit").fresh(0)
    assert "class_token" in caught.value.found


def test_clone_is_independent():
    model = small()
    copy = model.clone()
    with torch.no_grad():
        copy.module.conv1.weight.zero_()
    assert model.module.conv1.weight.abs().sum() > 0


# --- loading and saving


def test_save_and_load_give_the_same_classifier(tmp_path):
    model = small(seed=3, mean=(0.4, 0.5, 0.6), std=(0.2,), input_size=24)
    model(batch(24))
    model.save(tmp_path)
    again = Classifier.load(tmp_path)
    assert not again.training
    assert same(weights(again), weights(model))
    assert (again.architecture, again.num_classes, again.input_size) == ("small_resnet", CLASSES, 24)
    with torch.inference_mode():
        assert torch.equal(again(batch(16)), model.eval()(batch(16)))


def test_load_without_architecture_needs_a_module(tmp_path):
    model = unnamed()
    model.save(tmp_path)
    with pytest.raises(InputError, match="without architecture"):
        Classifier.load(tmp_path)
    again = Classifier.load(tmp_path, unnamed().fresh(1).module)
    assert same(weights(again), weights(model))
    with pytest.raises(InputError, match="weights do not fit"):
        Classifier.load(tmp_path, build_module("small_resnet", CLASSES))


def test_load_of_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="not found"):
        Classifier.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "architecture: Field required"),
        ([], "valid"),
        ({"extra": 1}, "extra: Extra inputs"),
        ({"mean": "x"}, "mean: "),
        ({"mean": [0.1, 0.2]}, "one value, or 3"),
        ({"std": [0]}, "std.0: "),
        ({"num_classes": 10**12}, "num_classes: "),
        ({"channels": None}, "channels: "),
    ],
)
def test_facts_that_are_none_are_refused(tmp_path, content, found):
    small().save(tmp_path)
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **content} if content else content))
    with pytest.raises(InputError, match="not the facts of a classifier") as caught:
        Classifier.load(tmp_path)
    assert caught.value.where == path and found in caught.value.found


@pytest.mark.filterwarnings("ignore")  # torch warns of sparse tensors
@pytest.mark.parametrize("odd", [torch.Tensor.to_sparse, lambda value: value.to("meta")])
def test_weights_that_are_not_dense_are_refused_and_nothing_is_loaded(odd):
    target = build_module("small_resnet", CLASSES)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {name: torch.zeros_like(value) for name, value in before.items()}
    state["linear.weight"] = odd(state["linear.weight"])
    with pytest.raises(InputError, match="not plain numbers") as caught:
        load_by_name(target, state, where="x.pt")
    assert caught.value.found == "linear.weight (not dense)" and same(target.state_dict(), before)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapper_prefixes_are_stripped(prefix):
    source, target = build_module("small_resnet", CLASSES), build_module("small_resnet", CLASSES)
    load_by_name(target, {prefix + name: value for name, value in source.state_dict().items()}, where="x.pt")
    assert same(target.state_dict(), source.state_dict())


def test_order_does_not_matter_and_step_counters_may_be_absent():
    source, target = build_module("small_resnet", CLASSES), build_module("small_resnet", CLASSES)
    items = [item for item in source.state_dict().items() if not item[0].endswith("num_batches_tracked")]
    load_by_name(target, dict(reversed(items)), where="x.pt")
    assert same(target.state_dict(), source.state_dict())


def test_what_does_not_fit_is_reported_and_nothing_is_loaded():
    target = build_module("small_resnet", CLASSES)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {name: torch.zeros_like(value) for name, value in before.items()}
    state["extra.weight"] = state.pop("conv1.weight")
    state["linear.bias"] = torch.zeros(CLASSES + 1)
    with pytest.raises(InputError, match="weights do not fit") as caught:
        load_by_name(target, state, where="record/attack_result.pt")
    text = str(caught.value)
    for part in (
        "record/attack_result.pt",
        "1 missing (conv1.weight)",
        "1 left over (extra.weight)",
        f"linear.bias ({CLASSES + 1},) instead of ({CLASSES},)",
    ):
        assert part in text
    assert same(target.state_dict(), before)


@pytest.mark.parametrize("state", [None, [], {"conv1.weight": 3}, {"model": {"a": torch.zeros(1)}}, torch.zeros(2)])
def test_what_is_no_state_dict_is_refused(state):
    with pytest.raises(InputError, match="not a state dict"):
        load_by_name(build_module("small_resnet", CLASSES), state, where="x.pt")


class Compiled(nn.Module):
    def __init__(self, module):
        super().__init__()
        self._orig_mod = module


def test_wrappers_are_taken_off():
    module = nn.Linear(2, 2)
    for wrapped in (module, nn.DataParallel(module), Compiled(module), nn.DataParallel(Compiled(module))):
        assert unwrap(wrapped) is module
        assert Classifier(wrapped, 2).module is module


# --- architectures


def test_unknown_architecture_gets_the_nearest_one():
    with pytest.raises(SettingsError, match="unknown architecture") as caught:
        build_module("preactresnet81", 10)
    assert caught.value.hint == "did you mean 'preactresnet18'?"


def test_torchvision_models_take_three_channels():
    with pytest.raises(SettingsError, match="3 channels"):
        build_module("resnet18", 10, channels=1)


@pytest.mark.parametrize("name", ["preactresnet18", "cifar_resnet18", "small_resnet"])
def test_own_architectures_take_any_size_and_one_channel(name):
    model = Classifier.build(name, CLASSES, channels=1).eval()
    with torch.inference_mode():
        assert model(batch(12, channels=1)).shape == (3, CLASSES)


def test_predict_puts_frozen_batch_norm_back_as_it_was():
    model = Classifier.build("small_resnet", 3).train()
    model.module.bn1.eval()
    modes = [part.training for part in model.modules()]
    model.predict(ImageSet(np.zeros((2, 8, 8, 3), np.uint8), [0, 1], 3))
    assert [part.training for part in model.modules()] == modes


def test_fresh_is_ready_to_train():
    model = Classifier.build("small_resnet", 3).eval().requires_grad_(False).fresh(1)
    assert all(part.training for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_submodule_called_module_keeps_its_name():
    inner = nn.Sequential()
    inner.add_module("module", nn.Linear(2, 2))
    weights = {name: torch.ones_like(value) for name, value in inner.state_dict().items()}
    load_by_name(inner, weights, where="here")
    assert inner.state_dict()["module.weight"].eq(1).all()


def test_names_that_differ_by_a_prefix_alone_are_not_taken_for_each_other():
    inner = nn.Sequential()
    inner.add_module("z", nn.Linear(2, 2))
    given = inner.state_dict().items()
    weights = {f"{prefix}{name}": value for name, value in given for prefix in ("module.module.", "module.")}
    with pytest.raises(InputError, match="left over"):
        load_by_name(inner, weights, where="here")
