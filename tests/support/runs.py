"""What the rest of the world does to a task: the pipeline runs it again, somebody removes its entry, a session dies.

A run follows the pipeline's order: the entry is committed first, then data is written, then the entry says that it is
over.
"""

import os
import shutil
from pathlib import Path

from dev.pipeline import Pipeline, Residue

#: How much a second run writes, so that it can be told from the first (3 files, 2 keys, 2 objects).
FILES, KEYS, OBJECTS = 5, 4, 4


def write_directory(pipeline: Pipeline, task_id: str) -> None:
    """The run writes its directory, in the place of an earlier one."""
    shutil.rmtree(pipeline.root / task_id, ignore_errors=True)
    pipeline.add_directory(task_id, files=FILES)


def run_again(pipeline: Pipeline, task_id: str) -> None:
    """A whole second run: begun, written, completed."""
    pipeline.begin_run(task_id)
    write_directory(pipeline, task_id)
    pipeline.add_keys(task_id, KEYS)
    pipeline.add_objects(task_id, OBJECTS)
    pipeline.complete_run(task_id)


def is_second_run(left: Residue) -> bool:
    """Whether everything that the second run wrote is there, in its place."""
    return (left.directory, left.keys, left.objects) == (FILES, KEYS, OBJECTS) and not left.siblings


def end_sessions(pipeline: Pipeline) -> None:
    """The database ends the operator's open transactions, and has ended them when this returns."""
    with pipeline.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
        )


def siblings_of(pipeline: Pipeline, task_id: str) -> dict[str, int]:
    """The siblings of a task by kind (claimed, deleting), each with the files in it."""
    return {
        path.name.split("-")[0].removeprefix("."): count_files(path) for path in pipeline.root.glob(f".*-{task_id}")
    }


def count_files(path: Path) -> int:
    """The files below a directory, which may vanish meanwhile."""
    return sum(len(files) for _, _, files in os.walk(path))
