"""Topologies: pure functions from levels (fine to coarse) to a :class:`fusion_det.necks.plan.Plan`. One file each, no torch."""
