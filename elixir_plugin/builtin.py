"""What comes in the box, offered through the same hooks as everything else (adapters announce themselves)."""

from __future__ import annotations

from collections.abc import Iterator

from .hookspecs import Entry, hookimpl


@hookimpl
def elixir_defenses() -> list[Entry]:
    return [
        Entry("d3", "elixir_plugin.defenses.d3:D3", "repair", "detoxify a backdoored model by moving its head away"),
        Entry(
            "confusion_training",
            "elixir_plugin.defenses.confusion_training:ConfusionTraining",
            "detect",
            "find poison samples: only they are still fitted once clean labels are confused",
        ),
        Entry(
            "eclipse",
            "elixir_plugin.defenses.eclipse:Eclipse",
            "purify",
            "purify a set whose every image is perturbed, with a denoiser trained on a few clean images",
        ),
        Entry(
            "dataelixir",
            "elixir_plugin.defenses.dataelixir:DataElixir",
            "purify",
            "turn a poisoned training set back into a benign one: purify, find the target class, relabel",
        ),
        Entry(
            "image_variations",
            "elixir_plugin.defenses.image_variations:ImageVariations",
            "train",
            "train a student on diffusion variations of the images alone, distilled from a suspect teacher",
        ),
        Entry(
            "pipeline",
            "elixir_plugin.defenses.pipeline:Pipeline",
            "train",
            "several defenses in a row, each on what those before have left; of the kind of the last",
        ),
        *_baselines(),
    ]


def _baselines() -> Iterator[Entry]:
    for name, target, kind, summary in (
        ("do_nothing", "do_nothing:DoNothing", "purify", "the suspect set as it is"),
        (
            "drop_class",
            "drop_class:DropClass",
            "detect",
            "flag the class of the samples that a small model fits best",
        ),
        ("finetune", "finetune:Finetune", "repair", "train the suspect model further on the reserved clean set"),
        ("gaussian_noise", "gaussian_noise:GaussianNoise", "purify", "add Gaussian noise to every image"),
        ("grayscale", "grayscale:Grayscale", "purify", "replace the channels of every image by its luminance"),
        ("jpeg", "jpeg:Jpeg", "purify", "compress every image as JPEG, quality 10"),
        ("random_crop", "random_crop:RandomCrop", "purify", "train with large random shifts and mirroring"),
        ("random_drop", "random_drop:RandomDrop", "detect", "flag a share of the samples at random"),
        ("random_head", "random_head:RandomHead", "repair", "draw the last layer anew and train it alone"),
        (
            "train_on_clean_only",
            "train_on_clean_only:TrainOnCleanOnly",
            "train",
            "train a fresh model on the reserved clean set alone",
        ),
    ):
        yield Entry(name, f"elixir_plugin.baselines.{target}", kind, summary, baseline=True)


@hookimpl
def elixir_adapters() -> list[Entry]:
    return [
        Entry(
            "testbed",
            "elixir_plugin.testbed.adapter:Testbed",
            summary="embedded digits under a poison: testbed:badnets; made on the spot, nothing is read",
        ),
    ]


@hookimpl
def elixir_architectures() -> list[Entry]:
    return [
        Entry(
            "preactresnet18",
            "elixir_plugin.core.classifier.networks:preactresnet18",
            summary="pre-activation ResNet-18, 3×3 stem",
        ),
        Entry(
            "cifar_resnet18",
            "elixir_plugin.core.classifier.networks:cifar_resnet18",
            summary="ResNet-18, 3×3 stem, no max-pool",
        ),
        Entry(
            "small_resnet",
            "elixir_plugin.core.classifier.networks:small_resnet",
            summary="8-layer ResNet for CPU work, 78 k weights",
        ),
        Entry(
            "fast_resnet",
            "elixir_plugin.core.classifier.networks:fast_resnet",
            summary="small_resnet with a stem of stride 2, 4× faster",
        ),
        Entry(
            "fast_convnet",
            "elixir_plugin.core.classifier.fast_convnet:fast_convnet",
            summary="for 32 px on a CPU: learns CIFAR-10 in minutes",
        ),
        Entry(
            "narrow_resnet18",
            "elixir_plugin.core.classifier.networks:narrow_resnet18",
            summary="ResNet-18 with widths 16-32-48-64",
        ),
    ]


