"""vLLM beside the transformers sampler: the same requests must give the same rollouts."""

from __future__ import annotations

import os
from collections import Counter

import pytest
import torch

from astor_rl.errors import CapabilityError, ModelError, StateError
from astor_rl.rollout.transformers import TransformersSampler

pytest.importorskip("vllm", reason="vLLM is not installed here: `make test-vllm` runs these")

from astor_rl.rollout.vllm import VllmSampler

pytestmark = [
    pytest.mark.slow,
    # vLLM and what it imports.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2"]
STOPS = [7, 50, *range(80, 95)]


@pytest.fixture(scope="module")
def model_of(tiny_model):
    """Tiny models with a head size that vLLM's CPU kernels have."""

    def make(family, seed=0, **changes):
        shape = {"hidden_size": 128, "head_dim": 32, "initializer_range": 0.1}
        return tiny_model(family, seed, **shape, **changes)

    return make


@pytest.fixture(scope="module")
def make_sampler(spell):
    kept = []  # see VllmSampler: none may go while another is in use

    def make(model, *, kind=VllmSampler, **options):
        options = {"stop_token_ids": [], "dtype": torch.float32, "decode": spell} | options
        kept.append(kind(model, **options))
        return kept[-1]

    return make


@pytest.fixture(scope="module")
def pair(model_of, make_sampler):
    """(vLLM, transformers) of one tied model with stop tokens; every test may change weights."""
    model = model_of("qwen2")
    kinds = (VllmSampler, TransformersSampler)
    return tuple(make_sampler(model, kind=k, stop_token_ids=STOPS, max_rows=8) for k in kinds)


@pytest.fixture
def both(pair, model_of):
    for sampler in pair:
        sampler.update_weights(model_of("qwen2").named_parameters(), revision=0)
    return pair


def by_place(results):
    return {(number, rollout.index): rollout for number, rollout in results}


def assert_same(left, right, *, tolerance=1e-4):
    left, right = by_place(left), by_place(right)
    assert left.keys() == right.keys()
    for place, one in left.items():
        other = right[place]
        torch.testing.assert_close(
            torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=tolerance, rtol=0
        )
        for name in ("completion_ids", "finish_reason", "text", "loss_mask", "revision"):
            assert getattr(one, name) == getattr(other, name), (place, name)
        assert (one.prompt_ids, one.messages) == (other.prompt_ids, other.messages)


def requests_of(ask, **fields):
    """Ragged prompts and limits, groups that share whole blocks, more rows than fit at once."""
    shapes = [(4, 1, 3), (33, 4, 14), (70, 5, 8), (4, 4, 12), (100, 2, 1)]
    defaults = {"temperature": 0.8} | fields
    return [
        ask(i, n, num_generations=g, max_tokens=m, **defaults) for i, (n, g, m) in enumerate(shapes)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_are_those_of_the_transformers_sampler(family, model_of, make_sampler, ask):
    model = model_of(family)
    ours = make_sampler(model, max_rows=8)
    theirs = make_sampler(model, kind=TransformersSampler, max_rows=8)
    requests = requests_of(ask)
    assert_same(ours.sample(requests), theirs.sample(requests))


def test_stop_tokens_limits_and_temperatures(both, ask):
    requests = [
        ask(0, 6, num_generations=24, max_tokens=12),
        ask(1, 40, temperature=0.3),
        ask(2, 40, temperature=0.0),
    ]
    rollouts = list(both[0].sample(requests))
    assert {r.finish_reason for _, r in rollouts} == {"stop", "length"}
    assert_same(rollouts, both[1].sample(requests))


def test_stop_strings_may_span_tokens(both, ask):
    free = by_place(both[0].sample([ask(0, 6, num_generations=12)]))
    place, longest = max(free.items(), key=lambda item: len(item[1].completion_ids))
    third, fourth = longest.completion_ids[2:4]
    stop = (f"{third}><{fourth}", "never")
    requests = [ask(0, 6, num_generations=12, stop=stop), ask(1, 9)]
    cut = by_place(both[0].sample(requests))
    assert len(cut[place].completion_ids) <= 4 < len(longest.completion_ids)
    assert cut[place].finish_reason == "stop"
    assert_same(both[0].sample(requests), both[1].sample(requests))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_later_process_samples_the_same(dtype, model_of, make_sampler, ask):
    """What a resumed run needs: nothing of what was sampled before may matter, bit for bit."""
    model = model_of("llama")
    sampler = make_sampler(model, dtype=dtype, max_rows=8)
    list(sampler.sample([ask(7, 90)]))
    first = list(sampler.sample(requests_of(ask)))
    assert list(sampler.sample(requests_of(ask))) == first
    assert list(make_sampler(model, dtype=dtype, max_rows=8).sample(requests_of(ask))) == first


def test_company_does_not_change_a_rollouts_tokens(both, ask):
    requests = requests_of(ask)
    together = by_place(both[0].sample(requests))
    for request in requests:
        for place, rollout in by_place(both[0].sample([request])).items():
            assert rollout.completion_ids == together[place].completion_ids


@pytest.mark.parametrize("tied", [False, True])
def test_updated_weights_are_the_new_models(tied, model_of, make_sampler, ask):
    """Long shared prompts, sampled before: keys and values of the old weights must be gone."""
    old, new = (model_of("llama", seed=s, tie_word_embeddings=tied) for s in (0, 1))
    ours = make_sampler(old)
    requests = requests_of(ask)
    before = by_place(ours.sample(requests))
    ours.update_weights(new.named_parameters(), revision=4)
    after = list(ours.sample(requests))
    theirs = make_sampler(new, kind=TransformersSampler, revision=4)
    assert_same(after, theirs.sample(requests))
    assert before[2, 0].revision == 0
    assert before[2, 0].completion_ids != by_place(after)[2, 0].completion_ids


def test_a_tied_weight_may_come_under_either_name(both, model_of, ask):
    new = dict(model_of("qwen2", seed=3).named_parameters(remove_duplicate=False))
    del new["model.embed_tokens.weight"]
    for sampler in both:
        sampler.update_weights(new.items(), revision=1)
    assert_same(both[0].sample(requests_of(ask)), both[1].sample(requests_of(ask)))


def test_a_group_shares_its_prompts_blocks(both, ask, monkeypatch):
    outputs = []
    step = both[0]._engine.step

    def watched():
        outputs.extend(done := step())
        return done

    monkeypatch.setattr(both[0]._engine, "step", watched)
    list(both[0].sample([ask(0, 70, num_generations=4)]))
    list(both[0].sample([ask(0, 70, num_generations=4)]))
    cached = sorted(output.num_cached_tokens for output in outputs)
    # Two whole blocks of 32; and nothing from one call of sample to the next.
    assert cached == [0, 0, *[64] * 6]


def test_a_prompt_may_be_computed_in_pieces(model_of, make_sampler, ask):
    model = model_of("llama", max_position_embeddings=6000)
    requests = [ask(0, 5000, num_generations=2), ask(1, 40)]
    ours = make_sampler(model).sample(requests)
    assert_same(ours, make_sampler(model, kind=TransformersSampler).sample(requests))


def test_too_little_memory_for_all_changes_nothing(model_of, make_sampler, ask):
    """Rows that vLLM throws out and computes again go on with their own random numbers."""
    model = model_of("llama")
    requests = [ask(i, 30, num_generations=8, max_tokens=60) for i in range(2)]
    block = 32 * 3 * 2 * 2 * 32 * 4
    ours = make_sampler(model, kv_cache_bytes=12 * block, max_length=100, max_rows=16)
    assert_same(ours.sample(requests), make_sampler(model).sample(requests))


def test_requests_are_drawn_as_room_appears(both, ask):
    drawn = []

    def stream():
        for i, limit in enumerate((9, 2, 2, 9, 2)):
            drawn.append(i)
            yield ask(i, 5, num_generations=4, max_tokens=limit, seed=20 + i)

    results = both[0].sample(stream())
    first = [next(results)[0]]
    assert len(drawn) < 5
    assert Counter([*first, *(n for n, _ in results)]) == dict.fromkeys(range(5), 4)


def test_weights_that_do_not_fit_are_refused_and_harm_nothing(both, model_of, ask):
    ours, theirs = both
    new = model_of("qwen2", seed=1)
    good = dict(new.named_parameters())
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(StateError, match=r"'model\.layers\.9\.x' is unknown"):
        ours.update_weights([*list(good.items())[:4], ("model.layers.9.x", good[name])], revision=1)
    with pytest.raises(StateError, match=r"up_proj.weight' has shape \(3, 32\); \(48, 128\)"):
        ours.update_weights({**good, name: torch.zeros(3, 32)}.items(), revision=1)
    with pytest.raises(StateError, match=f"1 weights are missing, the first is '{name}'"):
        ours.update_weights(((n, p) for n, p in good.items() if n != name), revision=1)
    with pytest.raises(StateError, match="no complete weights"):
        next(ours.sample([ask(0, 6)]))
    for sampler in both:
        sampler.update_weights(good.items(), revision=2)
    assert_same(ours.sample(requests_of(ask)), theirs.sample(requests_of(ask)))


def test_one_thing_at_a_time_and_what_is_left_is_gone(both, model_of, ask):
    ours, theirs = both
    running = ours.sample(requests_of(ask))
    next(running)
    with pytest.raises(StateError, match="being sampled"):
        ours.update_weights(model_of("qwen2").named_parameters(), revision=1)
    with pytest.raises(StateError, match="sampling already"):
        next(ours.sample([ask(0, 6)]))
    running.close()
    assert_same(ours.sample(requests_of(ask)), theirs.sample(requests_of(ask)))


def test_nan_weights_are_an_error_and_leave_no_trace(both, model_of, ask):
    ours, theirs = both
    broken = {n: torch.full_like(p, float("nan")) for n, p in model_of("qwen2").named_parameters()}
    ours.update_weights(broken.items(), revision=1)
    with pytest.raises(ModelError, match="NaN"):
        list(ours.sample(requests_of(ask)))
    for sampler in both:
        sampler.update_weights(model_of("qwen2").named_parameters(), revision=2)
    assert_same(ours.sample(requests_of(ask)), theirs.sample(requests_of(ask)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_generations": 0}, "0 generations"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"max_tokens": 300}, "may reach 305 tokens; the sampler takes 256 at most"),
    ],
)
def test_impossible_requests_are_refused(fields, message, both, ask):
    with pytest.raises(CapabilityError, match=message):
        next(both[0].sample([ask(3, 5, **fields)]))


def test_a_config_needs_weights_first(model_of, make_sampler, ask):
    model = model_of("llama")
    ours = make_sampler(model.config)
    with pytest.raises(StateError, match="call update_weights first"):
        next(ours.sample([ask(0, 6)]))
    ours.update_weights(model.named_parameters(), revision=0)
    theirs = make_sampler(model, kind=TransformersSampler)
    assert_same(ours.sample(requests_of(ask)), theirs.sample(requests_of(ask)))


def test_sleep_between_sampling_and_update_changes_nothing(model_of, make_sampler, ask):
    """On a CPU vLLM gives no memory back, but the order of the calls is the GPU's."""
    old, new = (model_of("llama", seed=s) for s in (0, 1))
    ours = make_sampler(old, sleep=True)
    theirs = make_sampler(old, kind=TransformersSampler)
    for _ in range(2):
        assert_same(ours.sample(requests_of(ask)), theirs.sample(requests_of(ask)))
        assert ours._engine.is_sleeping()
    for sampler in (ours, theirs):
        sampler.update_weights(new.named_parameters(), revision=1)
    assert_same(ours.sample(requests_of(ask)), theirs.sample(requests_of(ask)))


def test_the_process_stays_as_it_was(model_of, make_sampler):
    model = model_of("llama")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}
    set_num_threads = torch.set_num_threads
    make_sampler(model)
    assert torch.equal(torch.rand(3), expected)
    assert torch.set_num_threads is set_num_threads
    assert torch.get_num_threads() == 1
    assert {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")} == before


def test_an_adapter_must_be_merged_first(model_of, make_sampler):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(model_of("llama"), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(CapabilityError, match="merge the adapter first"):
        make_sampler(model)


def test_what_vllm_cannot_run_is_said_in_one_line(model_of, make_sampler):
    with pytest.raises(CapabilityError, match=r"^vLLM does not start: [^\n]+$"):
        make_sampler(model_of("llama"), kv_cache_bytes=1000)


def test_a_model_that_vllm_computes_differently_is_refused(model_of, make_sampler):
    """What vLLM knows of a model is its config: code of its own goes unseen."""
    model = model_of("llama")
    model.lm_head.register_forward_hook(lambda module, inputs, out: out * 3)
    with pytest.raises(CapabilityError, match=r"differ from the model's own by \d"):
        make_sampler(model)
