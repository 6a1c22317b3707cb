"""Whether two key patterns can match one key: by table, and against keys that are tried one by one."""

import itertools
import random

import pytest

from taskdeletion.domain.key_patterns import KeyPattern
from taskdeletion.domain.shared_keys import can_share_keys

STATE = "{taskId}:node:*"


def can_share(one: str, other: str) -> bool:
    patterns = KeyPattern.parse(one), KeyPattern.parse(other)
    found = can_share_keys(*patterns)
    assert can_share_keys(*reversed(patterns)) == found, "the order does not matter"
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(STATE, STATE, id="equal"),
        pytest.param("{taskId}:*", STATE, id="wider"),
        pytest.param("{taskId}:*:*", STATE, id="two stars"),
        pytest.param("task:{taskId}:*", STATE, id="the id of one is literal in the other"),
        pytest.param("{taskId}:nod?:*", STATE, id="a question mark"),
        pytest.param("{taskId}:n[a-z]de:x", STATE, id="a class"),
        pytest.param("{taskId}:n[^x]de:x", STATE, id="a class turned round"),
        pytest.param("{taskId}:*:x", "{taskId}:a*", id="a star in the middle"),
        pytest.param("{taskId}:[a-]]:*", "{taskId}:_:*", id="a range up to a bracket"),
        pytest.param("{taskId}:[ab", "{taskId}:b", id="a class that is never closed"),
        pytest.param("{{taskId}}:node:*", "{{taskId}}:*", id="hash tags"),
        pytest.param("a:{taskId}", "{taskId}:*", id="a head that is an id"),
    ],
)
def test_patterns_that_can_match_one_key(one: str, other: str) -> None:
    assert can_share(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("{taskId}:result:*", STATE, id="other literal behind the id"),
        pytest.param("{taskId}", STATE, id="nothing behind the id"),
        pytest.param("data/{taskId}:*", STATE, id="a head with a character that no id has"),
        pytest.param("task:{taskId}", STATE, id="too few parts"),
        pytest.param("{taskId}:n[^o]de:*", STATE, id="a class turned round that leaves it out"),
        pytest.param("{taskId}:[x-z]*", STATE, id="a range beside it"),
        pytest.param("{taskId}|*", STATE, id="another character behind the id"),
        pytest.param("{taskId}:node:", "{taskId}:node:?", id="one character more"),
        pytest.param("{{taskId}}:node:*", STATE, id="a hash tag beside none"),
        pytest.param("{taskId}:[]:*", "{taskId}:*", id="an empty class"),
    ],
)
def test_patterns_that_share_no_key(one: str, other: str) -> None:
    assert not can_share(one, other)


def test_a_key_that_two_patterns_match_is_never_denied() -> None:
    dice = random.Random(4)
    heads = ["", "a:", "b:", "a/b:"]
    tails = ["", *("".join(dice.choices([":", "a", "b", "*", "?", "[ab]", "[^a]", "/"], k=3)) for _ in range(120))]
    tails = [tail for tail in tails if not tail or tail[0] in ":/"]
    patterns = [KeyPattern.parse(f"{head}{{taskId}}{tail}") for head in heads for tail in tails]
    keys = ["".join(key).encode() for size in range(1, 7) for key in itertools.product("ab:/", repeat=size)]
    matched = [{key for key in keys if pattern.match(key)} for pattern in patterns]
    checked = 0
    for one, other in itertools.combinations(range(len(patterns)), 2):
        if matched[one] & matched[other]:
            assert can_share_keys(patterns[one], patterns[other]), (patterns[one], patterns[other])
            checked += 1
    assert checked > 100
