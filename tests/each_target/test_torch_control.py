"""Control flow that torch.export captures: branches, loops, scans."""

from __future__ import annotations

import pytest
import torch
from torch_run import run

from anychip.core import origin as origins
from anychip.frontends.torch import load


class Cond(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.layer(x), lambda x: x.cos() - 2, (x,))


@pytest.mark.parametrize("sign", [1, -1])
def test_both_branches_of_cond_are_taken(sign: int):
    model = Cond().eval()
    x = torch.full((2, 3), 0.5 * sign)
    with torch.no_grad():
        torch.testing.assert_close(run(load(model, torch.ones(2, 3)), x)[0], model(x))


def test_ops_in_a_branch_have_the_line_of_their_cond():
    """torch.export does not keep the lines inside branches; theirs is that of the torch.cond."""
    module = load(Cond().eval(), torch.ones(2, 3))
    found = []

    def visit(op):
        found.append((op.name, origins.parse(str(op.location), module.sources)))
        from jaxlib.mlir import ir

        return ir.WalkResult.ADVANCE

    with module.opened() as parsed:
        parsed.operation.walk(visit)
    (matmul,) = [origin for name, origin in found if name == "stablehlo.dot_general"]
    assert matmul.layer == ""
    assert "test_torch_control.py" in matmul.source, matmul


def test_while_loop_runs_until_its_condition_fails():
    from torch._higher_order_ops import while_loop

    class Halve(torch.nn.Module):
        def forward(self, x, n):
            return while_loop(lambda x, n: n > 0, lambda x, n: (x / 2, n - 1), (x, n))

    x, n = torch.ones(3) * 8, torch.tensor(3)
    got = run(load(Halve(), (x, n), strict=True), x, torch.tensor(2))
    torch.testing.assert_close(got[0], torch.full((3,), 2.0))
    assert int(got[1]) == 0


def test_scan_carries_and_stacks():
    from torch._higher_order_ops import scan

    class Sums(torch.nn.Module):
        def forward(self, x):
            return scan(lambda c, row: (c + row, (c * row).clone()), x[0] * 0, x, dim=0)

    x = torch.randn(5, 3)
    got = run(load(Sums(), x, strict=True), x)
    torch.testing.assert_close(got[0], x.sum(0))
    before = torch.cumsum(x, 0) - x
    torch.testing.assert_close(got[1], before * x, rtol=1e-4, atol=1e-5)


def test_associative_scan():
    from torch._higher_order_ops import associative_scan

    class Running(torch.nn.Module):
        def forward(self, x):
            return associative_scan(lambda a, b: a + b, x, dim=0, combine_mode="generic")

    x = torch.randn(6, 3)
    got = run(load(Running(), x, strict=True), x)
    torch.testing.assert_close(got[0], torch.cumsum(x, 0))


def test_flex_attention_with_a_score_function_and_a_mask():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 8, 8, device="cpu")

    class Flex(torch.nn.Module):
        def forward(self, q, k, v):
            return flex_attention(
                q, k, v, score_mod=lambda s, b, h, i, j: s + (i - j) * 0.1, block_mask=mask
            )

    q, k, v = (torch.randn(1, 2, 8, 4) for _ in range(3))
    i, j = torch.arange(8)[:, None], torch.arange(8)
    scores = q @ k.transpose(2, 3) / 2 + (i - j) * 0.1
    wanted = torch.softmax(scores.masked_fill(i < j, -torch.inf), -1) @ v
    torch.testing.assert_close(run(load(Flex(), (q, k, v)), q, k, v)[0], wanted)
