"""Every parameter of the real models, name and shape, derived from published facts alone.

Imports nothing of the project: what the project builds is compared with this. Names are those of the reference's
full state dict; a Linear from d to e has weight (e, d) and bias (e).

python -m tests.manifest      parameters and bytes of every part of both sizes
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

Shapes = dict[str, tuple[int, ...]]

CLIP_PREFIX = "model.image_vision_tower.vision_tower.vision_model."
INTERNVIDEO2_PREFIX = "model.vision_tower.vision_encoder."
#: Rank of LoRA in the reference's fine-tuning.
LORA_RANK = 128


class Qwen2(NamedTuple):
    """Qwen2.5 as in its published config.json."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int = 151_936
    tied: bool = True


class Clip(NamedTuple):
    """The vision tower of CLIP ViT-L/14-336."""

    width: int = 1024
    layers: int = 24
    mlp: int = 4096
    pixels: int = 336
    patch: int = 14


class InternVideo2(NamedTuple):
    """The vision encoder of InternVideo2-Stage2 1B, and the heads of its training that stayed in its file."""

    width: int = 1408
    depth: int = 40
    pixels: int = 224
    patch: int = 14
    chunk: int = 4
    # Width that `clip_projector` pools to, and that of `vision_proj` behind it.
    pooled: int = 768
    joint: int = 512
    # Width of the teacher's layers and of its end, and how many layers were imitated.
    teacher: int = 3200
    teacher_end: int = 768
    imitated: int = 6


class Size(NamedTuple):
    """One real size of the dual encoder."""

    llm: Qwen2
    clip: Clip = Clip()
    internvideo2: InternVideo2 = InternVideo2()


SIZES = {
    "1.5b": Size(Qwen2(width=1536, layers=28, heads=12, kv_heads=2, mlp=8960)),
    "3b": Size(Qwen2(width=2048, layers=36, heads=16, kv_heads=2, mlp=11008)),
}


def linear(name: str, d: int, e: int, bias: bool = True) -> Shapes:
    """A Linear from `d` to `e` features."""
    return {f"{name}.weight": (e, d)} | ({f"{name}.bias": (e,)} if bias else {})


def norm(name: str, d: int, bias: bool = True) -> Shapes:
    """A LayerNorm; without bias an RMSNorm."""
    return {f"{name}.weight": (d,)} | ({f"{name}.bias": (d,)} if bias else {})


def llm_linears(size: Qwen2) -> dict[str, tuple[int, int]]:
    """(features in, features out) of the seven Linears of each layer, which LoRA adapts."""
    head = size.width // size.heads
    widths = {
        "self_attn.q_proj": (size.width, size.heads * head),
        "self_attn.k_proj": (size.width, size.kv_heads * head),
        "self_attn.v_proj": (size.width, size.kv_heads * head),
        "self_attn.o_proj": (size.heads * head, size.width),
        "mlp.gate_proj": (size.width, size.mlp),
        "mlp.up_proj": (size.width, size.mlp),
        "mlp.down_proj": (size.mlp, size.width),
    }
    return {f"model.layers.{i}.{name}": io for i in range(size.layers) for name, io in widths.items()}


def llm(size: Qwen2) -> Shapes:
    """Qwen2 as its folder stores it: q, k and v alone have a bias; a tied `lm_head` is not stored."""
    shapes = {"model.embed_tokens.weight": (size.vocabulary, size.width)}
    for name, (d, e) in llm_linears(size).items():
        shapes |= linear(name, d, e, bias=name.endswith(("q_proj", "k_proj", "v_proj")))
    for i in range(size.layers):
        shapes |= norm(f"model.layers.{i}.input_layernorm", size.width, bias=False)
        shapes |= norm(f"model.layers.{i}.post_attention_layernorm", size.width, bias=False)
    shapes |= norm("model.norm", size.width, bias=False)
    return shapes if size.tied else shapes | {"lm_head.weight": (size.vocabulary, size.width)}


def clip(size: Clip) -> Shapes:
    """CLIP's vision tower: one position for each patch and the class token."""
    d, patches = size.width, (size.pixels // size.patch) ** 2
    shapes = {
        "embeddings.class_embedding": (d,),
        "embeddings.patch_embedding.weight": (d, 3, size.patch, size.patch),
        "embeddings.position_embedding.weight": (1 + patches, d),
    }
    shapes |= norm("pre_layrnorm", d) | norm("post_layernorm", d)
    for i in range(size.layers):
        layer = f"encoder.layers.{i}"
        shapes |= norm(f"{layer}.layer_norm1", d) | norm(f"{layer}.layer_norm2", d)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{name}", d, d)
        shapes |= linear(f"{layer}.mlp.fc1", d, size.mlp) | linear(f"{layer}.mlp.fc2", size.mlp, d)
    return {CLIP_PREFIX + name: shape for name, shape in shapes.items()}


def internvideo2(size: InternVideo2) -> Shapes:
    """InternVideo2's blocks and embeddings, the last block included."""
    d, patches = size.width, (size.pixels // size.patch) ** 2
    shapes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 1 + size.chunk * patches, d),
        "img_pos_embed": (1, 1 + patches, d),
        "patch_embed.proj.weight": (d, 3, 1, size.patch, size.patch),
        "patch_embed.proj.bias": (d,),
    }
    hidden = int(d * 48 / 11)
    for i in range(size.depth):
        block = f"blocks.{i}"
        for name in ("norm1", "norm2", "attn.q_norm", "attn.k_norm"):
            shapes |= norm(f"{block}.{name}", d, bias=False)
        shapes |= linear(f"{block}.attn.qkv", d, 3 * d, bias=False) | linear(f"{block}.attn.proj", d, d)
        shapes |= {f"{block}.ls1.gamma": (d,), f"{block}.ls2.gamma": (d,)}
        shapes |= linear(f"{block}.mlp.fc1", d, hidden) | linear(f"{block}.mlp.fc2", hidden, d)
    return {INTERNVIDEO2_PREFIX + name: shape for name, shape in shapes.items()}


