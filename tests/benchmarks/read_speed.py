"""Time every reader of the product on real files against another version of it, in one run.

    git worktree add ../before COMMIT    # and install it into ../before/.venv, as the README says
    .venv/bin/python tests/benchmarks/read_speed.py --against ../before --shared ../shared

Each version works in a process of its own, started with the environment of its checkout. Both read the same files in
turn, now one first and now the other, so that what else the machine does falls on both. Compared is the CPU time of all
threads; torch takes one. Readings take turns until there are enough of them, and the median of the ratios of two that
stood beside each other is printed, with the quickest reading of each. The exit code is 1 when a reader is slower by
more than ``--most`` (10 %) by both, the median of the ratios and the ratio of the quickest readings.

Read are: class folders of JPEG, PNG, TIFF and WEBP files, small and larger ones; a record of BackdoorBench; both
layouts of backdoor-toolbox; torch files of tensors and of weights; npz; safetensors; batches of CIFAR; JSON and YAML.
About 5 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BENCH = "toolkits/backdoorbench"
TOOLBOX = "toolkits/backdoor_toolbox/poisoned_train_set/cifar10"
FIGHT = "toolkits/fight_poison/poisoned_train_set/cifar10"
PLACES = {  # function -> modules it may be in, the newest first
    "read_torch": ("io.torch_files", "io.reading", "io.files"),
    "read_plain_pickle": ("io.reading", "io.files"),
    "read_json": ("io.documents", "io.reading", "io.files"),
    "read_tensors": ("io.reading", "io.files"),
    "read_weights": ("core.classifier.checkpoints",),
    "load_yaml": ("io.documents", "core.settings"),
    "read_pictures": ("diffusion.fit.data",),
}
LEAST = 0.05  # seconds of CPU time that one measurement should take; shorter readings are repeated
Reader = Callable[[], object]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--against", type=Path, help="checkout of the other version, installed in its .venv")
    flags.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with the shared data")
    flags.add_argument("--repeats", type=int, default=15, help="readings of each version that are compared")
    flags.add_argument("--most", type=float, default=0.1, help="share by which a reader may be slower")
    flags.add_argument("--only", default="", help="text that the name of a reader must hold")
    flags.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    chosen = flags.parse_args()
    if chosen.worker is not None:
        work(chosen.shared, chosen.worker)
    elif chosen.against is None:
        flags.error("--against is needed")
    else:
        here = Path(__file__).resolve().parents[2]
        with tempfile.TemporaryDirectory() as folder:
            make_files(chosen.shared, Path(folder))
            versions = [Version(each, chosen.shared, Path(folder)) for each in (here, chosen.against)]
            slower = list(compare(versions, chosen.repeats, chosen.most, chosen.only))
        print(f"slower by more than {chosen.most:.0%}: {', '.join(slower) or 'none'}")
        sys.exit(bool(slower))


class Version:
    """A process of one version that reads when it is told to."""

    def __init__(self, checkout: Path, shared: Path, made: Path) -> None:
        python = checkout.absolute() / ".venv/bin/python"
        command = [str(python), "-P", str(Path(__file__).resolve()), "--shared", str(shared.resolve())]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [*command, "--worker", str(made)], cwd=made, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.names: list[str] = json.loads(self._line())
        self.checkout = self._line()
        if Path(self.checkout) != checkout.resolve():
            raise SystemExit(f"{python} runs the version in {self.checkout}, not that in {checkout}")

    def seconds(self, name: str, times: int) -> float:
        """Return the CPU seconds of reading *times* times."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, times]) + "\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a version ended early")
        return line.strip()


def compare(versions: list[Version], repeats: int, most: float, only: str) -> Iterator[str]:
    """Print a line per reader, and yield the names of those that are slower in the first version."""
    print(
        f"{'reader':34} {'here':>9} {'other':>9} {'quickest':>9} {'median of ratios':>17}   CPU ms, best of {repeats}"
    )
    for name in versions[0].names:
        if only not in name:
            continue
        for version in versions:
            version.seconds(name, 1)  # the first one fills the caches of files
        times = max(1, round(LEAST / max(1e-6, versions[1].seconds(name, 1))))
        measured: list[list[float]] = [[], []]
        for turn in range(repeats):
            for which in (0, 1) if turn % 2 else (1, 0):
                measured[which].append(versions[which].seconds(name, times) / times)
        ratio = statistics.median(one / other for one, other in zip(*measured, strict=True))
        best = [min(each) for each in measured]
        slower = min(ratio, best[0] / best[1]) > 1 + most
        shown = f"{best[0] * 1000:9.3f} {best[1] * 1000:9.3f} {best[0] / best[1]:9.3f} {ratio:17.3f}"
        print(f"{name:34} {shown}{'   slower' if slower else ''}", flush=True)
        if slower:
            yield name


