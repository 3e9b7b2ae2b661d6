from __future__ import annotations

from collections import Counter

import pytest
import torch

from astor_rl.errors import CapabilityError, ModelError, StateError
from astor_rl.rollout.cache import GroupedCache, token_bytes
from astor_rl.rollout.owned_model import OwnedModel
from astor_rl.rollout.transformers import TransformersSampler

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2"]


@pytest.fixture
def make_sampler(spell):
    def make(model, **options):
        options = {"stop_token_ids": [], "dtype": torch.float32, "decode": spell} | options
        return TransformersSampler(model, **options)

    return make


def by_place(results):
    return {(number, rollout.index): rollout for number, rollout in results}


def full_logprobs(model, rollout, temperature):
    """What one plain forward over prompt and completion gives the sampled tokens."""
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
    with torch.no_grad():
        logits = model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1] / temperature
    picked = logits.log_softmax(-1).gather(1, ids[0, len(rollout.prompt_ids) :, None])
    return picked[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_equal_a_full_forward(family, tiny_model, make_sampler, ask):
    model = tiny_model(family)
    sampler = make_sampler(model, max_rows=9)
    assert sampler.mode == "grouped"
    # Ragged prompts and limits, and more groups than fit: rows leave and groups join mid-way.
    requests = [
        ask(i, n, num_generations=g, max_tokens=m, temperature=0.8)
        for i, (n, g, m) in enumerate([(1, 4, 3), (9, 1, 14), (30, 3, 8), (4, 4, 12), (17, 2, 1)])
    ]
    rollouts = by_place(sampler.sample(requests))
    assert sorted(rollouts) == [(r.id, j) for r in requests for j in range(r.num_generations)]
    for (number, _), rollout in rollouts.items():
        assert rollout.prompt_ids == requests[number].prompt_ids
        assert len(rollout.completion_ids) == requests[number].max_tokens
        expected = full_logprobs(model, rollout, 0.8)
        torch.testing.assert_close(
            torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0, msg=family
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_generates_greedy(family, tiny_model, make_sampler, ask):
    model = tiny_model(family, seed=1)
    requests = [ask(i, n, num_generations=1, temperature=0.0) for i, n in enumerate((5, 12, 12))]
    rollouts = by_place(make_sampler(model).sample(requests))
    for request in requests:
        ids = torch.tensor([request.prompt_ids])
        generated = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=None,
        )
        rollout = rollouts[request.id, 0]
        assert rollout.completion_ids == tuple(generated[0, len(request.prompt_ids) :].tolist())
        expected = full_logprobs(model, rollout, 1.0)
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_requests_give_bit_identical_rollouts(dtype, tiny_model, make_sampler, ask):
    model = tiny_model("llama")
    requests = [ask(i, 4 + 5 * i, num_generations=4) for i in range(5)]
    sampler = make_sampler(model, dtype=dtype, max_rows=10)
    first = list(sampler.sample(requests))
    assert list(sampler.sample(requests)) == first
    assert list(make_sampler(model, dtype=dtype, max_rows=10).sample(requests)) == first


def test_company_does_not_change_a_rollouts_tokens(tiny_model, make_sampler, ask):
    sampler = make_sampler(tiny_model("qwen2"), max_rows=8)
    requests = [ask(i, 3 + 4 * i, num_generations=4) for i in range(5)]
    together = by_place(sampler.sample(requests))
    for request in requests:
        for place, rollout in by_place(sampler.sample([request])).items():
            assert rollout.completion_ids == together[place].completion_ids


def test_rollouts_of_a_group_differ_and_seeds_matter(tiny_model, make_sampler, ask):
    sampler = make_sampler(tiny_model("llama"))
    one = by_place(sampler.sample([ask(0, 8, seed=1)]))
    other = by_place(sampler.sample([ask(0, 8, seed=2)]))
    assert len({r.completion_ids for r in one.values()}) == 3
    assert all(one[p].completion_ids != other[p].completion_ids for p in one)


def test_stop_token_ends_a_completion(tiny_model, make_sampler, ask, spell):
    stops = [7, 50, *range(80, 95)]
    sampler = make_sampler(tiny_model("llama"), stop_token_ids=stops)
    rollouts = [r for _, r in sampler.sample([ask(0, 6, num_generations=24, max_tokens=12)])]
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    for r in rollouts:
        assert not set(stops) & set(r.completion_ids[:-1])
        stopped = r.completion_ids[-1] in stops
        assert r.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(r.completion_ids) == 12
        assert r.truncated is not stopped
        assert r.loss_mask == (1,) * len(r.completion_ids)
        assert len(r.logprobs) == len(r.completion_ids)
        assert r.text == spell(r.completion_ids)
        assert r.messages == ({"role": "user", "content": "prompt 0"},)


def test_stop_string_may_span_tokens(tiny_model, make_sampler, ask):
    sampler = make_sampler(tiny_model("llama"))
    free = by_place(sampler.sample([ask(0, 6)]))
    third, fourth = free[0, 1].completion_ids[2:4]
    cut = by_place(sampler.sample([ask(0, 6, stop=(f"{third}><{fourth}", "never"))]))
    assert cut[0, 1].completion_ids == free[0, 1].completion_ids[:4]
    assert cut[0, 1].finish_reason == "stop"
    assert cut[0, 1].text.endswith(f"<{third}><{fourth}>")


def test_rollouts_come_as_they_finish_and_requests_are_drawn_as_room_appears(
    tiny_model, make_sampler, ask
):
    drawn = []

    def stream():
        for i, limit in enumerate((2, 9, 2, 2)):
            drawn.append(i)
            yield ask(i, 5, num_generations=2, max_tokens=limit)

    results = make_sampler(tiny_model("llama"), max_rows=4).sample(stream())
    number, _ = next(results)
    assert number == 0
    assert drawn == [0, 1, 2]  # the third waits for room, the fourth isn't asked for yet
    order = [number, *(n for n, _ in results)]
    assert order[-2:] == [1, 1]
    assert Counter(order) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_groups_beyond_the_limits_run_alone(tiny_model, make_sampler, ask):
    requests = [ask(i, 5, num_generations=6, max_tokens=4) for i in range(2)]
    free = make_sampler(tiny_model("llama")).sample(requests)
    few_rows = make_sampler(tiny_model("llama"), max_rows=2).sample(requests)
    few_tokens = make_sampler(tiny_model("llama"), max_batch_tokens=10).sample(requests)
    few_bytes = make_sampler(tiny_model("llama"), kv_cache_bytes=10).sample(requests)
    tokens = {p: r.completion_ids for p, r in by_place(free).items()}
    for results in (few_rows, few_tokens, few_bytes):
        results = list(results)
        assert [n for n, _ in results] == [0] * 6 + [1] * 6
        assert {p: r.completion_ids for p, r in by_place(results).items()} == tokens


def test_keys_and_values_stay_within_their_bytes(tiny_model, make_sampler, ask, monkeypatch):
    """Ragged prompts and limits; a wide group after a long one would make a rectangle of both."""
    shapes = [(30, 2, 40), (3, 8, 4), (5, 8, 4), (9, 4, 20), (2, 6, 3), (28, 3, 30)]
    requests = [ask(i, n, num_generations=g, max_tokens=m) for i, (n, g, m) in enumerate(shapes)]
    model, most, layer = tiny_model("llama"), 0, GroupedCache.layer

    def watched(cache, index, like):
        nonlocal most
        found = layer(cache, index, like)
        held = [*cache.prefix.values(), *cache.suffix.values()]
        most = max(most, sum(each.nbytes for each in held))
        return found

    limit = 130 * token_bytes(model.config, torch.float32)
    bounded, free = make_sampler(model, kv_cache_bytes=limit), make_sampler(model)
    monkeypatch.setattr(GroupedCache, "layer", watched)  # not what construction tries out
    tokens = {p: r.completion_ids for p, r in by_place(bounded.sample(requests)).items()}
    assert limit / 2 < most <= limit
    assert {p: r.completion_ids for p, r in by_place(free.sample(requests)).items()} == tokens
    assert most > limit


def test_plain_decoding_is_bounded_too(tiny_model, make_sampler, ask, monkeypatch):
    model = tiny_model("llama")
    model._supports_attention_backend = False
    limit = 3 * 15 * token_bytes(model.config, torch.float32)
    sampler = make_sampler(model, kv_cache_bytes=limit)
    assert sampler.mode == "plain"
    rows, plain = set(), OwnedModel.plain

    def watched(self, sequences, past):
        rows.add(len(sequences))
        return plain(self, sequences, past)

    monkeypatch.setattr(OwnedModel, "plain", watched)
    found = by_place(sampler.sample([ask(0, 5, num_generations=8, max_tokens=10)]))
    assert len(found) == 8
    assert rows == {2, 3}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updated_weights_are_the_new_models(tied, dtype, tiny_model, make_sampler, ask):
    old, new = (tiny_model("llama", seed=s, tie_word_embeddings=tied) for s in (0, 1))
    sampler = make_sampler(old, dtype=dtype)
    before = list(sampler.sample([ask(0, 6)]))
    sampler.update_weights(new.named_parameters(), revision=4)
    after = by_place(sampler.sample([ask(0, 6)]))
    fresh = make_sampler(new, dtype=dtype, revision=4)
    assert after == by_place(fresh.sample([ask(0, 6)]))
    assert by_place(before)[0, 0].revision == 0
    assert after[0, 0].revision == 4
    assert by_place(before)[0, 0].completion_ids != after[0, 0].completion_ids


def test_the_sampler_keeps_its_own_weights(tiny_model, make_sampler, ask):
    model = tiny_model("llama")
    sampler = make_sampler(model)
    before = list(sampler.sample([ask(0, 6)]))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert list(sampler.sample([ask(0, 6)])) == before
    assert all(p.requires_grad for p in model.parameters())
    assert model.config._attn_implementation != "astor_grouped"


def test_weights_that_do_not_fit_are_refused(tiny_model, make_sampler, ask):
    model = tiny_model("llama")
    sampler = make_sampler(model)
    good = dict(model.named_parameters())
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(StateError, match=r"'model\.layers\.9\.x' is unknown"):
        sampler.update_weights([("model.layers.9.x", torch.zeros(1))], revision=1)
    with pytest.raises(StateError, match=r"up_proj.weight' has shape \(3, 32\); \(48, 32\)"):
        sampler.update_weights({**good, name: torch.zeros(3, 32)}.items(), revision=1)
    with pytest.raises(StateError, match=f"1 weights are missing, the first is '{name}'"):
        sampler.update_weights(((n, p) for n, p in good.items() if n != name), revision=1)
    with pytest.raises(StateError, match=f"'{name}' comes twice"):
        sampler.update_weights([*good.items(), (name, good[name])], revision=1)
    assert sampler.revision == 0
    with pytest.raises(StateError, match="no complete weights"):
        next(sampler.sample([ask(0, 6)]))
    sampler.update_weights(good.items(), revision=2)
    assert len(list(sampler.sample([ask(0, 6)]))) == 3


def test_weights_do_not_change_under_running_rollouts(tiny_model, make_sampler, ask):
    model = tiny_model("llama")
    sampler = make_sampler(model)
    running = sampler.sample([ask(0, 6)])
    next(running)
    with pytest.raises(StateError, match="being sampled"):
        sampler.update_weights(model.named_parameters(), revision=1)
    running.close()
    sampler.update_weights(model.named_parameters(), revision=1)


def test_a_config_needs_weights_first(tiny_model, make_sampler, ask):
    model = tiny_model("llama")
    sampler = make_sampler(model.config)
    with pytest.raises(StateError, match="call update_weights first"):
        next(sampler.sample([ask(0, 6)]))
    sampler.update_weights(model.named_parameters(), revision=0)
    assert list(sampler.sample([ask(0, 6)])) == list(make_sampler(model).sample([ask(0, 6)]))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bloom", {"n_head": 4, "n_layer": 2}),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        ),
    ],
)
def test_special_models_take_the_plain_way(family, changes, tiny_model, make_sampler, ask, caplog):
    model = tiny_model(family, **changes)
    sampler = make_sampler(model, stop_token_ids=range(90, 103), max_rows=3)
    assert sampler.mode == "plain"
    assert "plain decoding" in caplog.text
    requests = [ask(i, 4 + i, num_generations=5, temperature=0.9) for i in range(2)]
    rollouts = by_place(sampler.sample(requests))
    assert len(rollouts) == 10
    assert len({len(r.completion_ids) for r in rollouts.values()}) > 1
    for rollout in rollouts.values():
        expected = full_logprobs(model, rollout, 0.9)
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_generations": 0}, "0 generations"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"temperature": -0.1}, "temperature -0.1; it must be >= 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"max_tokens": 300}, "may reach 305 tokens; the sampler takes 256 at most"),
    ],
)
def test_impossible_requests_are_refused(fields, message, tiny_model, make_sampler, ask):
    with pytest.raises(CapabilityError, match=message):
        next(make_sampler(tiny_model("llama")).sample([ask(3, 5, **fields)]))


