"""load: arguments, weights, state, symbolic sizes, origins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch_run import run

from anychip.core import InputError, UnsupportedError, UsageError
from anychip.core import origin as origins
from anychip.frontends.torch import load


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, tokens):
        return {"logits": self.head(self.embed(tokens) * self.scale), "tokens": tokens}


def test_weights_keep_their_names_and_tied_ones_are_one_argument():
    module = load(Tied().eval(), torch.tensor([[1, 2, 3]]))
    roles = {a.name: a.role for a in module.signature.arguments}
    assert roles == {"embed.weight": "weight", "scale": "weight", "tokens": "input"}
    assert [r.name for r in module.signature.results] == ["logits", "tokens"]


def test_weights_are_views_of_the_models_own_memory():
    model = Tied().eval()
    module = load(model, torch.tensor([[1, 2, 3]]))
    array = module.weights["embed.weight"].array()
    assert array.ctypes.data == model.embed.weight.data_ptr()


@pytest.mark.parametrize("element", [torch.bfloat16, torch.float16, torch.float64])
def test_element_types_survive(element: torch.dtype):
    layer = nn.Linear(4, 3).to(element).eval()
    x = torch.randn(2, 4).to(element)
    with torch.no_grad():
        torch.testing.assert_close(run(load(layer, x), x)[0], layer(x), rtol=2e-2, atol=2e-2)


def test_sixty_four_bit_integers_are_kept():
    big = torch.tensor([2**40, -(2**50)])
    module = load(lambda x: x * 3 + 1, big)
    assert module.signature.results[0].dtype == "i64"
    torch.testing.assert_close(run(module, big)[0], big * 3 + 1)


def test_no_double_precision_appears_in_a_single_precision_model():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Softmax(-1)).eval()
    types = load(model, torch.randn(2, 4)).text().split("module @", 1)[1]
    assert "xf64>" not in types
    assert "tensor<f64>" not in types


class Counter(nn.Module):
    """Reads one buffer, changes another, and changes its input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(2))
        self.register_buffer("step", torch.ones(2))

    def forward(self, x):
        self.count += self.step
        x.mul_(2)
        return x + self.count


def test_changed_buffers_are_state_and_changed_inputs_are_results():
    module = load(Counter(), torch.ones(2))
    assert [(a.name, a.role) for a in module.signature.arguments] == [
        ("count", "state"),
        ("step", "weight"),
        ("x", "input"),
    ]
    by_name = {r.name: r for r in module.signature.results}
    assert by_name["count.next"].updates == "count"
    count, changed, out = run(module, torch.full((2,), 5.0), torch.ones(2))
    torch.testing.assert_close(count, torch.full((2,), 6.0))
    torch.testing.assert_close(changed, torch.full((2,), 2.0))
    torch.testing.assert_close(out, torch.full((2,), 8.0))


def test_all_dynamic_dimensions_share_one_scope_and_keep_their_names_and_ranges():
    class Attend(nn.Module):
        def forward(self, q, k):
            scores = torch.softmax(q @ k.transpose(1, 2), -1)
            return (scores @ k).flatten(1), q.shape[1] * scores.sum()

    batch, length = torch.export.Dim("batch", max=16), torch.export.Dim("length", min=2)
    module = load(
        Attend(),
        (torch.randn(2, 3, 4), torch.randn(2, 5, 4)),
        dynamic_shapes=({0: batch, 1: length}, {0: batch}),
    )
    assert [a.shape for a in module.signature.arguments] == [
        ("batch", "length", 4),
        ("batch", 5, 4),
    ]
    assert module.signature.results[0].shape == ("batch", "4*length")
    assert module.signature.guards == ("batch <= 16", "length >= 2")
    q, k = torch.randn(3, 7, 4), torch.randn(3, 5, 4)
    got = run(module.specialise({"batch": 3, "length": 7}), q, k)
    for one, wanted in zip(got, Attend()(q, k), strict=True):
        torch.testing.assert_close(one, wanted)
    with pytest.raises(UsageError, match="batch <= 16"):
        module.specialise({"batch": 17, "length": 7})


class Inner(nn.Module):
    def forward(self, x):
        return torch.sin(x)  # the line under test


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Inner(), Inner()])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("strict", [False, True])
def test_every_op_knows_its_layer_and_line(strict: bool):
    module = load(Outer(), torch.randn(3), strict=strict)
    with module.opened() as parsed:
        body = parsed.body.operations[0].operation.regions[0].blocks[0]
        found = [
            origins.parse(str(op.location), module.sources)
            for op in body.operations
            if op.operation.name == "stablehlo.sine"
        ]
    line = (
        Path(__file__)
        .read_text()
        .splitlines()
        .index("        return torch.sin(x)  # the line under test")
        + 1
    )
    assert [o.layer for o in found] == ["blocks.0", "blocks.1"]
    assert {o.source for o in found} == {f"{__file__}:{line}"}


def test_keyword_arguments_constants_and_nested_results():
    class Model(nn.Module):
        def forward(self, x, *, scale: float, flip: bool):
            y = x * scale
            return [y, {"flipped": -y if flip else y}], None

    x = torch.randn(3)
    module = load(Model(), x, example_kwargs={"scale": 2.0, "flip": True})
    assert [r.name for r in module.signature.results] == ["result0.0", "result0.1.flipped"]
    torch.testing.assert_close(run(module, x)[1], -2 * x)


def test_exported_programs_and_pt2_files_load(tmp_path: Path):
    model = nn.Linear(4, 3).eval()
    x = torch.randn(2, 4)
    program = torch.export.export(model, (x,))
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    for source in (program, path, str(path)):
        with torch.no_grad():
            torch.testing.assert_close(run(load(source), x)[0], model(x))


