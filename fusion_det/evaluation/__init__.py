"""COCO numbers of detections (pycocotools is the truth) and the predictions file."""
