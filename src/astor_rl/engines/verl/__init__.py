"""The distributed engine: verl 0.9.1, unmodified, with the coordinator on its driver.

Read `trainer.py` first: its hooks are one training step. `hydra.py` turns a run file into verl's
configuration, `capabilities.py` says what verl can't honour, `worker.py` and `probe.py` run on the
GPUs, `reward.py` on the reward workers. Only `guard.py` and what `astor train` needs before it
asks for verl may be imported without it.
"""
