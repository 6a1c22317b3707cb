"""Key patterns against a naive model of Redis' MATCH, and the keys of neighbours against every pattern."""

import itertools
import re
import time

import pytest

from taskdeletion.domain.key_patterns import KeyOwners, KeyPattern, build_scan_match, translate_glob

ID_CHARACTERS = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


def matches_like_redis(glob: bytes, text: bytes) -> bool:
    """stringmatchlen of Redis' util.c, as plainly as it can be said; globs here hold no backslash."""
    if not glob:
        return not text
    if glob[:1] == b"*":
        return any(matches_like_redis(glob[1:], text[start:]) for start in range(len(text) + 1))
    if not text:
        return False
    if glob[:1] == b"[":
        is_member, rest = read_class(glob[1:], text[0])
        return is_member and matches_like_redis(rest, text[1:])
    return (glob[:1] == b"?" or glob[0] == text[0]) and matches_like_redis(glob[1:], text[1:])


def read_class(glob: bytes, character: int) -> tuple[bool, bytes]:
    negated = glob[:1] == b"^"
    glob = glob[negated:]
    is_member = False
    while glob and glob[:1] != b"]":
        if len(glob) >= 3 and glob[1:2] == b"-":
            is_member |= min(glob[0], glob[2]) <= character <= max(glob[0], glob[2])
            glob = glob[3:]
        else:
            is_member |= glob[0] == character
            glob = glob[1:]
    return is_member != negated, glob[1:]


def owner_like_redis(pattern: KeyPattern, key: bytes) -> str | None:
    """The longest run of id characters behind the head, if the tail matches what follows it."""
    if not key.startswith(pattern.head):
        return None
    rest = key[len(pattern.head) :]
    run = bytes(itertools.takewhile(ID_CHARACTERS.__contains__, rest))
    if not run or run.startswith(b".") or len(run) > 128:
        return None
    return run.decode() if matches_like_redis(pattern.tail, rest[len(run) :]) else None


def all_texts(alphabet: str, longest: int) -> list[str]:
    return ["".join(text) for length in range(longest + 1) for text in itertools.product(alphabet, repeat=length)]


def test_globs_match_like_the_model_for_all_short_globs_and_texts() -> None:
    texts = [text.encode() for text in all_texts("a-]", 3)]
    for glob in (text.encode() for text in all_texts("a-*?[]^", 4)):
        regex = re.compile(translate_glob(glob), re.DOTALL)
        for text in texts:
            assert (regex.fullmatch(text) is not None) == matches_like_redis(glob, text), (glob, text)


def test_keys_get_the_owner_of_the_model_for_all_short_keys() -> None:
    patterns = [
        KeyPattern.parse(text) for text in ("{taskId}", "{taskId}:*", "a:{taskId}", "a:{taskId}:?*", "{{taskId}}:[a1]")
    ]
    for key in (text.encode() for text in all_texts("a1.:{}", 5)):
        for pattern in patterns:
            assert pattern.match(key) == owner_like_redis(pattern, key), (pattern, key)


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        pytest.param(b":*", [b":", b":a", b":\n", b":\xff\x00"], [b"", b"/", b"/:"], id="star"),
        pytest.param(b":?", [b":a", b":\n"], [b":", b":ab"], id="question mark is one byte"),
        pytest.param(b":[abc]", [b":a", b":c"], [b":d", b":", b":ab"], id="class"),
        pytest.param(b":[^a]", [b":b", b":^"], [b":a", b":"], id="negated class"),
        pytest.param(b":[a-c]", [b":b"], [b":d", b":-"], id="range"),
        pytest.param(b":[c-a]", [b":b"], [b":d"], id="range backwards"),
        pytest.param(b":[!a]", [b":!", b":a"], [b":b"], id="an exclamation mark does not negate"),
        pytest.param(b":[]", [], [b":", b":]"], id="empty class"),
        pytest.param(b":[^]", [b":x"], [b":"], id="empty negated class"),
        pytest.param(b":[ab", [b":a", b":b"], [b":", b":["], id="open class ends with the glob"),
        pytest.param(b":]", [b":]"], [b":"], id="closing bracket alone is itself"),
        pytest.param(b":*a*b", [b":ab", b":xaxbxb"], [b":ba", b":xaxbx"], id="several stars"),
        pytest.param(b":**", [b":", b":a"], [b""], id="stars in a row"),
        pytest.param(b":.+()|$^", [b":.+()|$^"], [b":x+()|$^"], id="characters special in regular expressions"),
    ],
)
def test_a_glob_means_what_redis_means(glob: bytes, matching: list[bytes], other: list[bytes]) -> None:
    pattern = KeyPattern(b"task:", glob)
    assert [pattern.match(b"task:t" + rest) for rest in matching] == ["t"] * len(matching)
    assert [pattern.match(b"task:t" + rest) for rest in other] == [None] * len(other)
    assert all(matches_like_redis(glob, rest) for rest in matching)


