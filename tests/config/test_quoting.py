from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from finetune.config.quoting import quoted


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
@example("it's")
@example('a "quote"')
@example("ends with a backslash \\")
@example('\\" \\\\"')
@example("null")
@example("1e5")
def test_any_text_comes_back_from_hydras_grammar(text):
    assert OverridesParser.create().parse_override(f"key={quoted(text)}").value() == text
