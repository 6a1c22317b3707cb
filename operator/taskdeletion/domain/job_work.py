"""What one Job is to do, and the arguments by which its pod learns of it: exact names, made by the operator alone.

Built by the executor for Jobs, put into a manifest by `domain.job_manifest`, read back from Jobs that are found, and by
the command line of the pod. Pure.
"""

import argparse
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NoReturn

from taskdeletion.domain.siblings import Sibling, parse_sibling
from taskdeletion.domain.task_ids import is_task_id

Verb = Literal["claim", "purge", "undo"]
VERBS: Final[tuple[Verb, ...]] = ("claim", "purge", "undo")
UID_PATTERN: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: Bytes of all names of one Job: the object stays far under what etcd takes, and the arguments under what Linux does.
NAMES_LIMIT_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class JobWork:
    """The work of one Job. `sub_path`: the store's root below the claim. `owner`: uid of the request.

    `task_ids`: to rename (claim), to move back (undo), to measure under their own names (purge, dry run).
    `claimed`: claimed already, only to be looked at (claim). `siblings`: to purge or measure.
    `split`: how many pods a purge may have, for which the claim counts entries. `level`, `of`: see `share`.
    """

    verb: Verb
    owner: str
    sub_path: str
    task_ids: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()
    siblings: tuple[Sibling, ...] = ()
    dry_run: bool = False
    split: int = 1
    level: int = 0
    of: int = 1

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that the pod has to say something about, each once."""
        named = (*self.task_ids, *self.claimed, *(sibling.task_id for sibling in self.siblings))
        return tuple(dict.fromkeys(named))

    @property
    def is_shared(self) -> bool:
        """Whether several pods share the tree."""
        return self.of > 1


def build_arguments(work: JobWork) -> list[str]:
    """The arguments of `taskdeletion` for this work. Names come last, behind `--`: a task id may begin with '-'."""
    found = [work.verb, f"--owner={work.owner}", f"--sub-path={work.sub_path}"]
    found += ["--dry-run"] * work.dry_run
    found += [f"--split={work.split}"] * (work.split > 1)
    found += [f"--level={work.level}", f"--of={work.of}"] * work.is_shared
    found += [f"--claimed={task_id}" for task_id in work.claimed]
    return [*found, "--", *work.task_ids, *(sibling.name for sibling in work.siblings)]


def size_of_names(work: JobWork) -> int:
    """Bytes that the names take in the arguments."""
    return sum(map(len, build_arguments(work)))


def digest_of(work: JobWork) -> str:
    """Eight characters that stand for exactly this work."""
    return hashlib.sha256("\0".join(build_arguments(work)).encode()).hexdigest()[:8]


# --- reading ----------------------------------------------------------------------------------------------------------
class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse_arguments(arguments: Sequence[str]) -> JobWork:
    """The work that these arguments stand for. Raises ValueError for all others."""
    parser = _Parser(add_help=False)
    commands = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    for verb in VERBS:
        add_options(commands.add_parser(verb, add_help=False), verb)
    chosen = parser.parse_args(arguments)
    return read_work(chosen, chosen.verb)


def add_options(parser: argparse.ArgumentParser, verb: Verb) -> None:
    """Declare what the command `verb` takes from its Job."""
    names = "siblings to purge; task ids, too, in a dry run" if verb == "purge" else "task ids"
    parser.add_argument("--owner", metavar="UID", type=_uid, required=True, help="uid of the TaskDeletion")
    parser.add_argument("--sub-path", metavar="PATH", required=True, help="the store's folder below the volume")
    if verb != "undo":
        parser.add_argument("--dry-run", action="store_true", help="look only: move nothing, delete nothing")
    if verb == "claim":
        parser.add_argument(
            "--claimed", metavar="ID", action="append", default=[], type=_task_id, help="claimed already: only look"
        )
        parser.add_argument("--split", metavar="N", type=_positive, default=1, help="count what N pods could share")
    if verb == "purge":
        parser.add_argument("--of", metavar="N", type=_positive, default=1, help="share the tree between N pods")
        parser.add_argument("--level", metavar="L", type=_positive, default=0, help="split what is at this level")
    parser.add_argument("names", metavar="NAME", nargs="*", help=names)


def read_work(chosen: argparse.Namespace, verb: Verb) -> JobWork:
    """The work in what was parsed with `add_options`. Raises ValueError where names do not fit the command."""
    known = {one.name for one in fields(JobWork)}
    given: dict[str, Any] = {name: value for name, value in vars(chosen).items() if name in known - {"verb"}}
    siblings = [found for found in map(parse_sibling, chosen.names) if found is not None]
    task_ids = [_task_id(name) for name in chosen.names if parse_sibling(name) is None]
    if verb == "purge" and task_ids and not chosen.dry_run:
        raise ValueError("only what was moved aside is ever purged: name siblings")
    if verb != "purge" and siblings:
        raise ValueError(f"{verb} takes task ids, no siblings")
    if given.get("of", 1) > 1 and not given["level"]:
        raise ValueError("a share needs the level at which the tree is split: --level")
    given["claimed"] = tuple(given.get("claimed", ()))
    return JobWork(verb, **given, task_ids=tuple(task_ids), siblings=tuple(siblings))


def _task_id(value: str) -> str:
    if not is_task_id(value):
        raise ValueError(f"{value!r} is no task id")
    return value


def _uid(value: str) -> str:
    if re.fullmatch(UID_PATTERN, value) is None:
        raise ValueError(f"{value!r} is no uid")
    return value


def _positive(value: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,3}", value) is None:
        raise ValueError(f"{value!r} is no number from 1 to 9999")
    return int(value)
