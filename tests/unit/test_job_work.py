"""What a Job is to do becomes arguments and comes back the same; what nobody would build is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskdeletion.domain.job_work import JobWork, build_arguments, digest_of, parse_arguments, size_of_names
from taskdeletion.domain.siblings import Sibling

OWNER = "11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"
task_ids = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,12}", fullmatch=True)
owners = st.sampled_from([OWNER, OTHER])
siblings = st.builds(Sibling, st.sampled_from(["claimed", "deleting"]), owners, task_ids)
sub_paths = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
works = st.one_of(
    st.builds(
        JobWork,
        st.just("claim"),
        owners,
        sub_paths,
        task_ids=st.lists(task_ids, unique=True).map(tuple),
        claimed=st.lists(task_ids, unique=True).map(tuple),
        dry_run=st.booleans(),
        split=st.integers(1, 64),
    ),
    st.builds(
        JobWork, st.just("undo"), owners, sub_paths, task_ids=st.lists(task_ids, unique=True, min_size=1).map(tuple)
    ),
    st.builds(JobWork, st.just("purge"), owners, sub_paths, siblings=st.lists(siblings, min_size=1).map(tuple)),
    st.builds(
        JobWork,
        st.just("purge"),
        owners,
        sub_paths,
        siblings=st.lists(siblings, min_size=1).map(tuple),
        of=st.integers(2, 64),
        level=st.integers(1, 4),
    ),
    st.builds(
        JobWork,
        st.just("purge"),
        owners,
        sub_paths,
        task_ids=st.lists(task_ids, unique=True, min_size=1).map(tuple),
        siblings=st.lists(siblings).map(tuple),
        dry_run=st.just(True),
    ),
)


@given(works)
def test_the_arguments_say_exactly_what_the_work_is(work: JobWork) -> None:
    assert parse_arguments(build_arguments(work)) == work


@given(works, works)
def test_a_digest_stands_for_one_work(one: JobWork, other: JobWork) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["operator"], id="another command"),
        pytest.param(["claim", "--sub-path=x", "--", "a"], id="no owner"),
        pytest.param(["claim", "--owner=../x", "--sub-path=x", "--", "a"], id="no uid"),
        pytest.param(["claim", f"--owner={OWNER}", "--sub-path=x", "--", "a/b"], id="a path"),
        pytest.param(["claim", f"--owner={OWNER}", "--sub-path=x", "--", f".claimed-{OWNER}-a"], id="claim a sibling"),
        pytest.param(["undo", f"--owner={OWNER}", "--sub-path=x", "--", f".claimed-{OWNER}-a"], id="undo a sibling"),
        pytest.param(["purge", f"--owner={OWNER}", "--sub-path=x", "--", "a"], id="purge a task"),
        pytest.param(["purge", f"--owner={OWNER}", "--sub-path=x", "--", ".nfs1"], id="purge any name"),
        pytest.param(["purge", f"--owner={OWNER}", "--sub-path=x", "--of=2", "--"], id="share without a level"),
        pytest.param(["undo", f"--owner={OWNER}", "--sub-path=x", "--dry-run", "--", "a"], id="unknown option"),
    ],
)
def test_other_arguments_are_no_work(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_arguments(arguments)


def test_every_task_is_named_once() -> None:
    work = JobWork(
        "purge", OWNER, "x", siblings=(Sibling("claimed", OWNER, "b"), Sibling("deleting", OTHER, "b")), task_ids=("a",)
    )

    assert work.tasks == ("a", "b")


def test_five_hundred_of_the_longest_ids_fit_into_one_job() -> None:
    work = JobWork("purge", OWNER, "x" * 512, siblings=(Sibling("deleting", OWNER, "x" * 128),) * 500)

    assert size_of_names(work) < 100_000
