"""What explains a detector: ``fusion_probe`` (what each fusion decided), as numbers and as pictures."""
