"""The smallest data set: one image, one class, one box, and the detection that hits it."""


def one_box(**changes) -> dict:
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10.0, 10.0, 40.0, 40.0], "area": 1600.0, "iscrowd": 0} | changes
    return {"images": [{"id": 7}], "annotations": [annotation], "categories": [{"id": 3, "name": "disc"}]}


HIT = {"image_id": 7, "category_id": 3, "bbox": [10.0, 10.0, 40.0, 40.0], "score": 0.9}
