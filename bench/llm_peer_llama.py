"""llama.cpp answering the questions of bench/llm.py on its standard input. Needs llama_cpp only.

    python bench/llm_peer_llama.py MODEL.gguf THREADS

`fill CONTEXT BATCH` puts CONTEXT tokens into each of BATCH sequences, `decode CONTEXT BATCH COUNT`
times COUNT steps from there and takes them back, `prefill LENGTH BATCH` times one prompt. Answers
are seconds. `grow MOST CONTEXT COUNT` is a decode in one sequence of at most MOST tokens that goes
on from where the last `grow` was. `greedy COUNT ID ID …` answers COUNT times [token, its five
likeliest with logits]. `settings` says what was chosen. A context of llama.cpp belongs to one
(CONTEXT, BATCH); all share the weights.
"""

import ctypes
import json
import sys
import time

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as c

path, threads = sys.argv[1], int(sys.argv[2])
ROOM, PIECE, TOKEN = 256, 512, 5


@c.llama_log_callback
def quiet(level, text, data):
    pass


c.llama_log_set(quiet, None)
c.llama_backend_init()
model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
if not model:
    sys.exit(f"llama.cpp cannot load {path}")
contexts, flash, grown = {}, {}, 0


def context(filled, batch, kind="decode"):
    key = filled, batch, faster(kind)
    if key not in contexts:
        contexts[key] = made(*key)
    return contexts[key]


def made(filled, batch, flash):
    wanted = c.llama_context_default_params()
    wanted.n_ctx = (filled + ROOM) * batch
    wanted.n_seq_max = batch
    wanted.n_batch = wanted.n_ubatch = PIECE
    wanted.n_threads = wanted.n_threads_batch = threads
    wanted.flash_attn_type = flash
    return c.llama_init_from_model(model, wanted)


def faster(kind):
    """Flash attention on or off, whichever is faster here: tried once for decoding and prompts."""
    if kind not in flash:
        seconds = {}
        for one in (c.LLAMA_FLASH_ATTN_TYPE_ENABLED, c.LLAMA_FLASH_ATTN_TYPE_DISABLED):
            where = made(PIECE, 1, one)
            run(where, [(TOKEN, p, 0) for p in range(16)])
            prompt = run(where, [(TOKEN, p, 0) for p in range(16, PIECE)])
            steps = [run(where, [(TOKEN, PIECE + i, 0)]) for i in range(10)]
            seconds[one] = prompt if kind == "prefill" else sum(steps[2:])
            c.llama_free(where)
        flash[kind] = min(seconds, key=seconds.get)
    return flash[kind]


def run(where, rows):
    """One batch of (token, position, sequence); logits of each sequence's last row."""
    batch = c.llama_batch_init(len(rows), 0, 1)
    last = {sequence: at for at, (_, _, sequence) in enumerate(rows)}
    batch.n_tokens = len(rows)
    for at, (token, position, sequence) in enumerate(rows):
        batch.token[at], batch.pos[at] = token, position
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
        batch.logits[at] = last[sequence] == at
    started = time.perf_counter()
    code = c.llama_decode(where, batch)
    c.llama_synchronize(where)
    c.llama_get_logits(where)
    seconds = time.perf_counter() - started
    c.llama_batch_free(batch)
    if code:
        sys.exit(f"llama_decode says {code}")
    return seconds


def fill(where, length, sequence):
    pieces = [range(at, min(at + PIECE, length)) for at in range(0, length, PIECE)]
    return sum(run(where, [(TOKEN, p, sequence) for p in piece]) for piece in pieces)


def greedy(count, *prompt):
    where = context(1024, 1)
    c.llama_memory_clear(c.llama_get_memory(where), True)
    words = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    rows, made = [(token, at, 0) for at, token in enumerate(prompt)], []
    for step in range(count):
        run(where, rows)
        pointer = ctypes.cast(c.llama_get_logits_ith(where, -1), ctypes.POINTER(ctypes.c_float))
        logits = np.ctypeslib.as_array(pointer, (words,))
        best = [int(i) for i in np.argsort(-logits, kind="stable")[:5]]
        made.append([best[0], [[i, float(logits[i])] for i in best]])
        rows = [(best[0], len(prompt) + step, 0)]
    return json.dumps(made)


def grow(most, upto, count):
    global grown
    where = context(most, 1)
    for at in range(grown, upto, PIECE):
        run(where, [(TOKEN, p, 0) for p in range(at, min(at + PIECE, upto))])
    grown = max(grown, upto)
    seconds = sum(run(where, [(TOKEN, p, 0)]) for p in range(grown, grown + count))
    c.llama_memory_seq_rm(c.llama_get_memory(where), 0, grown, -1)
    return seconds


def answer(what, *numbers):
    if what == "greedy":
        return greedy(*numbers)
    if what == "grow":
        return grow(*numbers)
    if what == "settings":
        names = {c.LLAMA_FLASH_ATTN_TYPE_ENABLED: "on", c.LLAMA_FLASH_ATTN_TYPE_DISABLED: "off"}
        return ", ".join(f"flash attention {names[one]} ({kind})" for kind, one in flash.items())
    if what == "prefill":
        length, batch = numbers
        where = context(length, batch, "prefill")
        c.llama_memory_clear(c.llama_get_memory(where), True)
        return sum(fill(where, length, s) for s in range(batch))
    filled, batch = numbers[:2]
    where = context(filled, batch)
    if what == "fill":
        c.llama_memory_clear(c.llama_get_memory(where), True)
        for sequence in range(batch):
            fill(where, filled, sequence)
        return 0.0
    steps = range(filled, filled + numbers[2])
    seconds = sum(run(where, [(TOKEN, p, s) for s in range(batch)]) for p in steps)
    for sequence in range(batch):
        c.llama_memory_seq_rm(c.llama_get_memory(where), sequence, filled, -1)
    return seconds


print(f"ready llama-cpp-python {llama_cpp.__version__}", flush=True)
for line in sys.stdin:
    what, *numbers = line.split()
    print(answer(what, *map(int, numbers)), flush=True)
