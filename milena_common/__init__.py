"""What router, nodes and clients share: words, contracts, pure decisions. Imports nothing else of Milena."""
