"""Signatures of requests, and the access keys that make them (`identities`, read from `keys_file`)."""
