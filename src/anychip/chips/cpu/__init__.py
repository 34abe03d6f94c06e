"""This host. Its figures are measured at first use and kept under `home`; see host.py."""

from anychip.chips.cpu.targets import (
    auto,
    iree,
    native,
    onnxruntime,
    openvino,
    read_spec,
    twin,
    xla,
)
from anychip.core import Chip

chip = Chip(
    read_spec,
    targets={
        "auto": auto,
        "xla": xla,
        "native": native,
        "onnxruntime": onnxruntime,
        "openvino": openvino,
        "iree": iree,
        "twin": twin,
    },
)
