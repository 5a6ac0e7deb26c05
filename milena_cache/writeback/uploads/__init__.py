"""One write on its way to S3, and how many may be.

- `upload`: sends it, on the condition that S3 holds what it is based on.
- `reconcile`: what a 412 or a lost reply means: done, overtaken, write again, or a conflict.
- `s3_belief`: what is believed of S3 under a write, and what each event makes of that.
- `queue`, `slots`, `throttle`: whose upload is next, and how many run at once.
"""
