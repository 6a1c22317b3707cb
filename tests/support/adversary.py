"""Somebody who tries to lead a purge astray: at random, as fast as it goes, in a process beside.

Called by the tests of the directory backend. Everything it does stays within the scene: directories of the task become
links to the outside and come back, move out and in, below each other, lose their permissions; as root it mounts too.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.support.children import exchange, mount, unmount
from tests.support.trees import Scene, entries_of, make_tree

_NAMES = ("", "a", "b", "last", "a/a", "a/b", "b/a", "b/b", "more", "more/a", "more/b")


class Adversary:
    """Its choices follow from the seed; at which moment of the purge they fall is up to the machine."""

    def __init__(self, scene: Scene, seed: int, *, mounts: bool) -> None:
        self._scene = scene
        self._random = random.Random(seed)
        self._outside = {_identity(path) for path in entries_of(scene.outside)}
        self._numbers = iter(range(1_000_000))
        self._acts: list[Callable[[Path, Path], object]] = [
            self._exchange_for_link,
            self._replace_by_link,
            self._move_out,
            self._come_back,
            self._nest,
            self._close,
            self._write,
            *((self._mount,) * 2 if mounts else ()),
        ]

    def act(self) -> bool:
        """Try one thing; whether it was done."""
        if self._random.random() < 0.1:
            self.clean_up()
        name = self._random.choice(_NAMES)
        act = self._random.choice(self._acts)
        place = self._scene.sibling / name
        try:
            self._require_inside(place)
            act(place, self._scene.outside / name)
        except OSError:  # the purge was there first, or the place is taken
            return False
        return True

    def clean_up(self) -> None:
        """Take the mounts away, wherever they were moved; what is in limbo stays."""
        base = os.fsencode(self._scene.base) + b"/"
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
        for point in reversed([point for point in points if point.startswith(base)]):
            unmount(Path(os.fsdecode(point)))

    def _require_inside(self, place: Path) -> None:
        """The adversary itself must not reach the outside through its own links and mounts."""
        parents = [parent for parent in place.parents if parent.is_relative_to(self._scene.sibling)]
        if any(parent.is_symlink() for parent in parents):
            raise FileNotFoundError(place)
        if any(_identity(path) in self._outside for path in (place, *parents) if path.exists()):
            raise FileNotFoundError(place)

    def _aside(self) -> Path:
        return self._scene.limbo / f"aside-{next(self._numbers)}"

    def _exchange_for_link(self, place: Path, target: Path) -> None:
        """In one atomic step, and perhaps back."""
        link = self._aside()
        link.symlink_to(target)
        exchange(place, link)
        if self._random.random() < 0.5:
            exchange(place, link)

    def _replace_by_link(self, place: Path, target: Path) -> None:
        place.rename(self._aside())
        place.symlink_to(target)

    def _move_out(self, place: Path, _: Path) -> None:
        place.rename(self._aside())

    def _come_back(self, place: Path, _: Path) -> None:
        """A directory from limbo, or a new one, takes the place."""
        known = [path for path in self._scene.limbo.iterdir() if not path.is_symlink()]
        source = self._random.choice(known) if known else make_tree(self._aside(), depth=2)
        os.rename(source, place)

    def _nest(self, place: Path, _: Path) -> None:
        """A directory lies below one that was beside it."""
        target = self._scene.sibling / self._random.choice(_NAMES) / "more"
        self._require_inside(target)
        place.rename(target)

    def _close(self, place: Path, _: Path) -> None:
        if not place.is_symlink():
            place.chmod(self._random.choice((0o300, 0o500, 0o700)))

    def _write(self, place: Path, _: Path) -> None:
        make_tree(new := self._aside(), depth=self._random.randint(1, 3))
        self._require_inside(place / "more")
        new.rename(place / "more")

    def _mount(self, place: Path, target: Path) -> None:
        mount(target, place)
        if self._random.random() < 0.5:
            unmount(place)


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
