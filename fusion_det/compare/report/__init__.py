"""A study as a page: ``report.html``, ``report.md`` and TensorBoard entries from an :class:`~fusion_det.compare.outcome.Outcome`."""
