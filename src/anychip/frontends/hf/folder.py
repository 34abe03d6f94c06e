"""A model folder: config checked, model built by transformers, weights left in their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anychip.core.errors import InputError, SetupError, UnsupportedError, UsageError, missing_extra
from anychip.core.module import Module
from anychip.core.weights import Weights
from anychip.frontends.hf.mapped import from_files

_KIN = {"mimo": ("qwen2", "Qwen2ForCausalLM")}
"""Types that transformers has under another name. MiMo-7B is Qwen2, and a module that guesses
ahead (frontends/llm/mtp.py)."""
_TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64"}


@dataclass(frozen=True)
class Folder:
    """A folder with a readable config.json."""

    path: Path
    config_json: Mapping[str, Any]
    is_renamed: bool = False

    @staticmethod
    def read(path: Path) -> Folder:
        """Check what can be checked without loading anything."""
        if find_spec("transformers") is None or find_spec("torch") is None:
            raise missing_extra("transformers", "torch", "loading a Hugging Face folder")
        file = path / "config.json"
        if not file.is_file():
            raise InputError("a Hugging Face folder has a config.json", path=str(path))
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"not valid JSON: {error}", path=str(file)) from None
        if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
            raise InputError("it does not say a model_type", path=str(file), field="model_type")
        import_transformers()
        kin = _KIN.get(config["model_type"])
        if kin is None:
            return Folder(path, config)
        own = {k: v for k, v in config.items() if k != "auto_map"}
        renamed = {**own, "model_type": kin[0], "architectures": [kin[1]]}
        return Folder(path, renamed, is_renamed=True)

    @cached_property
    def config(self) -> Any:
        """transformers' configuration object. Raises when the architecture is not its own."""
        from transformers import AutoConfig

        from_library = _known(self.config_json["model_type"])
        if not from_library:
            own = "auto_map" in self.config_json
            raise UnsupportedError(
                f"{self.path} is a {self.config_json['model_type']!r} model, which this version of "
                "transformers does not have"
                + (
                    " and whose code is in the folder; code from a model folder is never run."
                    if own
                    else "."
                )
                + " Install a transformers that has it, or make the nn.Module yourself and pass it "
                "to anychip.load with example inputs"
            )
        try:
            if self.is_renamed:
                return AutoConfig.for_model(**self.config_json)
            return AutoConfig.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # every config class validates in its own way
            raise InputError(
                f"transformers refuses it: {_first_line(error)}",
                path=str(self.path / "config.json"),
            ) from error

    @cached_property
    def architecture(self) -> type:
        """The model class the config names, else the one its type has by default."""
        import transformers

        names = self.config_json.get("architectures") or []
        for one in names:
            found = getattr(transformers, str(one), None)
            if isinstance(found, type):
                return found
        if names and "auto_map" in self.config_json:
            raise UnsupportedError(
                f"{self.path}: the code of {names[0]} is in the folder, and code from a model "
                "folder is never run. Where you trust it, make the nn.Module yourself and pass it "
                "to anychip.load with example inputs"
            )
        from transformers.models.auto.modeling_auto import MODEL_MAPPING

        return MODEL_MAPPING[type(self.config)]  # pyright: ignore[reportReturnType]

    @property
    def generates_text(self) -> bool:
        """Whether its architecture is a decoder of tokens."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        return (
            self.architecture.__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
            and not self.config.is_encoder_decoder
        )

    def model(self, dtype: str = "") -> Any:
        """The nn.Module in eval mode, its parameters mapped from the safetensors files."""
        if dtype and dtype not in _TYPES:
            raise UsageError(f"dtype {dtype!r} is not one of {', '.join(_TYPES)}")
        import torch

        self._check_files()
        wanted = getattr(torch, _TYPES[dtype]) if dtype else "auto"
        try:
            loaded, report = self.architecture.from_pretrained(
                self.path,
                config=self.config,
                dtype=wanted,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # transformers and safetensors raise whatever they meet
            raise InputError(
                f"the weights do not load: {type(error).__name__}: {_first_line(error)}",
                path=str(self.path),
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise InputError(
                f"{len(missing)} weight(s) of {self.architecture.__name__} are in no file, such as "
                f"{missing[0]}",
                path=str(self.path),
            )
        return loaded.eval()

    def _check_files(self) -> None:
        files = sorted(self.path.glob("*.safetensors"))
        if not files:
            others = [f.name for f in self.path.iterdir() if f.suffix in (".bin", ".pt", ".pth")]
            raise InputError(
                "no *.safetensors file"
                + (
                    f" ({', '.join(others)} are pickles, which can run code; convert them with "
                    "safetensors)"
                    if others
                    else ""
                ),
                path=str(self.path),
            )
        for file in files:
            _check_header(file)

    def weights(self, module: Module, model: Any) -> Weights:
        """The module's weights, read from the files where they lie there as they are."""
        return from_files(module.weights, model)

    def usual_inputs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Example inputs and symbolic sizes for models that read token ids or one image."""
        import torch
        from torch.export import Dim

        main = self.architecture.main_input_name
        batch = Dim("batch")
        if main == "input_ids" and not self.config.is_encoder_decoder:
            length = Dim("length", min=2, max=getattr(self.config, "max_position_embeddings", 4096))
            ids = torch.ones(2, 8, dtype=torch.int64)
            axes = {0: batch, 1: length}
            return {"input_ids": ids, "attention_mask": ids.clone()}, {
                "input_ids": axes,
                "attention_mask": axes,
            }
        size = getattr(self.config, "image_size", None)
        if main == "pixel_values" and size:
            height, width = (size, size) if isinstance(size, int) else size
            channels = getattr(self.config, "num_channels", 3)
            image = torch.zeros(2, channels, height, width)
            return {"pixel_values": image}, {"pixel_values": {0: batch}}
        raise UsageError(
            f"{self.architecture.__name__} reads {main}; give example_inputs, a mapping of "
            "forward's arguments to tensors"
        )


def _known(model_type: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def import_transformers() -> None:
    """Import transformers even where torchvision, which it uses for images, is broken."""
    if find_spec("torchvision") is not None:
        try:
            import torchvision  # noqa: F401
        except Exception as error:  # built for another torch: RuntimeError, ImportError, OSError
            _leave_out_torchvision(_first_line(error))
    try:
        import transformers.modeling_utils  # noqa: F401
    except Exception as error:
        raise SetupError(f"transformers does not import: {_first_line(error)}") from error


def _leave_out_torchvision(why: str) -> None:
    import warnings

    from transformers import utils
    from transformers.utils import import_utils

    warnings.warn(
        f"torchvision does not fit this torch ({why}) and is left out; install the build for this "
        "torch, or uninstall it",
        stacklevel=2,
    )
    for module in (utils, import_utils):
        module.is_torchvision_available = lambda: False  # pyright: ignore[reportAttributeAccessIssue]
        module.is_torchvision_v2_available = lambda: False  # pyright: ignore[reportAttributeAccessIssue]


def _check_header(file: Path) -> None:
    """A safetensors header that fits its file; the library's own errors do not name it."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise InputError(f"its header claims {length} bytes of {size}", path=str(file))
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise InputError(f"its header is not JSON: {error}", path=str(file)) from None
    if not isinstance(header, dict):
        raise InputError("its header is not an object", path=str(file))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            begin, end = entry["data_offsets"]
            fits = 0 <= begin <= end <= size - 8 - length
        except (TypeError, KeyError, ValueError):
            fits = False
        if not fits:
            raise InputError("its data lies outside the file", path=str(file), field=name)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
