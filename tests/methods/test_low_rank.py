"""Low-rank updates: as `peft` has them, merged or not, and dropped the same everywhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from capt_core.learning.randomness import draw_seed, kept_by_count
from capt_core.methods.low_rank import LowRankAttention, LowRankUpdate


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learnt(module: nn.Module) -> None:
    """Give every parameter values as if it had been trained."""
    for index, parameter in enumerate(module.parameters()):
        with torch.no_grad():
            parameter.copy_(0.3 * drawn(*parameter.shape, seed=index))


def test_on_a_linear_map_it_is_what_peft_computes() -> None:
    peft: Any = pytest.importorskip("peft")
    plain: Any = nn.Sequential(nn.Linear(6, 4)).double()
    update = LowRankUpdate(6, 4, rank=2, alpha=1.0).double()
    learnt(update)
    inputs = drawn(3, 6).double()
    expected = plain(inputs) + update(inputs)
    merged = plain[0].weight + update.weight()
    config = peft.LoraConfig(r=2, lora_alpha=1, use_rslora=True, target_modules=["0"])
    theirs = peft.get_peft_model(plain, config).double()
    for name, value in theirs.named_parameters():
        if "lora_" in name:
            value.data.copy_(update.down if "lora_A" in name else update.up)
    torch.testing.assert_close(theirs(inputs), expected)
    own = torch.autograd.grad(update(inputs).square().sum(), list(update.parameters()))
    trained = [value for name, value in theirs.named_parameters() if "lora_" in name]
    difference = theirs(inputs) - plain[0].base_layer(inputs)
    for found, wanted in zip(
        own, torch.autograd.grad(difference.square().sum(), trained), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(theirs.merge_and_unload()[0].weight, merged)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_with_updates_by_hand(causal: bool, bias: bool) -> None:
    plain = nn.MultiheadAttention(8, 2, batch_first=True, bias=bias).double()
    own = LowRankAttention(plain, rank=2, alpha=1.0, dropout=0.25, seed=1).double()
    tokens = drawn(3, 5, 8).double()
    mask = torch.full((5, 5), -math.inf).triu(1).double() if causal else None
    expected = plain(tokens, tokens, tokens, need_weights=False, attn_mask=mask)[0]
    torch.testing.assert_close(own(tokens, tokens, tokens, attn_mask=mask)[0], expected)
    learnt(own)
    changed = nn.MultiheadAttention(8, 2, batch_first=True, bias=bias).double()
    changed.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for part, name in enumerate(("query", "key", "value")):
            update: Any = own.updates[name]
            rows = slice(8 * part, 8 * part + 8)
            changed.in_proj_weight[rows] += (update.up @ update.down) / math.sqrt(2)
    expected = changed(tokens, tokens, tokens, need_weights=False, attn_mask=mask)[0]
    torch.testing.assert_close(own(tokens, tokens, tokens, attn_mask=mask)[0], expected)
    merged = own.merged()
    torch.testing.assert_close(merged(tokens, tokens, tokens, attn_mask=mask)[0], expected)
    assert merged.out_proj is plain.out_proj
    assert merged.in_proj_weight is not plain.in_proj_weight
    # Merged into the weights, or beside them with nothing left out.
    own.dropout, own.key = 0.0, 5
    torch.testing.assert_close(own(tokens, tokens, tokens, attn_mask=mask)[0], expected)
    assert not {*plain.parameters()} & {*own.parameters()}


def test_each_update_leaves_out_inputs_of_its_own() -> None:
    plain = nn.MultiheadAttention(4, 1, batch_first=True)
    own = LowRankAttention(plain, rank=1, alpha=1.0, dropout=0.5, seed=1)
    learnt(own)
    own.key = 3
    tokens = drawn(1, 3, 4)
    expected = []
    for part, name in enumerate(("query", "key", "value")):
        rows = slice(4 * part, 4 * part + 4)
        keep = kept_by_count((1, 3, 4), 0.5, draw_seed(name, 3), tokens.device)
        update: Any = own.updates[name]
        weight = update.up @ update.down
        frozen = functional.linear(tokens, plain.in_proj_weight[rows], plain.in_proj_bias[rows])
        expected.append(frozen + (2 * keep * tokens) @ weight.T)
    torch.testing.assert_close(own.projected(tokens), torch.cat(expected, dim=-1))


def test_draws_by_count() -> None:
    device = torch.device("cpu")
    keep = kept_by_count((400, 50), 0.25, 7, device)
    assert keep.shape == (400, 50)
    assert 0.74 < keep.float().mean() < 0.76
    assert torch.equal(keep, kept_by_count((400, 50), 0.25, 7, device))
    other = kept_by_count((400, 50), 0.25, 8, device)
    assert abs((keep & other).float().mean() - 0.75**2) < 0.02  # as if independent
    assert abs((keep[:-1] & keep[1:]).float().mean() - 0.75**2) < 0.02
    assert kept_by_count((3, 5), 0.0, 1, device).all()


def test_its_numbers_are_those_of_splitmix64() -> None:
    # The finaliser by Python's own integers.
    word = (1 << 64) - 1

    def scrambled(number: int, seed: int) -> int:
        mixed = (number * 0x9E3779B97F4A7C15 + seed) & word
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & word
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & word
        return mixed ^ (mixed >> 31)

    seed = draw_seed("any", 1)
    found = kept_by_count((64,), 0.5, seed, torch.device("cpu")).tolist()
    assert found == [(scrambled(number, seed) >> 11) % (1 << 53) >= 1 << 52 for number in range(64)]
