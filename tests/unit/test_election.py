"""Who leads, decided step by step with a clock of the test: stand by, take over, stay, lose, give back."""

from dataclasses import replace

import pytest

from taskdeletion.domain.election import Claim, Election, Lease, Look, Lost, Renew, Step, Timing, Wait

TIMING = Timing(10)
FOREIGN = Lease("7", "other", "beat 1", seconds=10, transitions=3)
MINE = Lease("8", "me", "beat 2", seconds=10, transitions=4)
FREE = replace(FOREIGN, holder="")


def election() -> Election:
    return Election("me", TIMING)


def leading(since: float = 100.0) -> Election:
    found = election()
    found.saw(FREE, since)
    found.won(MINE, since)
    return found


def steps_until(found: Election, lease: Lease | None, *, start: float, end: float) -> list[tuple[float, Step]]:
    """What a process that stands by does while the lease stays as it is; time passes only where it waits."""
    now, taken = start, []
    while now < end:
        step = found.step(now)
        taken.append((now, step))
        if isinstance(step, Wait):
            now += step.seconds
        elif isinstance(step, Look):
            found.saw(lease, now)
        else:
            break
    return taken


# --- standing by ------------------------------------------------------------------------------------------------------


def test_it_looks_before_anything_else() -> None:
    assert election().step(0.0) == Look()


def test_a_lease_that_was_given_back_is_taken_at_once() -> None:
    found = election()
    found.saw(FREE, 50.0)

    assert found.step(50.0) == Claim(FREE)


def test_a_lease_of_another_is_left_alone_for_as_long_as_it_lasts_from_when_it_was_seen() -> None:
    taken = steps_until(election(), FOREIGN, start=100.0, end=200.0)
    when, step = taken[-1]

    assert step == Claim(FOREIGN)
    assert when == pytest.approx(110.0)


def test_it_is_looked_at_once_a_second_meanwhile() -> None:
    looks = [when for when, step in steps_until(election(), FOREIGN, start=100.0, end=109.5) if step == Look()]

    assert looks == pytest.approx([100.0 + second for second in range(10)])


def test_a_renewal_begins_the_wait_anew() -> None:
    found = election()
    found.saw(FOREIGN, 100.0)
    found.saw(replace(FOREIGN, version="9", beat="beat 2"), 109.9)
    taken = steps_until(found, replace(FOREIGN, version="9", beat="beat 2"), start=109.9, end=200.0)

    assert taken[-1][0] == pytest.approx(119.9)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(replace(FOREIGN, holder="third", version="9"), id="another holder"),
        pytest.param(replace(FOREIGN, transitions=4, version="9"), id="the same one once more"),
    ],
)
def test_a_new_holder_begins_the_wait_anew(changed: Lease) -> None:
    found = election()
    found.saw(FOREIGN, 100.0)
    found.saw(changed, 109.0)
    found.saw(changed, 118.9)

    assert isinstance(found.step(118.9), Wait)


def test_a_label_that_somebody_puts_on_the_lease_is_no_sign_of_life_and_the_claim_names_the_newest_version() -> None:
    found = election()
    found.saw(FOREIGN, 100.0)
    labelled = replace(FOREIGN, version="99")
    found.saw(labelled, 110.0)

    assert found.step(110.0) == Claim(labelled)


def test_a_holder_that_wants_it_left_alone_for_longer_gets_that() -> None:
    lease = replace(FOREIGN, seconds=30)

    assert steps_until(election(), lease, start=0.0, end=99.0)[-1][0] == pytest.approx(30.0)


def test_a_lease_that_wants_less_than_we_do_does_not_shorten_the_wait() -> None:
    lease = replace(FOREIGN, seconds=1)

    assert steps_until(election(), lease, start=0.0, end=99.0)[-1][0] == pytest.approx(10.0)


def test_a_lease_that_is_not_there_counts_as_one_that_was_just_seen() -> None:
    when, step = steps_until(election(), None, start=100.0, end=200.0)[-1]

    assert step == Claim(None)
    assert when == pytest.approx(110.0)


def test_a_lease_that_is_deleted_under_its_holder_gives_the_holder_its_time() -> None:
    found = election()
    found.saw(FOREIGN, 100.0)
    found.saw(None, 109.0)

    assert steps_until(found, None, start=109.0, end=200.0)[-1][0] == pytest.approx(119.0)


def test_a_claim_that_somebody_else_won_is_followed_by_a_look_and_a_new_wait() -> None:
    found = election()
    found.saw(FREE, 100.0)
    found.refused(100.0)
    taken = steps_until(found, FOREIGN, start=100.0, end=200.0)

    assert [type(step) for _, step in taken[:2]] == [Wait, Look]
    assert taken[-1][0] == pytest.approx(111.0)
    assert taken[-1][1] == Claim(FOREIGN)
    assert not found.is_leading


