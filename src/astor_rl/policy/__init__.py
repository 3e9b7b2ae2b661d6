"""GRPO on tensors: advantages, losses, packed sequences, gradient sketches.

Shape suffixes, the same in every module of this room:

| letter | axis |
|---|---|
| N | groups of a step (one prompt each) |
| G | rollouts of a group |
| M | completions of a step: all groups' rollouts in a row, group after group |
| T | completion tokens: all completions' tokens in a row, no padding |
| S | positions of one packed sequence |
| K | tasks |
| V | vocabulary |
| D | hidden size of the model, or buckets of a sketch |
| R | half-batch gradients of a probe, two for each task |

`sample_T[t]` is the completion (0 .. M-1) that token t belongs to. A *bin* (`packing.Packed`) is a
set of whole completions of a step; everything about its tokens is found by `token_T`, their places
in the step's flat layout. So an engine keeps a step's tensors flat and selects.
"""
