"""Cinego as one of the house's models: files in every spelling, adapters before the projection, several visuals."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cinego_parts import RECORDED, SIZE, recorded_weights, write_parts
from parity.cinego import Recordings, given
from PIL import Image
from safetensors.torch import load_file

from videogpt_plus.app import cli
from videogpt_plus.clips.video import read_clip
from videogpt_plus.config.experiment import Lora
from videogpt_plus.config.experiments import EXPERIMENTS, at_level, with_reducer
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.families.cinego import weights
from videogpt_plus.families.cinego.lm import Experts, MiniMind, Size, mlp_width
from videogpt_plus.families.cinego.placeholders import runs, with_placeholders
from videogpt_plus.models.loading import load_model, load_models
from videogpt_plus.reducers.average import Average
from videogpt_plus.reducers.summary import Summary
from videogpt_plus.types import IGNORE, PLACEHOLDER, UserError, Visual

MEDIA = RECORDED / "fixtures" / "media"


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cinego") / "parts"


@pytest.fixture(scope="module")
def experiment(parts):
    return write_parts(parts)


@pytest.fixture(scope="module")
def model(experiment):
    return fresh(experiment)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Recordings:
    return Recordings(RECORDED, tmp_path_factory.mktemp("recorded"))


def fresh(experiment):
    return load_model(experiment, None, "cpu", torch.float32)


def written(folder: Path, state: dict, name: str = "sft_videolm_64.pth", **told) -> Path:
    """A folder with a file of these tensors, the config and the tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / name)
    config = {"rope_layout": "interleaved", "num_attention_heads": SIZE.heads, **told}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(RECORDED / "tokenizer" / file, folder / file)
    return folder


def clip(frames: int, seed: int = 0) -> Visual:
    """Features of a clip in the place of its pixels."""
    generator = torch.Generator().manual_seed(seed)
    return Visual({}, 1, {"video": torch.randn(frames, 1, 5, 32, generator=generator)})


def row(*parts: int | Visual) -> dict:
    """A sample of ids and visuals, in order; the last id is supervised."""
    ids = [PLACEHOLDER if isinstance(part, Visual) else part for part in parts]
    labels = [IGNORE] * (len(ids) - 1) + ids[-1:]
    return {"input_ids": ids, "labels": labels, "visuals": [part for part in parts if isinstance(part, Visual)]}


