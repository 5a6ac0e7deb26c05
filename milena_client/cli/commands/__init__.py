"""The commands for a running cluster: objects, ring, health, write-back, journal, S3.

- `objects`, `recursive`, `transfer`, `local_files`: objects from and to files, one or many.
- `ring`, `health`, `writeback`, `refresh`: what operators look at and change.
- `prefix_jobs`: what they do to all keys below a prefix, with progress and a rate.
- `journal`, `s3`, `node_program`: start a program of the node's package, where it is installed.
"""
