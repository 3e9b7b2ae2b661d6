"""A laboratory: a very small model that learns four coding tasks in minutes, real otherwise."""