def batch(*rows: dict) -> dict:
    def pad(key, value):
        tensors = [torch.tensor(own[key]) for own in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    masks = [torch.ones(len(own["input_ids"])).bool() for own in rows]
    return {
        "input_ids": pad("input_ids", 0),
        "attention_mask": torch.nn.utils.rnn.pad_sequence(masks, batch_first=True),
        "labels": pad("labels", IGNORE),
        "visuals": [own["visuals"] for own in rows],
    }


# ------------------------------------------------------------------------------------------------ files
def spelled(spelling: str) -> dict:
    """The recorded weights under the names of a spelling."""
    state = recorded_weights("st")
    if spelling == "wrapped":
        return {f"module.{key}": value for key, value in state.items()}
    if spelling == "older":
        extra = {
            "pos_cis": torch.ones(3),
            "layers.0.attention.mask": torch.ones(2),
            "vision_encoder.vision_model.x": torch.ones(1),
        }
        return state | extra
    if spelling == "parent":
        return {key.replace("vision_proj.", "vision_proj.vision_proj.0."): value for key, value in state.items()}
    if spelling == "tied":
        return {key: value for key, value in state.items() if key != "output.weight"}
    if spelling == "later":
        return {weights.later_name(key): value for key, value in state.items()}
    return state


@pytest.mark.parametrize("spelling", ["native", "wrapped", "older", "parent", "tied", "later"])
def test_every_spelling_is_the_same_model(spelling, experiment, tmp_path):
    state = spelled(spelling)
    found = fresh(replace(experiment, llm=str(written(tmp_path, state)))).checkpoint_state()
    wanted = recorded_weights("st")
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == []


def test_later_names_are_those_of_the_later_code():
    names = {
        "tok_embeddings.weight": "model.embed_tokens.weight",
        "layers.3.attention.wq.weight": "model.layers.3.self_attn.q_proj.weight",
        "layers.3.attention.wo.weight": "model.layers.3.self_attn.o_proj.weight",
        "layers.3.attention_norm.weight": "model.layers.3.input_layernorm.weight",
        "layers.3.ffn_norm.weight": "model.layers.3.post_attention_layernorm.weight",
        "layers.3.feed_forward.w1.weight": "model.layers.3.mlp.gate_proj.weight",
        "layers.3.feed_forward.w2.weight": "model.layers.3.mlp.down_proj.weight",
        "layers.3.feed_forward.w3.weight": "model.layers.3.mlp.up_proj.weight",
        "layers.3.feed_forward.gate.weight": "model.layers.3.mlp.gate.weight",
        "layers.3.feed_forward.experts.2.w3.weight": "model.layers.3.mlp.experts.2.up_proj.weight",
        "layers.3.feed_forward.shared_experts.w2.weight": "model.layers.3.mlp.shared_experts.0.down_proj.weight",
        "norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
        "vision_proj.bias": "vision_proj.bias",
        "video_summarizer.query_t": "video_summarizer.query_t",
    }
    assert {key: weights.later_name(key) for key in names} == names
    assert [weights.canonical(name) for name in names.values()] == list(names)


def test_a_file_is_written_as_it_was_read(experiment, tmp_path):
    source = RECORDED / "fixtures" / "pretrain_videolm_64.pth"
    model = fresh(experiment)
    model.load_checkpoint(source)
    for later in (False, True):
        file = tmp_path / f"{later}.pth"
        weights.save(file, model.checkpoint_state(), later)
        again, theirs = weights.read(file), torch.load(source, weights_only=True)
        assert again.keys() == theirs.keys()
        assert all(torch.equal(again[key], theirs[key]) and again[key].dtype == torch.float32 for key in theirs)
        assert file.stat().st_size < 1.02 * source.stat().st_size  # the tied tensor once


@pytest.mark.parametrize("layout", [None, "neox"])
def test_the_rope_layout_is_never_guessed(layout, experiment, tmp_path):
    folder = written(tmp_path, recorded_weights("s"), rope_layout=layout)
    with pytest.raises(UserError, match=r'config.json (does not say|says \'neox\') .*{"rope_layout": "interleaved"}'):
        fresh(replace(experiment, llm=str(folder)))


@torch.inference_mode()
def test_rows_that_changed_place_are_the_same_model_of_the_other_layout(recordings):
    state, ids = weights.lm_part(recorded_weights("s")), torch.randint(0, 352, (2, 40))
    wanted = weights.build_lm(state, SIZE, "here")(ids).logits
    half = replace(SIZE, rope_layout="half")
    moved = weights.build_lm(weights.regrouped(state, SIZE, "half"), half, "here")(ids).logits
    torch.testing.assert_close(moved, wanted, atol=1e-4, rtol=0)
    assert (weights.build_lm(state, half, "here")(ids).logits - wanted).abs().max() > 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda s: {
                **{k: v for k, v in s.items() if k != "norm.weight"},
                "odd": s["norm.weight"],
                "layers.0.ffn_norm.weight": torch.ones(3),
            },
            r"missing: norm.weight; unexpected: odd; wrong shape: layers.0.ffn_norm.weight \(3,\) instead of \(64,\)",
        ),
        (lambda s: s | {"output.weight": s["output.weight"] + 1}, "embeddings and a head that differ"),
        (lambda s: s | {"module.norm.weight": s["norm.weight"]}, "hold 'norm.weight' under two names"),
        (
            lambda s: {k: v for k, v in s.items() if "query_s" not in k},
            "of the summary in .* missing: query_s; unexpected: none",
        ),
        (lambda s: weights.lm_part(s), "holds a language model alone, which sees nothing"),
        (lambda s: {"norm.weight": s["norm.weight"]}, "are no MiniMind's"),
    ],
)
def test_what_does_not_fit_is_listed(change, told, experiment, tmp_path):
    folder = written(tmp_path, change(recorded_weights("s")))
    with pytest.raises(UserError, match=told):
        fresh(replace(experiment, llm=str(folder)))


def test_heads_that_no_shape_tells_are_checked(experiment, tmp_path):
    folder = written(tmp_path, recorded_weights("s"), num_attention_heads=3)
    with pytest.raises(UserError, match='cannot have 3 heads: write "num_attention_heads"'):
        fresh(replace(experiment, llm=str(folder)))


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("gone_off"),)