@pytest.mark.parametrize(
    ("pattern", "key", "owner"),
    [
        ("task:{taskId}", b"task:task_1", "task_1"),
        ("task:{taskId}", b"task:task_10", "task_10"),
        ("task:{taskId}", b"task:task_1:x", None),
        ("task:{taskId}:*", b"task:task_1:x", "task_1"),
        ("task:{taskId}:*", b"task:task_1.x:y", "task_1.x"),
        ("task:{taskId}:*", b"task:task_1-x:y", "task_1-x"),
        ("task:{taskId}:*", b"task:task_1", None),
        ("task:{taskId}:*", b"atask:task_1:x", None),
        ("task:{taskId}:*", b"task:task_1*:x", None),
        ("task:{taskId}:*", b"task:.hidden:x", None),
        ("task:{taskId}:*", b"task::x", None),
        ("task:{taskId}:*", b"task:t\xc3\xa9:x", None),
        ("task:{taskId}:*", b"task:" + b"a" * 128 + b":x", "a" * 128),
        ("task:{taskId}:*", b"task:" + b"a" * 129 + b":x", None),
        ("task:{taskId}", b"task:task_1\n", None),
        ("{{taskId}}:*", b"{task_1}:x", "task_1"),
        ("{taskId}:node:*", b"task_1:node:build", "task_1"),
        ("{taskId}:node:*", b"x:task_1:node:build", None),
        ("task/{taskId}/d\u00e9j\u00e0:*", "task/t/d\u00e9j\u00e0:1".encode(), "t"),
    ],
)
def test_a_key_belongs_to_the_task_that_its_place_names(pattern: str, key: bytes, owner: str | None) -> None:
    assert KeyPattern.parse(pattern).match(key) == owner


@pytest.mark.parametrize(
    "text",
    [
        "",
        "task:*",
        "*",
        "{taskId}*",
        "{taskId}?",
        "task:{taskId}[0-9]",
        "task:{taskId}x",
        "x{taskId}",
        "task_{taskId}:*",
        "*:{taskId}",
        "task:*:{taskId}",
        "task:{taskId}:{taskId}",
        "task:{taskid}:*",
        "task:{taskId}:\\*",
        "task:{taskId}:{x}",
        "t[a]sk:{taskId}:*",
    ],
)
def test_a_pattern_that_could_name_another_task_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a key pattern"):
        KeyPattern.parse(text)


@pytest.mark.parametrize("task_id", ["", "*", "a*", "task_1:x", ".a", "a\n", "a" * 129, "a/b", "t\u00e9"])
def test_no_key_is_built_of_what_is_no_task_id(task_id: str) -> None:
    with pytest.raises(ValueError, match="not a task id"):
        KeyPattern.parse("task:{taskId}").exact_key(task_id)
    with pytest.raises(ValueError, match="not a task id"):
        KeyPattern.parse("task:{taskId}:*").scan_match(task_id)


def test_only_a_pattern_without_wildcard_has_an_exact_key() -> None:
    assert KeyPattern.parse("task:{taskId}:state").exact_key("task_1") == b"task:task_1:state"
    assert KeyPattern.parse("task:{taskId}:*").exact_key("task_1") is None
    assert KeyPattern.parse("task:{taskId}:[ab]").exact_key("task_1") is None


