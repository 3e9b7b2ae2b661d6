"""Examples from source code: functions that run, and the edits that people make to them."""

from astor_rl.data.mining.commit_rows import HELD_OUT_OPERATORS
from astor_rl.data.mining.miner import Mined, MiningOptions, mine, mine_package

__all__ = ["HELD_OUT_OPERATORS", "Mined", "MiningOptions", "mine", "mine_package"]
