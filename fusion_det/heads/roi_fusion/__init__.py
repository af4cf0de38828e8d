"""What of which levels is looked at inside a box: the RoI-level twin of the necks, with the same operators. The contract:

- construction: ``Kind(pool, *, fusion, options)`` with a :class:`fusion_det.heads.roi_levels.RoIPool` and a factory of operators;
- ``kind(features, boxes, index)``: maps of all the head's levels, boxes [B, R, 4], index [B, R] of the level that fits each box -> one map
  per box, [B * R, out_channels, bins, bins];
- ``out_channels``, ``bins`` and ``linear_layers``: what it gives, and how many fully connected layers of the box head it has done already;
- ``fusion_sites()``: the place where it joins maps, for probes; none where there is nothing to join.
"""
