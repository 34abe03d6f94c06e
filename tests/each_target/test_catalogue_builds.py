"""Every catalogue model: decode of batch 8, prefill of batch 1 (test_catalogue.py has the rest)."""

import pytest

from anychip.frontends.llm import PRECISIONS, catalogue


@pytest.mark.parametrize("name", catalogue.names())
def test_decode_of_a_batch_and_prefill_of_one_sequence_build(name):
    model, bf16 = catalogue.model(name), PRECISIONS["bf16"]
    for module, batch in (
        (model.decode(8, 2048, bf16), 8),
        (model.prefill(1, 2048, 2048, bf16), 1),
    ):
        assert module.signature.results[0].shape == (batch, model.facts.vocabulary)
        states = {a.name: (a.shape, a.dtype) for a in module.signature.named("state")}
        updated = {r.updates: (r.shape, r.dtype) for r in module.signature.results[1:]}
        assert states == updated
