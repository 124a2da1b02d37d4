"""Bodies of requests: what is legal, and one line for what is not, whatever the JSON is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx.decode.sampling import Sampling
from tlx.serve.bodies import chat_body, completion_body
from tlx.serve.errors import RequestError
from tlx.text.chat import Message

HELLO = [{"role": "user", "content": "hello"}]


def test_defaults_are_those_of_openai():
    body = completion_body({"model": "x", "prompt": "a"})
    assert body.prompts == ["a"]
    assert body.options == (16, Sampling(), 1, (), None, False, False)
    assert chat_body({"messages": HELLO}).options.max_tokens is None


def test_all_kinds_of_prompts_and_messages():
    assert completion_body({"prompt": [1, 2]}).prompts == [[1, 2]]
    assert completion_body({"prompt": [[1], "b"]}).prompts == [[1], "b"]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "ada"},
    ]
    assert chat_body({"messages": messages}).messages == [
        Message("system", "be brief"),
        Message("user", "ab"),
    ]
    body = chat_body(
        {
            "messages": HELLO,
            "max_tokens": 3,
            "max_completion_tokens": 5,
            "stop": "x",
            "top_k": 4,
            "seed": 7,
            "n": 2,
        }
        | {"stream": True, "stream_options": {"include_usage": True}, "frequency_penalty": 0.0, "tools": None}
    )
    assert body.options == (5, Sampling(top_k=4), 2, ("x",), 7, True, True)


WRONG = [
    ({}, "prompt", "prompt is missing: a text, a list of token ids, or a list of these"),
    ({"prompt": ""}, None, ""),
    ({"prompt": []}, "prompt", r"prompt = \[\] must be a text"),
    ({"prompt": [True]}, "prompt", "prompt = .True. must be"),
    (
        {"prompt": "a", "temprature": 1},
        "temprature",
        "key = 'temprature' is not .* did you mean 'temperature'",
    ),
    ({"prompt": "a", "temperature": "1"}, "temperature", "temperature = '1' must be a number"),
    ({"prompt": "a", "temperature": -1}, "temperature", r"temperature = -1 must be 0 \(greedy\)"),
    ({"prompt": "a", "temperature": 10**400}, "temperature", r"temperature = 1000.* or from 1e-30 to 1e\+30"),
    ({"prompt": "a", "top_p": 10**400}, "top_p", r"top_p = 10{39}\.\.\. \(401 characters\) must be in"),
    ({"prompt": "a", "min_p": -(10**400)}, "min_p", r"min_p = -10{38}\.\.\. \(402 characters\) must be in"),
    ({"prompt": "a", "max_tokens": 10**400}, "max_tokens", r"max_tokens = 10{39}\.\.\. \(401 characters\)"),
    ({"prompt": "a", "top_p": 0}, "top_p", r"top_p = 0 must be in \(0, 1\]"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "max_tokens = 0 must be a whole number from 1 to 2"),
    ({"prompt": "a", "max_tokens": True}, "max_tokens", "max_tokens = True must be a whole number"),
    ({"prompt": "a", "n": 0}, "n", "n = 0 must be a whole number from 1 to 128"),
    ({"prompt": ["a"] * 65, "n": 2}, None, "65 prompts with n = 2 are more than 128 texts"),
    ({"prompt": "a", "stop": ["a"] * 5}, "stop", "stop = .* a list of at most 4 texts"),
    ({"prompt": "a", "stop": ""}, "stop", "stop = '' must be"),
    ({"prompt": "a", "echo": True}, "echo", "echo = True is not supported here: only False"),
    ({"prompt": "a", "logprobs": 2}, "logprobs", "logprobs = 2 is not supported"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options", "is for stream = true"),
    ({"prompt": "a", "stream": 1}, "stream", "stream = 1 must be true or false"),
    ({"prompt": "a", "top_k": 2**31}, "top_k", "top_k = 2147483648 must be"),
    ({"prompt": "a", "seed": 2**32}, "seed", "seed = 4294967296 must be"),
    ([], None, "the body must be a JSON object"),
]


@pytest.mark.parametrize(("body", "param", "message"), WRONG, ids=str)
def test_what_is_wrong_is_one_line_that_names_the_key(body, param, message):
    if not message:
        assert completion_body(body).prompts == [""]
        return
    with pytest.raises(RequestError, match=message) as raised:
        completion_body(body)
    assert raised.value.param == param and raised.value.status == 400 and "\n" not in str(raised.value)
    assert raised.value.body()["error"]["type"] == "invalid_request_error"


WRONG_MESSAGES = [
    ([], "messages = .* must be a list"),
    (["a"], r"messages\[0\] = 'a' must have a role and a content"),
    ([{"role": "tool", "content": "a"}], r"messages\[0\].role = 'tool' is not one of: system, developer"),
    ([{"role": "user"}], r"messages\[0\].content = None must be a text"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], r"messages\[0\].content = .* must be a text"),
    (
        [{"role": "user", "content": "a", "tool_calls": []}],
        r"messages\[0\]: key = 'tool_calls' is not one of",
    ),
    ([*HELLO, {"role": "assistant", "content": "b"}], "the last one must be the user's"),
]


@pytest.mark.parametrize(("messages", "message"), WRONG_MESSAGES, ids=str)
def test_a_wrong_message_is_named(messages, message):
    with pytest.raises(RequestError, match=message):
        chat_body({"messages": messages})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    "prompt",
    "messages",
    "model",
    "temperature",
    "top_p",
    "top_k",
    "n",
    "max_tokens",
    "stop",
    "seed",
    "stream",
]
KEYS += [
    "stream_options",
    "logit_bias",
    "response_format",
    "tools",
    "min_p",
    "repetition_penalty",
    "best_of",
    "role",
]


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), JSON) | JSON)
def test_any_json_is_a_request_or_an_error(body):
    for check in (completion_body, chat_body):
        try:
            check(body)
        except RequestError as error:
            assert str(error)
