"""The command line as a person meets it: exit codes and no tracebacks; what needs one, in a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from elixir_plugin.cli.app import program
from elixir_plugin.core.classifier.classifier import Classifier
from elixir_plugin.core.images import ImageSet
from elixir_plugin.io import versions
from elixir_plugin.io.text import escape_control
from elixir_plugin.testing.defenses import tiny_case

pytestmark = pytest.mark.usefixtures("no_figures")
PROGRAM = [sys.executable, "-m", "elixir_plugin"]


def call(*arguments: str) -> Result:
    """Run the program in this process; what it raises besides an exit code fails the test."""
    return CliRunner().invoke(program, arguments, catch_exceptions=False)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder, and leave the host's logging as it was."""
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("elixir_plugin")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def pixels(samples: ImageSet) -> np.ndarray:
    return samples.read(slice(None))


@pytest.fixture(scope="module")
def case_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case as a person would bring it: arrays in one file, a saved model beside it."""
    folder = tmp_path_factory.mktemp("case")
    case = tiny_case()
    assert case.train and case.clean and case.test and case.test_poisoned
    model = case.model
    assert isinstance(model, Classifier)
    (folder / "model").mkdir()
    model.save(folder / "model")
    arrays = {
        "x_train": pixels(case.train),
        "y_train": case.train.labels,
        "x_clean": pixels(case.clean),
        "y_clean": case.clean.labels,
        "x_test": pixels(case.test),
        "y_test": case.test.labels,
        "x_test_poisoned": pixels(case.test_poisoned.samples),
        "y_test_poisoned": case.test_poisoned.samples.labels,
        "y_test_original": case.test_poisoned.original_labels,
    }
    np.savez(folder / "case.npz", **arrays)
    return folder / "case.npz"


def run_arguments(case_file: Path, *more: str) -> list[str]:
    model = f"model={case_file.parent / 'model'}"
    return ["run", "d3", "--from", f"arrays:{case_file}", "-o", model, "--set", "epochs=2", *more]


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["run", "--help"], ["--version"]])
def test_help_and_list_answer_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from elixir_plugin.cli.app import program\n"
        "try:\n    program(sys.argv[1:])\nexcept SystemExit: pass\n"
        "slow = [name for name in ('torch', 'sklearn', 'pydantic') if name in sys.modules]\n"
        "print('LOADED', slow)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


def test_list_names_what_is_built_in() -> None:
    done = subprocess.run([*PROGRAM, "list"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0
    for name in ("d3", "backdoorbench", "image_folder", "arrays", "badnets", "blended", "sig", "preactresnet18"):
        assert name in done.stdout


def test_show_tells_needs_settings_and_presets() -> None:
    done = call("show", "d3")
    assert done.exit_code == 0
    for text in ("needs:", "clean, model", "lam = auto", "≥ 0", "preset code", "ICCV 2025", "--expert"):
        assert text in done.stdout
    assert "weight_decay" not in done.stdout and "weight_decay = 0.0" in call("show", "d3", "--expert").stdout


def test_plugins_speak_json() -> None:
    infos = json.loads(call("plugins", "--json").stdout)
    assert {"elixir_plugin:builtin", "elixir_plugin:adapters"} <= {info["name"] for info in infos}


@pytest.mark.parametrize("faults", [[], ["torch and torchvision do not fit together"]])
def test_env_speaks_json_and_exits_with_1_for_a_fault(faults: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "inspect_environment", lambda: versions.Report({"torch": "2.6"}, faults))
    as_json, as_text = call("env", "--json"), call("env")
    assert as_json.exit_code == as_text.exit_code == bool(faults)
    assert json.loads(as_json.stdout) == {"facts": {"torch": "2.6"}, "faults": faults}
    assert re.search(r"^torch +2\.6$", as_text.stdout, re.MULTILINE)
    assert as_text.stderr.split("problem: ")[1:] == [f"{fault}\n" for fault in faults]


def test_run_prints_before_and_after_and_writes_where_told(case_file: Path, tmp_path: Path) -> None:
    done = call(*run_arguments(case_file, "--out", "run", "--write-to", "native"))
    assert done.exit_code == 0, done.stderr
    for text in ("before", "after", "ACC", "ASR", "RA", "report.json", "written:"):
        assert text in done.stdout
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["run"]["settings"]["epochs"] == 2
    assert all(Path(file).exists() for file in report["written"])
    again = call(*run_arguments(case_file, "--out", "run", "--write-to", "native"))
    assert again.exit_code == 0 and "already done" in again.stdout


def test_run_file_with_flags_on_top_and_json_output(case_file: Path, tmp_path: Path) -> None:
    (tmp_path / "d3.yaml").write_text(
        f"defense: d3\nsource: arrays:{case_file}\npreset: code\nout: run\n"
        "settings: {epochs: 1, augmentation: {crop: 1, flip: false}}\n"
    )
    model = f"model={case_file.parent / 'model'}"
    values = ("--set", "lr=1e-3", "--set", "augmentation.crop=2")
    done = call("run", "d3.yaml", "-o", model, "--seed", "4", *values, "--json")
    assert done.exit_code == 0, done.stderr
    run = json.loads(done.stdout)["run"]
    assert (run["seed"], run["settings"]["lam"], run["settings"]["lr"], run["settings"]["epochs"]) == (4, 0.5, 1e-3, 1)
    assert run["settings"]["augmentation"]["crop"] == 2 and not run["settings"]["augmentation"]["flip"]


def test_zero_is_a_seed_like_any_other(case_file: Path, tmp_path: Path) -> None:
    (tmp_path / "d3.yaml").write_text(f"defense: d3\nsource: arrays:{case_file}\nseed: 7\nsettings: {{epochs: 1}}\n")
    model = f"model={case_file.parent / 'model'}"
    for flags, seed in (((), 7), (("--seed", "0"), 0)):
        done = call("run", "d3.yaml", "-o", model, *flags, "--out", f"run{seed}", "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["run"]["seed"] == seed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "Missing argument"),
        (["rnu"], "No such command"),
        (["run", "d3"], "--from"),
        (["run", "d3", "--from", "nowhere"], "ADAPTER:PATH"),
        (["run", "d33", "--from", "arrays:x.npz"], "did you mean 'd3'?"),
        (["run", "d3", "--from", "array:x.npz"], "did you mean 'arrays'?"),
        (["run", "d3", "--from", "arrays:x.npz", "--set", "epoch=3"], "did you mean 'epochs'?"),
        (["run", "d3", "--from", "arrays:x.npz", "--set", "epochs=-3"], "epochs"),
        (["run", "d3", "--from", "arrays:x.npz", "--set", "epochs"], "key=value"),
        (["run", "d3", "--from", "arrays:x.npz", "--preset", "cod"], "did you mean 'code'?"),
        (["run", "d3", "--from", "arrays:x.npz", "--device", "quantum"], "device not available"),
        (["run", "d3", "--from", "arrays:x.npz", "-o", "modle=x"], "did you mean 'model'?"),
        (["run", "missing.yaml"], "file not found"),
        (["show", "d33"], "did you mean 'd3'?"),
        (["demo", "--size", "12"], "16"),
        (["demo", "--poison", "badnet"], "did you mean 'badnets'?"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = call(*arguments)
    assert done.exit_code == 2, done.stderr
    assert says in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_missing_need_exits_with_1_and_writes_nothing(case_file: Path, tmp_path: Path) -> None:
    done = call("run", "d3", "--from", f"arrays:{case_file}")  # no model given
    assert done.exit_code == 1
    assert "needs 'model'" in done.stderr and "next:" in done.stderr
    assert not list(tmp_path.iterdir())


def _listen_to_ctrl_c() -> None:
    """Undo what a job in the background inherits: to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_an_interruption_is_a_sentence_and_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(versions, "inspect_environment", interrupt)
    done = call("env")
    assert done.exit_code == 130 and "interrupted" in done.stderr and not done.stdout


