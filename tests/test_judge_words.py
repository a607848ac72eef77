"""What a judge is told and what is read of its reply: nothing run, nothing guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.judge.parser import parse
from eval.judge.prompts import OFFICIAL, Prompt, combined_hash, names_of, official_prompts, own_prompts, read_script
from videogpt_plus.types import UserError


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 4}', 4),
        ("{'score': 0}", 0),
        ('{"score": "3"}', 3),
        ('{"Score": 5.0, "why": "all of it"}', 5),
        ("{'score': 4.8}", 4),  # cut to a whole number, as the official scripts do
        ("{''score': 3}", 3),
        ('```json\n{"score": 2}\n```', 2),
        ('Here you go: {"score": 1}. Anything else?', 1),
        ('{"score": 4} {"score": 4}', 4),
        ('{"result": {"score": 2}}', 2),
        ("{'score': 4/5}", 4),
        ("Score: 4", 4),
        ("The score is **3/5**.", 3),
        ("I would give a score of 2 out of 5.", 2),
        ("4", 4),
        ("**5**", 5),
        ("４", 4),
        ("3 / 5", 3),
        # none of these says one score on our scale
        (None, None),
        ("", None),
        (" \n", None),
        ("The answer is mostly right.", None),
        ("There are 4 people in the answer.", None),
        ('{"score": ', None),
        ('{"score": 4', None),
        ('{"score": 85}', None),
        ('{"score": 6}', None),
        ('{"score": -1}', None),
        ("-1", None),
        ("Score: 8/10", None),
        ("4 out of 10", None),
        ("Score: 80%", None),
        ('{"score": null}', None),
        ('{"score": true}', None),
        ('{"score": "high"}', None),
        ('{"score": 2} or rather {"score": 3}', None),
        ("Score: 3, or perhaps score: 4", None),
        ("{}", None),
        ("I'm sorry, but I cannot help with that.", None),
        ("这个回答基本正确。", None),
        ("{" * 5000, None),
        ("__import__('os').system('exit 3')", None),
    ],
)
def test_a_reply_is_one_score_or_none(reply, score):
    said = parse(reply)
    assert said.score == score
    assert (said.reason is None) == (score is not None)
    assert said.reason is None or "\n" not in said.reason and len(said.reason) < 160


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"pred": "yes", "score": 4}', (4, "yes")),
        ("{'pred': 'No', 'score': 1}", (1, "no")),
        ("{'pred': True, 'score': 5}", (5, "yes")),
        ("{''pred': 'no', 'score': 2}", (2, "no")),
        ("{'score': 4}", None),
        ("{'pred': 'perhaps', 'score': 4}", None),
        ("yes, 4", None),
    ],
)
def test_yes_or_no_has_to_be_said_where_it_is_asked_for(reply, expected):
    said = parse(reply, with_verdict=True)
    assert (said[:2] if said.score is not None else None) == expected


ALL = ("correctness", "detail", "context", "temporal", "consistency", "answer")


@pytest.mark.parametrize("aspect", ALL)
def test_our_own_prompts_show_the_judge_everything_and_nothing_else(aspect):
    prompt = own_prompts([aspect])[aspect]
    fields = {name: f"<{name} with $ and {{braces}}>" for name in names_of(aspect)}
    system, user = prompt.messages(fields)
    assert all(value in user["content"] for value in fields.values())
    assert "$question" not in user["content"] + system["content"]
    assert '{"score": 3}' in user["content"] or '{"pred": "no", "score": 1}' in user["content"]


def test_every_word_of_a_prompt_changes_its_hash():
    prompts = own_prompts(["detail", "context"])
    assert len({p.hash for p in prompts.values()}) == 2
    changed = {**prompts, "detail": Prompt(prompts["detail"].system + "!", prompts["detail"].user)}
    warmer = {**prompts, "detail": Prompt(prompts["detail"].system, prompts["detail"].user, None)}
    assert len({combined_hash(p) for p in (prompts, changed, warmer)}) == 3


SCRIPT = """
import os
os.system("exit 3")
raise SystemExit("this script was run")

def annotate(sets):
    for key in sets:
        question, answer, pred = sets[key]
        completion = openai.ChatCompletion.create(
            model="some-judge", {temperature}
            messages=[
                {{"role": "system", "content": "You grade {aspect} for $5. " "Be fair."}},
                {{
                    "role": "user",
                    "content":
                        "Please:\\n" f"Q: {{question}}\\nA: {{answer}}\\nP: {{pred}}\\n" "Like {{'score': 4.8}}.",
                }},
            ],
        )
"""


def scripts(folder: Path, files: str = "vcgbench", temperature: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for aspect, names in OFFICIAL[files].items():
        text = SCRIPT.format(aspect=aspect, temperature=temperature)
        if aspect == "consistency":
            text = text.replace("{question}", "{question1} {question2}").replace("{pred}", "{pred1} {pred2}")
        (folder / names[0]).write_text(text)
    return folder


def test_the_official_wording_is_read_and_never_run(tmp_path):
    aspects = ("correctness", "detail", "context", "temporal", "consistency")
    prompts = official_prompts(scripts(tmp_path / "a/gpt_evaluation").parent, "vcgbench", aspects)
    assert prompts["detail"].system == "You grade detail for $$5. Be fair."
    system, user = prompts["detail"].messages({"question": "q $1?", "answer": "a", "pred": "p"})
    assert system["content"] == "You grade detail for $5. Be fair."
    assert user["content"] == "Please:\nQ: q $1?\nA: a\nP: p\nLike {'score': 4.8}."
    assert prompts["detail"].wording == "official" and prompts["detail"].temperature is None
    pair = {"question1": "1?", "question2": "2?", "answer": "a", "pred1": "p1", "pred2": "p2"}
    assert prompts["consistency"].messages(pair)[1]["content"].startswith("Please:\nQ: 1? 2?\nA: a\nP: p1 p2\n")
    warm = official_prompts(scripts(tmp_path / "b", "diverse", "temperature=0.0,"), "diverse", ["detail"])
    assert warm["detail"].temperature == 0 and warm["detail"].hash != prompts["detail"].hash


def test_scripts_that_are_not_there_or_say_something_else_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no such folder; name your copy"):
        official_prompts(tmp_path / "nowhere", "vcgbench", ["detail"])
    with pytest.raises(UserError, match="evaluate_benchmark_2_detailed_orientation.py is not below it"):
        official_prompts(tmp_path, "vcgbench", ["detail"])
    scripts(tmp_path / "one")
    assert official_prompts(scripts(tmp_path / "two").parent, "vcgbench", ["detail"])  # the same twice
    scripts(tmp_path / "two", temperature="temperature=0.5,")
    with pytest.raises(UserError, match="ask in different words; name the folder of one of them"):
        official_prompts(tmp_path, "vcgbench", ["detail"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def annotate", "def def", "cannot be read as Python"),
        ("import os", "import os\0", "cannot be read as Python"),
        ("messages=", "chats=", "has 0 calls with messages"),
        ("{pred}", "{os.environ['KEY']}", "put together in a way that is not known"),
        ("{pred}", "{key}", "put together in a way that is not known"),
        ("P: {pred}", "", "does not show the judge pred"),
        ('"role": "system"', '"role": "user"', "expected a system and a user message"),
        ('"role": "system"', '"role": who', "a message is no dict with role and content"),
    ],
)
def test_a_script_that_asks_in_another_way_is_refused(tmp_path, old, new, said):
    path = tmp_path / "script.py"
    text = SCRIPT.format(aspect="detail", temperature="")
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=said) as stop:
        read_script(path, names_of("detail"))
    assert str(path) in str(stop.value)