def test_a_claim_without_an_answer_counts_for_nothing_until_it_was_looked_at() -> None:
    found = election()
    found.saw(FREE, 100.0)
    found.failed(102.0)

    assert isinstance(found.step(102.0), Wait)
    assert found.step(103.0) == Look()
    found.saw(MINE, 103.0)  # it had arrived
    assert found.step(103.0) == Claim(MINE)
    assert not found.is_leading


def test_a_failed_look_is_tried_again_and_is_no_silence_of_the_holder() -> None:
    found = election()
    for second in range(20):
        found.failed(100.0 + second)
    found.saw(FOREIGN, 120.0)

    assert steps_until(found, FOREIGN, start=120.0, end=200.0)[-1][0] == pytest.approx(130.0)


# --- leading ----------------------------------------------------------------------------------------------------------


def test_who_won_leads_from_the_moment_before_it_asked() -> None:
    found = leading(since=100.0)

    assert found.is_leading
    assert found.since == 100.0
    assert found.step(101.5) == Wait(0.5)
    assert found.step(102.0) == Renew(MINE)


def test_a_renewal_extends_the_tenure_from_when_it_was_sent() -> None:
    found = leading(since=100.0)
    found.won(replace(MINE, version="9"), 102.0)

    assert found.since == 102.0
    assert found.step(104.0) == Renew(replace(MINE, version="9"))
    assert found.step(109.9) == Renew(replace(MINE, version="9"))
    assert isinstance(found.step(110.0), Lost)


def test_without_a_renewal_the_tenure_ends_before_anybody_may_take_the_lease() -> None:
    found = leading(since=100.0)
    for now in (102.0, 104.0, 106.0, 107.5):
        assert found.step(now) == Renew(MINE)
        found.failed(now)

    assert found.step(107.75) == Wait(0.25)
    assert isinstance(found.step(108.0), Lost)
    assert not found.is_leading
    assert TIMING.tenure_seconds < TIMING.kill_seconds < TIMING.lease_seconds


def test_what_was_lost_stays_lost_whatever_comes_late() -> None:
    found = leading(since=100.0)
    assert isinstance(found.step(130.0), Lost)
    found.won(replace(MINE, version="9"), 129.0)

    assert isinstance(found.step(130.0), Lost)
    assert not found.is_leading
    assert found.resign() is None


def test_an_answer_that_comes_when_its_tenure_is_over_is_none() -> None:
    found = election()
    found.saw(FREE, 100.0)
    found.won(MINE, 100.0)  # the process stood still until 140

    assert isinstance(found.step(140.0), Lost)


def test_a_renewal_that_was_refused_is_looked_into_at_once() -> None:
    found = leading(since=100.0)
    found.refused(102.0)

    assert found.step(102.0) == Look()


def test_a_renewal_whose_answer_was_lost_is_found_and_repeated_without_counting_itself() -> None:
    found = leading(since=100.0)
    found.refused(103.0)
    found.saw(replace(MINE, version="11"), 103.0)

    assert found.step(103.0) == Renew(replace(MINE, version="11"))
    assert found.since == 100.0


@pytest.mark.parametrize(
    ("lease", "words"),
    [
        pytest.param(replace(FOREIGN, version="12"), "other", id="another holder"),
        pytest.param(replace(FREE, version="12"), "nobody", id="given away by hand"),
        pytest.param(None, "deleted", id="deleted"),
    ],
)
def test_a_lease_that_belongs_to_another_is_lost(lease: Lease | None, words: str) -> None:
    found = leading(since=100.0)
    found.refused(102.0)
    found.saw(lease, 102.1)
    step = found.step(102.1)

    assert isinstance(step, Lost)
    assert words in step.message
    assert not found.is_leading


# --- giving back ------------------------------------------------------------------------------------------------------


def test_who_resigns_names_the_lease_to_give_back_once_and_takes_part_no_more() -> None:
    found = leading(since=100.0)

    assert found.resign() == MINE
    assert found.resign() is None
    assert isinstance(found.step(101.0), Lost)


def test_who_stood_by_has_nothing_to_give_back() -> None:
    found = election()
    found.saw(FREE, 100.0)

    assert found.resign() is None
    assert isinstance(found.step(100.0), Lost)


# --- several of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [5, 10, 60])
def test_a_silent_leader_is_replaced_within_the_lease_and_one_look(seconds: int) -> None:
    """The renewal arrives right behind a look; the successor looks next only when one interval has passed."""
    timing = Timing(seconds)
    successor, renewed_at = Election("me", timing), 1000.0
    successor.saw(replace(FOREIGN, seconds=seconds, beat="before"), renewed_at)
    now = renewed_at
    while not isinstance(step := successor.step(now), Claim):
        if isinstance(step, Wait):
            now += step.seconds
        else:
            successor.saw(replace(FOREIGN, seconds=seconds, beat="the last"), now)

    assert now - renewed_at == pytest.approx(1.1 * seconds)
    assert now - renewed_at > timing.kill_seconds


def test_the_times_of_the_default_allow_a_hand_over_within_fifteen_seconds() -> None:
    worst = TIMING.lease_seconds + TIMING.look_seconds + 2 * TIMING.renew_seconds  # two requests at their limit

    assert worst <= 15
