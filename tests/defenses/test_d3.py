"""Properties of D3 that hold for any model and data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from elixir_plugin.core.augmentation import Augmentation
from elixir_plugin.core.case import Case, TriggeredSet
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.context import Context
from elixir_plugin.core.images import ImageSet, LazyImages
from elixir_plugin.core.outcome import Outcome, same_outcome
from elixir_plugin.defenses.d3 import defense as d3
from elixir_plugin.defenses.d3 import descent
from elixir_plugin.defenses.d3.defense import D3, Selected
from elixir_plugin.defenses.d3.settings import D3Settings
from elixir_plugin.errors import InputError
from elixir_plugin.training.batches import Batch, Samples, ShuffledBatches

CLASSES = 10
HEAD = "fc.weight"
PLAIN: dict[str, Any] = {"epochs": 3, "batch_size": 8, "augmentation": {"crop": 0, "flip": False}}


class Net(nn.Module):
    """Conv, batch norm, pooling, a hidden linear layer, and a head of 640 entries."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 64)
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(self.bn(self.conv(x))), 1).flatten(1)
        return self.fc(F.relu(self.hidden(x)))


def clean_set(n: int = 40, size: int = 8) -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (n, size, size, 3), np.uint8), np.arange(n) % CLASSES, CLASSES)


def classifier(module: nn.Module | None = None) -> Classifier:
    if module is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = Net()
    return Classifier(module, CLASSES, mean=(0.5,), std=(0.25,)).eval()


def case(module: nn.Module | None = None, dtype: torch.dtype = torch.float32) -> Case:
    return Case(clean=clean_set(), model=classifier(module).to(dtype))


def detoxify(given: Case | None = None, *, seed: int = 0, **settings: Any) -> Outcome:
    return D3({**PLAIN, **settings}).run(given or case(), Context(seed=seed, any_model=True))


def weights(model: Classifier | None) -> dict[str, Tensor]:
    assert model is not None
    return {name: value.detach().clone() for name, value in model.module.state_dict().items()}


def start(kind: str) -> float:
    return detoxify(epochs=1, warm_up=kind).tables["start_distance_ratio"][HEAD]


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, tuple[float, float]]]:
    """After the warm-up and after every step: per selected weight, its norm and its distance over the norm to hold."""
    seen: list[dict[str, tuple[float, float]]] = []
    real = d3.project

    def watched(selected: list[Selected], p: float) -> None:
        real(selected, p)
        rows: dict[str, tuple[float, float]] = {}
        for each in selected:
            weight, held = each.weight.detach(), each.received.norm(p=p)
            rows[each.name] = (float(weight.norm(p=p) / held), float((weight - each.received).norm(p=p) / held))
        seen.append(rows)

    monkeypatch.setattr(d3, "project", watched)
    monkeypatch.setattr(descent, "project", watched)
    return seen


# 1. norm


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("warm_up", ["random", "far", "noise", "near"])
def test_the_norm_of_the_head_holds_after_the_warm_up_and_every_step(
    trace: list[dict[str, tuple[float, float]]], p: int, warm_up: str
) -> None:
    detoxify(p=p, warm_up=warm_up)
    assert len(trace) == 1 + 3 * 5
    assert max(abs(row[HEAD][0] - 1) for row in trace) <= 1e-5


@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_norm_of_every_layer_holds(trace: list[dict[str, tuple[float, float]]], p: int) -> None:
    detoxify(p=p, select="all")
    assert all(set(row) == {"conv.weight", "hidden.weight", HEAD} for row in trace)
    assert max(abs(norm - 1) for row in trace for norm, _ in row.values()) <= 1e-5


def test_without_projection_the_norm_is_free(trace: list[dict[str, tuple[float, float]]]) -> None:
    outcome = detoxify(project=False, lr=0.1)
    assert len(trace) == 1  # the warm-up alone
    assert weights(outcome.model)[HEAD].norm() > 1.01 * weights(case().model)[HEAD].norm()


def test_middle_joins_the_sphere_with_the_first_step(trace: list[dict[str, tuple[float, float]]]) -> None:
    detoxify(warm_up="middle")
    assert trace[0][HEAD] == (0, pytest.approx(1))
    assert max(abs(row[HEAD][0] - 1) for row in trace[1:]) <= 1e-5


