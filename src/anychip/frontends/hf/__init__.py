"""Hugging Face model folders: config.json, safetensors, tokenizer. No code from the folder runs."""

from anychip.frontends.hf.load import load_hf

__all__ = ["load_hf"]
