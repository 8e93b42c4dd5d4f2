"""Pipelines on disk: found, checked, loaded, fingerprinted. Nothing is downloaded but a model that the user names."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, SettingsError
from ...io.opening import is_there
from ...io.reading import read_json
from ..denoisers.folders import AVERAGED
from ..denoisers.hub import is_hub_name

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", "versatile_diffusion")  # a class from elsewhere is code
LEFT_OUT = ("safety_checker",)
_CLASS = re.compile(r"[A-Za-z_]\w*")
_WEIGHTS = re.compile(  # as the two libraries name weights
    r"(diffusion_pytorch_|pytorch_)?model(?:\.(?P<before>[A-Za-z]\w*))?(-\d+-of-\d+)?(?:\.(?P<variant>[A-Za-z]\w*))?"
    r"\.(?P<kind>safetensors|bin)"
)


def load_pipeline(
    pipeline: str, accepted: Collection[str], source: str | None, *, default: str, dtype: torch.dtype
) -> tuple[Any, str]:
    """Return a pipeline on the CPU, and where it came from.

    :param pipeline: class in diffusers.
    :param accepted: classes that a folder may say it is for.
    :param source: local folder, or Hub name that may be downloaded; None: *default*, from the cache alone.
    :raises InputError: when the weights cannot be had, or belong to another pipeline.
    :raises SettingsError: when transformers is not installed.
    """
    cls = pipeline_class(pipeline)
    folder = Path(source) if source is not None and Path(source).is_dir() else None
    if folder is None:
        folder = _from_hub(cls, source, default)
    refuse_other_pipeline(folder, accepted)
    variant = only_variant(folder)
    named = {} if variant is None else {"variant": variant}
    try:
        pipe = cls.from_pretrained(
            str(folder),
            torch_dtype=dtype,
            local_files_only=True,
            use_safetensors=only_safe(folder) or None,
            **named,
            **_left_out(cls),
        )
    except Exception as error:  # the two libraries raise dozens of classes for a damaged file
        raise InputError(
            "pipeline cannot be loaded",
            where=folder,
            found=_short(error),
            allowed=f"a complete diffusers folder of {pipeline}",
            hint="fetch the folder again, or name another with {setting:weights=FOLDER}",
        ) from error
    return pipe, (source or default) + ("" if variant is None else f" (variant {variant})")


def pipeline_class(name: str) -> Any:
    """Return a pipeline class of diffusers.

    :raises SettingsError: when transformers is missing, or this version of diffusers has no such class.
    """
    try:
        import diffusers  # noqa: PLC0415  (slow to import)
        import transformers  # noqa: F401, PLC0415
    except ImportError as error:
        raise SettingsError(
            "this generator needs transformers",
            where=name,
            found=_short(error),
            hint="pip install 'elixir_plugin[generators]'",
        ) from None
    try:
        return getattr(diffusers, name)
    except (AttributeError, RuntimeError, ImportError) as error:
        raise SettingsError(
            "this version of diffusers has no such pipeline",
            where=name,
            found=f"diffusers {diffusers.__version__}: {_short(error)}",
            hint="use another backend, or another version of diffusers",
        ) from None


def pipeline_of(folder: Path) -> str | None:
    """Return which pipeline a diffusers folder says it is for; None when it is no such folder."""
    if not is_there(folder / INDEX):
        return None
    index = read_json(folder / INDEX)
    name = index.get("_class_name") if isinstance(index, dict) else None
    return name if isinstance(name, str) else None


def refuse_other_pipeline(folder: Path, accepted: Collection[str]) -> None:
    """Refuse a folder of another pipeline, or one whose index names classes from anywhere but the two libraries.

    :raises InputError: naming what was found.
    """
    found = pipeline_of(folder)
    if found not in accepted:
        raise InputError(
            "not the folder of this pipeline",
            where=folder / INDEX,
            found=found or "no pipeline",
            allowed=", ".join(accepted),
            hint="name the folder that holds model_index.json, or choose the backend that fits it",
        )
    for key, value in read_json(folder / INDEX).items():
        if key.startswith("_") or not isinstance(value, list) or value == [None, None] or key in LEFT_OUT:
            continue
        known = len(value) == 2 and value[0] in LIBRARIES and isinstance(value[1], str) and _CLASS.fullmatch(value[1])
        if not known:
            raise InputError(
                "pipeline refused: a part of it would be loaded with code from elsewhere",
                where=f"{folder / INDEX}: {key}",
                found=value,
                allowed=f"classes of {', '.join(LIBRARIES)}",
            )


def only_safe(folder: Path) -> bool:
    """Whether every part of a pipeline that has pickled weights has safetensors, too: the others are never opened."""
    variant = only_variant(folder)
    for weights in _weights_by_part(folder).values():
        kinds = {kind for name, kind in weights if name in (None, variant)}
        if "bin" in {kind for _, kind in weights} and "safetensors" not in kinds:
            return False
    return True


def only_variant(folder: Path) -> str | None:
    """Return the variant of the weights to load, e.g. ``fp16``, where some part has no others; else None.

    :raises InputError: when there are several.
    """
    bare = [
        {name for name, _ in weights}
        for weights in _weights_by_part(folder).values()
        if weights and (None not in {name for name, _ in weights})
    ]
    if not bare:
        return None
    shared = set.intersection(*bare)
    if len(shared) != 1:
        raise InputError(
            "several variants of the weights, and none that is the usual one",
            where=folder,
            found=", ".join(sorted(str(name) for name in set.union(*bare))),
            allowed="weights without a variant in their names, or one variant that every part has",
            hint="leave one variant in the folder, and move the others elsewhere",
        )
    return shared.pop()


def _weights_by_part(folder: Path) -> dict[str, set[tuple[str | None, str]]]:
    """Return part -> (variant or None, kind of file) of its weights."""
    found: dict[str, set[tuple[str | None, str]]] = {}
    for part in sorted(folder.iterdir()):
        if part.is_dir() and part.name not in (*LEFT_OUT, *AVERAGED):
            matches = [_WEIGHTS.fullmatch(file.name) for file in part.iterdir()]
            found[part.name] = {(match["before"] or match["variant"], match["kind"]) for match in matches if match}
    return found


def is_cached(name: str) -> bool:
    """Whether the Hub model *name* (``owner/name`` or ``owner/name@revision``) is in the local cache."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  (slow to import)

    repository, _, revision = name.partition("@")
    return isinstance(try_to_load_from_cache(repository, INDEX, revision=revision or None), str)