@pytest.mark.e2e
def test_ctrl_c_leaves_no_result_and_the_next_run_goes_on(case_file: Path, tmp_path: Path) -> None:
    arguments = run_arguments(case_file, "--out", "run", "--write-to", "native", "--set", "epochs=100000")
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_listen_to_ctrl_c,  # noqa: PLW1509  (there are no threads here)
    ) as process:
        try:
            for _ in range(600):
                if "evaluate before" in _text_of(tmp_path / "run/events.jsonl"):
                    break
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "interrupted" in errors and "Traceback" not in errors
    assert not (tmp_path / "run/report.json").exists() and not (tmp_path / "native").exists()


@pytest.mark.e2e
def test_a_terminal_gets_a_progress_bar(case_file: Path, tmp_path: Path) -> None:
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    arguments = run_arguments(case_file, "--out", "run", "--set", "epochs=20")
    with subprocess.Popen([*PROGRAM, *arguments], stderr=secondary, stdout=subprocess.DEVNULL) as process:
        os.close(secondary)
        seen = b""
        with contextlib.suppress(OSError):  # the terminal closes with the program
            while part := os.read(primary, 4096):
                seen += part
    os.close(primary)
    assert process.returncode == 0 and b"d3:" in seen and b"/20" in seen


def test_control_characters_are_shown_as_text() -> None:
    assert escape_control("ok \x1b[31mred\x07\n") == "ok \\x1b[31mred\\x07\n"


