"""ASTOR: one code LLM, many coding tasks, coordinated by task utility.

`import astor_rl` loads numpy at most; torch and the rest come with the rooms that need them.
"""

__version__ = "0.1.0"
