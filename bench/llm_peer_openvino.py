"""OpenVINO answering the questions of bench/llm.py on its standard input. Needs openvino_genai.

    python bench/llm_peer_openvino.py MODEL.gguf THREADS

openvino_genai reads the GGUF file and writes OpenVINO's model of it, which is then run through its
own infer request: the weights, the prompt and each step are the same as for the others. Its caches
cannot be cut back, so a long context grows by what was decoded; a short one is filled anew.
"""

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13

path, threads = Path(sys.argv[1]), int(sys.argv[2])
TOKEN, SHORT = 5, 256


def converted():
    """OpenVINO's model of the file, written once beside it."""
    folder = path.parent / f"{path.stem}-openvino"
    found = folder / "openvino_model.xml"
    if not found.exists():
        import openvino_genai

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        link = folder / path.name
        link.symlink_to(path)
        try:
            openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
        except RuntimeError:  # its pipeline may fail on what it wrote, which is all we run
            if not found.exists():
                raise
    return found


def last_only(model):
    """Logits of the last token only, as openvino_genai's own pipelines and the others compute."""
    product = model.output("logits").get_node().input_value(0).get_node()
    while product.get_type_name() != "MatMul":
        product = product.input_value(0).get_node()
    hidden = product.input_value(0)
    cut = opset13.slice(hidden, *(np.array([n], np.int64) for n in (-1, 2**31, 1, 1)))
    product.input(0).replace_source_output(cut.output(0))
    return model


core = ov.Core()
settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
compiled = core.compile_model(last_only(core.read_model(converted())), "CPU", settings)
names = {name for one in compiled.inputs for name in one.get_names()}
requests = {}


def step(key, length):
    """`length` more tokens in each sequence of a request; seconds."""
    request, filled, batch = requests[key]
    inputs = {
        "input_ids": np.full((batch, length), TOKEN, np.int64),
        "attention_mask": np.ones((batch, filled + length), np.int64),
        "position_ids": np.tile(np.arange(filled, filled + length, dtype=np.int64), (batch, 1)),
        "beam_idx": np.arange(batch, dtype=np.int32),
    }
    started = time.perf_counter()
    request.infer({name: value for name, value in inputs.items() if name in names})
    seconds = time.perf_counter() - started
    requests[key][1] += length
    return seconds


def fill(key, length, batch):
    if key not in requests:
        requests[key] = [compiled.create_infer_request(), 0, batch]
    requests[key][0].reset_state()
    requests[key][1] = 0
    return step(key, length)


def answer(what, *numbers):
    if what == "prefill":
        return fill(("prefill", *numbers), *numbers)
    filled, batch = key = numbers[:2]
    if what == "fill":
        fill(key, filled, batch)
        return 0.0
    if filled < SHORT:
        fill(key, filled, batch)
    return sum(step(key, 1) for _ in range(numbers[2]))


print(f"ready openvino {ov.__version__}", flush=True)
for line in sys.stdin:
    what, *numbers = line.split()
    print(answer(what, *map(int, numbers)), flush=True)
