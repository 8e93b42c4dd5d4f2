"""What a finished step has made, on disk, so that a killed pipeline goes on with the next one.

::

    NUMBER-NAME/
      work/        the step's own intermediate files; gone when it is finished
      outcome/     what it made; see ``Outcome.save``
      undefended/  a model trained on the suspect set as it is, where the step made one
      step.json    what it was made of; its presence means "finished"

What a step made is always read back from here, so that steps after a kill are given the same as without one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.classifier.classifier import Classifier
from ...core.classifier.copies import copied
from ...core.classifier.weights import read_facts
from ...core.context import Context
from ...core.outcome import Outcome
from ...core.settings import fingerprint
from ...errors import InputError
from ...io.checked import Facts, Flag, checked
from ...io.distributed import barrier, rank_and_world
from ...io.files import remove_folder, write_json
from ...io.opening import is_there
from ...io.reading import read_json
from .plan import Step
from .state import Given


class Finished(Facts):
    """The content of ``step.json``."""

    made_of: str
    model: Flag
    undefended: Flag


def kept_or_made(
    folder: Path, step: Step, given: Given, context: Context, *, make: Callable[[], Outcome], added: Any
) -> Outcome:
    """Return the outcome of *step* on *given*: that in *folder*, or what *make* returns, which is then kept there.

    All ranks come here together; rank 0 writes.

    :param context: of the pipeline.
    :param added: what the step is handed on beside *given*, in JSON types.
    """
    made_of = _made_of(step, given, context, added)
    outcome = _read(folder, made_of, given)
    shared = context.work_dir is not None
    if shared:
        barrier()  # until all have looked
    if outcome is not None:
        return outcome
    outcome = make()
    if shared:
        barrier()  # until no rank needs the step's own files any more
    if not shared or rank_and_world()[0] == 0:
        _write(folder, made_of, outcome)
    if shared:
        barrier()
    return _loaded(folder, outcome.model, outcome.undefended)


def _made_of(step: Step, given: Given, context: Context, added: Any) -> str:
    case = given.case
    parts = [None if each is None else each.fingerprint() for each in (case.train, case.clean, case.model)]
    return fingerprint(
        [
            step.options.under_first_names(step.options.model_dump(mode="json")),
            context.seed,
            context.device.type,
            parts,
            case.mirror,
            None if given.suspects is None else given.suspects.nonzero()[0].tolist(),
            given.targets,
            added,
        ]
    )


def _write(folder: Path, made_of: str, outcome: Outcome) -> None:
    for name in ("outcome", "undefended"):
        remove_folder(folder / name)  # of a step made of something else
    outcome.save(folder / "outcome")
    if outcome.undefended is not None:
        outcome.undefended.save(folder / "undefended")
    model, undefended = outcome.model is not None, outcome.undefended is not None
    write_json(folder / "step.json", {"made_of": made_of, "model": model, "undefended": undefended})
    remove_folder(folder / "work")


def _read(folder: Path, made_of: str, given: Given) -> Outcome | None:
    """Return the outcome in *folder*; None where there is none, another, or one that cannot be used."""
    file = folder / "step.json"
    try:
        if not is_there(file):
            return None
        facts = checked(Finished, read_json(file), what="not a finished step", where=file)
        if facts.made_of != made_of:
            return None
        like = given.case.model
        outcome = _loaded(folder, like, like)
        complete = (outcome.model is None) != facts.model and (outcome.undefended is None) != facts.undefended
    except InputError as error:
        logging.getLogger(__name__).warning("a step is done again, what it kept is damaged: %s", error)
        return None
    return outcome if complete else None


def _loaded(folder: Path, like: Classifier | None, undefended: Classifier | None) -> Outcome:
    """Read what a step has kept.

    :param like: a classifier of the architecture of its model, where that has no name.
    :param undefended: the same of the model trained on the suspect set.
    """
    outcome = Outcome.load(folder / "outcome", like)
    place = folder / "undefended"
    if place.is_dir():
        named = read_facts(place / "model.json").architecture is not None
        module = None if named or undefended is None else copied(undefended.module)
        outcome.undefended = Classifier.load(place, module, finite=False)
    return outcome
