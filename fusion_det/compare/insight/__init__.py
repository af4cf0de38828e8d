"""What a report tells of the trained detectors themselves: measured from their checkpoints, kept in the study's folder."""
