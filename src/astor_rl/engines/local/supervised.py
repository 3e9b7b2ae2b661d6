"""The warm-up: a short supervised stage on reference answers, before RL.

A small model that never meets a task's answer form gets no reward to learn from. The batches are
a function of (seed, step) alone, so a resumed warm-up sees what an uninterrupted one would.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from astor_rl.config import WarmupConfig
from astor_rl.engines.local.distributed import World
from astor_rl.engines.local.policy import Policy
from astor_rl.engines.local.rates import lr_factor
from astor_rl.errors import DataError, ModelError, StateError
from astor_rl.policy.packing import TokenGroup, pack_groups


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and its reference answer, as token ids; the answer ends the turn."""

    task: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


class Batches:
    """Which demonstrations each step sees: every task in turn, each task's own epochs.

    Args:
        demonstrations: by task, in the order `order = "easy"` would show them.
        batch_size: demonstrations a step.
        shuffle: a new order each epoch; else always as given.
        seed: of the shuffles.

    Raises:
        DataError: no task has a demonstration. Tasks without any are left out of the turns.
    """

    def __init__(
        self,
        demonstrations: Mapping[str, Sequence[Demonstration]],
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        self._by_task = [list(members) for members in demonstrations.values() if members]
        if not self._by_task:
            raise DataError(
                "no task has a reference answer that fits max_completion_length; raise it or set "
                "warmup.steps = 0"
            )
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed

    def __getitem__(self, step: int) -> list[Demonstration]:
        """The batch of a 0-based step."""
        first = step * self._batch_size
        return [self._draw(draw) for draw in range(first, first + self._batch_size)]

    def _draw(self, draw: int) -> Demonstration:
        """The `draw`-th demonstration of the whole stage: tasks alternate."""
        count = len(self._by_task)
        task, turn = draw % count, draw // count
        members = self._by_task[task]
        epoch, place = divmod(turn, len(members))
        if self._shuffle:
            rng = np.random.default_rng((self._seed, task, epoch))
            place = int(rng.permutation(len(members))[place])
        return members[place]


class SupervisedTrainer:
    """Next-token training on answers only, mean over the answer tokens of a batch.

    Args:
        policy: the model; all its trainable parameters are optimised.
        batches: what each step sees.
        config: the `[warmup]` section.
        world: every rank computes its part of each batch; gradients are summed.
        token_budget: input tokens of a packed bin.
        max_grad_norm: gradients are clipped to it.
    """

    def __init__(
        self,
        policy: Policy,
        batches: Batches,
        config: WarmupConfig,
        *,
        world: World,
        token_budget: int,
        max_grad_norm: float,
    ) -> None:
        self._policy = policy
        self._batches = batches
        self._config = config
        self._world = world
        self._token_budget = token_budget
        self._max_grad_norm = max_grad_norm
        self._optimizer = torch.optim.AdamW(
            policy.trainable,
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.steps_done = 0

    def step(self) -> tuple[float, int]:
        """One optimiser step. Returns the mean loss in nats and the answer tokens it is over.

        Raises:
            ModelError: the loss is not finite.
        """
        batch = self._batches[self.steps_done]
        tokens = sum(len(one.answer_ids) for one in batch)
        mine = [TokenGroup(d.prompt_ids, [d.answer_ids]) for d in self._world.mine(batch)]
        total = torch.zeros(1)
        for packed in pack_groups(mine, self._token_budget):
            loss = -self._policy.logprobs(packed).sum() / tokens
            torch.autograd.backward(loss)
            total += loss.detach().cpu()
        self._world.sum_([total])
        if not total.isfinite():
            raise ModelError(
                f"warm-up step {self.steps_done}: the loss is {total.item()}; "
                f"lower warmup.learning_rate ({self._config.learning_rate:g})"
            )
        self._apply()
        self.steps_done += 1
        return total.item(), tokens

    def _apply(self) -> None:
        parameters = self._policy.trainable
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._world.sum_(p.grad for p in parameters if p.grad is not None)
        torch.nn.utils.clip_grad_norm_(parameters, self._max_grad_norm)
        factor = lr_factor(
            self.steps_done,
            kind="cosine",
            lr_warmup_steps=self._config.lr_warmup_steps,
            total=self._config.steps,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * factor
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and position: the live tensors, good until the next step."""
        return {
            "steps_done": self.steps_done,
            "weights": {name: p.detach() for name, p in self._policy.named_trainable()},
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises `StateError` when it doesn't fit."""
        if state.keys() != {"steps_done", "weights", "optimizer"}:
            raise StateError(f"not a warm-up state: it holds {sorted(state)}")
        self._policy.load_trainable(state["weights"])
        try:
            self._optimizer.load_state_dict(copy.deepcopy(dict(state["optimizer"])))
        except (ValueError, KeyError) as error:
            raise StateError(f"the saved warm-up optimiser doesn't fit: {error}") from error
        self.steps_done = int(state["steps_done"])
