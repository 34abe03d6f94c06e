"""Holds the PyTorch frontend against torch's own op samples (OpInfo), in a child process.

For every operator of torch's test suite and each element type asked for, the first samples are
captured, compiled for cpu:xla, run, and compared with eager torch: type and shape exactly, numbers
by the type's tolerance. A sample that ends in UnsupportedError is "refused"; its reason is kept.
Samples that eager torch refuses, without tensors, or not strided are "left out", and counted.
Rows go to a JSON file as they come; a run goes on where the file stands. Needs expecttest.

    python tools/torch_samples.py --json build/torch_samples.json --types f32 i64
    python tools/torch_samples.py --only cumsum --fresh --show
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

TYPES = {
    "f32": "float32",
    "i64": "int64",
    "bf16": "bfloat16",
    "c64": "complex64",
    "bool": "bool",
    "u8": "uint8",
    "f64": "float64",
    "i32": "int32",
    "f16": "float16",
}
# of the largest reference value
BOUNDS = {"float32": 1e-4, "float64": 1e-9, "bfloat16": 0.02, "float16": 3e-3}
HANG_S = 120  # processor time of an operator and type
VAGUE = ("empty", "resize_")  # what memory held before


def main() -> int:
    options = _options()
    if options.child:
        return _work(options)
    done: dict[str, Any] = {}
    if options.json.exists() and not options.fresh:
        done = {row["key"]: row for row in json.loads(options.json.read_text())["rows"]}
    if options.failed:
        done = {key: row for key, row in done.items() if not row["wrong"] and not row["refused"]}
    while _child(options, done):
        pass
    _write(options.json, done)
    rows = [row for row in done.values() if options.only in row["key"]]
    states = Counter[str]()
    for row in rows:
        states.update({name: row.get(name, 0) for name in ("passed", "refused", "left_out")})
        states["wrong"] += len(row["wrong"])
    whole = sum(not row["wrong"] and not row["refused"] for row in rows)
    print(f"{len(rows)} operators × types, {whole} pass whole; samples: {dict(states)}")
    return 1 if states["wrong"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--types", nargs="+", choices=sorted(TYPES), default=["f32"])
    parser.add_argument("--only", default="", help="operators whose name contains this")
    parser.add_argument("--most", type=int, default=12, help="samples of an operator and type")
    parser.add_argument("--json", type=Path, default=Path("build/torch_samples.json"))
    parser.add_argument("--fresh", action="store_true", help="do not go on where the file stands")
    parser.add_argument("--failed", action="store_true", help="run again what did not pass")
    parser.add_argument("--show", action="store_true", help="tracebacks of what escapes")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _write(path: Path, done: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": list(done.values())}, indent=1) + "\n")


def _child(options: argparse.Namespace, done: dict[str, Any]) -> bool:
    """Rows of one child into `done`; True when it died over one, which is a row too."""
    command = [sys.executable, __file__, "--child", *sys.argv[1:]]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(list(done)) + "\n")
    child.stdin.close()
    current = ""
    for line in child.stdout:
        told = json.loads(line)
        if "start" in told:
            current = told["start"]
            continue
        done[told["key"]] = told
        current = ""
        if len(done) % 25 == 0:
            _write(options.json, done)
        for one in told["wrong"]:
            print(f"{told['key']} {one}", flush=True)
        if options.show:
            for one in told["why"]:
                print(f"{told['key']} refused: {one}", flush=True)
    if child.wait() == 0:
        return False
    if not current:
        raise SystemExit(f"the child ended with {child.returncode} between operators")
    said = f"died with {child.returncode}"
    print(f"{current} {said}", flush=True)
    done[current] = {"key": current, "passed": 0, "refused": 0, "why": [], "wrong": [said]}
    return True


def _work(options: argparse.Namespace) -> int:
    """In the child: a line before and after each operator and type."""
    done = set(json.loads(sys.stdin.readline()))
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    import torch
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        for short in options.types:
            key, kind = f"{op.full_name} {short}", getattr(torch, TYPES[short])
            if options.only not in key or key in done or kind not in op.dtypes:
                continue
            print(json.dumps({"start": key}), file=output, flush=True)
            worked_s = int(sum(os.times()[:2]))
            resource.setrlimit(resource.RLIMIT_CPU, (worked_s + HANG_S, resource.RLIM_INFINITY))
            row = {"key": key, "passed": 0, "refused": 0, "why": [], "wrong": []}
            _judge(op, kind, options, row)
            print(json.dumps(row), file=output, flush=True)
    return 0


def _judge(op: Any, kind: Any, options: argparse.Namespace, row: dict[str, Any]) -> None:
    """All samples in one program; each alone where that does not pass."""
    import torch

    torch.manual_seed(0)
    calls = []
    try:
        for sample in op.sample_inputs("cpu", kind, requires_grad=False):
            call = Call(op, sample)
            calls.append(call)
            if len(calls) == options.most:
                break
    except Exception as error:  # torch's own samples want what is not here
        row["why"].append(f"no samples: {type(error).__name__}: {str(error)[:100]}")
    row["left_out"] = sum(not call.is_good for call in calls)
    calls = [call for call in calls if call.is_good]
    if calls and _outcome(calls, options.show, quietly=True) == "":
        row["passed"] = len(calls)
        return
    for call in calls:
        said = _outcome([call], options.show)
        if said == "":
            row["passed"] += 1
        elif said.startswith("refused "):
            row["refused"] += 1
            row["why"] = sorted({*row["why"], said.removeprefix("refused ")})
        else:
            row["wrong"].append(f"{call}: {said}")


class Call:
    """One sample: the operator, its tensors, how they go into its arguments, and what it gives."""

    def __init__(self, op: Any, sample: Any):
        import torch
        from torch.utils._pytree import tree_flatten

        self.op = op
        flat, self.layout = tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
        self.flat = [one.detach() if isinstance(one, torch.Tensor) else one for one in flat]
        self.tensors = [one for one in self.flat if isinstance(one, torch.Tensor)]
        try:
            given = [one.clone() for one in self.tensors]
            with torch.no_grad():
                self.wanted = _flat(self.compute(given))
        except Exception:  # eager torch refuses it, too
            self.wanted = []
        plain = all(t.layout == torch.strided for t in [*self.tensors, *self.wanted])
        self.is_good = bool(self.wanted) and bool(self.tensors) and plain

    def compute(self, tensors: list[Any]) -> Any:
        import torch
        from torch.utils._pytree import tree_unflatten

        given = iter(tensors)
        flat = [next(given) if isinstance(one, torch.Tensor) else one for one in self.flat]
        first, args, kwargs = tree_unflatten(flat, self.layout)
        return self.op(first, *args, **kwargs)

    def __str__(self) -> str:
        import torch
        from torch.utils._pytree import tree_unflatten

        short = [
            f"{str(one.dtype).removeprefix('torch.')}{list(one.shape)}"
            if isinstance(one, torch.Tensor)
            else one
            for one in self.flat
        ]
        first, args, kwargs = tree_unflatten(short, self.layout)
        named = [f"{name}={value}" for name, value in kwargs.items()]
        return f"({', '.join([str(first), *map(str, args), *named])})"[:300]


def _flat(value: Any) -> list[Any]:
    import torch
    from torch.utils._pytree import tree_flatten

    return [one for one in tree_flatten(value)[0] if isinstance(one, torch.Tensor)]


def _outcome(calls: list[Call], show: bool, *, quietly: bool = False) -> str:
    """ "" when all of them pass, "refused …", or what is wrong."""
    import traceback

    import torch

    from anychip.core import UnsupportedError
    from anychip.frontends.torch.optimize import optimize

    class All(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            left, results = list(tensors), []
            for call in calls:
                own, left = left[: len(call.tensors)], left[len(call.tensors) :]
                results.append(_flat(call.compute(own)))
            return results

    given = [one.clone() for call in calls for one in call.tensors]
    try:
        with torch.no_grad():
            got = optimize(All().eval())(*given)
    except UnsupportedError as error:
        return "refused " + str(error).splitlines()[-1].strip()[:300]
    except Exception as error:  # nothing else may escape
        if show and not quietly:
            traceback.print_exc()
        return f"escaped {type(error).__name__}: {str(error)[:300]}"
    for call, results in zip(calls, got, strict=True):
        if said := _difference(call, results):
            return said
    return ""


def _difference(call: Call, got: list[Any]) -> str:
    import torch

    if len(got) != len(call.wanted):
        return f"{len(got)} results, expected {len(call.wanted)}"
    for have, want in zip(got, call.wanted, strict=True):
        if have.dtype != want.dtype or have.shape != want.shape:
            return f"{have.dtype}{list(have.shape)}, expected {want.dtype}{list(want.shape)}"
        if not want.numel() or any(word in call.op.name for word in VAGUE):
            continue
        bound = BOUNDS.get(str(want.dtype).removeprefix("torch."), 0.0)
        a, b = have.resolve_conj().resolve_neg(), want.resolve_conj().resolve_neg()
        if a.is_complex():
            bound, a, b = 1e-4, torch.view_as_real(a), torch.view_as_real(b)
        a, b = a.double(), b.double()
        finite = torch.isfinite(b)
        if not torch.equal(torch.where(finite, 0.0, a), torch.where(finite, 0.0, b)):
            same = torch.isnan(a) == torch.isnan(b)
            if not (same.all() and (torch.isnan(b) | finite | (a == b)).all()):
                return f"other infinities or NaNs: {a.flatten()[:4]}, expected {b.flatten()[:4]}"
        if not finite.any():
            continue
        largest = float(b[finite].abs().max())
        error = float((a[finite] - b[finite]).abs().max())
        if math.isnan(error) or error > bound * max(largest, 1e-6):
            return f"off by {error:.3g} of {largest:.3g}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
