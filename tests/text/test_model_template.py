"""Chat templates of imported models: rendered as transformers does, in a sandbox, from whichever file holds them."""

import json
from types import SimpleNamespace

import pytest

from tests.text.test_chat import JINJA, NAMES, RECORDED, SAID
from tlx.base.errors import ConfigError
from tlx.text.chat import TEMPLATES, Message, jinja_of, segments_of, text_of
from tlx.text.model_template import ModelTemplate, model_template

pytest.importorskip("jinja2")
PIECES = tuple((f"{role}_token", piece) for role, piece in NAMES.items())
# What real templates use beside loops: namespaces, breaks, JSON, a mark of answers, refusals.
FULL = """{%- set seen = namespace(count=0) -%}
{% for message in messages %}
  {% if message.role == "tool" %}{{ raise_exception("no tools here") }}{% endif %}
  {% set seen.count = seen.count + 1 %}
  {% if seen.count > 4 %}{% break %}{% endif %}
{{- bos_token }}{{ message | tojson }}
  {% if message["role"] == "assistant" %}{% generation %}{{ message.content | upper }}{% endgeneration %}{% endif %}
{% endfor %}
{%- if add_generation_prompt and not tools is defined %}never{% endif %}"""


@pytest.mark.parametrize("name", JINJA)
def test_the_text_is_the_recorded_one(name):
    assert ModelTemplate(JINJA[name], PIECES).text(SAID) == RECORDED[name]


def test_the_text_is_that_of_transformers():
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    values = [message._asdict() for message in SAID]
    for source in (FULL, *JINJA.values()):
        for reply in (False, True):
            given = dict(chat_template=source, add_generation_prompt=reply, **dict(PIECES))
            (wanted,), _ = utils.render_jinja_template([values], **given)
            assert ModelTemplate(source, PIECES).text(SAID, reply) == wanted
        if "content'] + " in source:
            answer = [*values[:2], {"role": "assistant", "content": " It is "}]
            given = dict(chat_template=source, continue_final_message=True, **dict(PIECES))
            (wanted,), _ = utils.render_jinja_template([answer], **given)
            begun = [*SAID[:2], Message("assistant", " It is ")]
            assert ModelTemplate(source, PIECES).text(begun, continued=True) == wanted


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_of_tlx_in_their_language_is_the_same(name):
    template = TEMPLATES[name]
    written = ModelTemplate(jinja_of(template, NAMES), ())
    for said in (SAID, SAID[1:], SAID[:2], [Message("user", " spaces \n")]):
        for reply in (False, True):
            assert written.text(said, reply) == text_of(segments_of(said, template, reply), NAMES)


@pytest.mark.parametrize(
    "source, message",
    [
        ("{{ raise_exception('system first') }}", "refuses this conversation: system first"),
        ("{% for %}", "template is faulty"),
        ("{{ messages.append(1) }}", "refuses this conversation"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses this conversation"),
        ("{% include '/etc/passwd' %}", "refuses this conversation"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "refuses this conversation"),
        ("{{ messages[0].content.x.y }}", "refuses this conversation"),
    ],
)
def test_what_a_template_may_not_do_is_one_message(source, message):
    with pytest.raises(ConfigError, match=message):
        ModelTemplate(source, ()).text(SAID)


def files(**contents):
    encoded = {name: text if isinstance(text, str) else json.dumps(text) for name, text in contents.items()}
    return SimpleNamespace(files={name.replace("__", "."): text.encode() for name, text in encoded.items()})


def test_where_the_template_stands():
    assert model_template(SimpleNamespace()) is None
    assert model_template(files(tokenizer_config__json={"bos_token": "<s>"})) is None
    config = {"chat_template": "A", "bos_token": {"content": "<s>"}, "eos_token": None}
    mapped = {"eos_token": "</s>", "bos_token": "<other>"}
    given = files(tokenizer_config__json=config, special_tokens_map__json=mapped)
    assert model_template(given) == ModelTemplate("A", (("bos_token", "<s>"), ("eos_token", "</s>")))
    # the file of its own counts over the key
    assert model_template(files(tokenizer_config__json=config, chat_template__jinja="B")).source == "B"
    several = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert model_template(files(tokenizer_config__json={"chat_template": several})).source == "D"
    with pytest.raises(ConfigError, match="tool_use"):
        model_template(files(tokenizer_config__json={"chat_template": several[:1]}))
