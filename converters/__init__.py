"""From torch to files: capture, calibrate, lower, quantise, NIR and ONNX."""
