"""Decoder layers in fewer passes over memory, with hand-written backward passes.

On a CPU the update of a small model spends more time in element-wise operations and copies than in
matrix products. Here is what a layer of the Llama family does between its products, by the
numbers of transformers' own modules.

| module | |
|---|---|
| `blocks` | what these operations work on at a time |
| `norm`, `linear`, `attention` | the arithmetic, forward and backward |
| `functions` | its composition into autograd functions |
| `layer` | which layers run through them |
| `check` | whether a model's do, by trial |
"""
