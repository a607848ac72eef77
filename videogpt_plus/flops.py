"""How much arithmetic and memory a question costs, by stage, from an experiment's sizes alone. Imports no torch.

Counted are the multiplications and additions of matrix products and convolutions: 2 for each pair. Left out is what
takes time but few of them: norms, activations, softmax, pooling, embeddings, rotary angles. Encoders attend to
every token of their sequence; the LLM's causal attention is counted as far as it is used, each position with itself
and those before it: n (n + 1) / 2 pairs, where a kernel that computes whole blocks does a little more.
`tests/test_flops.py` holds every formula against torch's own counter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from videogpt_plus.config.experiment import Branch, Experiment
from videogpt_plus.config.experiments import CLIP_L_336, QWEN_1_5B, QWEN_3B
from videogpt_plus.config.tokens import num_visual_tokens
from videogpt_plus.encoders import encoder_of
from videogpt_plus.families import family_of
from videogpt_plus.io.files import located, read_object
from videogpt_plus.reducers import Reducer

#: Text tokens of a question where nobody counts them: system prompt, a short question, four short options.
TEXT_TOKENS = 60
#: Sizes of published weights, from the `config.json` of their repositories, for machines that do not hold them. Those
#: of a model family stand in its folder.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    # openai/clip-vit-large-patch14-336, its vision_config
    CLIP_L_336.weights: {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14},
    QWEN_1_5B.llm: {  # Qwen/Qwen2.5-1.5B-Instruct
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
    QWEN_3B.llm: {  # Qwen/Qwen2.5-3B-Instruct
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Tower:
    """An encoder as far as it runs, with its projector's widths."""

    # Blocks that run: both encoders leave out their last one.
    blocks: int
    # Width of a token.
    width: int
    # Hidden width of the MLP.
    mlp: int
    # Pixels a patch side.
    patch: int
    # Patches a side.
    grid: int
    # Frames that share a sequence with one class token; a single frame is a sequence of its own.
    chunk: int
    # Widths that the projector goes through, the encoder's first and the LLM's last.
    projector: tuple[int, ...]

    @property
    def side(self) -> int:
        """Patches a side in the blocks."""
        return self.grid

    @property
    def parameters(self) -> int:
        """Weights of the blocks that run, the patch embedding and the projector, without biases and norms."""
        blocks = self.blocks * (4 * self.width**2 + 2 * self.width * self.mlp)
        return blocks + 3 * self.patch**2 * self.width + self.projector_parameters

    @property
    def projector_parameters(self) -> int:
        """Weights of the projector, without biases."""
        return sum(a * b for a, b in zip(self.projector, self.projector[1:], strict=False))

    def encode(self, frames: int) -> int:
        """FLOPs of the frames of one visual; a last chunk that is not full costs a full one."""
        chunk = 1 if frames == 1 else self.chunk
        sequences = -(-frames // chunk)
        patches = chunk * self.side**2
        tokens = patches + 1
        embedding = 2 * 3 * self.patch**2 * self.width * patches
        linear = 2 * tokens * (4 * self.width**2 + 2 * self.width * self.mlp)
        attention = 4 * tokens**2 * self.width
        return sequences * (embedding + self.blocks * (linear + attention))

    def project(self, frames: int) -> int:
        """FLOPs of the projector, which is applied to every patch before pooling, at any level."""
        return 2 * frames * self.grid**2 * self.projector_parameters

    def train_projector(self, frames: int) -> int:
        """FLOPs of its forward and backward: gradients of all weights, and of all inputs but the frozen grid."""
        first = 2 * frames * self.grid**2 * self.projector[0] * self.projector[1] if len(self.projector) > 1 else 0
        return 3 * self.project(frames) - first


@dataclass(frozen=True)
class Reading:
    """A reducer that learns, at one branch."""

    reducer: Reducer
    # Width of a token where the reducer stands.
    width: int
    # Tokens of a frame: rows and columns.
    grid: tuple[int, int]
    # Frames that a picture counts as.
    picture: int = 1

    @property
    def parameters(self) -> int:
        """Weights, without biases and the queries."""
        return self.reducer.parameters(self.width)

    def read(self, frames: int) -> int:
        """FLOPs of the frames of one visual."""
        return self.reducer.flops(self.width, self.picture if frames == 1 else frames, *self.grid) if frames else 0


@dataclass(frozen=True)
class Llm:
    """A Qwen2, or CogVLM2's Llama."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    # Sets of weights in each layer, of which a token passes one.
    experts: int = 1
    # Whether the embedding is the head, too.
    tied: bool = True

    @property
    def parameters(self) -> int:
        """Weights of the layers, the embedding and a head of its own, which Qwen2.5's small sizes do without."""
        layer = self.experts * sum(a * b for a, b in self._shapes)
        return self.layers * layer + (1 if self.tied else 2) * self.vocabulary * self.width

    def forward(self, new: int, context: int = 0, logits: int = 1, rank: int = 0) -> int:
        """FLOPs of `new` positions behind `context` cached ones, with logits at so many of them.

        `rank` is that of a LoRA that is not merged into the weights; 0 where it is.
        """
        linear = new * (self._linear + self._low_rank(rank))
        return self.layers * linear + self._attention(new, context) + self.head(logits)

    def train(self, new: int, logits: int, rank: int, checkpointing: bool = False) -> int:
        """FLOPs of one sample's forward and backward: gradients flow through all of the LLM to the visual tokens.

        Frozen weights cost their input's gradient, LoRA both. The fused attention kernel computes the scores once
        more in its backward: five products instead of two. `checkpointing` repeats the forward of the layers up to
        the last product of each, whose result no gradient needs.
        """
        linear = self.layers * new * (2 * self._linear + 3 * self._low_rank(rank))
        last = self.layers * new * 2 * self.width * (rank or self.mlp)
        repeated = self.forward(new, logits=0, rank=rank) - last if checkpointing else 0
        return linear + self._attention(new, 0) * 7 // 2 + 2 * self.head(logits) + repeated

    def head(self, positions: int) -> int:
        """FLOPs of the logits at so many positions."""
        return 2 * positions * self.width * self.vocabulary

    def key_value_bytes(self, tokens: int, bytes_per_value: int = 2) -> int:
        """Bytes of the keys and values of so many tokens; 2 bytes a value in bfloat16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * bytes_per_value

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of q, k, v, o, gate, up and down: also where LoRA stands."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(self.width, queries), (self.width, keys), (self.width, keys), (queries, self.width)]
        return [*attention, (self.width, self.mlp), (self.width, self.mlp), (self.mlp, self.width)]

    @property
    def _linear(self) -> int:
        return sum(2 * a * b for a, b in self._shapes)

    def _low_rank(self, rank: int) -> int:
        return sum(2 * rank * (a + b) for a, b in self._shapes)

    def _attention(self, new: int, context: int) -> int:
        pairs = new * context + new * (new + 1) // 2
        return self.layers * 4 * pairs * self.heads * self.head_dim


@dataclass(frozen=True)
class Sizes:
    """All that the cost of an experiment depends on, at any level."""

    # By stream name, in token order.
    towers: Mapping[str, Tower]
    llm: Llm
    # Reducers that learn, one a branch; the others cost next to nothing.
    readers: tuple[Reading, ...] = ()

    @property
    def parameters(self) -> int:
        """Weights of everything that is loaded, without biases and norms, which are far below 1 %."""
        return sum(part.parameters for part in (*self.towers.values(), *self.readers)) + self.llm.parameters

    def encode(self, frames: int) -> int:
        """FLOPs of all encoders for the frames of one visual."""
        return sum(tower.encode(frames) for tower in self.towers.values())

    def project(self, frames: int) -> int:
        """FLOPs of all projectors, and of reducers that learn, for the frames of one visual."""
        return sum(tower.project(frames) for tower in self.towers.values()) + self._read(frames)

    def _read(self, frames: int) -> int:
        return sum(reader.read(frames) for reader in self.readers)

    def question(self, frames: int, visual: int, text: int = TEXT_TOKENS) -> int:
        """FLOPs of one question up to the first token of its reply: encoders, projectors, prefill."""
        return self.encode(frames) + self.project(frames) + self.llm.forward(visual + text)

    def train(self, frames: int, new: int, logits: int, rank: int, checkpointing: bool = False) -> int:
        """FLOPs of one sample of fine-tuning: `new` positions in all, logits at so many of them."""
        projectors = sum(tower.train_projector(frames) for tower in self.towers.values()) + 3 * self._read(frames)
        return self.encode(frames) + projectors + self.llm.train(new, logits, rank, checkpointing)


def sizes_of(experiment: Experiment) -> Sizes | None:
    """The experiment's sizes, from its configs and the `config.json` of its weights, as its family counts them.

    None where those files are neither here nor published sizes, or where nobody wrote a formula for an encoder.
    """
    return family_of(experiment.family).function("sizes")(experiment)


def dual_encoder(experiment: Experiment) -> Sizes | None:
    """`sizes_of` for the dual encoder."""
    config = config_of(experiment.llm, PUBLISHED)
    if config is None or config.get("model_type", "qwen2") != "qwen2":
        return None
    llm = llm_of(config)
    towers = towers_of(experiment, llm)
    return towers and Sizes(towers, llm, readers_of(experiment, llm.width))


def towers_of(experiment: Experiment, llm: Llm) -> dict[str, Tower] | None:
    """The experiment's encoders with their projectors, by branch; None unless all of them are known."""
    towers = {}
    for name, stream in experiment.branches:
        formula = encoder_of(stream.encoder).tower
        tower = resolve_name(formula)(stream, llm) if formula else None
        if tower is None:
            return None
        towers[name] = tower
    return towers


def readers_of(experiment: Experiment, width: int, picture: int = 1) -> tuple[Reading, ...]:
    """Reducers that learn, each on tokens of `width`; a picture counts as `picture` frames."""
    if not experiment.reducer.learns:
        return ()
    sides = [(branch.grid, encoder_of(branch.encoder).class_tokens) for _, branch in experiment.branches]
    grids = [(1, side**2 + alone) if alone else (side, side) for side, alone in sides]
    return tuple(Reading(experiment.reducer, width, grid, picture) for grid in grids)


def costs(experiment: Experiment, frames: int, text: int = TEXT_TOKENS) -> dict[str, int | None]:
    """`flops` of one question up to its first token, and `kv_bytes` of its keys and values in bfloat16.

    `frames` is 0 where nothing is shown. Both are None where the sizes are not known.
    """
    sizes = sizes_of(experiment)
    if sizes is None:
        return {"flops": None, "kv_bytes": None}
    visual = num_visual_tokens(experiment, frames)
    return {
        "flops": sizes.question(frames, visual, text),
        "kv_bytes": sizes.llm.key_value_bytes(visual + text),
    }


def llm_of(config: Mapping[str, Any], experts: int = 1, tied: bool = True) -> Llm:
    """The sizes of a Llama or a Qwen2 in a `config.json`."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    return Llm(
        config["num_hidden_layers"],
        width,
        heads,
        config.get("num_key_value_heads") or config["num_multi_query_heads"],
        config.get("head_dim") or width // heads,
        config["intermediate_size"],
        config["vocab_size"],
        experts,
        tied,
    )


def clip(stream: Branch, llm: Llm) -> Tower | None:
    """CLIP's tower, whose last block never runs."""
    config = config_of(stream.weights, PUBLISHED)
    return config and vision_transformer(stream, llm, config, unused=1)


def vision_transformer(stream: Branch, llm: Llm, config: Mapping[str, Any], unused: int = 0) -> Tower | None:
    """A tower as `config`, a whole CLIP's or its vision tower's, describes it; so many of its last blocks never run."""
    config = config.get("vision_config", config)
    widths = projector_widths(stream.projector, stream.width, llm.width)
    blocks = config["num_hidden_layers"] - unused
    sizes = (blocks, stream.width, config["intermediate_size"], config["patch_size"], stream.grid, 1)
    return Tower(*sizes, widths) if widths else None


def internvideo2(stream: Branch, llm: Llm) -> Tower | None:
    """InternVideo2's tower, whose last block never runs."""
    size, widths = stream.size, projector_widths(stream.projector, stream.width, llm.width)
    if size is None or widths is None:
        return None
    mlp = int(size.width * size.mlp_ratio)
    return Tower(size.depth - 1, size.width, mlp, size.patch, stream.grid, size.chunk, widths)


def projector_widths(name: str, width: int, llm_width: int) -> tuple[int, ...] | None:
    """The widths that a projector goes through; None for one of no known shape."""
    if name == "identity":
        return (width,)
    layers = re.fullmatch(r"mlp(\d+)x_gelu", name)
    if not layers and name != "linear":
        return None
    return (width, *[llm_width] * (int(layers[1]) if layers else 1))


def config_of(folder: str, published: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The `config.json` of a folder, or what is published of its sizes; None where there is neither."""
    file = located(folder) / "config.json"
    return read_object(file, "download it again") if file.is_file() else published.get(folder)
