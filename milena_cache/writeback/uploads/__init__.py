"""One upload of a dirty write to S3, and the order and number of concurrent uploads.

- `upload`: sends a write, on the condition that S3 still holds the object that the write is based on.
- `reconcile`: decides after a 412 or a lost reply: done, superseded, write again, or conflict.
- `s3_belief`: what is believed about S3 under a write, and how each event changes that.
- `queue`, `slots`, `throttle`: which key is uploaded next, and how many run at once; `alarm`: wakes the loop.

Invariant: no upload replaces a later version, or another writer's object that its policy protects.
"""