@pytest.mark.parametrize("fraction", [0.0, 1e-14])
def test_a_weight_that_a_step_takes_to_zero_goes_back_to_where_it_was(fraction: float) -> None:
    (each,) = selected = one_head()
    each.weight.data.copy_(-each.received)
    descent.project(selected, 2)
    before = each.weight.detach().clone()
    each.weight.data.mul_(fraction)
    descent.project(selected, 2)
    assert torch.equal(each.weight, before) and before.norm() > 0


def test_a_weight_of_nan_stays_one_for_the_training_to_stop_at() -> None:
    (each,) = selected = one_head()
    each.weight.data.fill_(math.nan)
    descent.project(selected, 2)
    assert each.weight.isnan().all()


def test_weights_of_half_precision_are_measured_in_float32() -> None:
    received = one_head()[0].received.bfloat16()
    (each,) = selected = [Selected(HEAD, nn.Parameter(-3 * received), received.float(), received.float().norm())]
    descent.project(selected, 2)
    ratio = d3.distance_ratios(selected, 2)[HEAD]
    assert each.weight.dtype == torch.bfloat16 and ratio == pytest.approx(2, abs=0.01)


# 2. bounds


@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_distance_stays_between_zero_and_twice_the_norm(
    trace: list[dict[str, tuple[float, float]]], p: int
) -> None:
    detoxify(p=p, select="all", warm_up="far", lr=0.1)
    assert all(0 <= distance <= 2 + 1e-5 for row in trace for _, distance in row.values())


def test_random_starts_near_a_right_angle() -> None:
    assert 1.2 <= start("random") <= 1.6


def test_far_starts_at_the_opposite_pole() -> None:
    assert start("far") == pytest.approx(2, abs=1e-6)


def test_near_starts_where_it_was_received() -> None:
    assert start("near") == pytest.approx(0, abs=1e-6)


def test_noise_starts_at_the_documented_distance() -> None:
    assert start("noise") == pytest.approx(0.77, abs=0.05)


# 3. scaling


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_scaling_the_objective_is_a_smaller_learning_rate(dtype: torch.dtype, tolerance: float) -> None:
    settings: dict[str, Any] = {"lam": 10, "epochs": 4, "warm_up": "noise"}  # 20 steps
    scaled = weights(detoxify(case(dtype=dtype), **settings, lr=0.05).model)
    slowed = weights(detoxify(case(dtype=dtype), **settings, lr=0.05 / 11, scale_objective=False).model)
    assert scaled[HEAD].dtype == dtype
    assert all(torch.allclose(scaled[name], slowed[name], atol=tolerance, rtol=0) for name in scaled)
    received = weights(case(dtype=dtype).model)[HEAD]
    assert abs(scaled[HEAD].norm() / received.norm() - 1) <= tolerance


@pytest.mark.parametrize(("lam", "divisor"), [(0.5, 1), (1, 1), (10, 11)])
def test_the_objective_is_divided_only_above_one(lam: float, divisor: float) -> None:
    selected, batch = one_head(), Batch(torch.zeros(2, 1), torch.tensor([0, 1]), torch.arange(2))
    losses = descent.d3_objective(D3Settings(lam=lam, eps=0), selected)(constant(torch.zeros(2, 2)), batch)
    expected = (lam * math.log(2) - selected[0].received.norm()) / divisor  # the weight is at zero
    assert torch.allclose(losses["loss"], expected)


# 4. distance alone


def one_head(entries: tuple[int, int] = (10, 64)) -> list[Selected]:
    received = nn.init.kaiming_uniform_(torch.empty(entries), generator=torch.Generator().manual_seed(0))
    return [Selected(HEAD, nn.Parameter(torch.zeros(entries)), received, received.norm())]


def constant(logits: Tensor) -> nn.Module:
    """Return a model whose logits depend on nothing."""

    class Constant(nn.Module):
        def forward(self, _images: Tensor) -> Tensor:
            return logits

    return Constant()


