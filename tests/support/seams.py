"""Something done exactly before or after one call of the product: the moment a test is about.

Used in-process with pytest's monkeypatch, and by the launcher that kills the operator. What is called stays the
product's own; only the moment is ours.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest  # the operator's process has no need of it

Act = Callable[..., object]
When = Callable[..., bool]


class Crash(BaseException):
    """The process ends here, as far as anybody can see: no `except Exception` of the product catches it."""


def crash(*_: object, **__: object) -> None:
    """End the process at this moment."""
    raise Crash


def failing(error: Exception) -> Act:
    """An act that raises `error`: a service fails at this moment."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def always(*_: object, **__: object) -> bool:
    """Every call is the one that is meant."""
    return True


def around(original: Callable[..., Any], *, before: Act | None, after: Act | None, when: When) -> Callable[..., Any]:
    """`original`; at its first call for which `when(*arguments)` holds, `before` or `after` get the same arguments."""
    lock, is_spent = threading.Lock(), False

    def is_due(*arguments: Any, **options: Any) -> bool:
        nonlocal is_spent
        with lock:
            due = not is_spent and when(*arguments, **options)
            is_spent = is_spent or due
        return due

    @functools.wraps(original)
    def call(*arguments: Any, **options: Any) -> Any:
        due = is_due(*arguments, **options)
        if due and before is not None:
            before(*arguments, **options)
        result = original(*arguments, **options)
        if due and after is not None:
            after(*arguments, **options)
        return result

    return call


def interpose(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    *,
    before: Act | None = None,
    after: Act | None = None,
    when: When = always,
) -> None:
    """Do something once, around a call of `owner.name`, for the length of a test."""
    monkeypatch.setattr(owner, name, around(getattr(owner, name), before=before, after=after, when=when))


def of_task(task_id: str) -> When:
    """For a method of a backend whose first argument is a task id: the call about this one."""
    return lambda _, name, *__, **___: bool(name == task_id)


def says_claimed(_: object, __: object, status: dict[str, Any]) -> bool:
    """For `Cluster.write_status`: the write that confirms a claim."""
    return any(task.get("claimed") for task in status.get("tasks", ()))


def says_ended(_: object, __: object, status: dict[str, Any]) -> bool:
    """For `Cluster.write_status`: the last write of a request."""
    return "completionTime" in status


def says_deleting(_: object, __: object, status: dict[str, Any]) -> bool:
    """For `Cluster.write_status`: the announcement."""
    return any(task.get("state") == "Deleting" for task in status.get("tasks", ()))
