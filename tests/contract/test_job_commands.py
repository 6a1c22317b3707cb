"""What the pod of a Job does on a real file system: `taskdeletion claim`, `purge` and `undo` as processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.domain.job_lines import Progress, TaskLine
from taskdeletion.domain.job_work import JobWork
from taskdeletion.domain.siblings import Sibling
from tests.support.children import ORDINARY, User, needs_root
from tests.support.pod import ROOT, PodProcess, run_pod
from tests.support.trees import OWNER, STRANGER, TREE, make_tree, snapshot

CLAIM = JobWork("claim", OWNER, "tasks/$(HOME)", task_ids=("task_1", "-task_2", "task_3"))
PURGE = JobWork("purge", OWNER, CLAIM.sub_path)


def claimed(task_id: str, owner: str = OWNER) -> Sibling:
    return Sibling("claimed", owner, task_id)


def deleting(task_id: str, owner: str = OWNER) -> Sibling:
    return Sibling("deleting", owner, task_id)


@pytest.fixture
def volume(user: User) -> Iterator[Path]:
    """A volume with two of three tasks and a neighbour, all of the user's. Not where ordinary users may not go."""
    base = Path(tempfile.mkdtemp(prefix="pod-"))
    root = base / CLAIM.sub_path
    root.mkdir(parents=True)
    for name in ("task_1", "-task_2", "task_10"):
        make_tree(root / name)
    for path in (base, *base.rglob("*")):
        os.chown(path, user.uid, user.uid, follow_symlinks=False)
    yield base
    shutil.rmtree(base)


@pytest.fixture
def root(volume: Path) -> Path:
    """The store's root on it."""
    return volume / CLAIM.sub_path


def names(root: Path) -> set[str]:
    return set(os.listdir(root))


def make_flat(root: Path, name: str, files: int, user: User) -> None:
    """A task with so many files of one byte."""
    (root / name).mkdir()
    for number in range(files):
        (root / name / f"file-{number}").write_bytes(b"1")
    for path in (root / name, *(root / name).iterdir()):
        os.chown(path, user.uid, user.uid)


# --- claim ------------------------------------------------------------------------------------------------------------
def test_a_claim_moves_what_it_names_and_says_what_is_there(volume: Path, root: Path, user: User) -> None:
    before = snapshot(root / "task_10")
    log = run_pod(CLAIM, volume, uid=user.uid)

    assert names(root) == {claimed("task_1").name, claimed("-task_2").name, "task_10"}
    assert snapshot(root / "task_10") == before
    assert list(log.tasks.values()) == [
        TaskLine("task_1", siblings=(claimed("task_1"),)),
        TaskLine("-task_2", siblings=(claimed("-task_2"),)),
        TaskLine("task_3"),
    ]


def test_a_second_claim_never_looks_at_a_directory_that_appeared_meanwhile(
    volume: Path, root: Path, user: User
) -> None:
    """Whoever made it: here one that could not be emptied."""
    run_pod(CLAIM, volume, uid=user.uid)
    make_tree(root / "task_1")
    log = run_pod(CLAIM, volume, uid=user.uid)

    assert names(root) == {claimed("task_1").name, claimed("-task_2").name, "task_10", "task_1"}
    assert log.tasks["task_1"] == TaskLine("task_1", directory=True, siblings=(claimed("task_1"),))


def test_what_is_claimed_already_is_only_looked_at(volume: Path, root: Path, user: User) -> None:
    """Its purge may be done: a directory that is there now is a new one."""
    log = run_pod(replace(CLAIM, task_ids=("-task_2",), claimed=("task_1",)), volume, uid=user.uid)

    assert names(root) == {"task_1", claimed("-task_2").name, "task_10"}
    assert log.tasks["task_1"] == TaskLine("task_1", directory=True)