def climb(momentum: float, steps: int) -> Iterator[float]:
    """Yield d / n for λ = 0 from W⁰ + 1e-3 noise, after each step."""
    selected = one_head()
    (each,) = selected
    noise = torch.randn(each.received.shape, generator=torch.Generator().manual_seed(1))
    each.weight.data.copy_(each.received + 1e-3 * noise)
    descent.project(selected, 2)
    objective = descent.d3_objective(D3Settings(lam=0), selected)
    optimizer = torch.optim.SGD([each.weight], 0.05, momentum)
    batch = Batch(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0]))
    model = constant(torch.zeros(1, CLASSES))
    for _ in range(steps):
        optimizer.zero_grad()
        objective(model, batch)["loss"].backward()
        optimizer.step()
        descent.project(selected, 2)
        yield d3.distance_ratios(selected, 2)[HEAD]


def test_the_distance_alone_never_decreases_without_momentum() -> None:
    ratios = list(climb(momentum=0, steps=200))
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(ratios))
    assert ratios[-1] > ratios[0]


def test_the_distance_alone_reaches_the_opposite_pole_with_momentum() -> None:
    assert max(climb(momentum=0.9, steps=500)) > 1.99


# 5. limits of ε


@pytest.mark.parametrize("hinge", ["sample", "batch"])
def test_when_every_loss_is_below_epsilon_only_selected_weights_change(hinge: str) -> None:
    before, after = weights(case().model), weights(detoxify(eps=1e9, hinge=hinge).model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {HEAD, "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}


def test_with_everything_off_d3_is_plain_fine_tuning() -> None:
    given = case()
    assert given.model is not None and given.clean is not None
    model = given.model.clone()
    samples = Samples(given.clean, torch.device("cpu"))
    batches = ShuffledBatches(samples, PLAIN["batch_size"], Context(), Augmentation(), "d3")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PLAIN["epochs"])
    for epoch in range(PLAIN["epochs"]):
        model.train()
        for batch in batches.epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(batch.images), batch.targets).backward()
            optimizer.step()
        schedule.step()
    plain = weights(model)
    off = weights(D3(PLAIN, preset="finetune", lr=0.05).run(given, Context(any_model=True)).model)
    assert all(torch.allclose(plain[name], off[name], atol=1e-6) for name in plain)
    assert not torch.allclose(plain[HEAD], weights(given.model)[HEAD], atol=1e-3)


def test_the_random_head_ablation_moves_the_head_alone_before_tuning() -> None:
    outcome = D3(PLAIN, preset="random_head", lr=1e-9).run(case(), Context(any_model=True))
    assert 1.2 <= outcome.tables["start_distance_ratio"][HEAD] <= 1.6
    assert torch.allclose(weights(outcome.model)["hidden.weight"], weights(case().model)["hidden.weight"])


# 6. hinge


@given(
    logits=st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=9),
    eps=st.floats(0, 5),
    data=st.data(),
)
def test_the_hinge_per_sample_is_at_least_the_hinge_of_the_mean(
    logits: list[list[float]], eps: float, data: st.DataObject
) -> None:
    targets = torch.tensor([data.draw(st.integers(0, 2)) for _ in logits])
    batch = Batch(torch.zeros(len(logits), 1), targets, torch.arange(len(logits)))
    penalty = {
        hinge: descent.d3_objective(D3Settings(lam=10, eps=eps, hinge=hinge), one_head())(
            constant(torch.tensor(logits)), batch
        )
        for hinge in ("sample", "batch")
    }
    assert penalty["sample"]["penalty"] >= penalty["batch"]["penalty"] - 1e-5


