from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MambaConfig

from astor_rl.rollout.cache import (
    DecodeBatch,
    GroupedCache,
    Layout,
    PrefillBatch,
    _grown,
    attend,
    token_bytes,
)

CPU = torch.device("cpu")


def plain_attention(q, k, v, *, scale, window=None, softcap=None):
    """One query [H, D] at the end of k, v [m, K, D]."""
    repeat = q.shape[0] // k.shape[1]
    k, v = (x.repeat_interleave(repeat, 1) for x in (k, v))
    scores = torch.einsum("hd,mhd->hm", q, k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if window:
        scores[:, : max(0, len(k) - window)] = -torch.inf
    return torch.einsum("hm,mhd->hd", scores.softmax(-1), v)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("masked", [False, True])
def test_parts_join_by_their_log_sum_exp(softcap, masked):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 10, 8), torch.randn(2, 3, 10, 8)
    mask = torch.zeros(2, 1, 1, 10)
    if masked:
        mask[1, ..., 5:8] = torch.finfo(torch.float32).min / 2
    whole, lse = attend(q, k, v, mask, scale=0.3, softcap=softcap)
    a, lse_a = attend(q, k[:, :, :4], v[:, :, :4], mask[..., :4], scale=0.3, softcap=softcap)
    b, lse_b = attend(q, k[:, :, 4:], v[:, :, 4:], mask[..., 4:], scale=0.3, softcap=softcap)
    share = torch.sigmoid(lse_a - lse_b).unsqueeze(-1)
    torch.testing.assert_close(torch.lerp(b, a, share), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(torch.logaddexp(lse_a, lse_b), lse, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 3, 6])
def test_prefill_and_uneven_decode_are_plain_attention(window, softcap):
    """Ragged prompts, groups of 2 and 1 rows in scrambled order, rows of different lengths."""
    torch.manual_seed(1)
    heads, kv_heads, size, lengths, group_of_row = 4, 2, 8, [5, 2], [1, 0, 0]
    options = {"scale": 0.5, "window": window, "softcap": softcap}
    cache = GroupedCache()
    cache.reserve(groups=2, prompt=5, rows=3, tokens=1)
    total = sum(lengths)
    q = torch.randn(total, heads, size)
    k, v = torch.randn(2, total, kv_heads, size)
    out = PrefillBatch(cache, lengths, 0).attend(0, q, k, v, **options)
    starts = [0, 5]
    for start, length in zip(starts, lengths, strict=True):
        for i in range(start, start + length):
            expected = plain_attention(q[i], k[start : i + 1], v[start : i + 1], **options)
            torch.testing.assert_close(out[i], expected, atol=1e-5, rtol=1e-5)

    past = [
        [k[starts[g] : starts[g] + lengths[g]], v[starts[g] : starts[g] + lengths[g]]]
        for g in group_of_row
    ]
    layout = Layout.of(group_of_row, lengths, CPU)
    written = [0, 0, 0]
    for step in range(70):  # past the first allocation
        cache.reserve(groups=0, prompt=0, rows=0, tokens=max(written) + 1)
        q, new = torch.randn(3, heads, size), torch.randn(2, 3, kv_heads, size)
        batch = DecodeBatch(
            cache, layout, torch.tensor(written), max(written), len(set(written)) == 1
        )
        out = batch.attend(0, q, new[0], new[1], **options)
        for row in range(3):
            k_row, v_row = (torch.cat([past[row][j], new[j, row, None]]) for j in (0, 1))
            expected = plain_attention(q[row], k_row, v_row, **options)
            torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)
            if not (row == 1 and step == 2):  # row 1 repeats a position: lengths become uneven
                past[row] = [k_row, v_row]
                written[row] += 1


def test_rows_and_prompts_survive_growth_and_moves():
    cache = GroupedCache()
    cache.reserve(groups=1, prompt=2, rows=3, tokens=1)
    prefix, suffix = cache.layer(4, torch.zeros(1, 2, 3))
    prefix[:, 0] = 1.0
    suffix[:, 2] = 2.0
    cache.reserve(groups=2, prompt=9, rows=5, tokens=100)
    cache.move_rows([2], [0])
    cache.move_groups([0], [1])
    prefix, suffix = cache.layer(4, torch.zeros(1, 2, 3))
    assert prefix.shape == (2, 2, 2, 9, 3)
    assert suffix.shape == (2, 5, 2, 128, 3)
    assert prefix[:, 1, :, :2].eq(1).all()
    assert prefix[:, :, :, 2:].eq(0).all()
    assert suffix[:, 0, :, :64].eq(2).all()
    assert suffix[:, 0, :, 64:].eq(0).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_layout_places_every_row_in_its_groups_band(draws):
    names = sorted(set(draws))
    group_of_row = [names.index(d) for d in draws]
    lengths = list(range(3, 3 + len(names)))
    layout = Layout.of(group_of_row, lengths, CPU)
    rows = list(range(len(draws)))
    padded = rows if layout.padded is None else layout.padded.tolist()
    place = rows if layout.place_R is None else layout.place_R.tolist()
    assert len(padded) == len(names) * layout.most
    assert [padded[p] for p in place] == rows
    assert [p // layout.most for p in place] == group_of_row
    assert layout.prompt_lengths_R.tolist() == [lengths[g] for g in group_of_row]
    assert layout.longest == lengths[-1]
    assert layout.ragged is (len(names) > 1)


def test_growing_holds_one_layer_twice_not_all(monkeypatch):
    cache = GroupedCache()
    cache.reserve(groups=1, prompt=4, rows=2, tokens=1)
    for index in range(5):
        cache.layer(index, torch.zeros(1, 2, 3))
    held = [weakref.ref(each) for each in (*cache.prefix.values(), *cache.suffix.values())]
    seen = []

    def grown(old, count, length):
        seen.append(sum(ref() is not None for ref in held))
        return _grown(old, count, length)

    monkeypatch.setattr("astor_rl.rollout.cache._grown", grown)
    cache.reserve(groups=3, prompt=9, rows=5, tokens=100)
    assert seen == list(range(10, 0, -1))
    assert [ref() for ref in held] == [None] * 10


def test_doubling_stops_at_the_limit_and_places_are_what_is_held():
    cache = GroupedCache()
    cache.reserve(groups=2, prompt=5, rows=3, tokens=1, limit=10)
    assert cache.layer(0, torch.zeros(1, 2, 3))[1].shape[3] == 10
    cache.reserve(groups=0, prompt=0, rows=0, tokens=70, limit=90)
    assert cache.layer(0, torch.zeros(1, 2, 3))[1].shape[3] == 90
    assert cache.places(groups=1, prompt=7, rows=4, limit=60) == 2 * 7 + 4 * 90
    cache.reserve(groups=1, prompt=7, rows=4, tokens=60, limit=60)
    prefix, suffix = cache.layer(0, torch.zeros(1, 2, 3))
    assert prefix.shape[1] * prefix.shape[3] + suffix.shape[1] * suffix.shape[3] == 2 * 7 + 4 * 90


def test_bytes_of_a_token(tiny_model):
    model = tiny_model("llama")
    cache = GroupedCache()
    cache.reserve(groups=1, prompt=1, rows=0, tokens=1)
    prefix, _ = cache.layer(0, torch.zeros(1, 2, 8, dtype=torch.bfloat16))
    assert token_bytes(model.config, torch.bfloat16) == 3 * prefix.nbytes
    assert token_bytes(MambaConfig(), torch.bfloat16) == 0