def test_siblings_of_others_are_reported_and_left_alone(volume: Path, root: Path, user: User) -> None:
    (root / "-task_2").rename(root / deleting("-task_2", STRANGER).name)
    log = run_pod(CLAIM, volume, uid=user.uid)

    assert log.tasks["-task_2"].siblings == (deleting("-task_2", STRANGER),)
    assert deleting("-task_2", STRANGER).name in names(root)


def test_a_dry_run_claims_nothing(volume: Path, root: Path, user: User) -> None:
    before = snapshot(volume)
    log = run_pod(replace(CLAIM, dry_run=True), volume, uid=user.uid)

    assert snapshot(volume) == before
    assert [line.directory for line in log.tasks.values()] == [True, True, False]


@needs_root
@pytest.mark.parametrize("user", [ORDINARY], ids=["ordinary"], indirect=True)
def test_what_may_not_be_emptied_is_not_moved_and_the_others_are(volume: Path, root: Path, user: User) -> None:
    for path in (root / "task_1", *(root / "task_1").rglob("*")):
        os.chown(path, 0, 0)
    log = run_pod(CLAIM, volume, uid=user.uid)

    assert names(root) == {"task_1", claimed("-task_2").name, "task_10"}
    fault = log.tasks["task_1"].fault
    assert fault is not None
    assert (fault.kind, fault.reason) == ("permanent", reasons.PERMISSION_DENIED)


@pytest.mark.parametrize(
    ("sub_path", "options", "reason"),
    [
        pytest.param("nowhere", ("--allow-unmounted",), reasons.STORE_ROOT_MISSING, id="no folder"),
        pytest.param(CLAIM.sub_path, (), reasons.VOLUME_NOT_MOUNTED, id="nothing is mounted"),
    ],
)
@pytest.mark.parametrize("work", [CLAIM, replace(PURGE, siblings=(claimed("task_1"),))], ids=["claim", "purge"])
def test_an_unmounted_volume_is_never_an_empty_one(
    volume: Path, user: User, work: JobWork, sub_path: str, options: tuple[str, ...], reason: str
) -> None:
    log = run_pod(replace(work, sub_path=sub_path), volume, uid=user.uid, options=options)

    assert log.tasks == {}
    assert log.closing is not None
    assert log.closing.fault is not None
    assert (log.closing.fault.kind, log.closing.fault.reason) == ("waiting", reason)


# --- undo -------------------------------------------------------------------------------------------------------------
def test_an_undo_gives_back_what_was_claimed_and_never_replaces(volume: Path, root: Path, user: User) -> None:
    before = snapshot(root / "task_1")
    run_pod(CLAIM, volume, uid=user.uid)
    make_tree(root / "-task_2")
    appeared = snapshot(root / "-task_2")
    log = run_pod(replace(CLAIM, verb="undo"), volume, uid=user.uid)

    after = snapshot(root / "task_1")
    assert {path: entry.content for path, entry in after.items()} == {
        path: entry.content for path, entry in before.items()
    }
    assert snapshot(root / "-task_2") == appeared
    assert names(root) == {"task_1", "-task_2", claimed("-task_2").name, "task_10"}
    assert [line.fault.reason if line.fault else None for line in log.tasks.values()] == [
        None,
        reasons.RENAME_NOT_UNDONE,
        None,
    ]


# --- purge ------------------------------------------------------------------------------------------------------------
def test_a_purge_empties_exactly_the_named_siblings(volume: Path, root: Path, user: User) -> None:
    run_pod(CLAIM, volume, uid=user.uid)
    make_tree(root / "task_1")
    (root / "task_10").rename(root / claimed("task_10", STRANGER).name)
    before = snapshot(root, without=[root / claimed(name).name for name in ("task_1", "-task_2")])
    log = run_pod(replace(PURGE, siblings=(claimed("task_1"), claimed("-task_2"))), volume, uid=user.uid)

    assert list(log.tasks.values()) == [
        TaskLine("task_1", TREE.files, TREE.bytes, directory=True),
        TaskLine("-task_2", TREE.files, TREE.bytes),
    ]
    gone = {f"{claimed(name).name}" for name in ("task_1", "-task_2")}
    after = snapshot(root)
    assert after.keys() == {path for path in before if not any(name in path for name in gone)}


