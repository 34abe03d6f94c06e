"""Install what compilers/toolchains.py has tested, each in the folder of its own that it names.

    .venv/bin/python tools/install_toolchains.py [pip install and its options]

A folder whose versions are not the pinned ones is made anew, beside the old one until it is whole.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from anychip.compilers.toolchains import TESTED


def main() -> int:
    pip = sys.argv[1:] or [sys.executable, "-m", "pip", "install", "--quiet"]
    for one in TESTED:
        stamp = one.folder / "pins.txt"
        if stamp.exists() and stamp.read_text().split() == list(one.pins):
            continue
        fresh = one.folder.with_name(f"{one.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        subprocess.run([*pip, "--no-deps", "--target", str(fresh), *one.pins], check=True)
        (fresh / "pins.txt").write_text("\n".join(one.pins))
        shutil.rmtree(one.folder, ignore_errors=True)
        fresh.rename(one.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