def test_a_pickle_that_wants_to_run_something_is_refused(experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = written(tmp_path, recorded_weights("s"))
    (folder / "sft_videolm_64.pth").write_bytes(pickle.dumps({"norm.weight": Bomb()}, protocol=2))
    with pytest.raises(UserError, match="cannot read weights"):
        fresh(replace(experiment, llm=str(folder)))
    assert not Path("gone_off").exists()


def test_of_a_folder_the_latest_stage_is_taken(tmp_path):
    with pytest.raises(UserError, match="no weights in .* expected sft_videolm_WIDTH.pth or"):
        weights.locate(tmp_path)
    for name in ("lm_512", "pretrain_videolm_512", "sft_videolm_image_512", "sft_videolm_video_512", "sft_videolm_512"):
        (tmp_path / f"{name}.pth").touch()
        assert weights.locate(tmp_path).stem == name
    assert weights.locate(tmp_path / "lm_512.pth").stem == "lm_512"
    (tmp_path / "sft_videolm_768_moe.pth").touch()
    with pytest.raises(UserError, match="holds sft_videolm_512.pth, sft_videolm_768_moe.pth: name one"):
        weights.locate(tmp_path)


@torch.inference_mode()
def test_a_language_model_alone_is_read_and_written(tmp_path):
    """Out of an lm_ file or any other, under the layout that is named; the wrong one reads worse."""
    state = weights.lm_part(recorded_weights("s"))
    folder, ids = written(tmp_path, recorded_weights("s"), rope_layout=None), torch.randint(0, 352, (1, 30))
    weights.save(tmp_path / "lm_64.pth", state)
    whole, alone = (weights.load_lm(path, "interleaved") for path in (folder, folder / "lm_64.pth"))
    assert weights.whole_state(alone).keys() == state.keys()
    torch.testing.assert_close(alone(ids).logits, whole(ids).logits, atol=0, rtol=0)
    teacher = alone(ids).logits.softmax(-1)
    wrong = weights.load_lm(folder, "half")(ids).logits.log_softmax(-1)
    right = alone(ids).logits.log_softmax(-1)
    assert (teacher * wrong).sum(-1).mean() < (teacher * right).sum(-1).mean() - 0.1


def test_names_and_sizes_are_the_authors():
    assert weights.file_name("pretrain", Size()) == "pretrain_videolm_512.pth"
    assert weights.file_name("sft", Size(768, experts=Experts())) == "sft_videolm_768_moe.pth"
    assert [mlp_width(512), mlp_width(768), mlp_width(64, 16)] == [1408, 2048, 176]


# ------------------------------------------------------------------------------------------------ visuals
def test_branches_and_layers_are_those_of_the_file(experiment, tmp_path):
    for branches in ("s", "st"):
        folder = written(tmp_path / branches, recorded_weights(branches))
        adapter = fresh(replace(experiment, llm=str(folder))).reducers["video"]
        assert adapter.branches == branches and hasattr(adapter, "query_t") == (branches == "st")


@torch.inference_mode()
def test_visuals_of_one_conversation_stand_each_in_its_place(model):
    a, b = clip(3, 1), clip(8, 2)
    (first,), (second,) = (model.tokens_of([v.grids]) for v in (a, b))
    for sample, order in ((row(7, a, 8, b, 9), (first, second)), (row(7, b, a, 9), (second, first))):
        merged = model.merge(*batch(sample).values())
        places = [[1, 7], [1, 6]][order[0] is second]
        for place, tokens in zip(places, order, strict=True):
            torch.testing.assert_close(merged.inputs_embeds[0, place : place + 5], tokens)


def test_marks_are_read_run_by_run():
    assert runs([34] * 11, 5) == [0, 5] and runs([1, 34, 34, 2, 34, 34, 34], 3) == [4] and runs([34] * 4, 5) == []
    ids = [9, *[34] * 10, 8]
    assert with_placeholders(ids, 5, 2) == [9, *[PLACEHOLDER] * 10, 8]
    assert with_placeholders(ids, 5, 1) == [9, *[PLACEHOLDER] * 5, *[34] * 5, 8]


@torch.inference_mode()
def test_adjacent_marks_are_two_visuals_one_behind_the_other(recordings):
    """Where the original writes the second one position behind the first."""
    meta, tensors = recordings.case("splice_logits")
    ids, model = tensors["adjacent_double.input_ids"], recordings.model("s")
    made = given(recordings, ids, recordings.features(3), visuals=2)
    merged = model.merge(*made.values()).inputs_embeds
    place, count = meta["windows"]["adjacent_double"][0][0], recordings.queries
    (tokens,) = model.tokens_of([made["visuals"][0][0].grids])
    torch.testing.assert_close(merged[0, place : place + 2 * count], torch.cat([tokens, tokens]))


@torch.inference_mode()
def test_a_row_does_not_depend_on_its_neighbours(model):
    """Other lengths, other numbers of frames and visuals, none included."""
    rows = [row(7, clip(3, 1), 8, 9), row(5, 6, 7, 8, 9, 10, 11, 12, 4), row(clip(8, 2), clip(1, 3), 5), row(3, 4)]
    together = model(**batch(*rows)).logits
    for i, own in enumerate(rows):
        alone = model(**batch(own)).logits[0]
        torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_picture_is_as_many_equal_frames(model, experiment):
    picture = clip(1)
    copies = Visual({}, 1, {"video": picture.grids["video"].expand(experiment.num_frames, -1, -1, -1)})
    torch.testing.assert_close(*(torch.cat(model.tokens_of([v.grids])) for v in (picture, copies)))


@torch.inference_mode()
@pytest.mark.parametrize("level", [1, 2])
def test_a_class_token_stands_before_what_pooling_leaves_of_its_frame(experiment, level):
    wanted = at_level(with_reducer(experiment, "average"), level)
    grid = clip(3).grids["video"]
    model = fresh(wanted)
    (tokens,) = model.tokens_of([{"video": grid}])
    frames = [torch.cat([frame[0, :1], Average(level).reduce(frame[0, 1:].view(1, 1, 2, 2, 32))[0]]) for frame in grid]
    torch.testing.assert_close(tokens, model.projectors["video"](torch.cat(frames)))
    assert len(tokens) == num_visual_tokens(wanted, 3) == 3 * (5 if level == 1 else 2)


@torch.inference_mode()
def test_concatenation_and_mean_keep_their_order(experiment):
    grid = clip(3).grids["video"]
    every, mean = (fresh(with_reducer(experiment, name)) for name in ("concat", "frame_mean"))
    projected = every.projectors["video"](grid[:, 0])
    torch.testing.assert_close(every.tokens_of([{"video": grid}])[0], projected.flatten(0, 1))
    # A linear projection and a mean commute, and so the house's order is the authors'.
    torch.testing.assert_close(mean.tokens_of([{"video": grid}])[0], projected.mean(0))


@torch.inference_mode()
def test_models_beside_each_other_answer_as_alone(experiment, tmp_path):
    wanted = [experiment, with_reducer(experiment, "frame_mean"), at_level(with_reducer(experiment, "average"), 2)]
    shared = load_models([(e, tmp_path) for e in wanted], "cpu", torch.float32, torch.float32)
    assert len({id(model.llm) for model in shared}) == 1
    prompt, shown = [7, PLACEHOLDER, 8], clip(4)
    for own, model in zip(wanted, shared, strict=True):
        assert model.generate_ids([prompt], [[shown]], 6) == fresh(own).generate_ids([prompt], [[shown]], 6)


def test_another_number_of_queries_than_was_trained_is_refused(experiment):
    with pytest.raises(
        UserError, match="trained with 5 queries, tiny_cinego_pool2 asks for 1: their number is learned"
    ):
        fresh(at_level(experiment, 2))
    with pytest.raises(UserError, match="trained with 5 queries, tiny_cinego asks for 9"):
        fresh(replace(experiment, reducer=Summary(queries=9, heads=4)))


@pytest.mark.parametrize(
    ("bounds", "expected"), [((None, None), [0, 1, 2, 4]), ((1, None), [3, 3, 3, 4]), ((0, 0.5), [0, 0, 0, 1])]
)
def test_frames_of_a_folder_are_spread_and_repeat_where_they_are_few(bounds, expected, tmp_path):
    """Five pictures at three a second, each of its number's shade."""
    for i in range(5):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    taken = read_clip(tmp_path, 4, *bounds, sampling="linspace")
    assert taken.frames[:, 0, 0, 0].tolist() == expected
    assert taken.seconds == tuple(i / 3 for i in expected)


def test_a_short_clip_repeats_frames(experiment):
    clip = read_clip(MEDIA / "clip_b.mkv", 8, sampling=experiment.sampling.rule)
    assert len(clip.frames) == 8 and len(set(clip.seconds)) == 5 and list(clip.seconds) == sorted(clip.seconds)


# ------------------------------------------------------------------------------------------------ training
def test_what_a_stage_lets_learn(experiment):
    model = fresh(experiment)
    state = model.checkpoint_state()
    assert len(model.train_only("pretrain")) == 16 and len(model.train_only("sft")) == len(state) - 1  # one is tied
    model.train_only("pretrain")
    model.train()
    model(**batch(row(7, clip(3), 8, 9))).loss.backward()
    learned = {name for name, parameter in model._named() if parameter.grad is not None}
    assert {re.sub(r"\..*", "", name) for name in learned} == {"layers", "video_summarizer", "vision_proj"}
    assert not any(name.startswith("layers.0.") for name in learned)


def test_a_batch_of_text_alone_gives_every_part_a_gradient(experiment):
    model = fresh(experiment).train()
    model.train_only("sft")
    model(**batch(row(7, 8, 9))).loss.backward()
    assert all(parameter.grad is not None for _, parameter in model._named())


def mixture(**told) -> MiniMind:
    torch.manual_seed(0)
    return MiniMind(replace(SIZE, mlp=40, experts=Experts(**told)))


def test_padding_does_not_count_in_the_balance_of_experts():
    lm = mixture().train()
    ids = torch.randint(3, 352, (2, 9))
    labels = ids.clone()
    wanted = lm(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids).bool())
    padded = torch.nn.functional.pad(ids, (0, 7))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 7)).bool()
    behind = torch.nn.functional.pad(labels, (0, 7), value=IGNORE)
    found = lm(input_ids=padded, labels=behind, attention_mask=mask)
    torch.testing.assert_close((found.loss, found.aux_loss), (wanted.loss, wanted.aux_loss))
    torch.testing.assert_close(found.logits[:, :9], wanted.logits)


