"""Trees too deep, too wide or too large for a simple walk: counted exactly, with few descriptors and little memory."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.domain.results import never_halt
from taskdeletion.domain.siblings import Sibling
from tests.support.children import ORDINARY, User
from tests.support.trees import OWNER, SIBLING, Result, Scene, purge_side_by_side
from tests.support.walks import WalkKind

DESCRIPTORS = 256
MEBIBYTE = 1 << 20


@contextmanager
def scene_in_memory(user: User) -> Iterator[Scene]:
    """A scene in memory where the machine has one: to make many files is not what is tested."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    base = Path(tempfile.mkdtemp(prefix="hostile-", dir=memory if usable else None))
    base.chmod(0o755)
    scene = Scene(base, user)
    scene.build()
    yield scene
    shutil.rmtree(base)


@pytest.fixture
def big_scene(user: User, walk_kind: WalkKind) -> Iterator[Scene]:
    """One per user and walk."""
    with scene_in_memory(user) as found:
        yield found


def make_deep(at: Path, levels: int, user: User) -> None:
    """Each level holds one directory and one empty file."""
    current = os.open(at, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a", dir_fd=current)
        deeper = os.open("a", os.O_RDONLY, dir_fd=current)
        os.mknod("file-0", dir_fd=current)
        for name in ("a", "file-0"):
            if user.uid != os.geteuid():
                os.chown(name, user.uid, user.uid, dir_fd=current)
        os.close(current)
        current = deeper
    os.close(current)


def make_flat(at: Path, count: int) -> None:
    """Many empty files in one directory. Whose they are does not matter: they go with the right to their folder."""
    directory = os.open(at, os.O_RDONLY)
    for number in range(count):
        os.mknod(f"file-{number}", dir_fd=directory)
    os.close(directory)


def with_few_descriptors(root: DirectoryRoot, *siblings: Sibling) -> list[Result]:
    """Purges side by side in a process that may hold few files open, and leaves none open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    measured = [root.measure(sibling, never_halt) for sibling in siblings]
    before = os.listdir("/proc/self/fd")
    found = purge_side_by_side(root, *siblings)
    assert os.listdir("/proc/self/fd") == before
    assert found == measured
    return found


def test_five_thousand_levels_go_with_256_descriptors(big_scene: Scene) -> None:
    make_deep(big_scene.sibling, 5000, big_scene.user)
    with big_scene.nothing_else_changes():
        assert big_scene.run(lambda root: with_few_descriptors(root, SIBLING)) == [(Purged(5000, 0), None)]
    assert not big_scene.sibling.exists()


def test_eight_deep_tasks_side_by_side_go_with_256_descriptors(big_scene: Scene) -> None:
    siblings = [Sibling("deleting", OWNER, f"deep_{number}") for number in range(8)]
    for sibling in siblings:
        (big_scene.root / sibling.name).mkdir()
        big_scene.hand_over(big_scene.root / sibling.name)
        make_deep(big_scene.root / sibling.name, 400, big_scene.user)
    before = big_scene.snapshot()
    found = big_scene.run(lambda root: with_few_descriptors(root, *siblings))
    assert found == [(Purged(400, 0), None)] * 8
    after = big_scene.snapshot()
    gone = tuple(str(big_scene.root / sibling.name) for sibling in siblings)
    assert after == {name: entry for name, entry in before.items() if not name.startswith(gone)}


@pytest.mark.parametrize(("width", "depth"), [(10_000, 1), (100, 60)], ids=["ten thousand", "a hundred chains"])
def test_many_directories_go_with_256_descriptors(big_scene: Scene, width: int, depth: int) -> None:
    for number in range(width):
        (big_scene.sibling / str(number)).mkdir()
    big_scene.hand_over(big_scene.sibling)
    for number in range(width):
        make_deep(big_scene.sibling / str(number), depth - 1, big_scene.user)
    expected = [(Purged(width * (depth - 1), 0), None)]
    with big_scene.nothing_else_changes():
        assert big_scene.run(lambda root: with_few_descriptors(root, SIBLING)) == expected
    assert not big_scene.sibling.exists()


def purge_and_weigh(root: DirectoryRoot) -> tuple[Result, int, int]:
    """The result, the growth of the process at its peak in bytes, and how often halt was asked."""
    root.purge(Sibling("deleting", OWNER, "absent"), never_halt)  # loads what the first purge loads
    before = resident_bytes("VmRSS")
    asked: list[None] = []

    def halt() -> None:
        asked.append(None)

    found = root.purge(SIBLING, halt)
    return found, resident_bytes("VmHWM") - before, len(asked)


def resident_bytes(name: str) -> int:
    """A line of /proc/self/status. The peak of a forked child begins at what it has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def assert_counted_in_little_memory(scene: Scene, count: int) -> None:
    """A purge of so many files in one directory."""
    make_flat(scene.sibling, count)
    with scene.nothing_else_changes():
        found, grown_bytes, asked = scene.run(purge_and_weigh)
    assert found == (Purged(count, 0), None)
    assert grown_bytes < 20 * MEBIBYTE
    assert asked >= count // 1000, "a halt has to be able to stop it"
    assert not scene.sibling.exists()


def test_a_hundred_thousand_files_in_one_directory_are_counted_exactly_in_little_memory(big_scene: Scene) -> None:
    assert_counted_in_little_memory(big_scene, 100_000)


def test_half_a_million_files_in_one_directory_are_counted_exactly_in_little_memory(walk_kind: WalkKind) -> None:
    with scene_in_memory(ORDINARY) as scene:
        assert_counted_in_little_memory(scene, 500_000)
