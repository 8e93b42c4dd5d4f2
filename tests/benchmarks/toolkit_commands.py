"""Every command of ``docs/toolkits.md`` in copies of checkouts, on records and sets made by the toolkits' own scripts.

    ELIXIR_TOOLKITS=DIR .venv/bin/python tests/benchmarks/toolkit_commands.py WORK --python PYTHON

*DIR* holds checkouts called ``BackdoorBench`` and ``backdoor-toolbox``; they are copied to *WORK* and stay as they are.
*PYTHON* has elixir_plugin and what the toolkits import (pandas, opencv, kornia, imageio). The data are 1,000 training
and 500 test images of CIFAR-10, the networks small, the schedules one epoch: numbers show whether both sides measure
the same, not what a defense can do. What is there already is not made again; ``--only`` picks attacks, ``--table``
prints the tables of what has been run.

Each row compares ACC and ASR (and RA) as the toolkit measures them with what the report of the run says, before and
after, and the CSV with the toolkit's evaluation of ``defense_result.pt``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cifar import ARCHIVE, cifar_sets

SHIM = Path(__file__).with_name("toolkit_shim.py")
BENCH, BOX = "BackdoorBench", "backdoor-toolbox"
QUICK = ["--epochs", "1"]
ANY = ["--any_model", "True"]  # one epoch leaves networks near chance
FIT = ["--preset", "demo", "--clean_from", "test", *QUICK, "--fit", "{iterations: 20}"]
CONFUSION = {"pretrain_epochs": "[1]", "confusion_steps": "[20]"}


@dataclass(frozen=True)
class Attack:
    """How a toolkit makes a record or a set.

    :param flags: of its own script.
    :param commands: our commands, by defense: flags that come after those every command has.
    :param network: what ``config.arch`` of backdoor-toolbox is set to.
    """

    name: str
    flags: list[str]
    commands: dict[str, list[str]] = field(default_factory=dict)
    network: str = "resnet.ResNet18"


BENCH_COMMANDS = {
    "d3": QUICK,
    "confusion_training": [
        *("--preset", "demo", *QUICK, "--reference", "labels"),
        *(word for name, value in CONFUSION.items() for word in (f"--{name}", value)),
    ],
    "eclipse": FIT,
    "image_variations": FIT,
    "dataelixir": [*FIT, "--detect_per_class", "50"],
}
BENCH_ATTACKS = [
    Attack(
        "badnet_all2all",
        ["badnet.py", "--attack_label_trans", "all2all", "--patch_mask_path", "resource/badnet/trigger_image.png"],
        BENCH_COMMANDS,
    ),
    Attack("sig", ["sig.py", "--pratio", "0.05"], BENCH_COMMANDS),
    Attack("wanet", ["wanet.py"], BENCH_COMMANDS),
]
COVER = ["-cover_rate=0.050"]
VGG, MOBILE = "vgg.vgg16_bn", "mobilenetv2.mobilenetv2"
BOX_ATTACKS = [
    Attack("badnet", []),
    Attack("blend", [], network=VGG),
    Attack("TaCT", COVER, network=VGG),
    Attack("adaptive_blend", COVER, network=VGG),
    Attack("adaptive_patch", COVER, network=VGG),
    Attack("WaNet", COVER),
    Attack("SIG", [], network=VGG),
    Attack("trojan", [], network=MOBILE),
    Attack("badnet_all_to_all", [], network=VGG),
]
BOX_COMMANDS: list[tuple[str, list[str], list[str]]] = [  # a name, our flags, the script with its flags
    (
        "cleanser",
        ["--preset", "demo", *(f"--set={name}={value}" for name, value in CONFUSION.items())],
        ["cleanser.py", "-cleanser=confusion_training"],
    ),
    ("retrain", [], ["train_on_cleansed_set.py", "-cleanser=confusion_training"]),
    ("d3", ["--set", "epochs=1"], ["other_defense.py", "-defense=d3"]),
    ("test_d3", [], ["test_model.py", "-defense=d3"]),
]


class Bench:
    """A place to work in: copies of the checkouts, logs, and ``results.json``."""

    def __init__(self, work: Path, python: str) -> None:
        self.work, self.python = work, python
        (work / "logs").mkdir(parents=True, exist_ok=True)
        self.file = work / "results.json"
        self.results: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def keep(self, key: str, value: Any) -> Any:
        self.results[key] = value
        self.file.write_text(json.dumps(self.results, indent=1))
        return value

    def run(self, key: str, checkout: str, *command: str) -> dict[str, Any]:
        """Run a Python command at the root of a checkout, once; the log is ``logs/<key>.log``."""
        if key in self.results and self.results[key]["code"] == 0:
            return self.results[key]
        print(time.strftime("%H:%M:%S"), key, *command, flush=True)
        started = time.time()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [self.python, *command], cwd=self.work / checkout, capture_output=True, text=True, check=False,
            env=environment,
        )  # fmt: skip
        (self.work / "logs" / f"{key}.log").write_text(f"{command}\n{done.stdout}\n{done.stderr}")
        lines = [
            line for line in done.stdout.splitlines() if re.match(r"Clean ACC|ASR|Best|written|EVAL|already", line)
        ]
        found = {"code": done.returncode, "seconds": round(time.time() - started, 1), "lines": lines}
        if done.returncode:
            print(done.stderr[-1500:], flush=True)
        return self.keep(key, found)


def copy_checkouts(given: Path, work: Path, images: int, tests: int, epochs: int) -> None:
    for name in (BENCH, BOX):
        if not (work / name).is_dir():
            shutil.copytree(
                given / name, work / name, ignore=shutil.ignore_patterns(".git", "assets", "analysis", "*.pth")
            )
    for root in (work / BENCH / "data" / "cifar10", work / BOX / "data" / "cifar10"):
        if not (root / "cifar-10-batches-py").is_dir():
            write_cifar(root / "cifar-10-batches-py", images, tests)
    for name in ("train_on_poisoned_set.py", "train_on_cleansed_set.py"):  # the schedule is part of the script
        script = work / BOX / name
        text = re.sub(r"epochs = \d+", f"epochs = {epochs}", script.read_text())
        script.write_text(re.sub(r"learning_rate = 0.1\b", "learning_rate = 0.01", text))  # 0.1 diverges in one epoch


def write_cifar(folder: Path, images: int, tests: int, archive: Path = ARCHIVE) -> None:
    """Write a CIFAR-10 of *images* and *tests* samples in the format that torchvision reads."""
    folder.mkdir(parents=True)
    parts = (("train", images), ("test", tests))
    train, test = (cifar_sets([count], 0, part=part, archive=archive)[0] for part, count in parts)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names, "num_cases_per_batch": images // 5}))
    batches = [(f"data_batch_{k + 1}", train, rows) for k, rows in enumerate(np.array_split(np.arange(images), 5))]
    for name, data, rows in [*batches, ("test_batch", test, np.arange(tests))]:
        pixels = data.read(rows).transpose(0, 3, 1, 2).reshape(len(rows), -1)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": data.labels[rows].tolist()}))


def make_record(bench: Bench, attack: Attack, model: str) -> None:
    script, *flags = attack.flags
    config = bench.work / BENCH / "small.yaml"
    text = (bench.work / BENCH / "config/attack/prototype/cifar10.yaml").read_text()
    for key, value in (("num_workers", 0), ("device", "cpu"), ("epochs", 1), ("model", model), ("pin_memory", False)):
        text = re.sub(rf"^{key}:.*$", f"{key}: {value}", text, flags=re.MULTILINE)
    config.write_text(text)
    record = bench.work / BENCH / "record" / attack.name
    if record.is_dir() and not (record / "attack_result.pt").is_file():
        shutil.rmtree(record)
    key = f"make-bench-{attack.name}"
    bench.run(key, BENCH, str(SHIM), f"attack/{script}", "--yaml_path", "small.yaml", *flags,
              "--save_folder_name", attack.name)  # fmt: skip
    bench.run(f"theirs-bench-{attack.name}", BENCH, str(SHIM), "--evaluate", attack.name)


def run_record(bench: Bench, attack: Attack, *, quick: bool) -> None:
    """Run the commands on one record: those that take seconds, or those that train a denoiser."""
    for defense, flags in attack.commands.items():
        if ("--fit" in flags) == quick:
            continue
        key = f"bench-{attack.name}-{defense}"
        yaml = f"./config/defense/{defense}/cifar10.yaml"
        command = ["--result_file", attack.name, "--yaml_path", yaml, "--dataset", "cifar10", *ANY, *flags]
        bench.run(key, BENCH, f"./defense/{defense}.py", *command)
        result = f"record/{attack.name}/defense/{defense}/defense_result.pt"
        bench.run(f"theirs-{key}", BENCH, str(SHIM), "--evaluate", attack.name, result)


def box_flags(bench: Bench, attack: Attack) -> list[str]:
    """Return what every script of backdoor-toolbox is called with, and choose the network in its ``config.py``."""
    config = bench.work / BOX / "config.py"
    text = re.sub(
        r"^    'cifar10': \w+\.\w+,$", f"    'cifar10': {attack.network},", config.read_text(), flags=re.MULTILINE
    )
    config.write_text(text)
    rate = "0.020" if attack.name == "TaCT" else "0.050"
    return ["-dataset=cifar10", f"-poison_type={attack.name}", f"-poison_rate={rate}", *attack.flags]


def make_set(bench: Bench, attack: Attack) -> None:
    key, flags = f"make-box-{attack.name}", box_flags(bench, attack)
    if not (bench.work / BOX / "clean_set/cifar10/test_split").is_dir():
        bench.run("make-box-clean", BOX, str(SHIM), "create_clean_set.py", "-dataset=cifar10", "-clean_budget=200")
    bench.run(key, BOX, str(SHIM), "create_poisoned_set.py", *flags)
    bench.run(f"{key}-train", BOX, str(SHIM), "train_on_poisoned_set.py", *flags)
    bench.run(f"theirs-box-{attack.name}", BOX, str(SHIM), "test_model.py", *flags)


def run_set(bench: Bench, attack: Attack, names: list[str] | None) -> None:
    for name, ours, script in BOX_COMMANDS:
        if names and name not in names:
            continue
        bench.run(
            f"box-{attack.name}-{name}", BOX, "elixir.py", "--any-model", *ours, *script, *box_flags(bench, attack)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--tests", type=int, default=500)
    parser.add_argument("--model", default="resnet18", help="BackdoorBench's name of a network")
    parser.add_argument("--network", help="what config.arch of backdoor-toolbox names, e.g. gtsrb_cnn.GTSRB_CNN")
    parser.add_argument("--epochs", type=int, default=1, help="of backdoor-toolbox's own trainings")
    parser.add_argument("--only", nargs="*", help="names of attacks")
    parser.add_argument("--commands", nargs="*", help="of backdoor-toolbox: cleanser, retrain, d3, test_d3")
    parser.add_argument("--make", action="store_true", help="make records and sets, and run none of our commands")
    parser.add_argument("--uninstall", action="store_true", help="at the end, and compare with what was there before")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    bench = Bench(given.work.resolve(), given.python)
    if given.table:
        print("\n".join(table(bench)))
        return
    copy_checkouts(Path(os.environ["ELIXIR_TOOLKITS"]), bench.work, given.images, given.tests, given.epochs)
    box = [dataclasses.replace(attack, network=given.network or attack.network) for attack in BOX_ATTACKS]
    chosen = [
        (make, attack)
        for make, attacks in ((partial(make_record, model=given.model), BENCH_ATTACKS), (make_set, box))
        for attack in attacks
        if not given.only or attack.name in given.only
    ]
    for make, attack in chosen:
        make(bench, attack)
    for make, attack in chosen:
        if make is make_set:
            folder = next((bench.work / BOX / "poisoned_train_set/cifar10").glob(f"{attack.name}_0*"))
            read_back(bench, f"read-box-{attack.name}", "backdoor_toolbox", folder)
        else:
            folder = bench.work / BENCH / "record" / attack.name
            read_back(bench, f"read-bench-{attack.name}", "backdoorbench", folder)
    if not given.make:
        for root in (BENCH, BOX):
            if f"before-{root}" not in bench.results:
                bench.keep(f"before-{root}", top_files(bench.work / root))
        for toolkit, root in (("backdoorbench", BENCH), ("backdoor_toolbox", BOX)):
            bench.run(f"install-{toolkit}", root, "-m", "elixir_plugin", "toolkit", "install", toolkit, ".")
        for quick in (True, False):
            for make, attack in chosen:
                if make is not make_set:
                    run_record(bench, attack, quick=quick)
                elif quick:
                    run_set(bench, attack, given.commands)
        if not given.only:
            export_all(bench)
        if given.uninstall:
            take_away(bench)


def read_back(bench: Bench, key: str, adapter: str, folder: Path) -> None:
    """Keep what our adapter reads: which samples are poison, and what the model there is worth."""
    if key in bench.results:
        return
    from elixir_plugin import get_adapter
    from elixir_plugin.evaluation.metrics import model_metrics

    options = {"model": "none"} if adapter == "backdoor_toolbox" else {}  # its network is in the checkout's config.py
    case = get_adapter(adapter)(options).read(folder)
    truth = case.truth
    assert truth is not None and case.train is not None
    found: dict[str, Any] = {"poison": int(truth.poison.sum()), "kind": truth.kind, "of": len(case.train)}
    found["cover"] = 0 if truth.cover is None else int(truth.cover.sum())
    if case.model is not None:
        found |= dataclasses.asdict(model_metrics(case.model, case.test, case.test_poisoned))
    bench.keep(key, found)


def export_all(bench: Bench) -> None:
    """Run the commands of the last section of the page, one per source and format."""
    sets = bench.work / BOX / "poisoned_train_set" / "cifar10"
    sources = {
        "record": ("backdoorbench:record/badnet_all2all", BENCH),
        "set": (f"backdoor_toolbox:{next(sets.glob('badnet_0*'))}", BOX),
    }
    for name, (source, root) in sources.items():
        for target in ("image_folder", "arrays"):
            out = str(bench.work / "exported" / f"{name}-{target}")
            bench.run(f"export-{name}-{target}", root, "-m", "elixir_plugin", "export", source, "--to", target, out)
    runs = bench.work / BENCH / "record/badnet_all2all/defense/eclipse/checkpoint"
    run = next((path.parent for path in runs.glob("*/report.json")), None)
    if run is not None:
        out = str(bench.work / "exported" / "repaired")
        bench.run("export-run", BENCH, "-m", "elixir_plugin", "export", str(run), "--to", "image_folder", out)


def take_away(bench: Bench) -> None:
    """Uninstall, and say what differs from the checkout as it was before ``install``."""
    for toolkit, root in (("backdoorbench", BENCH), ("backdoor_toolbox", BOX)):
        bench.run(f"status-{toolkit}", root, "-m", "elixir_plugin", "toolkit", "status", toolkit, ".")
        bench.run(f"uninstall-{toolkit}", root, "-m", "elixir_plugin", "toolkit", "uninstall", toolkit, ".")
        bench.keep(f"left-{root}", sorted(set(top_files(bench.work / root)) - set(bench.results[f"before-{root}"])))


def top_files(root: Path) -> list[str]:
    """Return the files of a checkout, without records, sets, data and what Python leaves."""
    own = ("record", "poisoned_train_set", "clean_set", "data", "__pycache__")
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(name) for name in names if not set(own) & set(name.parts))


def table(bench: Bench) -> Iterator[str]:
    """Yield the tables in Markdown."""
    yield "| record or set | read as | model | ACC ours | theirs | ASR ours | theirs | RA ours | theirs |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for attack in BENCH_ATTACKS:
        read = bench.results.get(f"read-bench-{attack.name}")
        theirs = evaluated(bench, f"theirs-bench-{attack.name}")
        yield row(f"BackdoorBench {attack.name}", said(read), "suspect", read, theirs)
        for defense in attack.commands:
            key = f"bench-{attack.name}-{defense}"
            done, report = bench.results.get(key), bench_report(bench, attack.name, defense)
            where = f"BackdoorBench {attack.name}: {defense}"
            yield row(where, outcome_of(done), "after", report.get("after"), evaluated(bench, f"theirs-{key}"))
    for attack in BOX_ATTACKS:
        read = bench.results.get(f"read-box-{attack.name}")
        for name, _, _ in BOX_COMMANDS:
            done = bench.results.get(f"box-{attack.name}-{name}")
            report = box_report(bench, attack, "d3")
            before = printed(bench.results.get(f"theirs-box-{attack.name}"))
            where = f"backdoor-toolbox {attack.name} ({attack.network})"
            if name == "cleanser":
                suspect = report or box_report(bench, attack, "confusion_training")
                yield row(where, said(read), "suspect", suspect.get("before"), before)
                yield f"| {where}: {name} | {outcome_of(done)} | {' / '.join(done['lines'][-3:]) if done else ''} |"
            elif name == "test_d3":
                yield row(f"{where}: d3", outcome_of(done), "after", report.get("after"), printed(done))
            else:
                yield f"| {where}: {name} | {outcome_of(done)} | {' / '.join(done['lines'][-2:]) if done else ''} |"
    for key, value in bench.results.items():
        if key.startswith(("export", "install", "status", "uninstall", "left")):
            yield f"| {key} | {outcome_of(value) if isinstance(value, dict) else value} |"


def row(name: str, what: str, model: str, ours: Any, theirs: Any) -> str:
    cells = [f"{shown(ours, key)} | {shown(theirs, key)}" for key in ("acc", "asr", "ra")]
    return f"| {name} | {what} | {model} | {' | '.join(cells)} |"


def shown(values: Any, key: str) -> str:
    value = (values or {}).get(key)
    return "–" if value is None else f"{100 * value:.3f}"


def said(read: Any) -> str:
    return "–" if read is None else f"{read['poison']} of {read['of']}, {read['kind']}, {read['cover']} cover"


def outcome_of(done: Any) -> str:
    return "not run" if done is None else f"exit {done['code']}, {done['seconds']} s"


def evaluated(bench: Bench, key: str) -> Any:
    lines = bench.results.get(key, {}).get("lines", [])
    return next((json.loads(line.removeprefix("EVALUATED ")) for line in lines if line.startswith("EVAL")), None)


def printed(done: Any) -> dict[str, float]:
    """Return the shares that backdoor-toolbox printed last."""
    found = {}
    for line in (done or {}).get("lines", []):
        if match := re.match(r"(Clean ACC|ASR): (\d+)/(\d+)", line):
            found["acc" if match[1] == "Clean ACC" else "asr"] = int(match[2]) / int(match[3])
    return found


def bench_report(bench: Bench, record: str, defense: str) -> dict[str, Any]:
    return newest(bench.work / BENCH / "record" / record / "defense" / defense / "checkpoint")


def box_report(bench: Bench, attack: Attack, defense: str) -> dict[str, Any]:
    folder = next((bench.work / BOX / "poisoned_train_set/cifar10").glob(f"{attack.name}_0*"), Path("none"))
    return newest(folder / "elixir_runs", f"{defense}-*")


def newest(folder: Path, pattern: str = "*") -> dict[str, Any]:
    reports = sorted(folder.glob(f"{pattern}/report.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(reports[-1].read_text())["metrics"] if reports else {}


if __name__ == "__main__":
    main()
