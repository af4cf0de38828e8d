"""Losses that torchvision.ops does not have in the form needed here."""
