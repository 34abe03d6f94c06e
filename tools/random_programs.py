"""Hold a target against random programs: `python tools/random_programs.py cpu:native --count 500`.

Each program is compiled (ops the target lacks go to cpu:xla), run, and compared with what its ops
mean. What differs or ends in anything but a refusal is printed with its seed; exits 1 for any. A
program is looked at again with `--start SEED --count 1 --show`.
"""

from __future__ import annotations

import argparse
import sys

from rich.progress import track

from anychip.core import CompileOptions, UnsupportedError, discover
from anychip.fallback import compiler
from anychip.testing.agree import disagreement
from anychip.testing.programs import random_program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--ops", type=int, default=24)
    parser.add_argument("--fallback", default="cpu:xla", help="none to refuse instead")
    parser.add_argument("--show", action="store_true", help="print each program")
    given = parser.parse_args()
    registry = discover()
    target, compile = registry.target(given.target), compiler(registry, given.fallback)
    wrong, refused = 0, 0
    for seed in track(range(given.start, given.start + given.count), given.target):
        program = random_program(seed, given.ops)
        if given.show:
            print(program.module.text(locations=False))
        try:
            executable = compile(target, program.module, CompileOptions())
            said = disagreement(program, executable.run(*program.inputs))
        except UnsupportedError as error:
            refused += 1
            print(f"{seed} refused: {error}")
            continue
        except Exception as error:  # whatever it is, it is a finding
            said = f"{type(error).__name__}: {error}"
        if said:
            wrong += 1
            print(f"{seed} {said}")
    agreed = given.count - wrong - refused
    print(f"{given.target}: {agreed} of {given.count} agree, {wrong} do not, {refused} refused")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
