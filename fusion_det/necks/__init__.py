"""Necks: a plan of nodes (topology) walked by an executor, with operator, entry, resampling and block as exchangeable parts."""
