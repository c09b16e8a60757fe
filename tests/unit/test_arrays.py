"""Arrays as PostgreSQL writes them; tests/store shows that it reads them so."""

from orchestrator.store.arrays import jsons, texts, values, words


def test_words_stand_as_they_are() -> None:
    assert words(["1", "pending"]) == "{1,pending}"
    assert words([]) == "{}"


def test_texts_are_quoted_and_none_is_an_empty_one() -> None:
    assert texts(['say "hi"', None, "a\\b", "", "NULL", "{,}"]) == '{"say \\"hi\\"","","a\\\\b","","NULL","{,}"}'


def test_nothing_but_none_is_an_empty_array() -> None:
    assert texts([None, None]) == texts([]) == "{}"
    assert texts([""]) == '{""}'


def test_values_are_quoted_too_for_times_have_spaces() -> None:
    assert values([1, "2999-01-02 03:04:05+00", 2.5]) == '{"1","2999-01-02 03:04:05+00","2.5"}'


def test_json_texts_are_one_array_in_which_none_is_null() -> None:
    assert jsons(['{"a": "\\""}', None, "[]"]) == '[{"a": "\\""},null,[]]'
    assert jsons([None, None]) == jsons([]) == "[]"