def test_a_sample_below_epsilon_does_not_make_up_for_one_above() -> None:
    logits = torch.tensor([[8.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # losses of the first class: 0.0007 and log 3
    batch = Batch(torch.zeros(2, 1), torch.tensor([0, 0]), torch.arange(2))
    penalty = {
        hinge: descent.d3_objective(D3Settings(lam=10, eps=0.5, hinge=hinge), one_head())(constant(logits), batch)[
            "penalty"
        ].item()
        for hinge in ("sample", "batch")
    }
    assert penalty["sample"] == pytest.approx((math.log(3) - 0.5) / 2, abs=1e-3)
    assert penalty["batch"] == pytest.approx(math.log(3) / 2 - 0.5, abs=1e-3)


# 7. determinism, input, keys, NaN


def test_the_same_seed_gives_the_same_bits() -> None:
    augmented = {"augmentation": {"crop": 1, "flip": True}}
    assert same_outcome(detoxify(**augmented), detoxify(**augmented)) == []


def test_another_seed_gives_another_model() -> None:
    assert "model" in same_outcome(detoxify(), detoxify(seed=1))


def test_the_callers_model_stays_as_it_is() -> None:
    given = case()
    before = weights(given.model)
    outcome = detoxify(given, select="all")
    after = weights(given.model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert given.model is not outcome.model
    assert not any(module.training for module in given.model.modules())  # type: ignore[union-attr]


def test_the_repaired_model_has_the_received_keys_and_shapes() -> None:
    before, after = weights(case().model), weights(detoxify().model)
    assert {name: (value.shape, value.dtype) for name, value in before.items()} == {
        name: (value.shape, value.dtype) for name, value in after.items()
    }


def test_the_repaired_model_is_in_eval_mode() -> None:
    model = detoxify().model
    assert model is not None and not any(module.training for module in model.modules())


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_near_has_no_nan(p: float) -> None:
    outcome = detoxify(warm_up="near", p=p)
    numbers = [value for curve in outcome.curves.values() for value in curve]
    numbers += [*outcome.tables["distance_ratio"].values(), outcome.tables["bias_change"]]
    assert np.isfinite(numbers).all()
    assert all(value.isfinite().all() for value in weights(outcome.model).values())


def test_near_below_epsilon_is_reported_as_stuck() -> None:
    outcome = detoxify(warm_up="near", eps=1e9)
    assert any("no gradient" in note for note in outcome.notes)


def test_an_epsilon_out_of_reach_is_reported() -> None:
    outcome = detoxify(eps=0, epochs=1)
    assert outcome.tables["fraction_above_eps"] == 1
    assert any("above ε" in note for note in outcome.notes)


def test_the_drift_of_the_heads_bias_is_reported() -> None:
    outcome = detoxify(lr=0.1)
    drift = (weights(outcome.model)["fc.bias"] - weights(case().model)["fc.bias"]).norm()
    assert outcome.tables["bias_change"] == pytest.approx(float(drift)) and drift > 0


def test_the_curves_have_one_value_per_epoch() -> None:
    curves = detoxify().curves
    assert set(curves) == {"objective", "clean_loss", "penalty", f"distance/{HEAD}"}
    assert {len(curve) for curve in curves.values()} == {PLAIN["epochs"]}


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    before, after = weights(case().model), weights(detoxify(bn_eval=True).model)
    assert torch.equal(before["bn.running_mean"], after["bn.running_mean"])
    assert not torch.equal(before["bn.weight"], after["bn.weight"])


def test_weight_decay_leaves_selected_weights_alone() -> None:
    settings: dict[str, Any] = {"distance": False, "project": False, "warm_up": "near", "eps": 1e9}
    before, after = weights(case().model), weights(detoxify(**settings, weight_decay=5e-4, lr=0.1).model)
    assert torch.equal(before[HEAD], after[HEAD])
    assert after["hidden.weight"].norm() < before["hidden.weight"].norm()


# 8. selection


def torchvision_model(name: str) -> nn.Module:
    import torchvision.models as zoo

    if name == "vit":
        return zoo.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=CLASSES
        )
    module: nn.Module = zoo.get_model(name, weights=None, num_classes=CLASSES)
    return module


def chosen(module: nn.Module, select: Any, device: str = "cpu") -> list[str]:
    settings = D3Settings(select=select)
    model = classifier(module).to(device)
    return [each.name for each in d3.select_weights(model, settings.select, clean_set(4, 32))]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("vgg11_bn", "classifier.6"),
        ("vit", "heads.head"),
        ("convnext_tiny", "classifier.2"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
        ("densenet121", "classifier"),
    ],
)
def test_the_head_of_torchvision_models_is_found(name: str, head: str) -> None:
    with torch.device("meta"):  # names depend on shapes alone: no weights needed
        module = torchvision_model(name)
    assert chosen(module, "head", "meta") == [f"{head}.weight"]


def test_the_head_is_the_layer_that_runs_last_not_the_one_registered_last() -> None:
    class Swapped(Net):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Linear(64, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.adaptive_avg_pool2d(self.conv(x), 1).flatten(1)
            features = self.hidden(hidden)
            return self.fc(features + self.auxiliary(features).mean())

    assert chosen(Swapped(), "head") == [HEAD]


def test_a_model_without_a_classification_layer_is_refused() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="no classification layer"):
        detoxify(case(pooled))


class ConvHead(nn.Module):
    """Ends like SqueezeNet: a 1×1 convolution with one channel per class, then the mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(64, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).mean((2, 3))


def test_a_head_that_is_a_convolution_is_moved_to_the_end(trace: list[dict[str, tuple[float, float]]]) -> None:
    given = case(ConvHead())
    outcome = detoxify(given)
    name = "classifier.1.weight"
    assert len(trace) == 1 + 3 * 5 and all(set(row) == {name} for row in trace)
    assert max(abs(row[name][0] - 1) for row in trace) <= 1e-5
    before, after = weights(given.model), weights(outcome.model)
    assert after[name].shape == before[name].shape == (CLASSES, 64, 1, 1)
    assert (after[name] - before[name]).norm() > before[name].norm()
    assert not torch.equal(after["features.0.weight"], before["features.0.weight"])
    assert outcome.tables["bias_change"] > 0


class AttentionHead(nn.Module):
    """Ends with attention over the pixels: its width is the number of classes, its mean the logits.

    :param width: of keys and values; where it is not that of the queries, their weights are not packed into one.
    """

    def __init__(self, width: int = CLASSES) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(3, CLASSES, 4, stride=4), nn.Linear(3, width)
        self.attention = nn.MultiheadAttention(CLASSES, 2, kdim=width, vdim=width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.query(x).flatten(2).mT, self.key(x.flatten(2).mT)
        out: Tensor = self.attention(query, key, key)[0]
        return out.mean(1)


@pytest.mark.parametrize(
    ("width", "moved"),
    [
        (CLASSES, ["in_proj_weight", "out_proj.weight"]),
        (6, ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]),
    ],
)
def test_a_head_that_is_an_attention_block_is_moved_by_name(
    trace: list[dict[str, tuple[float, float]]], width: int, moved: list[str]
) -> None:
    given = case(AttentionHead(width))
    with pytest.raises(InputError, match="no classification layer") as refusal:
        detoxify(given)
    assert refusal.value.hint is not None and "select=[attention]" in refusal.value.hint
    outcome = detoxify(given, select=["attention"])
    names = [f"attention.{name}" for name in moved]
    assert len(trace) == 1 + 3 * 5 and all(list(row) == names for row in trace)
    assert max(abs(norm - 1) for row in trace for norm, _ in row.values()) <= 1e-5
    before, after = weights(given.model), weights(outcome.model)
    assert all((after[name] - before[name]).norm() > before[name].norm() for name in names)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_change_nothing(wrap: Callable[[nn.Module], nn.Module]) -> None:
    bare = case()
    assert bare.model is not None
    wrapped = dataclasses.replace(bare, model=classifier(wrap(bare.model.clone().module)))
    assert same_outcome(detoxify(bare), detoxify(wrapped)) == []


def test_linears_are_all_linear_layers() -> None:
    assert chosen(Net(), "linears") == ["hidden.weight", HEAD]


def test_all_adds_the_convolutions() -> None:
    assert chosen(Net(), "all") == ["conv.weight", "hidden.weight", HEAD]


def test_linears_include_the_packed_projection_of_attention() -> None:
    names = chosen(torchvision_model("vit"), "linears")
    attention = "encoder.layers.encoder_layer_0.self_attention"
    assert f"{attention}.in_proj_weight" in names and f"{attention}.out_proj.weight" in names
    assert len(names) == len(set(names)) == 2 * 4 + 1


def test_the_packed_projection_of_attention_moves() -> None:
    module = torchvision_model("vit")
    nn.init.normal_(module.heads.head.weight)  # torchvision starts it at zero
    outcome = detoxify(
        dataclasses.replace(case(module), clean=clean_set(16, 32)), select="linears", missing_classes="allow"
    )
    ratios = outcome.tables["distance_ratio"]
    assert ratios["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"] > 1


def test_tied_weights_count_once() -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Linear(8, 64)
            self.again.weight = self.hidden.weight

    assert chosen(Tied(), "linears") == ["hidden.weight", HEAD]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("fc", [HEAD]),
        (["conv", "fc"], ["conv.weight", HEAD]),
        ("*", ["conv.weight", "hidden.weight", HEAD]),
        ("h*", ["hidden.weight"]),
        (["fc", "f?"], [HEAD]),
    ],
)
def test_names_and_patterns_select_layers(select: Any, expected: list[str]) -> None:
    assert chosen(Net(), select) == expected


def test_the_name_of_a_container_selects_what_is_inside() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(3 * 32 * 32, 4), nn.ReLU(), nn.Linear(4, CLASSES)))
    assert chosen(module, "1") == ["1.0.weight", "1.2.weight"]


def test_a_single_name_is_a_list_of_one() -> None:
    assert D3(select="fc").settings.select == ("fc",)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no such layer") as refusal:
        detoxify(select="linear")
    assert refusal.value.allowed == "conv, hidden, fc"


@pytest.mark.parametrize("parametrise", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("select", ["head", "fc", "all"])
def test_a_parametrised_weight_is_refused(parametrise: str, select: str) -> None:
    module = Net()
    getattr(nn.utils.parametrizations, parametrise)(module.fc)
    with pytest.raises(InputError, match="computed") as refusal:
        detoxify(case(module), select=select)
    assert refusal.value.where == HEAD


class Quantised(nn.Linear):
    """A linear layer that keeps 8-bit weights and widens them when it is used."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight = nn.Parameter((100 * self.weight.detach()).to(torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.float() / 100, self.bias)


@pytest.mark.parametrize("select", ["head", "fc", "linears"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_quantised_weight_is_refused(select: str, frozen: bool) -> None:
    module = Net()
    module.fc = Quantised(64, CLASSES)
    if frozen:  # as a whole, as toolkits leave finished models
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    with pytest.raises(InputError, match="quantised") as refusal:
        detoxify(case(module), select=select)
    assert refusal.value.where == HEAD


def test_a_weight_of_zeros_is_refused() -> None:
    module = Net()
    nn.init.zeros_(module.fc.weight)
    with pytest.raises(InputError, match="zero"):
        detoxify(case(module))


def test_a_weight_frozen_on_purpose_is_refused() -> None:
    module = Net()
    module.fc.requires_grad_(False)
    with pytest.raises(InputError, match="frozen"):
        detoxify(case(module))


def test_what_is_frozen_and_not_selected_stays_as_it_is() -> None:
    module = Net()
    module.conv.requires_grad_(False)
    outcome = detoxify(case(module))
    assert torch.equal(weights(outcome.model)["conv.weight"], module.conv.weight)


def test_a_model_frozen_as_a_whole_is_thawed_in_the_copy() -> None:
    given = case()
    assert given.model is not None
    given.model.requires_grad_(False)
    assert same_outcome(detoxify(given), detoxify()) == []
    assert not any(parameter.requires_grad for parameter in given.model.parameters())


# 9. evaluation data


def test_no_evaluation_data_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """But to refuse a clean set that shares images with them, before any work."""
    monkeypatch.setattr("elixir_plugin.defense.refuse_scored_clean", lambda case: None)

    def untouchable(position: int) -> Any:
        raise AssertionError(f"test image {position} was read")

    locked = ImageSet(LazyImages(untouchable, 4, (8, 8, 3)), [0, 1, 2, 3], CLASSES)
    given = dataclasses.replace(case(), test=locked, test_poisoned=TriggeredSet(locked, np.ones(4, np.int64)))
    assert detoxify(given).model is not None


# settings


@pytest.mark.parametrize(("samples", "size"), [(40, 32), (400, 50), (4000, 256)])
def test_the_default_batch_leaves_eight_steps_per_epoch(
    samples: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = descent.ShuffledBatches

    def watched(images: Samples, batch_size: int, *rest: Any) -> ShuffledBatches:
        seen.append(batch_size)
        return real(images, batch_size, *rest)

    monkeypatch.setattr(descent, "ShuffledBatches", watched)
    given = dataclasses.replace(case(), clean=clean_set(samples))
    D3(epochs=1, augmentation={"crop": 0, "flip": False}).run(given, Context(any_model=True))
    assert set(seen) == {size}  # with samples held back, and with all


def test_preset_code_is_the_released_configuration() -> None:
    settings = D3(preset="code").settings
    assert (settings.lam, settings.eps, settings.p, settings.warm_up) == (0.5, 0.1, 2, "random")
    assert (settings.lr, settings.momentum, settings.batch_size, settings.weight_decay) == (0.01, 0.9, 256, 0)
