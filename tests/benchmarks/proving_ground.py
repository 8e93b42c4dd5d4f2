"""The proving ground: every attack under every defense and every free control, at full-size CIFAR-10, on few CPU cores.

    python tests/benchmarks/proving_ground.py --budget 2h --workers 2 --write

Each cell of the table is an attack, a defense or none, a number of reserved clean images and a seed; it leaves one
card. What has a card is not done again, so the same command goes on where it was stopped, at any moment. Several may
run at once on one work folder. ``--write`` writes the page ``docs/proving-ground.md`` from the cards.

``--data`` is the zip file or folder of class folders, a folder of torchvision's batches, or ``digits`` for a try.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ONE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # so that a result does not depend on the load
os.environ.update(dict.fromkeys(ONE, "1"))  # before numpy and torch are imported

from ground_base import ARCHIVE, ROOT, WORK, prepare  # noqa: E402
from ground_cells import Cell, Ground, all_cells, suspect_of  # noqa: E402
from ground_list import ATTACKS, COLUMNS, RESERVED, SUSPECT, WAVE  # noqa: E402
from ground_page import Known, write_page  # noqa: E402

from elixir_plugin.io.locks import locked  # noqa: E402
from elixir_plugin.plugins import plugins  # noqa: E402

DEAR = 3600.0  # seconds from which a cell waits until all cheaper ones are done
ASKING = 180.0  # seconds that a defense may take to say what it costs
PAUSE = 1.0  # seconds between two looks at what another process holds


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    work = options.work.absolute()
    (work / "locks").mkdir(parents=True, exist_ok=True)
    usual = options.data != "digits" and options.limit is None and options.epochs is None
    cards = (options.cards or (ROOT / "docs" / "proving-ground" if usual else work / "cards")).absolute()
    if options.only_write:
        print(write_page(cards))
        return 0
    base = prepare(options.data, work, options.limit)
    ground = Ground(base, work, cards, epochs=options.epochs, command=command(options))
    cells = chosen(options)
    code = 0
    if options.workers > 1:
        code = helpers(options.workers)
    else:
        if options.parent is not None:
            end_with(options.parent)
        run(ground, cells, time.monotonic() + options.budget, retry=options.retry)
    if options.parent is None:
        print_rest(ground, cells)
        if options.write:
            print(write_page(cards))
    return code


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default=str(ARCHIVE), help="zip file, folder, or digits")
    made.add_argument("--work", type=Path, default=WORK, help="folder of runs and models")
    made.add_argument("--cards", type=Path, help="folder of the cards; default: docs/proving-ground, or WORK/cards")
    made.add_argument("--only", nargs="+", choices=list(ATTACKS), metavar="ATTACK", help="these attacks")
    made.add_argument("--defenses", nargs="+", choices=[SUSPECT, *COLUMNS], metavar="NAME", help="and these defenses")
    made.add_argument("--seeds", nargs="+", type=int, help="of sets and runs; default: those of the attack")
    made.add_argument("--reserved", type=int, default=RESERVED, help="reserved clean images")
    made.add_argument("--budget", type=seconds, default=seconds("2h"), help="e.g. 90m; what takes longer is left out")
    made.add_argument("--workers", type=int, default=1, help="processes that share the cells")
    made.add_argument("--retry", action="store_true", help="try again what failed")
    made.add_argument("--limit", type=int, help="for a try: so many training images")
    made.add_argument("--epochs", type=int, help="for a try: of every training")
    made.add_argument("--write", action="store_true", help="write the page when done")
    made.add_argument("--only-write", action="store_true", help="write the page, run nothing")
    made.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    return made


def seconds(text: str) -> float:
    """Return a time such as ``90m``, ``2h``, ``45s`` or ``30`` (minutes) in seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    return float(text[:-1]) * units[text[-1]] if text[-1:] in units else 60 * float(text)


def command(options: argparse.Namespace) -> str:
    """Return the command that does one cell, up to the options that name it; places of the data are left out."""
    parts = ["python tests/benchmarks/proving_ground.py"]
    parts += ["--data digits"] if options.data == "digits" else []
    parts += [f"--{name} {value}" for name in ("limit", "epochs") if (value := getattr(options, name)) is not None]
    return " ".join(parts)


