"""What a relearning test says: one sentence, a figure and a table."""

from __future__ import annotations

from ..core.metrics import RelearnedModel, RelearnedPath, Relearning
from ..core.panels import Level, Lines, Panel, Series, Table

AFTER, NEVER, BEFORE = "after", "never_poisoned", "before"
NAMES = {AFTER: "after", NEVER: "never poisoned", BEFORE: "before"}  # as in the table of models
SHOWN = 20  # poison samples, of the path that one number or figure stands for


def shown_path(model: RelearnedModel) -> RelearnedPath:
    """Return the path that one number or figure stands for: that of 20 poison samples, else of the most up to 20."""
    return min(model.paths, key=lambda path: (path.samples > SHOWN, abs(path.samples - SHOWN)))


def sentence_of(found: Relearning) -> str:
    """Say in words how fast the backdoor comes back, beside a model that was never poisoned."""
    after, never = (shown_path(found.models[name]) for name in (AFTER, NEVER))
    count, last = after.samples, found.steps[-1]
    many = f"{count} poison sample{'' if count == 1 else 's'}"
    goal = f"{100 * found.goal:.0f} % ASR"
    if after.reached == 0:
        start = f"the backdoor needs no relearning: ASR is {100 * after.asr[0]:.0f} % as it is"
    elif after.reached is None:
        start = f"{many} {_verb(count, 'do not', 'does not')} bring the backdoor back to {goal} within {last} steps"
    else:
        start = f"{many} {_verb(count, 'bring', 'brings')} the backdoor back to {goal} within {after.reached} steps"
    other = "a model that was never poisoned"
    told = f" steps with {many}" if after.reached == 0 else ""
    if never.reached is None:
        end = f"{other} does not get there {'either' if after.reached is None else f'within {last}{told}'}"
    elif never.reached == 0:
        end = f"{other} is there without any, so that this says nothing"
    else:
        end = f"{other} needs {never.reached}{told}"
    return f"{start[0].upper()}{start[1:]}; {end}."


def _verb(count: int, many: str, one: str) -> str:
    return one if count == 1 else many


def relearning_panels(found: Relearning) -> list[Panel]:
    """Return ASR over the steps for every model, and a table of the steps that each of them needs."""
    paths = {NAMES.get(name, name): shown_path(model) for name, model in found.models.items()}
    count = next(iter(paths.values())).samples
    goal, last = f"{100 * found.goal:.0f} %", found.steps[-1]
    figure = Lines(
        title="Relearning the backdoor",
        caption=f"Attack success on {found.triggered:,} triggered test samples, after steps of fine-tuning with "
        f"{count} poison samples among clean ones.",
        series=[Series(name=name, x=found.steps, y=[100 * each for each in path.asr]) for name, path in paths.items()],
        x_label="optimiser steps",
        y_label="ASR, %",
        levels=[Level(name=f"back ({goal})", value=100 * found.goal)],
    )
    counts = [path.samples for path in found.models[AFTER].paths]
    rows = [
        [
            NAMES.get(name, name),
            *(f"> {last}" if path.reached is None else path.reached for path in model.paths),
            None if model.acc is None else round(100 * model.acc, 1),
            None if (acc := shown_path(model).acc) is None else round(100 * acc, 1),
        ]
        for name, model in found.models.items()
    ]
    table = Table(
        title="Steps until the backdoor is back",
        caption=f"Fewest optimiser steps, of those measured, to an ASR of {goal}, by poison samples; > {last}: not "
        f"within as many. ACC in %, at the start and after {last} steps with {count} poison samples.",
        header=["model", *(f"{each} samples" for each in counts), "ACC", "ACC after"],
        rows=rows,
    )
    return [figure, table]
