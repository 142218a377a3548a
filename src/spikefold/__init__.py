"""The package; see __getattr__ below."""
