"""CogVLM2 shared out between processes: both experts of the language model alike, and the tower."""

from __future__ import annotations

from videogpt_plus.families.cogvlm2.model import CogVLM2
from videogpt_plus.models.tensor_parallel import check_shares, columns, rows, summed


def shard(model: CogVLM2, rank: int, size: int) -> None:
    """Leaves of every layer the rank's share. Projector, embeddings and head stay whole in each process.

    UserError: heads or channels cannot be shared out evenly.
    """
    llm, tower = model.causal, model.encoders[model.stream].tower
    config, blocks = llm.config, tower.transformer.layers
    check_shares(
        size,
        {
            "heads": config.num_attention_heads,
            "key-value heads": config.num_key_value_heads,
            "channels of the MLP": config.intermediate_size,
            "heads of the tower": blocks[0].attention.heads,
            "channels of the tower's MLP": blocks[0].mlp.fc1.out_features,
        },
    )
    for layer in llm.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for fused in (attention.language_expert_query_key_value, attention.vision_expert_query_key_value):
            rows(fused, rank, size, attention.sections)
        attention.sections = [section // size for section in attention.sections]
        for dense in (attention.language_expert_dense, attention.vision_expert_dense):
            columns(dense, rank, size)
        for expert in (mlp.language_mlp, mlp.vision_mlp):
            if expert is not None:
                rows(expert.gate_proj, rank, size)
                rows(expert.up_proj, rank, size)
                columns(expert.down_proj, rank, size)
        summed(attention)
        summed(mlp)
    for block in blocks:
        attention = block.attention
        rows(attention.query_key_value, rank, size, [attention.query_key_value.in_features] * 3)
        attention.heads //= size
        columns(attention.dense, rank, size)
        rows(block.mlp.fc1, rank, size)
        columns(block.mlp.fc2, rank, size)
        summed(attention)
        summed(block.mlp)
