"""Scripts that run in another environment, without this repository: each is a session of one library."""