def chosen(options: argparse.Namespace) -> list[Cell]:
    """Return the cells that were asked for, and the suspect models they need; say what is left out."""
    registered = plugins().offers()["defense"]
    missing = dict.fromkeys(column.name for column in COLUMNS.values() if column.name not in registered)
    if missing and options.parent is None:
        print(f"left out, as this version has no such defense: {', '.join(missing)}", flush=True)
    cells = []
    for cell in all_cells(options.reserved, options.seeds):
        if options.only and cell.attack.name not in options.only:
            continue
        if cell.column is not None and options.defenses and cell.defense not in options.defenses:
            continue
        if cell.column is None or cell.column.name in registered:
            cells.append(cell)
    return cells


def run(ground: Ground, cells: Sequence[Cell], deadline: float, *, retry: bool) -> None:
    """Run what is open and fits into the time, until nothing is left; other processes may do so at the same time."""
    tried: set[str] = set()
    while True:
        known = Known.read(ground.cards, ground.training)
        busy = False
        for cell, price in ordered(cells, known):
            state = ground.state(cell)
            if state == "done" or (state == "failed" and (not retry or cell.stem in tried)):
                continue
            if price > deadline - time.monotonic():
                continue
            if cell.column is not None and ground.state(suspect_of(cell)) != "done":
                continue
            with locked(ground.work / "locks" / f"{cell.stem}.lock", wait=False) as file:
                if file is None:
                    busy = True
                    continue
                if ground.state(cell) == "done":
                    continue
                tried.add(cell.stem)
                attempt(ground, cell, price, known)
            break
        else:
            if not busy:
                return
            time.sleep(PAUSE)


def attempt(ground: Ground, cell: Cell, price: float, known: Known) -> None:
    """Run one cell, or ask first what it costs where its defense can say so."""
    if is_asked(cell, known):
        say(f"{cell}: what would it cost?")
        if (found := ground.price(cell)) is not None:
            say(f"{cell}: about {found / 3600:.1f} h")
            return  # it comes up again where its price puts it
    say(f"{cell}: about {price / 60:.1f} min")
    started = time.monotonic()
    card = ground.run(cell)
    numbers = {} if card is None else {name: f"{100 * each.value:.1f}" for name, each in card.measured.items()}
    said = ", ".join(f"{name} {value}" for name, value in numbers.items()) or "failed"
    say(f"{cell}: {said} after {time.monotonic() - started:.0f} s")


def ordered(cells: Sequence[Cell], known: Known) -> list[tuple[Cell, float]]:
    """Return the cells with their prices: wave by wave the cheapest first, the dear ones last.

    Where a defense has to be asked what it costs, the price is that of asking.
    """
    wave = {name: at // WAVE for at, name in enumerate(ATTACKS)}

    def place(each: tuple[Cell, float]) -> tuple[bool, int, float]:
        cell, price = each
        dear = price > DEAR and cell.column is not None
        return (dear, wave[cell.attack.name], 0.0 if cell.column is None else price)

    def priced(cell: Cell) -> float:
        return ASKING if is_asked(cell, known) else known.prices.of(cell.attack, cell.column)

    return sorted(((cell, priced(cell)) for cell in cells), key=place)


def is_asked(cell: Cell, known: Known) -> bool:
    """Whether the defense has to say first what it costs."""
    return cell.column is not None and cell.column.estimates and not known.prices.knows(cell.column)


def helpers(count: int) -> int:
    """Have *count* processes of this same command share the cells, wait for them, and return the worst exit code."""
    arguments = [sys.executable, __file__, *sys.argv[1:], "--workers", "1", "--parent", str(os.getpid())]
    started = [subprocess.Popen(arguments) for _ in range(count)]
    try:
        return max(abs(each.wait()) for each in started)
    finally:
        for each in started:
            if each.poll() is None:
                each.terminate()


def end_with(parent: int) -> None:
    """End this process when *parent* does, however it ends; all it was doing can be taken up again."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def print_rest(ground: Ground, cells: Sequence[Cell]) -> None:
    """Say what is done and what is left, and about how long that takes."""
    known = Known.read(ground.cards, ground.training)
    states = {cell.stem: ground.state(cell) for cell in cells}
    left = [known.prices.of(cell.attack, cell.column) for cell in cells if states[cell.stem] == "open"]
    failed = [cell for cell in cells if states[cell.stem] == "failed"]
    done = sum(state == "done" for state in states.values())
    print(f"{done} of {len(cells)} cells done; left: {len(left)}, about {sum(left) / 3600:.0f} h of one core")
    for cell in failed:
        reason = known.failed.get((cell.attack.name, cell.defense, cell.reserved, cell.seed), "")
        print(f"failed: {cell}: {reason}")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