@hookimpl
def elixir_poisons() -> list[Entry]:
    return [
        Entry("badnets", "elixir_plugin.testbed.poisons:BadNets", summary="small black-and-white patch"),
        Entry("blended", "elixir_plugin.testbed.poisons:Blended", summary="fixed noise image blended in"),
        Entry("sig", "elixir_plugin.testbed.poisons:Sig", summary="horizontal sinusoid"),
        Entry("trojan", "elixir_plugin.testbed.poisons:Trojan", summary="many-coloured patch, not optimised"),
        Entry("tact", "elixir_plugin.testbed.poisons:TaCT", summary="patch for one source class, with covers"),
        Entry("wanet", "elixir_plugin.testbed.wanet:WaNet", summary="smooth warp, with covers under other warps"),
        Entry(
            "adaptive_blend",
            "elixir_plugin.testbed.adaptive:AdaptiveBlend",
            summary="pieces of a picture blended in, with covers",
        ),
        Entry(
            "adaptive_patch",
            "elixir_plugin.testbed.adaptive:AdaptivePatch",
            summary="one of four faint patches, with covers",
        ),
        Entry(
            "input_aware",
            "elixir_plugin.testbed.input_aware:InputAware",
            summary="a trigger drawn for each image, with covers; trains the networks that draw it first",
        ),
        Entry(
            "label_consistent",
            "elixir_plugin.testbed.label_consistent:LabelConsistent",
            summary="patch on adversarial samples of the target class; trains a model first",
        ),
        Entry("lsp", "elixir_plugin.testbed.indiscriminate:LSP", summary="indiscriminate: linearly separable patches"),
        Entry("urp", "elixir_plugin.testbed.indiscriminate:URP", summary="indiscriminate: one noise image per class"),
        Entry("ar", "elixir_plugin.testbed.autoregressive:AR", summary="indiscriminate: autoregressive noise"),
        Entry("ops", "elixir_plugin.testbed.one_pixel:OPS", summary="indiscriminate: one pixel per class"),
        Entry("cuda", "elixir_plugin.testbed.indiscriminate:CUDA", summary="indiscriminate: one filter per class"),
        Entry(
            "em",
            "elixir_plugin.testbed.em:EM",
            summary="indiscriminate: error-minimising noise; trains a model along with it",
        ),
        Entry(
            "tap",
            "elixir_plugin.testbed.tap:TAP",
            summary="indiscriminate: adversarial noise towards another class; trains a model first",
        ),
    ]


@hookimpl
def elixir_denoisers() -> list[Entry]:
    place = "elixir_plugin.diffusion.denoisers.gaussian"
    return [
        Entry("ddpm_cifar10", f"{place}:ddpm_cifar10", summary="google/ddpm-cifar10-32, for 32 px in colour; download"),
        Entry("gaussian", f"{place}:gaussian", summary="formula for gray noise, any size; knows no images: for a try"),
    ]


@hookimpl
def elixir_generators() -> list[Entry]:
    pipelines = "elixir_plugin.diffusion.generators.pipelines"
    return [
        Entry(
            "sdedit",
            "elixir_plugin.diffusion.generators.base:make_sdedit",
            summary="noise, then denoise; works offline",
        ),
        Entry("image_variation", f"{pipelines}:make_image_variation", summary="Stable Diffusion on a CLIP embedding"),
        Entry("versatile", f"{pipelines}:make_versatile", summary="Versatile Diffusion, as in the paper"),
        Entry("unclip", f"{pipelines}:make_unclip", summary="Stable unCLIP, with noise on the embedding"),
        Entry("img2img", f"{pipelines}:make_img2img", summary="Stable Diffusion from the noised image, no prompt"),
    ]