def _from_hub(cls: Any, source: str | None, default: str) -> Path:
    repository, _, revision = (source or default).partition("@")
    if not is_hub_name(repository):
        raise InputError(
            "pipeline not found",
            where=f"weights: {source}",
            allowed="a diffusers folder, or owner/name (owner/name@revision) on the Hugging Face Hub",
            hint=f"e.g. {{setting:weights={default}}}",
        )
    local = source is None
    options = {"revision": revision} if revision else {}
    try:
        return Path(cls.download(repository, local_files_only=local, **options, **_left_out(cls)))
    except Exception as error:  # offline, not cached, no such model, a proxy: the client raises dozens of classes
        chosen = f" --revision {revision}" if revision else ""
        hint = (
            f"where the network is reachable, run 'hf download {repository}{chosen} --local-dir FOLDER'; copy FOLDER "
            "here and name it: {setting:weights=FOLDER}"
        )
        if local:
            hint += f"; or let it be downloaded by naming it: {{setting:weights={default}}}"
        raise InputError(
            "weights are not on this machine" if local else "pipeline cannot be fetched from the Hub",
            where=source or default,
            found=_short(error),
            hint=hint,
        ) from error


def _left_out(cls: Any) -> dict[str, Any]:
    """Return arguments that leave the safety checker out, for pipelines that have one."""
    known = inspect.signature(cls.__init__).parameters
    wanted = {"safety_checker": None, "requires_safety_checker": False}
    return {name: value for name, value in wanted.items() if name in known}


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def parts_of(pipe: Any) -> dict[str, nn.Module]:
    """Return the networks of a pipeline by name."""
    return {name: part for name, part in sorted(pipe.components.items()) if isinstance(part, nn.Module)}


def weights_fingerprint(pipe: Any) -> str:
    """Return 12 hex digits over all weights and configs of a pipeline."""
    digest = hashlib.sha256()
    for name, part in sorted(pipe.components.items()):
        config = getattr(part, "config", None)
        known: dict[str, Any] = {}
        if config is not None:
            known = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        public = {key: value for key, value in known.items() if not key.startswith("_") and "version" not in key}
        digest.update(json.dumps([name, type(part).__name__, public], sort_keys=True, default=str).encode())
    for name, part in parts_of(pipe).items():
        for key, value in sorted(part.state_dict().items()):
            digest.update(f"{name}.{key}".encode())
            digest.update(_bytes(value))
    return digest.hexdigest()[:12]


def _bytes(value: Tensor) -> bytes:
    raw = value.detach().cpu().contiguous()
    return bytes(raw.reshape(-1).view(torch.uint8).numpy()) if raw.numel() else b""
