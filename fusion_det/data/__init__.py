"""From COCO files on disk to batches: index, layouts, reading, buckets, augmentation, order and loader."""
