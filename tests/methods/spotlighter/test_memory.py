"""Spotlighter's memory by hand."""

from __future__ import annotations

import math

import torch

from capt_core.methods.spotlighter.memory import (
    Memory,
    SingleKeyAttention,
    kept_heads,
    memory_start,
    updated_memory,
)


def test_slots_move_towards_the_rows_that_are_theirs() -> None:
    slots = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    tokens = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
    # Slot 0 owns the first two rows; over all rows its similarities are 1, 0.8, 0, so that their
    # shares of the largest are 1 and e^-0.2. Slot 1 owns the last; slot 2 none, and stays.
    second = math.exp(-0.2)
    moved = torch.tensor([0.8 + 0.2 * (1 + 0.8 * second), 0.2 * 0.6 * second])
    expected = torch.stack([moved.double() / moved.double().norm(), slots[1], slots[2]])
    torch.testing.assert_close(updated_memory(slots, tokens, 0.8), expected, rtol=1e-6, atol=1e-7)


def test_with_one_key_attention_is_what_it_makes_of_the_value() -> None:
    torch.manual_seed(0)
    attention = SingleKeyAttention(8, 2, dropout=0.5)
    query, key, value = torch.randn(3, 3, 8)
    expected = attention.out(attention.value(value))
    torch.testing.assert_close(attention(query, key, value), expected)
    keep = torch.tensor([[True, True], [True, False], [False, False]])
    heads = attention.value(value).clone()
    heads[1, 4:] = 0
    heads[2] = 0
    found = attention(query, key, value, keep)
    torch.testing.assert_close(found, attention.out(2 * heads))  # divided by what is kept
    found.sum().backward()
    # Gradients of zero, not none: both decay.
    for layer in (attention.query, attention.key):
        assert layer.weight.grad is not None
        assert not layer.weight.grad.any()


def test_a_memory_reads_by_similarity_and_refines_texts() -> None:
    memory = Memory(2, 2, 0.8, 0.5, heads=1, dropout=0.1)
    memory.slots = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0]])
    share = math.e / (math.e + 1)
    read = torch.tensor([[share, 1 - share]])
    torch.testing.assert_close(memory.read(3 * texts), read)
    with torch.no_grad():
        memory.extractor.weight.copy_(torch.tensor([[0.0, 0.0, 2.0, 0.0], [4.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(
        memory.refined_texts(texts), torch.tensor([[1 + 0.5 * 2 * share, 0.5 * 4]])
    )


def test_its_draws_depend_on_seed_and_step_alone() -> None:
    memory = Memory(8, 3, 0.8, 0.2, heads=4, dropout=0.5)
    first = memory.next_keep(6, 1)
    torch.manual_seed(5)
    assert torch.equal(memory.next_keep(6, 1), first)
    assert not torch.equal(memory.next_keep(6, 2), first)
    memory.update(torch.randn(5, 8))
    assert not torch.equal(memory.next_keep(6, 1), first)
    assert kept_heads(5, 2, 0.0, "a").all()
    assert torch.equal(memory_start(3, 8, 1), memory_start(3, 8, 1))
    assert not torch.equal(memory_start(3, 8, 1), memory_start(3, 8, 2))
    torch.testing.assert_close(memory.slots.norm(dim=1), torch.ones(3))