def test_a_damaged_pt2_file_is_named(tmp_path: Path):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(InputError, match=r"model\.pt2.*torch\.export\.save"):
        load(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_exported_again_from_memory_and_from_its_file(tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    x = torch.randn(2, 4)
    scripted = torch.jit.trace(model, x)
    torch.jit.save(scripted, tmp_path / "net.pt")
    with torch.no_grad():
        for given in (scripted, tmp_path / "net.pt"):
            torch.testing.assert_close(run(load(given, x), x)[0], model(x))
    with pytest.raises(UsageError, match=r"net\.pt needs example_inputs"):
        load(tmp_path / "net.pt")


def test_a_file_of_weights_has_no_graph(tmp_path: Path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"no graph.*load_state_dict"):
        load(tmp_path / "weights.pt", torch.ones(1, 2))
    (tmp_path / "broken.pt").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="not a file of torch"):
        load(tmp_path / "broken.pt", torch.ones(1, 2))


class Impossible(nn.Module):
    def __init__(self):
        super().__init__()
        self.noise = nn.Sequential(nn.Identity())

    def forward(self, x):
        a = torch.unique(x)
        b = x + torch.randn(3)
        c = torch.linalg.svdvals(x.reshape(1, 3))
        d = x + torch.randn(3)
        return a.sum() + b.sum() + c.sum() + d.sum()


def test_everything_unsupported_is_listed_at_once_with_lines_and_remedies():
    with pytest.raises(UnsupportedError) as caught:
        load(Impossible(), torch.randn(3))
    report = caught.value.report
    by_op = {row.op: row for row in report}
    assert "aten._unique2.default" in by_op
    assert "aten._linalg_svd.default" in by_op
    assert sum(row.count for row in report if row.op == "aten.randn.default") == 2
    assert all(__file__ in row.origin.source for row in report)
    assert "depends on the data" in by_op["aten._unique2.default"].why
    assert "seed=0" in by_op["aten.randn.default"].why
    for row in report:
        assert row.op in str(caught.value)
        assert row.origin.source in str(caught.value)


def test_failures_inside_rules_are_gathered_too():
    x = torch.randn(2, 4)
    with pytest.raises(UnsupportedError) as caught:
        load(lambda x: (x.view(torch.complex64), x * 2, x.view(torch.complex64) + 1), x)
    assert [(row.op, row.count) for row in caught.value.report] == [("aten.view.dtype", 2)]


def test_the_list_goes_on_behind_an_op_and_into_branches():
    class Net(nn.Module):
        def forward(self, x):
            first = torch.unique(x).sum() * x
            branch = torch.cond(x.sum() > 0, lambda a: a[a > 0].sum() * a, lambda a: a + 1, (x,))
            return first[first > 0].sum() + branch

    sizes = ({0: torch.export.Dim("batch")},)
    with pytest.raises(UnsupportedError) as caught:
        load(Net(), torch.randn(4, 4), dynamic_shapes=sizes)
    lines = [(row.op, row.origin.source.rpartition(":")[2]) for row in caught.value.report]
    begin = Net.forward.__code__.co_firstlineno
    assert sorted(lines) == [
        ("aten._unique2.default", str(begin + 1)),
        ("aten.index.Tensor", str(begin + 2)),
        ("aten.index.Tensor", str(begin + 3)),
    ]


def test_memory_outside_of_a_view_is_refused():
    class Outside(nn.Module):
        def forward(self, x):
            return torch.as_strided((x * 2)[1], (3,), (1,), 0)

    with pytest.raises(UnsupportedError, match="outside of the tensor"):
        load(Outside(), torch.randn(2, 3))


def test_a_branch_on_data_is_explained(capfd):
    def fn(x):
        return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(UnsupportedError, match=r"torch\.cond") as caught:
        load(fn, torch.randn(3))
    assert __file__ in str(caught.value)
    assert capfd.readouterr() == ("", "")  # torch prints the graph it leaves unfinished


def test_random_ops_draw_the_same_numbers_with_a_seed():
    module = load(lambda x: x + torch.rand(1000) * torch.rand(1000), torch.zeros(1000), seed=3)
    first, second = run(module, torch.zeros(1000))[0], run(module, torch.zeros(1000))[0]
    torch.testing.assert_close(first, second)
    assert 0.2 < float(first.mean()) < 0.3


def test_a_model_that_fails_by_itself_is_told_from_one_that_cannot_be_captured(caplog):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.head(x)

    model = Counts()
    with pytest.raises(UsageError, match=r"Counts itself fails .*\(1x4 and 3x2\).*program\.py:\d+"):
        load(model, torch.ones(1, 4))
    assert model.calls == 0
    assert not [
        r for r in caplog.records if r.levelname == "ERROR"
    ]  # torch logs a page about its own insides


def test_unusable_calls_are_refused():
    with pytest.raises(UsageError, match="needs example_inputs"):
        load(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="needs example_inputs"):
        load(nn.Linear(2, 2), None)
    with pytest.raises(UsageError, match=r"must be the arg names \['input'\]"):
        load(nn.Linear(2, 2), torch.ones(1, 2), dynamic_shapes={"x": None})
    assert load(nn.Linear(2, 2), torch.ones(1, 2).numpy()).signature.arguments[-1].shape == (1, 2)
    program = torch.export.export(nn.Linear(2, 2), (torch.randn(1, 2),))
    with pytest.raises(UsageError, match="has its shapes"):
        load(program, dynamic_shapes=({0: torch.export.Dim("b")},))
