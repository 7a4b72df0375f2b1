"""What asv follows over the commits; `python -m benchmarks.peers` and `.gpu_check` look at this one alone.

asv runs these files, those of the checkout, against the installed package of whatever commit it looks at. So they use
the public functions only, import cnnkit inside their set-up, and a benchmark of what an old commit lacks fails alone.
"""
