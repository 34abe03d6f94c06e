"""A tiny configuration from any transformers config class: same structure, small numbers."""

from __future__ import annotations

from typing import Any

HIDDEN, HEADS, LAYERS, WIDE, VOCABULARY = 64, 4, 2, 96, 128

# attribute → its small value; only attributes a config has are set
_SMALL: dict[str, int] = {
    **dict.fromkeys(
        "hidden_size d_model n_embd dim embed_dim embedding_size emb_dim word_embed_proj_dim "
        "projection_dim vision_hidden_size text_hidden_size encoder_hidden_size "
        "decoder_hidden_size "
        "hidden_dim lru_width text_embed_dim shared_embedding_dim projection_size "
        "proj_hidden_size out_hidden_size width cross_attention_hidden_size output_dim "
        "embedding_dim d_embed".split(),
        HIDDEN,
    ),
    **dict.fromkeys(
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth "
        "num_decoder_layers num_encoder_layers vision_layers encoder_num_hidden_layers "
        "decoder_num_hidden_layers num_block_layers num_transformer_layers".split(),
        LAYERS,
    ),
    **dict.fromkeys(
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
        "decoder_attention_heads encoder_num_attention_heads decoder_num_attention_heads "
        "num_decoder_attention_heads num_encoder_attention_heads attention_heads "
        "linear_num_value_heads".split(),
        HEADS,
    ),
    **dict.fromkeys(
        "intermediate_size ffn_dim d_ff n_inner encoder_ffn_dim decoder_ffn_dim inner_dim "
        "moe_intermediate_size shared_expert_intermediate_size ffn_hidden_size dim_feedforward "
        "dense_intermediate_size mlp_dim expert_ffn_hidden_size shared_intermediate_size "
        "encoder_intermediate_size decoder_intermediate_size moe_shared_expert_intermediate_size "
        "intermediate_size_mlp block_ff_dim hidden_ffn_dim".split(),
        WIDE,
    ),
    **dict.fromkeys("head_dim kv_channels d_kv attention_head_dim linear_key_head_dim".split(), 16),
    **dict.fromkeys("linear_value_head_dim v_head_dim qk_nope_head_dim mamba_d_head".split(), 16),
    **dict.fromkeys("kv_lora_rank q_lora_rank index_head_dim o_lora_rank".split(), 16),
    "qk_rope_head_dim": 8,
    "qk_head_dim": 24,
    "global_head_dim": 16,
    **dict.fromkeys("num_key_value_heads num_kv_heads n_head_kv multi_query_group_num".split(), 2),
    **dict.fromkeys(
        "linear_num_key_heads num_global_key_value_heads swa_num_key_value_heads".split(), 2
    ),
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
    **dict.fromkeys("max_position_embeddings n_positions n_ctx max_seq_len seq_length".split(), 64),
    **dict.fromkeys("max_source_positions max_target_positions max_text_len".split(), 64),
    **dict.fromkeys(
        "num_experts num_local_experts n_routed_experts moe_num_experts num_routed_experts "
        "moe_num_routed_experts".split(),
        4,
    ),
    **dict.fromkeys(
        "num_experts_per_tok moe_topk moe_k num_experts_per_token top_k_experts moe_top_k".split(),
        2,
    ),
    **dict.fromkeys("n_group topk_group n_shared_experts num_shared_experts".split(), 1),
    **dict.fromkeys("first_k_dense_replace num_dense_layers moe_layer_start_index".split(), 1),
    "state_size": 8,
    "ssm_state_size": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_num_heads": 8,
    "mamba_n_heads": 8,
    "mamba_d_ssm": 128,
    "rotary_dim": 8,
    "mamba_head_dim": 16,
    "n_groups": 1,
    "time_step_rank": 4,
    "image_size": 32,
    "num_mel_bins": 16,
    "attention_window": 4,
    "num_queries": 5,
    "num_query_tokens": 4,
    "num_labels": 5,
    "n_codebooks": 2,
    "num_codebooks": 2,
    "sliding_window": 8,
}
# what a config of None works out from the others; some versions forget to
_WORKED_OUT = {"head_dim": HIDDEN // HEADS, "num_key_value_heads": HEADS}


def tiny(kind: type, changes: dict[str, Any]) -> Any:
    """A small instance of a config class. `changes` (nested for sub-configs) have the last word;
    "default" leaves a value as the class has it."""
    full = kind()
    values = _small_values(kind, full)
    for name, value in changes.items():
        if value == "default":
            values.pop(name, None)
        elif isinstance(value, dict) and name not in getattr(kind, "sub_configs", {}):
            values[name] = {**(getattr(full, name, None) or {}), **value}
        elif isinstance(value, dict):
            values[name] = tiny(type(getattr(full, name)), value)
        else:
            values[name] = value
    return kind(**values)


def _small_values(kind: type, full: Any) -> dict[str, Any]:
    given = full.to_dict()
    renamed = {v: k for k, v in getattr(kind, "attribute_map", {}).items()}
    values: dict[str, Any] = {}
    for name, value in given.items():
        small = _SMALL.get(name, _SMALL.get(renamed.get(name, "")))
        if value is None and name in _WORKED_OUT:
            values[name] = _WORKED_OUT[name]
        elif isinstance(value, int) and not isinstance(value, bool) and small is not None:
            values[name] = min(small, value) if "image_size" not in name else small
        elif name == "image_size" and isinstance(value, list | tuple):
            values[name] = type(value)(32 for _ in value)
        elif name.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY:
            values[name] = VOCABULARY - 1 - hash_of(name)
        elif name == "depths" and isinstance(value, list | tuple):
            values[name] = [1] * len(value)
        elif name in ("layer_types", "layers_block_type") and isinstance(value, list):
            values[name] = list(dict.fromkeys(value)) * (1 if len(set(value)) > 1 else LAYERS)
    if "qk_rope_head_dim" in values and "head_dim" in values:
        values["head_dim"] = values["qk_rope_head_dim"]  # MLA turns only these
    if given.get("num_key_value_heads") == given.get("num_attention_heads"):
        values["num_key_value_heads"] = values.get("num_attention_heads")
    values = {name: value for name, value in values.items() if value is not None}
    for name in getattr(kind, "sub_configs", {}):
        part = getattr(full, name, None)
        if part is not None and hasattr(part, "to_dict"):
            values[name] = tiny(type(part), {})
    types = values.get("layer_types") or values.get("layers_block_type")
    if types:
        for name in ("num_hidden_layers", "n_layer", "num_layers"):
            if name in values:
                values[name] = len(types)
    return values


def hash_of(name: str) -> int:
    """A small number that differs between the usual names of special tokens."""
    return sum(map(ord, name)) % 24
