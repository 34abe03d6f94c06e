"""transformers models of tiny configurations, and inputs that fit them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import zoo_tiny
import zoo_weights
from zoo_built import Built

from anychip.zoo import Entry


def build(entry: Entry) -> Built:
    """`type` is a model_type; `auto` the Auto class; `config` and `inputs` change what is tiny.
    `follow_example` is for models that branch on data."""
    model = make(entry)
    random = torch.Generator().manual_seed(1)
    inputs = inputs_of(model, dict(entry.values.get("inputs", {})), random)
    if "image_tokens" in entry.values:
        _place_image(inputs, model.config, entry.values["image_tokens"])
    return Built(
        model,
        (inputs,),
        strict=entry.values.get("strict"),
        seed=entry.values.get("seed"),
        follow_example=entry.values.get("follow_example", False),
    )


def make(entry: Entry) -> torch.nn.Module:
    import transformers
    from transformers.models.auto import modeling_auto as auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = entry.values.get("type", entry.name)
    config = zoo_tiny.tiny(CONFIG_MAPPING[kind], dict(entry.values.get("config", {})))
    default = "AutoModel"
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder:
        default = "AutoModelForCausalLM"
    family = getattr(transformers, entry.values.get("auto", default))
    torch.manual_seed(0)
    options = (
        {"attn_implementation": entry.values["attention"]} if "attention" in entry.values else {}
    )
    if hasattr(family, "from_config"):
        model = family.from_config(config, **options)
    else:
        model = family._from_config(config, **options)
    model = model.float().eval()
    model.config.use_cache = False
    zoo_weights.fill(model)
    return model


def inputs_of(
    model: torch.nn.Module, shapes: dict[str, Any], random: torch.Generator
) -> dict[str, Any]:
    """The inputs forward takes, by its parameters' names; `shapes` gives a shape or a value."""
    parameters = inspect.signature(model.forward).parameters
    config = model.config
    text = config.get_text_config()
    words = min(getattr(text, "vocab_size", None) or zoo_tiny.VOCABULARY, zoo_tiny.VOCABULARY)
    length = 12

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(1, max(words - 26, 9), shape, generator=random)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    inputs: dict[str, Any] = {}
    main = model.main_input_name
    if main == "input_ids" or ("input_ids" in parameters and main != "inputs_embeds"):
        inputs["input_ids"] = ids(2, length)
        if "attention_mask" in parameters:
            inputs["attention_mask"] = torch.ones(2, length, dtype=torch.int64)
            inputs["attention_mask"][1, -3:] = 0
    if "decoder_input_ids" in parameters:
        inputs["decoder_input_ids"] = ids(2, 5)
    if "bbox" in parameters:
        inputs["bbox"] = torch.tensor([3, 5, 20, 30]).expand(2, length, 4).clone()
    if "pixel_values" in parameters:
        inputs["pixel_values"] = normal(2, *_image(config))
    if main in ("input_features", "input_values") and main in parameters:
        bins = getattr(config, "num_mel_bins", 16)
        inputs[main] = normal(2, bins, 64) if main == "input_features" else normal(2, 4000)
        inputs.pop("input_ids", None)
        inputs.pop("attention_mask", None)
    for name, shape in shapes.items():
        if shape == "none":
            inputs.pop(name, None)
        elif isinstance(shape, list):
            is_ids = name.endswith(("ids", "mask", "labels", "lengths", "thw"))
            inputs[name] = ids(*shape) if is_ids else normal(*shape)
            if name.endswith("mask"):
                inputs[name] = torch.ones(*shape, dtype=torch.int64)
        elif isinstance(shape, dict):
            inputs[name] = torch.tensor(shape["value"])
        else:
            inputs[name] = shape
    for name in ("use_cache",):
        if name in parameters and name not in shapes:
            inputs[name] = False
    return inputs


def _place_image(inputs: dict[str, Any], config: Any, count: int) -> None:
    """Put the tokens that stand for an image after the first of each sequence."""
    ids = inputs["input_ids"]
    token = getattr(config, "image_token_id", None) or config.image_token_index
    place = torch.full((ids.shape[0], count), token)
    inputs["input_ids"] = torch.cat([ids[:, :1], place, ids[:, 1:]], 1)
    inputs.pop("attention_mask", None)
    if "token_type_ids" in inputs:
        inputs["token_type_ids"] = (inputs["input_ids"] == token).long()


def _image(config: Any) -> tuple[int, int, int]:
    for part in (
        config,
        getattr(config, "vision_config", None),
        getattr(config, "backbone_config", None),
    ):
        size = getattr(part, "image_size", None)
        if size:
            height, width = (size, size) if isinstance(size, int) else size
            return getattr(part, "num_channels", 3) or 3, height, width
    return 3, 64, 64


def build_decode(entry: Entry) -> Built:
    """One token a step through a StaticCache: the cache is state of the module."""
    from transformers.integrations.executorch import TorchExportableModuleWithStaticCache

    model = make(entry)
    model.generation_config.use_cache = True
    model.generation_config.cache_implementation = "static"
    wrapped = TorchExportableModuleWithStaticCache(model, batch_size=1, max_cache_len=16)
    random = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, zoo_tiny.VOCABULARY - 26, (8,), generator=random)
    steps = tuple(
        {"input_ids": tokens[None, i : i + 1], "cache_position": torch.tensor([i])}
        for i in range(8)
    )
    return Built(wrapped.eval(), steps, strict=entry.values.get("strict"))
