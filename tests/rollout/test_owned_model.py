from __future__ import annotations

import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

from astor_rl.errors import CapabilityError
from astor_rl.rollout.owned_model import OwnedModel
from astor_rl.rollout.packed_linear import can_pack

CPU = torch.device("cpu")


def test_bf16_keeps_the_rotary_frequencies_in_float32(tiny_model):
    model = tiny_model("llama")
    own = OwnedModel(model, torch.bfloat16, CPU)
    frequencies = own._model.model.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32
    torch.testing.assert_close(frequencies, model.model.rotary_emb.inv_freq, rtol=0, atol=0)


def test_the_choice_is_logged(tiny_model, caplog):
    caplog.set_level(logging.INFO)
    assert OwnedModel(tiny_model("llama"), torch.bfloat16, CPU).mode == "grouped"
    layers = 3 * 7 + 1 if can_pack(torch.bfloat16, CPU) else 0
    assert f"grouped decoding, fused, {layers} linear layers packed" in caplog.text


def test_an_attention_that_computes_something_else_is_noticed(tiny_model, caplog):
    """sdpa leaves Gemma 2's softcap out: the trainer's log-probs would not be the sampler's."""
    model = tiny_model("gemma2")
    model.set_attn_implementation("sdpa")
    own = OwnedModel(model, torch.float32, CPU)
    assert own.mode == "plain"
    assert "its logits differ from the model's own by" in caplog.text
    assert own._model.config._attn_implementation == "sdpa"


def test_tied_names_are_known(tiny_model):
    own = OwnedModel(tiny_model("llama", tie_word_embeddings=True), torch.float32, CPU)
    assert set(own.names.ties["lm_head.weight"]) == {"lm_head.weight", "model.embed_tokens.weight"}
    assert own.names.ties["model.norm.weight"] == ("model.norm.weight",)


def test_models_that_are_no_plain_causal_lm_are_refused(tiny_model):
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    with pytest.raises(CapabilityError, match="merge the adapter first"):
        OwnedModel(get_peft_model(tiny_model("llama"), lora), torch.float32, CPU)
    config = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(CapabilityError, match="encoder-decoder"):
        OwnedModel(T5ForConditionalGeneration(config), torch.float32, CPU)