@pytest.mark.parametrize(
    ("texts", "task_ids", "match"),
    [
        pytest.param(["task:{taskId}:*"], ["task_1"], b"task:task_1:*", id="one pattern, one task"),
        pytest.param(["task:{taskId}:[ab]?"], ["a", "b"], b"task:*:[ab]?", id="one pattern, many tasks"),
        pytest.param(["task:{taskId}:*"], ["t_07", "t_08", "t_1"], b"task:t_*:*", id="what the ids share"),
        pytest.param(["task:{taskId}:*"], ["t", "t_1"], b"task:t*:*", id="one id begins another"),
        pytest.param(["a:b:{taskId}:*", "a:c:{taskId}:*"], ["x", "y"], b"a:*", id="what two patterns share"),
        pytest.param(["a:{taskId}:*", "a:{taskId}/*"], ["t1", "t2"], b"a:t*", id="two patterns, ids that share"),
        pytest.param(["t:{taskId}:x*", "t:{taskId}:y*"], ["task_1"], b"t:task_1:*", id="two patterns, one task"),
        pytest.param(["a:{taskId}:*", "b:{taskId}:*"], ["x", "y"], None, id="nothing in common"),
        pytest.param(["{taskId}:x:*", "{taskId}:*"], ["x", "y"], None, id="begins with the id"),
    ],
)
def test_one_match_covers_all_patterns(texts: list[str], task_ids: list[str], match: bytes | None) -> None:
    assert build_scan_match([KeyPattern.parse(text) for text in texts], task_ids) == match


def test_the_match_covers_every_key_of_the_named_tasks() -> None:
    ids = ["a", "a1", "a.1", "b"]
    texts = ["{taskId}:*", "x:{taskId}:?*", "x:{taskId}:[ab]", "x:{{taskId}}:*"]
    keys = [text.encode() for text in all_texts("a1.:{}x", 5) if text[:1] in ("a", "x")]
    for chosen in itertools.chain.from_iterable(itertools.combinations(texts, size) for size in (1, 2)):
        patterns = [KeyPattern.parse(text) for text in chosen]
        for named in (ids[:1], ids[:3], ids):
            match = build_scan_match(patterns, named)
            regex = re.compile(translate_glob(match or b"*"), re.DOTALL)
            assert all(regex.fullmatch(key) for key in keys if any(p.match(key) in named for p in patterns))


@pytest.mark.parametrize(
    "texts",
    [
        ["a:{taskId}"],
        ["a:{taskId}:?*"],
        ["{{taskId}}:[a1]"],
        ["a:{taskId}", "a:{taskId}:?*", "{taskId}:*", "{{taskId}}:*"],
    ],
    ids=["known key", "head", "hash tag", "several"],
)
def test_the_owners_of_keys_are_those_that_each_pattern_gives_them_to(texts: list[str]) -> None:
    patterns = [KeyPattern.parse(text) for text in texts]
    keys = [text.encode() for text in all_texts("a1.:{}", 6)]
    named = {"a", "1", "a1"}
    expected = {
        key: owners
        for key in keys
        if (owners := {owner for pattern in patterns if (owner := pattern.match(key)) is not None}) & named
    }
    found = dict(KeyOwners(patterns, named).find(keys * 2))
    assert expected
    assert {key: owners for key, owners in found.items() if owners & named} == expected


def test_a_page_of_foreign_keys_is_passed_over_quickly() -> None:
    owners = KeyOwners([KeyPattern.parse("task:{taskId}:*")], [f"task_{number}" for number in range(1000)])
    keys = [b"task:other_%d:key" % number for number in range(100_000)]
    begin = time.process_time()
    assert list(owners.find(keys)) == []
    assert time.process_time() - begin < 1


def test_the_probes_key_has_the_patterns_shape_and_no_owner() -> None:
    pattern = KeyPattern.parse("task:{taskId}:state")
    key = pattern.nobodys_key("abc")
    assert key.startswith(b"task:")
    assert key.endswith(b":state")
    assert pattern.match(key) is None


def test_a_hostile_pattern_cannot_stall_the_operator() -> None:
    pattern = KeyPattern.parse("task:{taskId}:" + "*a" * 100 + "b")
    begin = time.monotonic()
    assert pattern.match(b"task:t:" + b"a" * 20_000) is None
    assert time.monotonic() - begin < 5
