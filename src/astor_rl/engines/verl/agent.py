"""verl's single-turn agent loop with each task's own length limit, and a seed for each rollout."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


class TaskAgentLoop(SingleTurnAgentLoop):  # type: ignore[misc]  # verl has no types
    """Cuts a completion where its task says (column `max_tokens`), at the run's limit at most.

    With `rollout.full_determinism` each rollout has a seed of its own, from the plan and its place
    in the group; verl's own would give a group's rollouts one seed.
    """

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Sample one completion of the row's prompt."""
        limit = min(int(row["max_tokens"]), self.response_length)
        # By this name vLLM's and SGLang's servers both take it.
        params = {**sampling_params, "max_new_tokens": limit}
        if self.rollout_config.full_determinism:
            seed = rollout_seed(self.rollout_config.seed, row["uid"], row["session_id"])
            params["seed"] = row["priority"] = seed  # verl names requests by their priority
        return await super().run(params, **row)


def rollout_seed(seed: int, uid: str, place: int) -> int:
    """A seed for one rollout, in [0, 2^31).

    Args:
        seed: of the run.
        uid: its group's name, from `Coordination.uids`.
        place: its place in the group.
    """
    digest = blake2b(f"{seed} {uid} {place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 33
