"""Training: labels to boxes, losses, augmentation and the loop."""