def test_siblings_of_one_task_are_counted_together(volume: Path, root: Path, user: User) -> None:
    run_pod(CLAIM, volume, uid=user.uid)
    (root / "task_10").rename(root / deleting("task_1", STRANGER).name)
    siblings = (claimed("task_1"), deleting("task_1", STRANGER))
    log = run_pod(replace(PURGE, siblings=siblings), volume, uid=user.uid)

    assert log.tasks == {"task_1": TaskLine("task_1", 2 * TREE.files, 2 * TREE.bytes)}


def test_a_dry_run_measures_and_deletes_nothing(volume: Path, root: Path, user: User) -> None:
    (root / "task_10").rename(root / deleting("task_1", STRANGER).name)
    before = snapshot(volume)
    work = replace(PURGE, dry_run=True, task_ids=("task_1",), siblings=(deleting("task_1", STRANGER),))
    log = run_pod(work, volume, uid=user.uid)

    assert snapshot(volume) == before
    assert (log.tasks["task_1"].files, log.tasks["task_1"].bytes) == (2 * TREE.files, 2 * TREE.bytes)


def test_a_purge_that_is_told_to_stop_says_what_it_did_and_the_next_pod_goes_on(
    volume: Path, root: Path, user: User
) -> None:
    make_flat(root, deleting("task_3").name, 200, user)
    work = replace(PURGE, siblings=(deleting("task_3"),))
    first = PodProcess(work, volume, uid=user.uid, unlink_ms=10, progress_seconds=0.05)
    assert isinstance(first.read_line(), Progress)
    first.send(signal.SIGTERM)

    assert first.wait() == 75
    assert first.log.is_complete
    begun = first.log.tasks["task_3"]
    assert 0 < begun.files < 200
    assert begun.fault is not None
    assert begun.fault.reason == reasons.INTERRUPTED
    assert len(list((root / deleting("task_3").name).iterdir())) == 200 - begun.files
    finished = run_pod(work, volume, uid=user.uid).tasks["task_3"]
    assert finished == TaskLine("task_3", 200 - begun.files, 200 - begun.files)


def test_what_a_killed_purge_said_has_happened_and_the_next_pod_goes_on(volume: Path, root: Path, user: User) -> None:
    make_flat(root, claimed("task_3").name, 200, user)
    work = replace(PURGE, siblings=(claimed("task_3"),))
    first = PodProcess(work, volume, uid=user.uid, unlink_ms=10, progress_seconds=0.05)
    assert isinstance(first.read_line(), Progress)
    first.send(signal.SIGKILL)

    assert first.wait() == -signal.SIGKILL
    assert not first.log.is_complete
    left = len(list((root / deleting("task_3").name).iterdir()))
    said = first.log.progress["task_3"]
    assert 0 < said.files <= 200 - left
    assert run_pod(work, volume, uid=user.uid).tasks["task_3"] == TaskLine("task_3", left, left)


# --- several pods -----------------------------------------------------------------------------------------------------
def test_pods_share_a_tree_without_overlap_and_the_last_one_finishes(volume: Path, root: Path, user: User) -> None:
    make_flat(root, "task_3", 300, user)
    for name in ("a", "b", "c"):
        make_tree(root / "task_3" / name)
    for path in (root / "task_3").rglob("*"):
        os.chown(path, user.uid, user.uid)
    total = 300 + 3 * TREE.files
    claim = replace(CLAIM, task_ids=("task_3",), split=4)
    closing = run_pod(claim, volume, uid=user.uid).closing
    assert closing is not None
    assert closing.level == 1
    work = replace(PURGE, siblings=(claimed("task_3"),))
    pods = [
        PodProcess(replace(work, of=4, level=closing.level), volume, uid=user.uid, index=index, unlink_ms=1)
        for index in range(4)
    ]

    assert [pod.wait() for pod in pods] == [0, 0, 0, 0]
    shares = [pod.log.tasks["task_3"] for pod in pods]
    assert sum(share.files for share in shares) == total
    assert all(30 < share.files < total / 2 for share in shares), shares
    assert [share.siblings for share in shares] == [(deleting("task_3"),)] * 4
    assert run_pod(work, volume, uid=user.uid).tasks["task_3"] == TaskLine("task_3")


