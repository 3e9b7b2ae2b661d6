"""Two processes that share no memory, and stand-ins for the objects of the other one.

One side is trusted, the other isn't; both run this code. `channel` carries frames, `wire` writes
values, `standin` makes local classes that look like the other side's, `desk` does what the other
side asks for as far as `access` lets it, and `peer` ties them together.
"""
