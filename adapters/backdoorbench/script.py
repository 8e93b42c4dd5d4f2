"""What the scripts in a BackdoorBench checkout call: the toolkit's flags in, the toolkit's result files out.

A front end like the command line: it prints, and it turns errors into messages and exit codes.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from ...defense import Defense, get_defense
from ...errors import ElixirError, SettingsError
from ...io.files import writing
from ...io.process import clear_ends, exit_code_of, interruption, stopped_by_signals
from ...io.text import escape_control, with_flags
from ...runs.run import RunResult, run_defense
from ...runs.spec import RunSpec
from .flags import Request, flags_of, read_request, record_of, to_spec
from .record import read_record
from .results import cannot_build


def main(defense: str, root: Path, arguments: Sequence[str] | None = None) -> None:
    """Run *defense* on a record of the checkout at *root*.

    :param arguments: the toolkit's flags; default: those of the process.
    """
    try:
        with stopped_by_signals(), clear_ends(defense):
            _run(defense, root, sys.argv[1:] if arguments is None else arguments)
    except ElixirError as error:
        click.echo(escape_control(f"error: {error.told(with_flags(flags_of(defense, root)))}"), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        click.echo(f"\n{interruption(error)}", err=True)
        sys.exit(exit_code_of(error))


def _run(defense: str, root: Path, arguments: Sequence[str]) -> RunResult:
    cls = get_defense(defense)
    request = read_request(cls, root, arguments)
    record = record_of(root, request.values)
    _refuse_other_dataset(request, record)
    home = record / "defense" / defense
    spec = to_spec(cls, request, root, Path(request.values.get("checkpoint_save") or home / "checkpoint"))
    with _logged(Path(request.values.get("log") or home / "log")) as log:
        log.info("%s", {key: value for key, value in request.values.items() if value is not None})
        for unused in request.unused:
            log.warning("no use for %s", unused)
        for warning in _foreign_network(cls, spec):
            log.warning("%s", warning)
            click.echo(escape_control(f"note: {warning}"), err=True)  # before the work, and in the report after it
        result = run_defense(spec, quiet=False, rewrite=True)
        for line in result.lines():
            log.info("%s", line)
    for line in (*(f"note: no use for {unused}" for unused in request.unused), *result.lines()):
        click.echo(escape_control(line))
    return result


def _foreign_network(cls: type[Defense], spec: RunSpec) -> list[str]:
    """Return a warning when the model that the defense trains is one that the toolkit cannot build."""
    settings = cls(spec.settings, preset=spec.preset).settings
    name = getattr(settings, "architecture", None) if cls.kind in ("purify", "train") else None
    return [] if name is None else cannot_build(name)


def _refuse_other_dataset(request: Request, record: Path) -> None:
    wanted, found = request.values.get("dataset"), read_record(record).dataset
    if wanted is not None and wanted != found:
        raise SettingsError(
            "the record is of another data set",
            where="--dataset, or dataset in the YAML file",
            found=wanted,
            allowed=found,
            hint=f"--yaml_path ./config/defense/<name>/{found}.yaml --dataset {found}",
        )


@contextmanager
def _logged(folder: Path) -> Iterator[logging.Logger]:
    """Log to ``<folder>/<time>.log``, as the toolkit's own scripts do.

    :raises RunError: when it cannot be opened.
    """
    file = folder / time.strftime("%Y_%m_%d_%H_%M_%S.log", time.localtime())
    with writing(file):
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)-8s] %(message)s", "%Y-%m-%d:%H:%M:%S"))
    logger = logging.getLogger(__name__.partition(".")[0])
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield logger
    except ElixirError as error:
        logger.error("%s", error)
        raise
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):  # a full disk: closing writes what is left
            handler.close()
