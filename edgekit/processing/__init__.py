"""Pictures to tensors and outputs to answers, in numpy: one home for device, calibration, training and evaluation."""