@pytest.mark.parametrize(("depth", "level"), [(1, 2), (2, 3), (5, 0)])
def test_the_claim_finds_the_level_that_has_enough_entries(
    volume: Path, root: Path, user: User, depth: int, level: int
) -> None:
    deep = root / "task_3" / "/".join(f"d{number}" for number in range(depth))
    deep.mkdir(parents=True)
    for number in range(40):
        (deep / str(number)).touch()
    log = run_pod(replace(CLAIM, task_ids=("task_3",), split=2), volume)

    assert log.closing is not None
    assert log.closing.level == level


def test_a_share_keeps_what_lies_above_its_level(volume: Path, root: Path, user: User) -> None:
    (root / "task_10").rename(root / deleting("task_10").name)
    work = replace(PURGE, siblings=(deleting("task_10"),), of=2, level=2)
    shares = [run_pod(work, volume, uid=user.uid, index=index).tasks["task_10"] for index in range(2)]

    assert sum(share.files for share in shares) == TREE.files
    assert {path.name for path in root.glob(".deleting-*/**/*")} == {"a", "b", "last"}


def test_a_pod_that_finds_no_sibling_to_share_fails(volume: Path, user: User) -> None:
    """Not so the last one: a name that is gone is done."""
    work = replace(PURGE, siblings=(claimed("task_3"),))
    pod = PodProcess(replace(work, of=2, level=1), volume, uid=user.uid, index=1)

    assert pod.wait() == 65
    assert pod.log.closing is not None
    assert pod.log.closing.fault is not None
    assert pod.log.closing.fault.reason == reasons.JOB_FAILED
    assert run_pod(work, volume, uid=user.uid).tasks["task_3"] == TaskLine("task_3")


# --- the command itself -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["purge", "task_1"], id="a purge of a task"),
        pytest.param(["purge", f".claimed-{OWNER}-../x"], id="no sibling"),
        pytest.param(["purge", "--of=2", claimed("task_1").name], id="a share without a level"),
        pytest.param(["purge", "--of=2", "--level=1", "--index=2", claimed("task_1").name], id="no such share"),
        pytest.param(["claim", claimed("task_1").name], id="a claim of a sibling"),
        pytest.param(["claim", "a/b"], id="no task id"),
        pytest.param(["undo", "--dry-run", "task_1"], id="an unknown option"),
    ],
)
@pytest.mark.parametrize("user", [User("whoever tests", os.geteuid())], ids=["self"], indirect=True)
def test_what_cannot_be_meant_is_refused_before_anything_is_touched(
    volume: Path, user: User, arguments: list[str]
) -> None:
    before = snapshot(volume)
    verb, *rest = arguments
    fixed = [f"--owner={OWNER}", f"--sub-path={CLAIM.sub_path}", f"--volume={volume}", "--allow-unmounted"]
    command = [sys.executable, "-m", "taskdeletion", verb, *fixed, *rest]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT / "operator")}, capture_output=True)

    assert done.returncode == 2, done.stderr
    assert snapshot(volume) == before


def test_the_command_starts_without_the_clients_of_services() -> None:
    code = (
        "import sys; import taskdeletion.executors.in_pod, taskdeletion.__main__;"
        " print(sorted({'kopf', 'kubernetes', 'psycopg', 'redis', 'minio', 'urllib3'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