def work(shared: Path, made: Path) -> None:
    """Read what is asked for on standard input, and answer with CPU seconds."""
    import elixir_plugin

    known = dict(readers(shared, made))
    print(json.dumps(list(known)))
    print(Path(elixir_plugin.__file__).resolve().parents[1], flush=True)
    for line in sys.stdin:
        name, times = json.loads(line)
        before = time.process_time()
        for _ in range(times):
            known[name]()
        print(time.process_time() - before, flush=True)


def function(name: str) -> Callable[..., Any]:
    """Return a function of the version, wherever it is."""
    for place in PLACES[name]:
        try:
            return getattr(importlib.import_module(f"elixir_plugin.{place}"), name)  # type: ignore[no-any-return]
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"this version has no {name}")


def readers(shared: Path, made: Path) -> Iterator[tuple[str, Reader]]:
    """Yield name and reading, for each kind of file."""
    from elixir_plugin import get_adapter

    def case(adapter: str, path: Path, **options: Any) -> Reader:
        return lambda: get_adapter(adapter)(options).read(path)

    def call(name: str, path: Path, *more: Any) -> Reader:
        found = function(name)
        return lambda: found(path, *more)

    for folder in sorted(path for path in made.iterdir() if path.is_dir()):
        yield f"image folder: {folder.name}", case("image_folder", folder)
    yield "pictures for a denoiser: jpeg 32", call("read_pictures", made / "jpeg 32")
    record = shared / BENCH / "record/badnet_0_1"
    yield "record of BackdoorBench", case("backdoorbench", record)
    yield "torch file: attack_result.pt", call("read_torch", record / "attack_result.pt")
    batch = shared / BENCH / "data/cifar10/cifar-10-batches-py/data_batch_1"
    yield "pickle: a batch of CIFAR", call("read_plain_pickle", batch)
    (blend,) = (shared / TOOLBOX).iterdir()
    (badnet,) = (shared / FIGHT).iterdir()
    yield "set of backdoor-toolbox: imgs", case("backdoor_toolbox", blend, model="none")
    yield "torch file: imgs", call("read_torch", blend / "imgs")
    yield "set of backdoor-toolbox: PNG", case("backdoor_toolbox", badnet, model="none")
    yield "torch file: labels", call("read_torch", blend / "labels")
    yield "weights: a state dict", call("read_weights", made / "weights.pt")
    yield "weights: safetensors", call("read_tensors", made / "weights.safetensors")
    yield "npz, deflated", case("arrays", made / "case.npz", layout="nhwc", num_classes=10)
    yield "npz, stored", case("arrays", made / "stored.npz", layout="nhwc", num_classes=10)
    yield "JSON: a report of 4 MB", call("read_json", made / "report.json")
    yield "YAML: a file of 200 runs", call("load_yaml", made / "runs.yaml")


def make_files(shared: Path, folder: Path) -> None:
    """Write the files that the shared data have in another form: class folders, arrays, weights, documents."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    images, labels = [], []
    with zipfile.ZipFile(shared / "data/cifar10-jpeg.zip") as archive:
        for name in sorted(archive.namelist()):
            _, kind, file = name.split("/") if name.count("/") == 2 and name.endswith(".jpg") else ("", "", "")
            if not name.startswith("train/") or int(file[:-4]) >= 100:
                continue
            content = archive.read(name)
            image = Image.open(io.BytesIO(content)).convert("RGB")
            images.append(np.asarray(image))
            labels.append(kind)
            _put(folder / "jpeg 32" / kind / file).write_bytes(content)
            for suffix in ("png", "tif", "webp"):
                image.save(_put(folder / f"{suffix} 32" / kind / f"{file[:-4]}.{suffix}"))
            if int(file[:-4]) < 3:
                large = image.resize((1024, 768), Image.Resampling.BICUBIC)
                for suffix, how in (("jpeg", {"quality": 92}), ("png", {"compress_level": 3})):
                    target = _put(folder / f"{suffix} 1024" / kind / f"{file[:-4]}.{suffix}")
                    large.save(target, **how)
    names = sorted(set(labels))
    arrays = {"x_train": np.stack(images), "y_train": np.array([names.index(each) for each in labels])}
    np.savez_compressed(folder / "case.npz", **arrays)
    np.savez(folder / "stored.npz", **arrays)
    torch.manual_seed(0)
    state = resnet18(num_classes=10).state_dict()
    torch.save(state, folder / "weights.pt")
    save_file(state, folder / "weights.safetensors")
    rows = [{"name": f"a/{row}.png", "score": row / 7, "flags": [row % 2 == 0, None]} for row in range(50_000)]
    (folder / "report.json").write_text(json.dumps({"rows": rows}, indent=1))
    run = "- {defense: d3, settings: {epochs: 10, lr: 0.01}, seed: 3}\n"
    (folder / "runs.yaml").write_text("defenses:\n" + "".join(f"  {run}" for _ in range(200)))


def _put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    main()
