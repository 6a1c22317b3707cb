"""Many small tasks, or few large ones, put into a pipeline's stores quickly, and the check that nothing is left.

Used by `bench.lines.operator`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bench.requests import WorkNotDoneError
from dev.pipeline import Pipeline

FILES: Final = 3
KEYS: Final = 2
OBJECTS: Final = 2
STEPS: Final = 2


def add_rows(pipeline: Pipeline, task_ids: Sequence[str]) -> None:
    """The rows of these tasks, and no others."""
    with pipeline.connect() as connection:
        connection.execute("TRUNCATE data_pipeline_tasks, data_pipeline_task_steps")
        connection.cursor().executemany(
            "INSERT INTO data_pipeline_tasks (task_id, status, created_at)"
            " VALUES (%s, 'completed', now() - interval '30 days')",
            [(task_id,) for task_id in task_ids],
        )
        connection.cursor().executemany(
            "INSERT INTO data_pipeline_task_steps (task_id, name, status) VALUES (%s, 'step', 'completed')",
            [(task_id,) for task_id in task_ids for _ in range(STEPS)],
        )


def add_small_tasks(pipeline: Pipeline, task_ids: Sequence[str]) -> None:
    """Every task with 3 files, 2 keys, 2 objects, a row and 2 steps."""
    add_rows(pipeline, task_ids)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda task_id: pipeline.add_objects(task_id, OBJECTS), task_ids))
    for task_id in task_ids:
        pipeline.add_directory(task_id, files=FILES)
        pipeline.add_keys(task_id, KEYS)


def add_large_task(pipeline: Pipeline, task_id: str, *, files: int, file_bytes: int) -> None:
    """The directory of one task, on the disk before this returns."""
    directory = pipeline.root / task_id
    directory.mkdir(parents=True)
    content = os.urandom(file_bytes)
    for number in range(files):
        (directory / f"part-{number}.bin").write_bytes(content)
    os.sync()


def require_gone(pipeline: Pipeline, task_ids: Sequence[str]) -> None:
    """WorkNotDoneError unless nothing of any task is left but rows that say so."""
    with pipeline.connect() as connection:
        marked = connection.execute("SELECT count(*) FROM data_pipeline_tasks WHERE NOT directory_exists").fetchone()
    left = {
        "directories": len(os.listdir(pipeline.root)),
        "keys": sum(1 for _ in pipeline.redis.scan_iter(f"{pipeline.prefix}task:*", count=1000)),
        "objects": sum(1 for _ in pipeline.s3.list_objects(pipeline.bucket, recursive=True)),
        "rows that are not marked": len(task_ids) - (marked[0] if marked else 0),
    }
    if any(left.values()):
        raise WorkNotDoneError(f"left behind: {left}")