@pytest.mark.e2e
def test_the_demo_shows_a_backdoor_and_its_removal(tmp_path: Path) -> None:
    done = call("demo", "--size", "8", "--only", "d3", "--out", "demo")
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "demo/report.json").read_text())
    assert "d3" in done.stdout and "failed" not in done.stdout
    metrics = report["defenses"]["d3"]["metrics"]
    assert metrics["before"]["asr"] > 0.9 > 0.2 > metrics["after"]["asr"]
    repeat = json.loads((tmp_path / "demo/d3/report.json").read_text())["command"]
    assert repeat == "elixir-plugin demo --poison badnets --size 8 --only d3 --seed 0"


SHORT_ELIXIR = [
    *("-s", "fit.size=tiny", "-s", "fit.iterations=2", "-s", "fit.batch_size=4", "-s", "probe=case"),
    *("-s", "purification.rounds=1", "-s", "purification.steps=2", "-s", "purification.dense_below=1"),
    *("-s", "purification.batch_size=4", "-s", "states=1", "-s", "threshold=1", "-s", "recipe.epochs=1"),
]


@pytest.mark.usefixtures("brief_measurements")
def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(
    case_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = ["run", "dataelixir", "--dry-run", "--from", f"arrays:{case_file}"]
    source += ["-o", f"model={case_file.parent / 'model'}"]
    done = call(*source, *SHORT_ELIXIR, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["nfe_total"] == facts["nfe_per_image"] * len(np.load(case_file)["y_train"])
    assert facts["seconds_total"] > 0 and facts["disk_bytes"] > 0
    words = call(*source, *SHORT_ELIXIR)
    assert words.exit_code == 0 and "nfe total:" in words.stdout and "disk" in words.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_what_a_run_would_refuse(case_file: Path, tmp_path: Path) -> None:
    done = call("run", "dataelixir", "--from", f"arrays:{case_file}", "--dry-run", "-s", "rounds=3")
    assert done.exit_code == 2 and "rounds" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("former", "now"), [(["results"], ["cards"]), (["reference"], ["settings"]), (["results", "add"], ["cards", "add"])]
)
def test_former_names_of_commands_are_understood_but_not_listed(former: list[str], now: list[str]) -> None:
    first, second = (call(*command, "--help") for command in (former, now))
    assert first.exit_code == 0 and first.stdout.split("\n", 1)[1] == second.stdout.split("\n", 1)[1]
    assert f"  {now[0]} " in call("--help").stdout and f"  {former[0]} " not in call("--help").stdout


@pytest.mark.parametrize("flag", ["--modified", "--edited"])
def test_the_former_name_of_a_flag_is_understood_but_not_listed(flag: str, tmp_path: Path) -> None:
    done = call("toolkit", "uninstall", "backdoorbench", str(tmp_path), flag, "keep")
    assert "No such option" not in done.stderr and done.exit_code == 1
    told = call("toolkit", "uninstall", "--help").stdout
    assert "--modified" in told and "--edited" not in told


def test_assignments_are_told_in_the_same_words() -> None:
    told = " ".join(
        " ".join(call(*words, "--help").stdout for words in (["run"], ["export"], ["denoiser", "train"])).split()
    )
    assert told.count("Sets ") == told.count("KEY=VALUE") == 8 and told.count("repeatable.") >= 6
    assert "Main keys: architecture, epochs," in told
