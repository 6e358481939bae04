"""Writes the fuzzer's seed corpus: a few real plans, small. Run it from the top folder after the format changed."""

from __future__ import annotations

from pathlib import Path

from sandbox import ops, wire
from sandbox.grants import STDIO_TYPES, Access
from sandbox.plan import Plan, StatusFormat
from tests.support.plans import full_plan, plan_for

CORPUS = Path(__file__).parent / "corpus"


def seeds() -> dict[str, Plan]:
    """Return the plans by the names of their files."""
    return {
        "smallest": plan_for(["x"], stdio=sorted(STDIO_TYPES)),
        "every-op": full_plan(),
        "quiet": plan_for(["a", "b"], launcher=[ops.status(0, StatusFormat.RECORDS)], quiet=True),
        "obtain": Plan(
            (ops.status(9, StatusFormat.RECORDS), ops.data_text(0, "text", "grant d"), ops.scratch(1, 4096, "grant s")),
            quiet=True,
            obtain=True,
        ),
        "file": plan_for(
            ["cat", "/dev/fd/3"],
            grants=[
                ops.file(511, "/etc/hostname", Access.READ, create=False, truncate=False, label="grant name"),
                ops.place(511, 65535, "grant name"),
            ],
        ),
    }


def main() -> None:
    """Write the files."""
    for name, plan in seeds().items():
        (CORPUS / f"{name}.plan").write_bytes(wire.encode(plan))


if __name__ == "__main__":
    main()
