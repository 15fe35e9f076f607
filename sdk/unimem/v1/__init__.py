"""Generated from proto/unimem/v1 by `make proto`: do not edit."""
