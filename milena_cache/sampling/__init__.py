"""What is learned of the reads of a node from a sample of them: how much memory it needs, and which keys are hot.

- `miniature`: the memory at another size, simulated for a sample of the keys.
- `curve`: several of these, from a quarter of the memory to eight times as much: the miss-ratio curve.
- `sizing`: has the curve follow the node's reads, and says what each size would mean in requests and money.
- `frequent_keys`: the most frequent keys of a stream, with few counters.
- `hot_keys`: those of the node's reads, by number and by bytes.

A hit of a key that is not in the sample pays nothing for the curve: see `milena_cache.memory.read_samples`. For hot
keys it pays a subtraction: see `milena_cache.objects.read_outcomes`.
"""