def test_an_expert_that_nobody_chose_has_a_gradient_of_zeros():
    lm = mixture(balance=0.0).train()
    with torch.no_grad():
        for layer in lm.layers:
            layer.feed_forward.gate.weight.zero_()  # all alike: the first two are taken
    ids = torch.randint(3, 352, (1, 9))
    lm(input_ids=ids, labels=ids).loss.backward()
    experts = [expert.w1.weight.grad for expert in lm.layers[0].feed_forward.experts]
    assert all(grad is not None for grad in experts) and sum(bool(grad.any()) for grad in experts) == 2


def test_computing_layers_again_gives_the_same_gradients():
    ids, found = torch.randint(3, 352, (2, 9)), []
    for again in (False, True):
        lm = mixture().train()
        if again:
            lm.gradient_checkpointing_enable()
        lm(input_ids=ids, labels=ids).loss.backward()
        found.append([p.grad for p in lm.parameters()])
    torch.testing.assert_close(*found)


# ------------------------------------------------------------------------------------------------ commands
@pytest.fixture
def tiny(experiment, tmp_path, monkeypatch) -> str:
    """The experiment by its name, in a folder without results."""
    monkeypatch.setitem(EXPERIMENTS, experiment.name, experiment)
    monkeypatch.chdir(tmp_path)
    return experiment.name


