"""The pool's API over HTTP, so that verifiers scale apart from trainers."""