def internvideo2_unused(size: InternVideo2) -> Shapes:
    """What else of the vision encoder its file holds: the heads that its training had, and their positions."""
    d, patches = size.width, (size.pixels // size.patch) ** 2
    shapes = {
        "clip_pos_embed": (1, 1 + size.chunk * patches, d),
        "clip_img_pos_embed": (1, 1 + patches, d),
    }
    for x in "qkv":
        shapes |= norm(f"clip_projector.norm1_{x}", d)
        shapes |= linear(f"clip_projector.cross_attn.{x}", d, d, bias=False)
        shapes |= {f"clip_projector.cross_attn.{x}_bias": (d,)}
    shapes |= linear("clip_projector.cross_attn.proj", d, size.pooled)
    for i in range(size.imitated):
        shapes |= linear(f"clip_decoder.{i}.head", d, size.teacher) | norm(f"clip_decoder.{i}.norm", size.teacher)
    shapes |= linear("final_clip_decoder.head", size.pooled, size.teacher_end)
    shapes |= norm("final_clip_decoder.norm", size.teacher_end)
    outside = linear("model.vision_tower.vision_proj", size.pooled, size.joint)
    return {INTERNVIDEO2_PREFIX + name: shape for name, shape in shapes.items()} | outside


def projectors(size: Size) -> Shapes:
    """Both `mlp2x_gelu` projectors: Linear, GELU, Linear."""
    out, shapes = size.llm.width, {}
    for name, d in (("mm_projector", size.internvideo2.width), ("image_mm_projector", size.clip.width)):
        shapes |= linear(f"model.{name}.0", d, out) | linear(f"model.{name}.2", out, out)
    return shapes


def reference(size: Size) -> Shapes:
    """The reference's full state dict."""
    video = internvideo2(size.internvideo2) | internvideo2_unused(size.internvideo2)
    return llm(size.llm) | clip(size.clip) | video | projectors(size)


def lora(size: Qwen2, r: int = LORA_RANK) -> Shapes:
    """PEFT's adapter file: A is (r, in), B is (out, r)."""
    shapes = {}
    for name, (d, e) in llm_linears(size).items():
        shapes |= {
            f"base_model.model.{name}.lora_A.weight": (r, d),
            f"base_model.model.{name}.lora_B.weight": (e, r),
        }
    return shapes


def ours(size: Size) -> Shapes:
    """The parameters of the model that is built of those files, by its own names.

    Both towers end one layer early: the reference takes the output of the last layer but one.
    """
    names = {f"llm.{name}": shape for name, shape in llm(size.llm).items()}
    for name, shape in clip(size.clip).items():
        own = name.removeprefix(CLIP_PREFIX)
        if not own.startswith(f"encoder.layers.{size.clip.layers - 1}."):
            names[f"encoders.image.tower.model.{own}"] = shape
    for name, shape in internvideo2(size.internvideo2).items():
        own = name.removeprefix(INTERNVIDEO2_PREFIX)
        if not own.startswith(f"blocks.{size.internvideo2.depth - 1}."):
            names[f"encoders.video.tower.{own}"] = shape
    streams = {"model.mm_projector": "projectors.video", "model.image_mm_projector": "projectors.image"}
    for name, shape in projectors(size).items():
        projector = next(p for p in streams if name.startswith(f"{p}."))
        names[name.replace(projector, streams[projector], 1)] = shape
    return names


def count(shapes: Iterable[tuple[int, ...]]) -> int:
    """Numbers in tensors of these shapes."""
    return sum(prod(shape) for shape in shapes)


def parts(size: Size) -> dict[str, int]:
    """Parameters of every part: in the files, and `(run)` what is left of the two towers in the built model."""
    built = ours(size)
    return {
        "LLM": count(llm(size.llm).values()),
        "CLIP vision tower": count(clip(size.clip).values()),
        "CLIP vision tower (run)": count(s for n, s in built.items() if n.startswith("encoders.image.")),
        "InternVideo2": count(internvideo2(size.internvideo2).values()),
        "InternVideo2 (run)": count(s for n, s in built.items() if n.startswith("encoders.video.")),
        "InternVideo2's unused heads": count(internvideo2_unused(size.internvideo2).values()),
        "projectors": count(projectors(size).values()),
        "built model": count(built.values()),
        f"LoRA, r {LORA_RANK}": count(lora(size.llm).values()),
        "trained in fine-tuning": count(lora(size.llm).values()) + count(projectors(size).values()),
    }


def table(size: Size) -> list[str]:
    """Lines of a table: part, parameters, GiB in bfloat16 and in float32."""
    lines = [f"{'part':<30}{'parameters':>15}{'GiB bf16':>10}{'GiB f32':>10}"]
    for part, numbers in parts(size).items():
        lines.append(f"{part:<30}{numbers:>15,}{2 * numbers / 2**30:>10.2f}{4 * numbers / 2**30:>10.2f}")
    return lines


if __name__ == "__main__":
    for title, chosen in SIZES.items():
        print(f"{title}\n" + "\n".join(table(chosen)) + "\n")
