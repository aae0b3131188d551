"""Deployment: from a trained model to TFLite files without its switched-off connections."""
