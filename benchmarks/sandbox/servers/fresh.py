"""One job in a fresh interpreter: {code, calls} as JSON in, pickled values out.

Run as `python -I -S -B -c <this text>`, so that it needs no readable file inside a container.
"""

from __future__ import annotations

import json
import pickle
import sys

job = json.load(sys.stdin)
namespace: dict[str, object] = {"__name__": "solution"}
out, sys.stdout = sys.stdout.buffer, sys.stderr
exec(compile(job["code"], "solution.py", "exec"), namespace)
out.write(pickle.dumps([eval(call, namespace) for call in job["calls"]]))
