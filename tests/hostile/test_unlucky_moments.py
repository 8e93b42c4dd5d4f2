"""Disks that fill up, too few handles, folders that go, and two at once: one clear error, and then the same result."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))

from kill_native import Scenario, state
from native_scenarios import SCENARIOS, TIMED, case, movers, own_files, pictures, whole_run, written
from processes import forked

from elixir_plugin.errors import ElixirError, RunError
from elixir_plugin.io import atomic
from elixir_plugin.io.atomic import alone_in, atomic_file, atomic_folder, is_leftover, remove_leftovers

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.usefixtures("offered", "no_figures"),
]
CLEAR, OTHER, WELL = 3, 4, 0


@pytest.fixture
def offered() -> Iterator[None]:
    with movers():
        yield


def outcome_of(action: Callable[[], object], limit: Callable[[], object] = lambda: None) -> int:
    """Run *action* in a child process under *limit*: 0 when it ended well, 3 with one clear error, 4 with another."""

    def child() -> None:
        limit()
        try:
            action()
        except ElixirError as error:
            os._exit(CLEAR if error.where is not None else OTHER)
        except BaseException:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            traceback.print_exc()
            os._exit(OTHER)

    return os.waitstatus_to_exitcode(os.waitpid(forked(child), 0)[1])


def chosen(*names: str) -> list[Scenario]:
    return [each for each in SCENARIOS if each.name in names]


WRITERS = [
    pytest.param(each, id=each.name)
    for each in chosen("image folder", "arrays over another run", "toolbox", "record, defense folder", "run", "card")
]


def tried(scenario: Scenario, place: Path, limit: Callable[[], object], *, clean: bool = True) -> int:
    """Run a scenario under *limit*, then without; it must end as it does without.

    :param clean: whether nothing half-written may be left by the first, either.
    """
    given, work = place / "given", place / "work"
    given.mkdir()
    scenario.prepare(given)
    shutil.copytree(given, work)
    assert outcome_of(lambda: scenario.act(work)) == WELL
    wanted = state(work, scenario.ignored)
    shutil.rmtree(work)
    shutil.copytree(given, work)
    code = outcome_of(lambda: scenario.act(work), limit)
    left = [name for name in state(work) if is_leftover(Path(name).name)]
    assert not (clean and left), f"half-written files stay: {left}"
    scenario.act(work)
    assert state(work, scenario.ignored) == wanted
    return code


@pytest.mark.parametrize("scenario", WRITERS)
def test_files_that_may_not_become_larger(tmp_path: Path, scenario: Scenario) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # bytes; writing more is EFBIG

    assert tried(scenario, tmp_path, limit) == CLEAR


@pytest.mark.parametrize("scenario", WRITERS)
@pytest.mark.parametrize("left", [1, pytest.param(3, marks=pytest.mark.e2e), pytest.param(6, marks=pytest.mark.e2e)])
def test_few_file_descriptors(tmp_path: Path, scenario: Scenario, left: int) -> None:
    def limit() -> None:
        used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 64
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + left, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    code = tried(scenario, tmp_path, limit, clean=False)  # without a handle, no folder can be removed
    assert code in (WELL, CLEAR)


@pytest.mark.parametrize("scenario", WRITERS)
@pytest.mark.parametrize("number", [errno.EIO, pytest.param(errno.EROFS, marks=pytest.mark.e2e)])
def test_a_disk_that_fails_at_the_last_step(tmp_path: Path, scenario: Scenario, number: int) -> None:
    def limit() -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        Path.replace = fail  # type: ignore[assignment,method-assign]  (in the child alone)

    assert tried(scenario, tmp_path, limit) == CLEAR


@pytest.mark.parametrize("scenario", WRITERS)
def test_a_disk_that_is_full(tmp_path: Path, scenario: Scenario) -> None:
    """A small file system that fills up at some file; then there is room, and the run goes on."""
    given, work = tmp_path / "given", tmp_path / "work"
    given.mkdir()
    work.mkdir()
    scenario.prepare(given)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", work], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        shutil.copytree(given, work, dirs_exist_ok=True)
        scenario.act(work)
        wanted = state(work, scenario.ignored)
        codes = []
        for room in (0, 4096, 40_960):
            for path in work.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copytree(given, work, dirs_exist_ok=True)
            space = os.statvfs(work)
            filler = work / "filler"
            filler.write_bytes(b"\1" * max(0, space.f_bavail * space.f_frsize - room))
            codes.append(outcome_of(lambda: scenario.act(work)))
            filler.unlink()
            assert not [name for name in state(work) if is_leftover(Path(name).name)]
            scenario.act(work)
            assert state(work, scenario.ignored) == wanted
        assert codes[0] == CLEAR and set(codes) <= {CLEAR, WELL}
    finally:
        subprocess.run(["umount", work], check=True)


def test_a_target_that_goes_in_the_middle(tmp_path: Path) -> None:
    act = written("arrays", "out", lambda folder: case())

    def limit() -> None:
        made = atomic._made

        def gone(*given: object) -> Path:
            shutil.rmtree(tmp_path / "out")
            return made(*given)  # type: ignore[arg-type]

        atomic._made = gone  # type: ignore[assignment]  (in the child alone)

    assert outcome_of(lambda: act(tmp_path), limit) == CLEAR
    act(tmp_path)
    assert not [name for name in state(tmp_path) if is_leftover(Path(name).name)]


def test_the_same_command_twice_at_once(tmp_path: Path) -> None:
    pictures(tmp_path)
    for _ in range(3):
        pids = [forked(lambda: whole_run()(tmp_path)) for _ in range(2)]
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
        assert codes[0] == 0 and codes[1] in (0, 1)  # done by the other, or told that another process is at it
        both = state(tmp_path, TIMED)
        for folder in ("run-0", "native"):
            shutil.rmtree(tmp_path / folder)
        whole_run()(tmp_path)
        assert state(tmp_path, TIMED) == both
        for folder in ("run-0", "native"):
            shutil.rmtree(tmp_path / folder)


@pytest.mark.parametrize("adapter", ["image_folder", "arrays"])
def test_two_runs_that_write_to_one_place(tmp_path: Path, adapter: str) -> None:
    own_files(tmp_path / "out")
    ends = []
    for first in (0, 40):
        act = written(adapter, "out", lambda folder: case(), first)
        act(tmp_path)
        ends.append(state(tmp_path))
    acts = [written(adapter, "out", lambda folder: case(), first) for first in (0, 40)]
    for _ in range(3):
        pids = [forked(lambda act=act: act(tmp_path)) for act in acts]  # type: ignore[misc]
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
        assert state(tmp_path) in ends  # the results of one of them, and nothing of the other


def test_what_another_process_is_writing_is_no_leftover(tmp_path: Path) -> None:
    left, wait = os.pipe(), os.pipe()

    def other() -> None:
        with atomic_file(tmp_path / "a") as file, atomic_folder(tmp_path / "b") as folder:
            file.write_text("theirs")
            (folder / "c").write_text("theirs")
            os.write(left[1], b"x")
            os.read(wait[0], 1)

    pid = forked(other)
    os.read(left[0], 1)
    remove_leftovers(tmp_path)
    assert sum(is_leftover(path.name) for path in tmp_path.iterdir()) == 2
    with atomic_file(tmp_path / "a") as file, atomic_folder(tmp_path / "b") as folder:
        file.write_text("ours")
        (folder / "c").write_text("ours")
    assert (tmp_path / "a").read_text() == (tmp_path / "b" / "c").read_text() == "ours"
    os.write(wait[1], b"x")
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b" / "c").read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_leftovers_of_other_names_stay(tmp_path: Path) -> None:
    mine = [".a.abcd1234.part", ".a.abcd1234.old.part"]
    others = [".b.abcd1234.part", ".a.part", "a.abcd1234.part", ".a.ABCD1234.part", ".a.abcd1234.part.txt", ".a.b.part"]
    for name in (*mine, *others):
        (tmp_path / name).write_text(name)
    (tmp_path / "a").write_text("there")
    remove_leftovers(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "a"])
    assert (tmp_path / "a").read_text() == "there"


def test_a_lock_on_what_is_no_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "nothing"):
        with pytest.raises(RunError, match="cannot write"), alone_in(tmp_path / name):
            pass
