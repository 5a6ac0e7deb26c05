"""What nodes know of their reads from samples of them: what other sizes of memory would mean, and hot keys."""