def test_an_empty_prompt_is_refused(tiny_model, make_sampler, ask):
    with pytest.raises(CapabilityError, match="request 3 has 0 prompt tokens"):
        next(make_sampler(tiny_model("llama")).sample([ask(3, 0)]))


def test_nan_weights_are_an_error_not_garbage(tiny_model, make_sampler, ask):
    model = tiny_model("llama")
    sampler = make_sampler(model)
    tensors = {n: torch.full_like(p, float("nan")) for n, p in model.named_parameters()}
    sampler.update_weights(tensors.items(), revision=1)
    with pytest.raises(ModelError, match="NaN"):
        list(sampler.sample([ask(0, 6)]))


def test_sampled_tokens_follow_the_models_distribution(tiny_model, make_sampler, ask):
    """Chi-square of first and second tokens over a vocabulary of 11, temperature 1.5."""
    model = tiny_model("llama", vocab_size=11, pad_token_id=None)
    prompt = (5, 9, 3)
    request = ask(0, 3, num_generations=4000, max_tokens=2, temperature=1.5)
    request = type(request)(
        **{f: getattr(request, f) for f in request.__slots__} | {"prompt_ids": prompt}
    )
    rollouts = [r for _, r in make_sampler(model, max_rows=4000).sample([request])]
    with torch.no_grad():
        first = (model(torch.tensor([prompt])).logits[0, -1] / 1.5).softmax(-1)
        pairs = torch.tensor([[*prompt, t] for t in range(11)])
        second = (model(pairs).logits[:, -1] / 1.5).softmax(-1)
    expected = (first[:, None] * second).flatten().double() * 4000
    counts = torch.zeros(121, dtype=torch.float64)
    for r in rollouts:
        counts[r.completion_ids[0] * 11 + r.completion_ids[1]] += 1
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    chi2 = float(((observed - wanted) ** 2 / wanted.clamp(min=1e-9)).sum())
    freedom = len(wanted) - 1
    assert freedom >= 15
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5
