"""Work counts: the conventions, on ops whose counts can be said in one line."""

import pytest

from anychip.core import InputError, Module
from anychip.ops import OPS, Work, program


def work(text: str) -> Work:
    """Work of the first op of `main`."""
    view = program(Module.from_mlir(text)).main.ops[0]
    return OPS[view.name].work(view)


def main(inputs: str, op: str, out: str) -> str:
    arguments = ", ".join(
        f"%{n}: tensor<{t}>" for n, t in zip("abcd", inputs.split(), strict=False)
    )
    return (
        f"func.func @main({arguments}) -> tensor<{out}> {{\n%r = {op}\nreturn %r : tensor<{out}>}}"
    )


def test_work_adds_up_and_repeats():
    one = Work(flops=1, read_bytes=2, written_bytes=3, transcendentals=4)
    assert one + one == one * 2
    assert (one * 3).moved_bytes == 15


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (main("4xf32 4xf32", "stablehlo.add %a, %b : tensor<4xf32>", "4xf32"), Work(4, 32, 16)),
        (
            main("4xbf16", "stablehlo.exponential %a : tensor<4xbf16>", "4xbf16"),
            Work(0, 8, 8, 4),
        ),
        (
            main(
                "8x16xbf16 16x4xbf16",
                "stablehlo.dot_general %a, %b, contracting_dims = [1] x [0]"
                " : (tensor<8x16xbf16>, tensor<16x4xbf16>) -> tensor<8x4xf32>",
                "8x4xf32",
            ),
            Work(2 * 8 * 16 * 4, 2 * (8 * 16 + 16 * 4), 4 * 8 * 4),
        ),
        (
            main("2x3xf32", "stablehlo.reshape %a : (tensor<2x3xf32>) -> tensor<6xf32>", "6xf32"),
            Work(),
        ),
        (
            main(
                "100x8xf32",
                "stablehlo.slice %a [0:2, 0:8] : (tensor<100x8xf32>) -> tensor<2x8xf32>",
                "2x8xf32",
            ),
            Work(0, 64, 64),
        ),
        (
            main("10xi4", "stablehlo.negate %a : tensor<10xi4>", "10xi4"),
            Work(10, 5, 5),
        ),
    ],
)
def test_counts_of_simple_ops(text, want):
    assert work(text) == want


def test_in_place_update_moves_only_the_update():
    text = """func.func @main(%c: tensor<1000x8xbf16>, %u: tensor<1x8xbf16>, %i: tensor<i32>,
      %j: tensor<i32>) -> tensor<1000x8xbf16> {
      %r = stablehlo.dynamic_update_slice %c, %u, %i, %j : (tensor<1000x8xbf16>,
        tensor<1x8xbf16>, tensor<i32>, tensor<i32>) -> tensor<1000x8xbf16>
      return %r : tensor<1000x8xbf16>}"""
    assert work(text) == Work(0, 16 + 8, 16)


def test_gather_reads_the_rows_it_takes():
    text = """func.func @main(%t: tensor<50000x64xf32>, %i: tensor<3x1xi32>) -> tensor<3x64xf32> {
      %r = "stablehlo.gather"(%t, %i) <{dimension_numbers = #stablehlo.gather<offset_dims = [1],
        collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>,
        slice_sizes = array<i64: 1, 64>}> : (tensor<50000x64xf32>, tensor<3x1xi32>)
        -> tensor<3x64xf32>
      return %r : tensor<3x64xf32>}"""
    assert work(text) == Work(0, 3 * 64 * 4 + 12, 3 * 64 * 4)


def test_grouped_convolution_counts_only_its_own_channels():
    text = """func.func @main(%x: tensor<1x8x8x4xf32>, %w: tensor<3x3x2x6xf32>)
        -> tensor<1x6x6x6xf32> {
      %r = stablehlo.convolution(%x, %w) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f],
        window = {} {batch_group_count = 1 : i64, feature_group_count = 2 : i64}
        : (tensor<1x8x8x4xf32>, tensor<3x3x2x6xf32>) -> tensor<1x6x6x6xf32>
      return %r : tensor<1x6x6x6xf32>}"""
    assert work(text).flops == 2 * (6 * 6 * 6) * (3 * 3 * 2)


def test_work_of_a_dynamic_op_asks_to_specialise():
    text = "func.func @main(%a: tensor<?xf32>) -> tensor<?xf32> {\n"
    text += "%r = stablehlo.negate %a : tensor<?xf32>\nreturn %r : tensor<?xf32>}"
    with pytest.raises(InputError, match="specialise"):
        work(text)
