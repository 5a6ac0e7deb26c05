"""The page made of result files, `python -m bench --report`: ratios against their bars, and how they changed.

- `runs`: reads result files; `charts`: draws one measurement; `document`: puts the page together.
"""