def test_predict_takes_a_video_or_a_picture_and_any_adapter(tiny, capsys):
    cli.main(["predict", tiny, "What is it?", "--video", str(MEDIA / "clip_b.mkv")])
    cli.main(["predict", f"{tiny}_frame_mean_pool2", "What is it?", "--image", str(MEDIA / "img_c.png")])
    assert capsys.readouterr().out.count("\n") == 2
    assert not Path("results/tiny_cinego").exists(), "to ask once leaves no run behind"


def test_tokens_of_the_published_sizes_are_told_without_weights(capsys):
    cli.main(["tokens", "cinego_512", "--levels", "1"])
    out = capsys.readouterr().out
    assert "197 queries" in out and "197" in out and "not known" not in out
    cli.main(["tokens", "cinego_768_concat", "--frames", "16"])
    assert "3152" in capsys.readouterr().out


def test_recorded_towers_have_the_class_token(recordings, experiment):
    tower = load_file(RECORDED / "weights_vision.safetensors")
    assert any(key.endswith("class_embedding") for key in tower)
    assert fresh(experiment).encoders["video"].shape == (1, 5)


def test_a_lora_wraps_the_language_model_and_begins_as_nothing(experiment):
    model, sample = fresh(experiment), batch(row(7, clip(3), 8, 9))
    with torch.no_grad():
        before = model(**sample).logits
    model.add_lora(Lora(r=2, alpha=4, dropout=0.0))
    after = model(**sample)
    torch.testing.assert_close(after.logits, before)
    after.loss.backward()
    learned = {name for name, p in model.llm.named_parameters() if p.requires_grad}
    assert len(learned) == 2 * 7 * SIZE.layers and all(model.llm.get_parameter(n).grad is not None for n in learned)
